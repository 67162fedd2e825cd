"""`sais train RECIPE --data DIR`: train a model. Every setting of the recipe is an option of its own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sais.commands.arguments import check_writable, parse, prepare_torch
from sais.commands.run_folders import choose_folder
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.errors import SaisError
from sais.recipes import RECIPES, recipe
from sais.recipes.adjust import changed, check, of_length, scaled_lr

if TYPE_CHECKING:
    from sais.distributed import World
    from sais.engine.trainer import TrainResult

PROG = "sais train RECIPE"


@dataclass(frozen=True)
class TrainArguments:
    """Train a model. RECIPE comes first: a name of `sais recipes`, or module:function of your own.

    Options such as --model.backbone change a single setting; their defaults are the recipe's.
    """

    data: Path | None = None
    """Folder of the data set: annotations/SPLIT.json and images/SPLIT (also a name in the folder $SAIS_DATA)."""
    train_split: str = "train"
    """Split to train on."""
    valid_split: str = "valid"
    """Split to measure on; without one in the data set nothing is measured. --valid-split '' for none."""
    train_annotations: Path | None = None
    """COCO JSON to train on, instead of --data."""
    train_images: Path | None = None
    """Folder of its images."""
    valid_annotations: Path | None = None
    """COCO JSON to measure on."""
    valid_images: Path | None = None
    """Folder of its images."""
    out: Path | None = None
    """Folder of the run: runs/RECIPE-DATA when not given, numbered -2, -3 when that exists."""
    resume: bool = False
    """Go on with the run in --out (or the latest of this recipe and data) where it stopped, with the settings it was
    started with. Some may be given anew: learning rate, clipping, micro-batch, what is computed again and how, what to
    do with a bad loss, device, workers, loggers, patience, how often to save and to evaluate."""
    epochs: int | None = None
    """As --schedule.epochs; the drops of a stepped lr move with it."""
    steps: int | None = None
    """Stop after so many iterations, for a trial."""
    batch: int | Literal["auto"] | None = None
    """Images in one step over all devices, as --optim.batch-size; lr follows unless given. auto: as many as fit into the
    memory, but not so many that an epoch has fewer than 50 steps."""
    size: tuple[int, ...] = ()
    """Input size as --input.size: height and width, or one number for both."""
    lr: float | None = None
    """Learning rate for one batch, as --optim.lr."""
    workers: int | None = None
    """Processes that read images, as --run.workers."""
    seed: int | None = None
    """The same as --run.seed."""
    device: str | None = None
    """auto, cpu, cuda, mps, as --run.device."""
    skip_broken: bool = False
    """Leave out images that cannot be read, and say how many, instead of stopping."""
    random_init: bool = False
    """Start the backbone from random weights, not ImageNet's."""
    report: bool = True
    """Write the run's page, report.html in its folder, at the end."""
    weights: Path | None = None
    """Start from the weights of this run or model file; of other classes, those of the same name are kept."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)
    """The recipe's settings."""


def run(argv: Sequence[str]) -> int:
    """Run `sais train`."""
    name, rest = split_recipe(argv)
    start = recipe(name) if name else Experiment()
    arguments = parse(TrainArguments, rest, PROG, default=TrainArguments(experiment=start))
    if not name:
        raise SaisError(f"sais train needs a recipe first: {PROG} --data DIR; known are {', '.join(RECIPES)}")
    given_lr = any(word.partition("=")[0] in ("--lr", "--optim.lr") for word in rest)
    automatic = arguments.batch == "auto"
    if automatic:
        arguments = dataclasses.replace(arguments, batch=None)
    experiment, said = settle(start, arguments, given_lr)
    paths = DataPaths(
        arguments.data,
        arguments.train_split,
        arguments.valid_split,
        arguments.train_annotations,
        arguments.train_images,
        arguments.valid_annotations,
        arguments.valid_images,
    )
    prepare_torch("train")
    from sais.distributed import process_group

    with process_group(experiment.run.device) as ranks:
        if automatic and not arguments.resume:
            experiment, more = fitting(experiment, paths, ranks, given_lr)
            said += more
        return _train(arguments, experiment, paths, f"{name.replace(':', '.')}-{paths.name}", said, rest, ranks)


def _train(
    arguments: TrainArguments,
    experiment: Experiment,
    paths: DataPaths,
    name: str,
    said: list[str],
    words: Sequence[str],
    ranks: World,
) -> int:
    """Train as one of `ranks`; the first chooses the folder and speaks."""
    from sais.distributed import is_restarted
    from sais.engine.trainer import train

    chosen = choose_folder(arguments.out, name, arguments.resume, is_restarted()) if ranks.is_main else (Path(), False)
    out, resume = ranks.broadcast(chosen)
    check_writable(out)
    if arguments.resume and not resume:
        said = [*said, f"{out}: it stopped before anything was saved; starting anew"]
    anew = taken_anew(words) if resume else ()
    if resume:  # the engine goes on with what the run was started with
        said = [f"resuming {out} with the settings stored there" + (f", but for {', '.join(anew)}" if anew else "")]
        if arguments.weights or arguments.random_init:
            said.append("its own weights go on; --weights and --random-init were for its start")
    if ranks.is_main:
        for line in [*said, f"{experiment.name} on {paths.name}, into {out}"]:
            print(line)
    result = train(
        experiment,
        paths,
        out,
        resume=resume,
        steps=arguments.steps,
        skip_broken=arguments.skip_broken,
        random_init=arguments.random_init,
        weights=arguments.weights,
        ranks=ranks,
        anew=anew,
    )
    if ranks.is_main:
        if arguments.report:
            print(_report(result))
        print(f"next: sais predict {result.out} YOUR_IMAGES")
    return 0


LEAST_STEPS = 50
"""An epoch of so many steps is not made shorter for a larger batch."""


def fitting(experiment: Experiment, paths: DataPaths, ranks: World, given_lr: bool) -> tuple[Experiment, list[str]]:
    """The experiment with the greatest sensible batch that fits into every rank's memory, and what to say of it."""
    from sais.device import choose_device
    from sais.engine.auto_batch_size import find_batch_size, free_memory

    index = paths.train_index()
    device = choose_device(experiment.run.device)
    beside = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # they share the memory
    fit = find_batch_size(experiment, len(index.class_names), device, free=free_memory(device) // beside)
    fits = min(ranks.all_gather(fit.batch)) * ranks.world_size
    most = max(experiment.optim.batch_size, len(index.images) // LEAST_STEPS)
    batch = max(1, min(fits, most) // ranks.world_size) * ranks.world_size
    why = f"{fits} would fit; an epoch keeps {LEAST_STEPS} steps" if most < fits else str(fit)
    changed_batch = changed(experiment, "optim", batch_size=batch)
    settled, said = (changed_batch, []) if given_lr else scaled_lr(experiment, changed_batch)
    return settled, [f"--batch auto: {batch} ({why})", *said]


def _report(result: TrainResult) -> str:
    """Write the run's page; says where it is, or why there is none: the run is done, whatever fails here."""
    from sais.reports.run_report import write_report

    missing = ""
    if result.evaluation is None:
        missing = "The last weights were not measured on a validation split; sais report does that, where there is one."
    try:
        return f"report: {write_report(result.out, result.evaluation, missing)}"
    except Exception as error:
        return f"no report was written ({type(error).__name__}: {error}); try sais report {result.out}"


SHORT = {
    "batch": "optim.batch_size",
    "lr": "optim.lr",
    "workers": "run.workers",
    "seed": "run.seed",
    "device": "run.device",
    "size": "input.size",
    "epochs": "schedule.epochs",
}
"""Short options, and the settings they are."""


def taken_anew(words: Sequence[str]) -> tuple[str, ...]:
    """The settings that the command line gives, by name: a resumed run takes these instead of its own, where it may."""
    given = [
        word[2:].partition("=")[0].replace("-", "_")
        for word, after in zip(words, [*words[1:], ""], strict=True)
        if word.startswith("--") and (word, after) != ("--batch", "auto") and word != "--batch=auto"
    ]
    groups = {f.name for f in dataclasses.fields(Experiment)}
    named = [SHORT.get(word, word).replace(".no_", ".") for word in given]
    return tuple(dict.fromkeys(word for word in named if word.partition(".")[0] in groups and "." in word))


def split_recipe(argv: Sequence[str]) -> tuple[str, list[str]]:
    """The recipe's name in `argv` ("" where there is none) and the other words. It stands first, or anywhere as a
    name that is known."""
    words = list(argv)
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    for place, word in enumerate(words):
        if word in RECIPES:
            return word, words[:place] + words[place + 1 :]
    return "", words


def settle(start: Experiment, arguments: TrainArguments, given_lr: bool) -> tuple[Experiment, list[str]]:
    """The experiment after the short options, and what to tell the user about it.

    A batch other than the recipe's scales its lr, unless lr was given: linearly for SGD, by the root for AdamW.
    """
    said: list[str] = []
    experiment = with_short_options(arguments.experiment, arguments, ("batch", "lr", "workers", "seed", "device"))
    _check_counts(experiment, arguments)
    if arguments.epochs is not None:
        if experiment.schedule.milestones == start.schedule.milestones:
            experiment, said = of_length(experiment, arguments.epochs)
        else:
            experiment = changed(experiment, "schedule", epochs=arguments.epochs)
    check(experiment)
    if not given_lr:
        experiment, more = scaled_lr(start, experiment)
        said += more
    return experiment, said


def with_short_options(experiment: Experiment, arguments: Any, options: Sequence[str]) -> Experiment:
    """The experiment with those of `SHORT` that were given, and the size."""
    for option in options:
        value = getattr(arguments, option)
        if value is not None:
            group, _, name = SHORT[option].partition(".")
            experiment = changed(experiment, group, **{name: value})
    return changed(experiment, "input", size=_size(arguments.size, experiment)) if arguments.size else experiment


def _size(size: tuple[int, ...], experiment: Experiment) -> tuple[int, int]:
    if len(size) == 1 and experiment.input.mode == "fixed":
        return (size[0], size[0])
    if len(size) != 2:
        raise SaisError(f"--size {' '.join(map(str, size))}: give height and width (fixed: or one number for both)")
    return (size[0], size[1])


def _check_counts(experiment: Experiment, arguments: TrainArguments) -> None:
    """By the names of the short options; `check` does the rest."""
    for name, value, least in (
        ("epochs", arguments.epochs, 1),
        ("batch", experiment.optim.batch_size, 1),
        ("workers", experiment.run.workers, 0),
        ("steps", arguments.steps, 1),
    ):
        if value is not None and value < least:
            raise SaisError(f"--{name} {value}: must be {least} or more")
