"""`sais train --dry-run`: check the data and print what a training run would be, without writing anything."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.commands.arguments import progress_bar
from sais.config import Experiment, to_dict
from sais.data.paths import DataPaths
from sais.io.progress import format_number, format_seconds
from sais.text import pad, print_json, print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.engine.dry_run import TrainingEstimate

CHECK_WORKERS = 4
"""Number of threads that read the sizes of the images."""
LABEL_WIDTH = 10


@dataclass(frozen=True)
class DryRun:
    """The run that a command line would start."""

    experiment: Experiment
    paths: DataPaths
    train_split: DatasetSplit
    out: Path
    """Folder of the run."""
    words: Sequence[str]
    """The command line after `sais train`."""
    notes: Sequence[str]
    """Lines on the origin of the settings."""
    options: dict[str, Any]
    """Arguments of `estimate_training`: weights, random_init, max_iterations, timing, trust."""

    def report(self, skip_broken: bool, as_json: bool) -> int:
        """Check the data, estimate the run, print both, and return the exit code: 2 where the run would not start."""
        from sais.engine.dry_run import estimate_training

        valid_split = self.paths.read_valid(self.train_split.class_names)
        errors = {split.name: check_split(split) for split in (self.train_split, valid_split) if split is not None}
        estimate = estimate_training(self.experiment, self.train_split, valid_split, **self.options)
        ok = skip_broken or not any(errors.values())
        if as_json:
            facts: dict[str, Any] = {"recipe": self.experiment.name, "data": self.paths.name, "out": str(self.out)}
            facts |= {"ok": ok, "errors": errors, **estimate.to_dict(), "notes": list(self.notes)}
            print_json(facts | {"settings": to_dict(self.experiment)})
            return 0 if ok else 2
        print_text(f"dry run of {self.experiment.name} on {self.paths.name}: nothing is written", *self.notes, sep="\n")
        for label, text in describe(estimate):
            print_text(pad(label, LABEL_WIDTH), text)
        for name, count in errors.items():
            if count:
                kinds = "1 kind of error" if count == 1 else f"{count} kinds of errors"
                print_text(f"{name}: {kinds} would stop the run; see sais doctor")
        if not self.experiment.model.pretrained or self.options["random_init"] or self.options["weights"]:
            imagenet = ""
        else:
            from sais.modeling.imagenet_weights import describe_source

            imagenet = describe_source(self.experiment.model.backbone)
        command = shlex.join(["sais", "train", *(word for word in self.words if word not in DRY_RUN_OPTIONS)])
        print_text(*([imagenet] if imagenet else []), f"next: {command}  (into {self.out})", sep="\n")
        return 0 if ok else 2


DRY_RUN_OPTIONS = ("--dry-run", "--timing", "--no-timing", "--json")
"""Options that only a dry run has."""


def check_split(split: DatasetSplit) -> int:
    """Return the number of kinds of errors of a split, as `sais doctor --no-decode` finds them."""
    from sais.data.doctor.check import check_dataset

    with progress_bar(f"checking {split.name}", len(split.images)) as progress:
        report = check_dataset(split, decode=False, progress=lambda done, _: progress(1), workers=CHECK_WORKERS)
    return sum(finding.severity == "ERROR" for finding in report.all_findings())


def describe(estimate: TrainingEstimate) -> Iterator[tuple[str, str]]:
    """Yield the lines about a run: a label and a text."""
    height, width = estimate.input_size
    parameters = f"{estimate.parameters:,} parameters, {estimate.trained_parameters:,} of them trained"
    yield "network", f"{parameters}; input {width} x {height}, {estimate.classes} classes"
    valid = "no" if estimate.valid_images is None else f"{estimate.valid_images:,}"
    yield "data", f"{estimate.images:,} training images, {valid} validation images"
    epoch = f"{estimate.epochs} epochs of {estimate.iterations_per_epoch} iterations with {estimate.batch_size} images"
    yield "schedule", f"{epoch}: {estimate.iterations:,} iterations, {estimate.evaluations} evaluations"
    gibibytes = [f"{value / 2**30:.1f} GiB" for value in (estimate.memory, estimate.free_memory or 0)]
    free = "" if estimate.free_memory is None else f", {gibibytes[1]} are free"
    remedy = "" if estimate.fits else "; it may not suffice: use --batch-size auto, --optim.micro-batch or --size"
    yield "memory", f"about {gibibytes[0]} for a step on {estimate.device}{free}{remedy}"
    if estimate.seconds is not None:
        assert estimate.step_seconds is not None
        evaluation = estimate.evaluation_seconds
        text = f"about {format_seconds(estimate.seconds)}: {format_number(estimate.step_seconds)} s per iteration"
        yield "time", text + ("" if evaluation is None else f", {format_number(evaluation)} s per evaluation")
