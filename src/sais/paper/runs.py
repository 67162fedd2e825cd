"""Runs of rows: each trained once, resumed where it was stopped, its result kept as JSON.

    OUT/runs/ROW-seed0-1a2b3c4d/    a run of `sais train`, and once it is done result.json
    OUT/results/ROW-seed0-1a2b3c4d.json    the same result again, small enough to commit

The eight digits are a digest of everything that decides the numbers (settings, system, annotations), so that a run is
found again by whatever row needs the same one, and never mistaken for another. Several processes may work on one OUT at
the same time, on several GPUs for instance: each takes the runs that nobody else is at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sais.checkpoint import load_checkpoint, load_weights
from sais.config import MOVED, Experiment, flatten, to_dict
from sais.data.annotations import DatasetSplit
from sais.data.paths import DataPaths
from sais.device import choose_device
from sais.engine.architecture import Architecture
from sais.engine.environment import describe_environment
from sais.engine.trainer import train
from sais.errors import SaisError
from sais.evaluation.evaluate import evaluate
from sais.io.atomic import write_text

WAIT = 5.0
"""Seconds between looks at a run that another process is at."""


IDLE = (
    *("name", "run.device", "run.workers", "run.evaluate_every", "run.checkpoint_every", "run.checkpoint_minutes"),
    *(
        "run.on_nonfinite_loss",
        "run.activation_checkpointing",
        "run.cpu_convolutions",
        "run.loggers",
        "optim.micro_batch",
    ),
)
"""Settings that decide nothing of a run's numbers: they are no part of its digest."""

FIRST = {
    "input": "mode size flip scale_jitter color_jitter",
    "model": "backbone pretrained frozen_stages frozen_batch_norm channels tower_depth tower_kind norm masks "
    "coefficients_from prototypes prototype_channels prototype_depth distance_unit",
    "targets": "rule",
    "losses": "box class_weight box_weight centerness_weight mask_weight mask_positives mask_margin",
    "test": "score candidates nms detections mask_margin",
    "optim": "name lr batch momentum weight_decay bias_lr_factor backbone_lr_factor clip",
    "schedule": "epochs kind steps factor warmup warmup_factor warmup_kind",
    "run": "seed precision ema",
}
"""The settings that there were when the first results were kept. One that came later counts where it is not at its
default, so that those results are found still. A default must therefore not change once a result has been kept."""


@dataclass(frozen=True)
class RunPlan:
    """One run to be made."""

    row: str
    """Name of the row, or of the peer."""
    experiment: Experiment
    """All settings, the seed among them."""
    architecture: Architecture
    steps: int | None = None
    """Stop after so many iterations."""
    random_init: bool = False

    def digest(self, data: dict[str, Any]) -> str:
        """Eight digits of everything that decides the numbers; not the device, workers or when to look and where."""
        settings = settings_that_count(self.experiment)
        whole = [settings, self.architecture.name, self.steps, self.random_init, data]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:8]

    def name(self, data: dict[str, Any], out: Path) -> str:
        """Name of its folder in `out`: that of the same run, where another row had it made."""
        tail = f"-seed{self.experiment.run.seed}-{self.digest(data)}"
        made = {
            path.name.removesuffix(".json") for kind in ("results", "runs") for path in out.glob(f"{kind}/*{tail}*")
        }
        return next((name for name in sorted(made) if name.endswith(tail)), self.row + tail)


def settings_that_count(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """The settings that decide a run's numbers, as the first results had them: see `IDLE`, `FIRST` and `MOVED`."""
    usual = flatten(to_dict(Experiment()))
    counted: dict[str, dict[str, Any]] = {}
    first = {f"{group}.{name}" for group, names in FIRST.items() for name in names.split()}
    old_place = {now: before for before, now in MOVED.items()}
    for path, value in flatten(to_dict(experiment)).items():
        place = old_place.get(path, path)
        if path not in IDLE and (place in first or value != usual[path]):
            group, _, name = place.partition(".")
            counted.setdefault(group, {})[name] = value
    return counted


@dataclass(frozen=True)
class RunResult:
    """What a finished run came to; the content of result.json."""

    row: str
    seed: int
    architecture: str
    experiment: dict[str, Any]
    data: dict[str, Any]
    """Of `describe_data`."""
    iterations: int
    metrics: dict[str, Any]
    """As `Metrics.to_dict` gives them, shares of 1."""
    seconds: float
    """Of training, evaluation not counted."""
    machine: dict[str, Any]
    """Of `describe_machine`."""
    digest: str
    left_out: int = 0
    """Images of either split that could not be read, where that was allowed."""


def describe_data(train_index: DatasetSplit, valid_index: DatasetSplit, name: str) -> dict[str, Any]:
    """What a result says of its data: names, numbers of images and objects, classes, a digest of the annotations."""
    said: dict[str, Any] = {"name": name, "classes": list(train_index.class_names)}
    for split, index in (("train", train_index), ("valid", valid_index)):
        objects = sum(len(record.annotations) for record in index.images)
        said[split] = {"images": len(index.images), "objects": objects, "digest": _annotations_digest(index)}
    return said


def _annotations_digest(index: DatasetSplit) -> str:
    """Eight digits of all names, sizes, boxes, classes and outlines; images themselves are not read."""
    whole = hashlib.sha256()
    for record in index.images:
        whole.update(f"{record.path.name} {record.id} {record.size}".encode())
        for one in record.annotations:
            whole.update(one.box.tobytes() + f"{one.label} {one.crowd} ".encode())
            whole.update(json.dumps(one.segmentation, default=str).encode())
    return whole.hexdigest()[:8]


def make_runs(
    plans: Sequence[RunPlan],
    data: DataPaths,
    out: Path,
    skip_broken: bool = False,
    say: Callable[[str], None] = print,
) -> list[RunResult]:
    """Make every run of `plans` that is not yet there, and return the results of all, in the order of the plans.

    Raises:
        SaisError: no validation split, or what `train` raises. Finished runs stay; the same call goes on.
    """
    train_index = data.train_index()
    valid_index = data.valid_index(train_index.class_names)
    if valid_index is None or not any(image.annotations for image in valid_index.images):
        raise SaisError(f"{data.name}: no labeled validation split; an experiment needs images to measure on")
    described = describe_data(train_index, valid_index, data.name)
    results: dict[RunPlan, RunResult] = {}
    waiting, told = list(dict.fromkeys(plans)), False
    while waiting:
        elsewhere = []
        for plan in waiting:
            with _claimed(out / "locks", f"seed{plan.experiment.run.seed}-{plan.digest(described)}") as free:
                if not free:
                    elsewhere.append(plan)
                    continue
                name = plan.name(described, out)
                result = read_result(out / "results" / f"{name}.json")
                if result is None:
                    say(f"{len(results) + 1} of {len(set(plans))}: {plan.row}, seed {plan.experiment.run.seed}")
                    result = _make(plan, name, data, valid_index, described, out, skip_broken)
                results[plan] = replace(result, row=plan.row)
        if elsewhere and len(elsewhere) == len(waiting):
            if not told:
                say(f"waiting for another process, which is at {', '.join(plan.row for plan in elsewhere)}")
            told = True
            time.sleep(WAIT)
        waiting = elsewhere
    return [results[plan] for plan in plans]


def read_result(path: Path) -> RunResult | None:
    """The result in a file; None where it is not there or was cut short."""
    try:
        return RunResult(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def _make(
    plan: RunPlan,
    name: str,
    data: DataPaths,
    valid: DatasetSplit,
    described: dict[str, Any],
    out: Path,
    skip_broken: bool,
) -> RunResult:
    """Train (or go on), evaluate, write the result, and drop what only going on would need."""
    folder = out / "runs" / name
    result = read_result(folder / "result.json")  # only its copy is gone
    if result is None:
        if not (folder / "model.safetensors").exists():  # else it was killed before it was measured
            looks = plan.experiment.run.evaluate_every
            train(
                plan.experiment,
                data if looks else replace(data, valid="", valid_annotations=None, valid_images=None),
                folder,
                resume=(folder / "last.safetensors").exists(),
                steps=plan.steps,
                skip_broken=skip_broken,
                random_init=plan.random_init,
                system=plan.architecture,
            )
        result = _measure(plan, valid, described, folder, skip_broken)
    text = json.dumps(result.__dict__, indent=1) + "\n"
    for place in (folder / "result.json", out / "results" / f"{name}.json"):
        write_text(place, text)
    if (folder / "model.safetensors").exists():
        for leftover in ("last", "best"):
            (folder / f"{leftover}.safetensors").unlink(missing_ok=True)
    return result


def _measure(
    plan: RunPlan, valid: DatasetSplit, described: dict[str, Any], folder: Path, skip_broken: bool
) -> RunResult:
    """What the weights of a run are worth: those it ended with, averaged where they are."""
    # Not the best of them, where training was stopped early: that was chosen on the images that are measured here.
    path = folder / ("model" if (folder / "model.safetensors").exists() else "last")
    path = path.with_suffix(".safetensors")
    checkpoint = load_checkpoint(path)
    model = plan.architecture.build(checkpoint.experiment, len(checkpoint.class_names))
    load_weights(model, checkpoint.part("model"), path)
    device = choose_device(plan.experiment.run.device)
    names, ids = checkpoint.class_names, checkpoint.category_ids
    finder = plan.architecture.finder(model, checkpoint.experiment, names, ids, str(device))
    batch, workers = plan.experiment.optim.batch_size, plan.experiment.run.workers
    evaluation = evaluate(finder, valid, batch, workers, skip_broken)
    metrics = evaluation.metrics
    assert metrics is not None
    return RunResult(
        row=plan.row,
        seed=plan.experiment.run.seed,
        architecture=plan.architecture.name,
        experiment=to_dict(checkpoint.experiment),
        data=described,
        iterations=checkpoint.state["iteration"],
        metrics=metrics.to_dict(),
        seconds=round(checkpoint.state["seconds"], 1),
        machine=describe_environment(device),
        digest=plan.digest(described),
        left_out=len(checkpoint.state["unreadable_images"]) + len(evaluation.unreadable_images),
    )


@contextlib.contextmanager
def _claimed(folder: Path, name: str) -> Iterator[bool]:
    """Whether nobody else is at this run; while it is ours, nobody else gets it. A killed process holds nothing."""
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks: as on Windows
            pass
        yield True
