"""`sais demo`: the whole workflow on synthetic images in minutes: data, training, evaluation, report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from sais.commands.arguments import parse, prepare_torch, progress_bar
from sais.commands.options import Count, Maximum, Minimum, Seed
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.io.atomic import write_text
from sais.io.outputs import PAGE, check_outputs, written_by
from sais.recipes import recipe
from sais.recipes.adjust import set_epochs
from sais.text import print_lines, print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.inference.predictor import Predictor


WRITER = "sais demo"


@dataclass(frozen=True)
class DemoArguments:
    """Write a synthetic data set, train a model on it, evaluate it on validation images, draw and report."""

    out: Path = Path("demo")
    """Folder to write to."""
    recipe: str = "sais-lite"
    """Recipe to train."""
    train: Annotated[int, Minimum(1), Maximum(10**6)] = 400
    """Number of training images."""
    valid: Annotated[int, Minimum(1), Maximum(10**6)] = 80
    """Number of validation images."""
    epochs: Count = 10
    """Number of epochs."""
    max_iterations: Count | None = None
    """Stop after this number of iterations, for a trial."""
    seed: Seed = 0
    """Random seed; the same seed gives the same images and, on a CPU, the same run."""
    overwrite: bool = False
    """Replace existing files in --out that an earlier demo did not write."""


def run(argv: Sequence[str]) -> int:
    """Run `sais demo`."""
    arguments = parse(DemoArguments, argv, "sais demo")
    prepare_torch("demo")
    for name in ("metrics.json", "predictions.jpg", "report.html"):
        own = written_by(PAGE if name.endswith(".html") else WRITER)
        check_outputs([arguments.out / name], (), arguments.overwrite, arguments.out, own)
    from sais.engine.trainer import train
    from sais.evaluation.evaluate import evaluate
    from sais.evaluation.score_thresholds import best_thresholds, store_thresholds
    from sais.inference.predictor import Predictor
    from sais.reports.run_report import write_report

    started = time.perf_counter()
    paths = DataPaths(data=_make_shapes(arguments))
    folder = _new_run_folder(arguments.out)
    print_text(f"2/4 training {arguments.recipe} for {arguments.epochs} epochs into {folder}")
    without_validation = dataclasses.replace(paths, valid="")  # evaluated once, below
    train(_experiment(arguments), without_validation, folder, max_iterations=arguments.max_iterations)
    split = paths.read_valid()
    assert split is not None
    predictor = Predictor(folder)
    print_text(f"3/4 evaluating on {len(split.images)} validation images")
    with progress_bar("evaluating", len(split.images)) as progress:
        evaluation = evaluate(predictor, split, progress=progress)
    metrics = evaluation.metrics
    assert metrics is not None
    print_lines(metrics.table())
    print_text("4/4 drawing")
    if (thresholds := best_thresholds(evaluation)) is not None:
        store_thresholds(folder, thresholds)
    _draw(Predictor(folder), split, arguments.out)
    minutes = (time.perf_counter() - started) / 60
    write_text(arguments.out / "metrics.json", json.dumps({"written_by": WRITER} | metrics.to_dict(), indent=2))
    write_report(folder, evaluation, out=arguments.out / "report.html")
    print_text("", f"done in {minutes:.1f} minutes; open {arguments.out / 'report.html'}", "", "next:", sep="\n")
    print_text(f"  sais predict {folder} {paths.data}/images/valid   (the model knows these shapes only)")
    print_text("  sais train sais-lite --data YOUR_FOLDER        (annotations/train.json, images/train; COCO format)")
    return 0


def _make_shapes(arguments: DemoArguments) -> Path:
    """Write the data set of this size and seed unless an earlier run has written it, and return its folder."""
    from sais.data.synthetic import write_shapes

    folder = arguments.out / f"shapes-{arguments.train}-{arguments.valid}-{arguments.seed}"
    if (folder / "complete").is_file():
        print_text(f"1/4 using the data set in {folder}")
        return folder
    print_text(f"1/4 writing {arguments.train} + {arguments.valid} synthetic images to {folder}")
    with progress_bar("drawing", arguments.train + arguments.valid) as progress:
        write_shapes(
            folder,
            train=arguments.train,
            valid=arguments.valid,
            seed=arguments.seed,
            progress=lambda done, total: progress(1),
            overwrite=arguments.overwrite,
        )
    write_text(folder / "complete", "written by sais demo\n")
    return folder


def _experiment(arguments: DemoArguments) -> Experiment:
    """Return the recipe with the epochs and the seed; the scale jitter is off because all scenes have one scale."""
    experiment, _ = set_epochs(recipe(arguments.recipe), arguments.epochs)
    return dataclasses.replace(
        experiment,
        name=f"{experiment.name}-demo",
        augment=dataclasses.replace(experiment.augment, scale_jitter=(1.0, 1.0)),
        run=dataclasses.replace(experiment.run, seed=arguments.seed),
    )


def _new_run_folder(out: Path) -> Path:
    number = 1
    while (out / f"run-{number}").exists():
        number += 1
    return out / f"run-{number}"


def _draw(predictor: Predictor, split: DatasetSplit, out: Path, count: int = 12) -> None:
    """Write predictions.jpg: pairs of ground truth (left) and predictions (right)."""
    from sais.evaluation.visualize import ground_truth_detections
    from sais.io.image_writer import write_image
    from sais.results.draw import contact_sheet, draw, draw_objects

    tiles: list[np.ndarray] = []
    captions: list[str] = []
    for record in split.images[:count]:
        image = record.read()
        detections = predictor(image)
        truth = ground_truth_detections(record, split)
        tiles += [draw_objects(image, truth.boxes, truth.labels, truth.class_names, truth.cropped_masks)]
        tiles += [draw(image, detections, 0)]
        captions += ["ground truth", f"predicted: {detections.summary()}"]
    write_image(out / "predictions.jpg", contact_sheet(tiles, columns=4, captions=captions), writer=WRITER)
