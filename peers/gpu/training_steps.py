"""Training: images per second and peak memory of whole optimizer steps of SAIS and its peers, in turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from peers.candidates import yolact_of
from peers.gpu.inference_systems import MASK_RCNN, SAIS, SLIM, YOLACT
from peers.gpu.plan import Check, Plan, Row, arithmetic, float_precision
from peers.gpu.timing import allocated, gibibytes, interleaved, peak_memory
from peers.torchvision_peers import MASK_RCNN_NAME
from peers.torchvision_peers.candidates import mask_rcnn_of
from peers.yolact import YOLACT_NAME
from sais.benchmark.candidates import Candidate
from sais.benchmark.recipe_candidates import recipe_candidate
from sais.benchmark.workload import training_batch
from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.engine.optim import MovingAverage, build_optimizer
from sais.engine.train_state import TrainState
from sais.engine.train_step import train_step
from sais.modeling.architecture import find_architecture
from sais.recipes.adjust import replace_settings
from sais.structures import Batch

OBJECTS = 10
"""Objects of a training image."""
LEARNING_RATE = 1e-6
MAX_MEMORY_RATIO = 0.7
"""Maximum peak memory of SAIS relative to Mask R-CNN."""


@dataclass
class TrainingSystem:
    """A system whose optimizer steps are timed."""

    state: TrainState
    batch: Batch
    """The batch of all steps, in pinned host memory if the device is CUDA."""
    precision: str
    losses: list[float]
    """Total losses of all steps."""

    def step(self) -> int:
        """Make an optimizer step as in `sais train`, and return the number of images."""
        with arithmetic(self.precision):
            terms = train_step(self.state, self.batch, 0, LEARNING_RATE)
        assert terms is not None
        self.losses.append(terms["total"])
        return len(self.batch.image_ids)


def training_checks(plan: Plan) -> Iterator[Check]:
    """Yield the comparison of all systems in each precision."""
    for precision in ("bf16", "tf32", "fp32") if plan.on_cuda else ("fp32",):
        name = f"{precision}, batch {plan.training_batch_size}"
        yield Check("training", name, partial(compare_training, precision=precision))


def compare_training(plan: Plan, precision: str) -> list[Row]:
    """Time optimizer steps of SAIS and the peers in turns, and apply the limits."""
    systems: dict[str, TrainingSystem] = {}
    memory: dict[str, int | None] = {}
    for name in (SAIS, MASK_RCNN, SLIM, YOLACT):
        before = allocated(plan)
        systems[name] = training_system(plan, name, precision)
        for _ in range(2):  # momentum buffers exist from the second step on
            systems[name].step()
        memory[name] = peak_memory(plan, systems[name].step, before)
    functions: dict[str, Callable[[], int]] = {name: system.step for name, system in systems.items()}
    times = interleaved(plan, functions, plan.training_batch_size)
    suffix = f", {precision}, batch {plan.training_batch_size}"
    rows = []
    for name, system in systems.items():
        finite = all(math.isfinite(loss) for loss in system.losses)
        text = f"{1000 / times[name]:.1f} images/s, {times[name]:.1f} ms per image, peak {gibibytes(memory[name])}"
        values = {"milliseconds": times[name], "peak_bytes": memory[name], "losses": system.losses[:4]}
        rows.append(Row(name + suffix, None if finite else False, text, "finite losses", values))
    ratio = times[SAIS] / times[MASK_RCNN]
    pair = f"{SAIS} / {MASK_RCNN}{suffix}"
    rows.append(Row(f"{pair}, time", plan.judged(ratio < 1), f"{ratio:.2f}", "< 1", {"ratio": ratio}))
    own, other = memory[SAIS], memory[MASK_RCNN]
    if own is not None and other is not None:
        passed = plan.judged(own <= MAX_MEMORY_RATIO * other)
        rows.append(Row(f"{pair}, peak memory", passed, f"{own / other:.2f}", f"<= {MAX_MEMORY_RATIO}"))
    return rows


def training_system(plan: Plan, name: str, precision: str) -> TrainingSystem:
    """Return a system with random weights; parts that a pretrained network freezes are frozen.

    Args:
        plan: device and sizes.
        name: a recipe of SAIS, `MASK_RCNN` (at 768) or `YOLACT` (at 550).
        precision: fp32, tf32, bf16 or fp16.
    """
    candidate, experiment, side = _candidate(plan, name, float_precision(precision))
    workload, device = plan.workload(max(plan.objects, OBJECTS)), torch.device(plan.device)
    torch.manual_seed(0)
    assert candidate.train is not None
    model = candidate.train(workload, plan.device).model
    architecture = find_architecture(experiment.model.architecture)
    state = TrainState(
        experiment,
        Path("unused"),
        DatasetSplit("train", tuple(f"class {i}" for i in range(workload.num_classes))),
        None,
        model,
        model,
        build_optimizer(model, experiment.optim),
        MovingAverage(model, experiment.run.ema) if experiment.run.ema else None,
        torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        device,
        architecture,
        architecture.build_criterion(experiment),
    )
    batch = training_batch(workload, (side, side), plan.training_batch_size, OBJECTS)
    return TrainingSystem(state, batch.pin_memory() if plan.on_cuda else batch, precision, [])


def _candidate(plan: Plan, name: str, precision: str) -> tuple[Candidate, Experiment, int]:
    """Return the candidate that builds a system, its settings, and the side of its input in pixels."""
    settings = {"device": plan.device, "precision": precision, "loggers": (), "workers": 0}
    if name in (SAIS, SLIM):
        experiment = replace_settings(plan.experiment(name), "run", **settings)
        return recipe_candidate(name, experiment), experiment, experiment.input.size[0]
    if name == MASK_RCNN:
        side, architecture, build = plan.side(768), MASK_RCNN_NAME, mask_rcnn_of
    else:
        side, architecture, build = 200 if plan.small else 550, YOLACT_NAME, yolact_of
    experiment = replace_settings(plan.peer_experiment(name), "run", **settings)
    candidate = build(name, experiment, side)
    return candidate, replace(experiment, model=replace(experiment.model, architecture=architecture)), side
