"""The commands by name, without importing them: `sais.cli` runs them, `sais completion` lists their options."""

from __future__ import annotations

import importlib
from typing import NamedTuple


class Command(NamedTuple):
    """A command: its module with `run(argv)`, the dataclass of its arguments there, and one line of help."""

    module: str
    arguments: str
    summary: str
    is_listing: bool = False
    """Whether the printed text is all that the command is for, so that it has no --quiet."""


COMMANDS = {
    "train": Command("train", "TrainArguments", "train a model on your labeled images"),
    "tune": Command("tune", "TuneArguments", "search learning rate, size and augmentation of a recipe on your data"),
    "eval": Command("evaluate", "EvalArguments", "evaluate a model: COCO box and mask AP"),
    "compare": Command("compare", "CompareModelsArguments", "compare two models: AP, intervals, speed, images"),
    "predict": Command("predict", "PredictArguments", "predict on images or a video: drawn images and JSON"),
    "predict-many": Command("predict_many", "PredictManyArguments", "predict an archive into shards, with Ray"),
    "info": Command("info", "InfoArguments", "print what a model file states: classes, metrics, data, versions", True),
    "runs": Command("runs", "RunsArguments", "list and compare training runs", True),
    "report": Command("report", "ReportArguments", "write a run's report: curves, AP, errors, example images"),
    "serve": Command("serve", "ServeArguments", "answer predictions over HTTP, with a page in the browser"),
    "export": Command("export", "ExportArguments", "export a model: ONNX, OpenVINO, torch.export"),
    "average": Command("average", "AverageArguments", "average the weights of models fine-tuned from the same one"),
    "package": Command("package", "PackageArguments", "write a model with a model card as a folder for others"),
    "push": Command("push", "PushArguments", "upload a model with a model card to the Hugging Face Hub"),
    "doctor": Command("doctor", "DoctorArguments", "find the mistakes in a data set and repair them in a copy"),
    "show": Command("show", "ShowArguments", "draw the labels of a data set, filtered, as a page"),
    "split": Command("split", "SplitArguments", "divide labels into training, validation and test splits"),
    "convert": Command("convert", "ConvertArguments", "write a data set in the format of another program"),
    "make-shapes": Command("make_shapes", "MakeShapesArguments", "write a synthetic data set for first steps"),
    "recipes": Command("recipes", "RecipesArguments", "list the recipes that a training run can start from", True),
    "reproduce": Command("reproduce", "ReproduceArguments", "reproduce the paper's tables and figures on your data"),
    "draw-targets": Command("draw_targets", "DrawTargetsArguments", "draw the object assigned to each location"),
    "draw-augmented": Command("draw_augmented", "DrawAugmentedArguments", "draw training images after augmentation"),
    "bench": Command("bench", "BenchArguments", "measure time and memory"),
    "demo": Command("demo", "DemoArguments", "run the whole workflow on synthetic images, in minutes"),
    "completion": Command("completion", "CompletionArguments", "print a completion script for bash, zsh or fish", True),
    "version": Command("version", "VersionArguments", "print the versions of sais and its dependencies", True),
}
"""Every command by name, in the order of `sais --help`."""


def arguments_of(command: str) -> type:
    """Return the dataclass of a command's arguments."""
    row = COMMANDS[command]
    kind: type = getattr(importlib.import_module(f"sais.commands.{row.module}"), row.arguments)
    return kind
