"""A run between its steps: what it carries, how it starts, how it is saved and resumed, what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sais.checkpoint import Checkpoint, fill, load, optimizer_tensors, prefixed, restore_optimizer, save
from sais.config import Experiment, check_ranges, to_dict
from sais.data.index import Index
from sais.engine.optim import MovingAverage, build_optimizer
from sais.engine.system import SAIS_SYSTEM, System
from sais.model.backbones import Backbone, load_imagenet_weights
from sais.predict import choose_device
from sais.structures import SaisError


@dataclass
class Run:
    """Everything a run carries from step to step."""

    experiment: Experiment
    out: Path
    index: Index
    valid: Index | None
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage[nn.Module] | None
    device: torch.device
    system: System = SAIS_SYSTEM
    iteration: int = 0
    best: float = -1.0
    seconds: float = 0.0
    metrics: dict[str, Any] | None = None
    measured: int = 0
    """Epochs after which it was seen to whether an evaluation was due: a run killed in one makes up for it."""
    broken: set[str] = field(default_factory=set)

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are evaluated and kept: the moving average where there is one."""
        return self.average.model if self.average else self.model


def start_run(
    experiment: Experiment,
    out: Path,
    index: Index,
    valid: Index | None,
    random_init: bool,
    weights: Path | None,
    system: System,
) -> tuple[Run, list[str]]:
    """A fresh run, and what there is to say about it."""
    if (out / "last.safetensors").exists():
        raise SaisError(f"{out}: a run is there already; go on with --resume, or choose another --out")
    check_ranges(experiment)
    from_scratch = random_init or not experiment.model.pretrained
    experiment = replace(experiment, model=replace(experiment.model, pretrained=not from_scratch))
    device = choose_device(experiment.run.device)
    torch.manual_seed(experiment.run.seed)
    model = system.build(experiment, len(index.class_names))
    if weights is not None:
        checkpoint = load(weights)
        if checkpoint.class_names != index.class_names:
            raise SaisError(f"{weights}: trained for other classes ({', '.join(checkpoint.class_names[:5])}, ...)")
        fill(model, checkpoint.part("model"), weights)
        notes = [f"weights from {weights}"]
    elif from_scratch:
        notes = ["backbone from random weights: nothing of it is frozen"]
    else:
        assert isinstance(model.backbone, Backbone)
        notes = [load_imagenet_weights(model.backbone)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "experiment.json").write_text(json.dumps(to_dict(experiment), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise SaisError(f"{out}: cannot write there ({error.strerror}); choose another --out") from error
    model.to(device)
    average = MovingAverage(model, experiment.run.ema) if experiment.run.ema else None
    optimizer = build_optimizer(model, experiment.optim)
    return Run(experiment, out, index, valid, model, optimizer, average, device, system), notes


def resume_run(
    experiment: Experiment, out: Path, index: Index, valid: Index | None, system: System
) -> tuple[Run, list[str]]:
    """The run that `out`/last.safetensors holds; only `run.device` and `run.workers` may differ."""
    path = out / "last.safetensors"
    if not path.exists():
        raise SaisError(f"{path}: nothing to resume; start the run without --resume")
    checkpoint = load(path)
    stored = checkpoint.experiment
    if not checkpoint.part("optimizer"):
        raise SaisError(f"{path}: a model, not a run; resume from the last.safetensors of a run")
    if (other := checkpoint.state.get("system", SAIS_SYSTEM.name)) != system.name:
        raise SaisError(f"{path}: a run of {other}, not of {system.name}; resume it as what it is")
    now = experiment.run
    stored = replace(stored, run=replace(stored.run, device=now.device, workers=now.workers))
    if checkpoint.class_names != index.class_names:
        raise SaisError(f"{path}: trained on other classes than {index.name}; resume with the data it was started on")
    if checkpoint.state["pictures"] != len(index.images):
        was = f"{checkpoint.state['pictures']} pictures, {index.name} has {len(index.images)}"
        raise SaisError(f"{path}: trained on {was}; resume with the data it was started on")
    device = choose_device(stored.run.device)
    model = system.build(stored, len(index.class_names))
    weights, raw = checkpoint.part("model"), checkpoint.part("raw")
    fill(model, raw or weights, path)
    model.to(device)
    average = MovingAverage(model, stored.run.ema) if stored.run.ema else None
    if average:
        fill(average.model, weights, path)
        average.updates = checkpoint.state["updates"]
    optimizer = build_optimizer(model, stored.optim)
    restore_optimizer(optimizer, model, checkpoint.part("optimizer"))
    state = checkpoint.state
    run = Run(stored, out, index, valid, model, optimizer, average, device, system, state["iteration"], state["best"])
    run.seconds, run.metrics, run.measured = state["seconds"], state["metrics"], state["measured"]
    run.broken = set(state["broken"])
    return run, [f"resumed at iteration {run.iteration}"]


def save_run(run: Run) -> None:
    """Write `last.safetensors`, which holds everything that resuming needs."""
    tensors = prefixed("model", run.evaluated.state_dict())
    if run.average:
        tensors |= prefixed("raw", run.model.state_dict())
    tensors |= prefixed("optimizer", optimizer_tensors(run.optimizer, run.model))
    save(run.out / "last.safetensors", _checkpoint(run, tensors))


def save_model(run: Run, path: Path) -> None:
    """Write the weights to predict with, and nothing else."""
    save(path, _checkpoint(run, prefixed("model", run.evaluated.state_dict())))


def _checkpoint(run: Run, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    state = {
        "system": run.system.name,
        "iteration": run.iteration,
        "updates": run.average.updates if run.average else 0,
        "best": run.best,
        "seconds": run.seconds,
        "metrics": run.metrics,
        "measured": run.measured,
        "pictures": len(run.index.images),
        "broken": sorted(run.broken),
    }
    return Checkpoint(run.experiment, run.index.class_names, run.index.category_ids, tensors, state)


@contextlib.contextmanager
def nothing_half_written(out: Path) -> Iterator[None]:
    """Where the run fails or is interrupted before its first checkpoint, what it wrote goes, so that the same --out can
    be used again."""
    try:
        yield
    except (SaisError, KeyboardInterrupt):
        if not any(out.glob("*.safetensors")):
            for name in ("experiment.json", "log.jsonl", "log.txt", "loggers.json"):
                (out / name).unlink(missing_ok=True)
            for name in ("tensorboard", "wandb"):
                shutil.rmtree(out / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # something else lies there
                out.rmdir()
        raise
