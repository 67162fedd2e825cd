"""Runs of table rows: each is trained once, resumed after an interruption, and its result kept as JSON.

    OUT/runs/ROW-seed0-1a2b3c4d/    a run of `sais train`; with result.json once it is finished
    OUT/results/ROW-seed0-1a2b3c4d.json    a copy of the result, small enough to commit

The eight hexadecimal digits are a digest of everything that determines the numbers (settings, architecture,
annotations). Rows that need the same run share it, and a run with other settings is never mistaken for it. Several
processes may work on the same OUT, on several GPUs for instance: each takes runs that no other process works on.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sais.checkpoint import load_checkpoint
from sais.config import Experiment, flatten, to_dict
from sais.data.annotations import DatasetSplit
from sais.data.paths import DataPaths
from sais.device import choose_device
from sais.engine.environment import describe_environment
from sais.engine.hardware import choose_workers
from sais.engine.trainer import train
from sais.errors import InputError
from sais.evaluation.evaluate import evaluate
from sais.inference.predictor import Predictor
from sais.io.atomic import write_text
from sais.modeling.architecture import find_architecture

POLL_SECONDS = 5.0
"""Seconds between attempts to take a run that another process works on."""

NOT_IN_DIGEST = frozenset(
    {
        "name",
        "model.architecture",
        "optim.micro_batch",
        "run.device",
        "run.workers",
        "run.evaluate_every",
        "run.checkpoint_every",
        "run.checkpoint_minutes",
        "run.on_nonfinite_loss",
        "run.activation_checkpointing",
        "run.cpu_convolutions",
        "run.tf32",
        "run.deterministic",
        "run.compile",
        "run.loggers",
    }
)
"""Settings that change a run's numbers by rounding at most. `run.evaluate_every` counts with early stopping."""


@dataclass(frozen=True)
class RunPlan:
    """A run that a table needs."""

    row: str
    """Key of the row, or of the peer."""
    experiment: Experiment
    """All settings, including the seed."""
    max_iterations: int | None = None
    """Number of iterations after which the run stops; None: all."""
    random_init: bool = False

    @property
    def architecture(self) -> str:
        """Name of the architecture, which a digest contains instead of its module."""
        return find_architecture(self.experiment.model.architecture).name

    def digest(self, data: dict[str, Any]) -> str:
        """Compute eight hexadecimal digits from everything that determines the numbers.

        Args:
            data: description of the data set by `describe_data`.
        """
        settings = digest_settings(self.experiment)
        content = [settings, self.architecture, self.max_iterations, self.random_init, data]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

    def name(self, data: dict[str, Any], out: Path) -> str:
        """Return the name of the run's folder in `out`; it has the key of the row that made it first."""
        suffix = f"-seed{self.experiment.run.seed}-{self.digest(data)}"
        paths = [path for kind in ("results", "runs") for path in out.glob(f"{kind}/*{suffix}*")]
        names = {path.name.removesuffix(".json") for path in paths}
        return next((name for name in sorted(names) if name.endswith(suffix)), self.row + suffix)


def digest_settings(experiment: Experiment) -> dict[str, Any]:
    """Collect the settings that determine a run's numbers and differ from their defaults, by dotted name.

    Leaving out the defaults keeps the digests of finished runs when a setting is added. A default must therefore not
    change once a result has been kept.
    """
    ignored = NOT_IN_DIGEST - {"run.evaluate_every"} if experiment.schedule.patience else NOT_IN_DIGEST
    defaults = flatten(to_dict(Experiment()))
    settings = flatten(to_dict(experiment))
    return {name: value for name, value in settings.items() if name not in ignored and value != defaults[name]}


@dataclass(frozen=True)
class RunResult:
    """The result of a finished run; the content of result.json."""

    row: str
    seed: int
    architecture: str
    experiment: dict[str, Any]
    data: dict[str, Any]
    """Description of the data set by `describe_data`."""
    iterations: int
    metrics: dict[str, Any]
    """Metrics by `Metrics.to_dict`, as fractions of 1."""
    seconds: float
    """Duration of training without evaluation."""
    machine: dict[str, Any]
    """Description of the machine by `describe_environment`."""
    digest: str
    unreadable_images: int = 0
    """Number of images of both splits that could not be read."""


def describe_data(train_split: DatasetSplit, valid_split: DatasetSplit, data_name: str) -> dict[str, Any]:
    """Describe a data set: name, classes, numbers of images and objects, digests of the annotations."""
    description: dict[str, Any] = {"name": data_name, "classes": list(train_split.class_names)}
    for name, split in (("train", train_split), ("valid", valid_split)):
        objects = sum(len(record.annotations) for record in split.images)
        description[name] = {
            "images": len(split.images),
            "objects": objects,
            "digest": _annotations_digest(split),
        }
    return description


def _annotations_digest(split: DatasetSplit) -> str:
    """Eight hexadecimal digits from all names, sizes, boxes, classes and outlines; images are not read."""
    digest = hashlib.sha256()
    for record in split.images:
        digest.update(f"{record.name} {record.id} {record.size}".encode())
        for annotation in record.annotations:
            digest.update(annotation.box.tobytes() + f"{annotation.label} {annotation.crowd} ".encode())
            digest.update(json.dumps(annotation.segmentation, default=str).encode())
    return digest.hexdigest()[:8]


def run_plans(
    plans: Sequence[RunPlan],
    data: DataPaths,
    out: Path,
    skip_broken: bool = False,
    log: Callable[[str], None] = print,
) -> list[RunResult]:
    """Run every plan that has no result yet.

    Args:
        plans: runs; equal ones are run once.
        data: paths of the data set.
        out: folder of runs and results.
        skip_broken: whether unreadable images are skipped instead of raising an error.
        log: function that receives one line of progress.

    Returns:
        The results of all plans, in the order of the plans.

    Raises:
        InputError: the data set has no labeled validation split.
        SaisError: an error of `train`. Finished runs keep their results; the same call resumes.
    """
    train_split = data.read_train()
    valid_split = data.read_valid(train_split.class_names)
    if valid_split is None or not any(record.annotations for record in valid_split.images):
        raise InputError(f"{data.name}: no labeled validation split. Choose a split whose images have annotations.")
    description = describe_data(train_split, valid_split, data.name)
    results: dict[RunPlan, RunResult] = {}
    pending = list(dict.fromkeys(plans))
    total, waiting = len(pending), False
    (out / "locks").mkdir(parents=True, exist_ok=True)
    while pending:
        locked = []
        for plan in pending:
            digest = plan.digest(description)
            try:
                lock = FileLock(out / "locks" / f"seed{plan.experiment.run.seed}-{digest}").acquire(timeout=0)
            except Timeout:
                locked.append(plan)
                continue
            with lock:
                name = plan.name(description, out)
                result = read_result(out / "results" / f"{name}.json")
                if result is None:
                    log(f"{len(results) + 1} of {total}: {plan.row}, seed {plan.experiment.run.seed}")
                    result = _run_plan(plan, name, data, valid_split, description, out, skip_broken)
                results[plan] = replace(result, row=plan.row)
        if locked and len(locked) == len(pending):
            if not waiting:
                log(f"waiting for another process that works on {', '.join(plan.row for plan in locked)}")
            waiting = True
            time.sleep(POLL_SECONDS)
        pending = locked
    return [results[plan] for plan in plans]


def read_result(path: Path) -> RunResult | None:
    """Read a result; None where the file is missing or incomplete."""
    try:
        return RunResult(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def write_result(path: Path, result: RunResult) -> None:
    """Write a result as JSON."""
    write_text(path, json.dumps(asdict(result), indent=1) + "\n")


def _run_plan(
    plan: RunPlan,
    name: str,
    data: DataPaths,
    valid_split: DatasetSplit,
    description: dict[str, Any],
    out: Path,
    skip_broken: bool,
) -> RunResult:
    """Train or resume, evaluate, write the result, and delete checkpoints that only resuming needs."""
    folder = out / "runs" / name
    result = read_result(folder / "result.json")  # the copy in results/ was deleted
    if result is None:
        if not (folder / "model.safetensors").exists():  # otherwise the process was killed before the evaluation
            evaluates = plan.experiment.run.evaluate_every
            train(
                plan.experiment,
                data if evaluates else replace(data, valid="", valid_annotations=None, valid_images=None),
                folder,
                resume=(folder / "last.safetensors").exists(),
                max_iterations=plan.max_iterations,
                skip_broken=skip_broken,
                random_init=plan.random_init,
            )
        result = evaluate_run(plan, valid_split, description, folder, skip_broken)
    for path in (folder / "result.json", out / "results" / f"{name}.json"):
        write_result(path, result)
    if (folder / "model.safetensors").exists():
        for checkpoint in ("last", "best"):
            (folder / f"{checkpoint}.safetensors").unlink(missing_ok=True)
    return result


def evaluate_run(
    plan: RunPlan, valid_split: DatasetSplit, description: dict[str, Any], folder: Path, skip_broken: bool
) -> RunResult:
    """Evaluate the final weights of a run, averaged where the run averages them; before its end those last saved.

    Args:
        plan: the run.
        valid_split: validation split.
        description: description of the data set by `describe_data`.
        folder: folder of the run.
        skip_broken: whether unreadable images are skipped instead of raising an error.
    """
    # Not the best weights of a run that was stopped early: those were chosen on the images that are evaluated here.
    path = folder / ("model" if (folder / "model.safetensors").exists() else "last")
    path = path.with_suffix(".safetensors")
    checkpoint = load_checkpoint(path)
    device = choose_device(plan.experiment.run.device)
    detector = Predictor(path, device=str(device))
    batch_size = plan.experiment.optim.batch_size
    workers = choose_workers(plan.experiment.run.workers, device)
    evaluation = evaluate(detector, valid_split, batch_size, workers, skip_broken)
    metrics = evaluation.metrics
    assert metrics is not None
    return RunResult(
        row=plan.row,
        seed=plan.experiment.run.seed,
        architecture=plan.architecture,
        experiment=to_dict(checkpoint.experiment),
        data=description,
        iterations=checkpoint.state["iteration"],
        metrics=metrics.to_dict(),
        seconds=round(checkpoint.state["seconds"], 1),
        machine=describe_environment(device),
        digest=plan.digest(description),
        unreadable_images=len(checkpoint.state["unreadable_images"]) + len(evaluation.unreadable_images),
    )
