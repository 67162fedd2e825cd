"""A training step on a simulated accelerator: equal to the CPU's, the budget of host waits, and its operations.

The budget is two waits in a step; one is needed, for the losses. An assigner that needs predictions adds one for each
micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.engine.optim import MovingAverage, build_optimizer
from sais.engine.train_state import TrainState
from sais.engine.train_step import forward, total, train_step
from sais.modeling.architecture import find_architecture
from sais.modeling.assigners import LocationGrid, ObjectAssignment
from sais.ops.boxes import distances_from_boxes
from sais.ops.transfers import move_batch
from sais.structures import Batch, DenseOutputs, GroundTruth
from tests.modeling.dense_samples import CANVAS, CLASSES, random_objects
from tests.simulated_device import DEVICE, SimulatedDevice, module_to_device

LAUNCHES = {"forward": 360, "losses": 225, "backward": 670, "average": 2}
"""Maximum number of operations on the device by part of a step, views not counted."""
TERMS = ("total", "classification", "box", "centerness", "mask", "gradient")


def batch_with(objects: int) -> Batch:
    """Return three random images, the last of them without objects."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 3, *CANVAS), generator=generator).to(torch.uint8)
    return Batch(images, [random_objects(1, objects), random_objects(2, 2), random_objects(3, 0)], [1, 2, 3], [])


def state_of(experiment: Experiment, device: torch.device) -> TrainState:
    """Return the state of a new run on a device."""
    architecture = find_architecture(experiment.model.architecture)
    torch.manual_seed(0)
    model = architecture.build(experiment, CLASSES).train()
    average = MovingAverage(model, 0.9)
    if device == DEVICE:
        module_to_device(model)
        module_to_device(average.model)
    split = DatasetSplit("train", ("a", "b", "c"))
    return TrainState(
        *(experiment, Path("unused"), split, None, model, model),
        *(build_optimizer(model, experiment.optim), average, torch.amp.GradScaler("cpu", enabled=False), device),
        *(architecture, architecture.build_criterion(experiment)),
    )


@pytest.fixture(scope="module")
def experiment(tiny: Experiment) -> Experiment:
    """Return the tiny experiment with random weights."""
    return replace(tiny, model=replace(tiny.model, pretrained=False))


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_train_step_waits_once_for_the_device(experiment: Experiment, micro_batch: int | None) -> None:
    experiment = replace(experiment, optim=replace(experiment.optim, micro_batch=micro_batch, grad_clip_norm=1.0))
    expected = state_of(experiment, torch.device("cpu"))
    with SimulatedDevice() as device:
        run = state_of(experiment, DEVICE)
        for number in range(2):
            device.waits.clear()
            device.copies_to_device = 0
            step = train_step(run, batch_with(5), 0, 1e-3)
            reference = train_step(expected, batch_with(5), 0, 1e-3)
            assert step is not None
            assert reference is not None
            for name in TERMS if number == 0 else ():  # the second step starts from weights that differ by rounding
                assert step[name] == pytest.approx(reference[name], rel=1e-4), name
            assert +device.waits == {"copy to the host": 1}
            parts = 1 if micro_batch is None else 3
            assert device.copies_to_device == 2 + 2 * parts


def assign_most_probable(
    ground_truths: list[GroundTruth], grid: LocationGrid, outputs: DenseOutputs
) -> ObjectAssignment:
    """Assign each location to the object inside whose box it is and whose class is the most probable there."""
    index = []
    for objects, logits in zip(ground_truths, outputs.class_logits, strict=True):
        if len(objects.boxes) == 0:
            index.append(torch.full_like(logits[:, 0], -1, dtype=torch.int64))
            continue
        inside = distances_from_boxes(grid.points[:, None], objects.boxes[None]).amin(2) > 0  # (L, N)
        best = torch.where(inside, logits[:, objects.labels], -torch.inf).max(1)
        index.append(torch.where(best.values > -torch.inf, best.indices, -1))
    object_index = torch.stack(index)
    scores = outputs.class_logits.amax(2).sigmoid()
    return ObjectAssignment(object_index, score_targets=torch.where(object_index >= 0, scores, 0.0))


assign_most_probable.needs_predictions = True  # type: ignore[attr-defined]


def test_train_step_waits_twice_for_an_assigner_with_predictions(experiment: Experiment) -> None:
    """Once for the assigned objects, once for the losses; all the rest of the targets is computed on the host."""
    name = f"{__name__}:assign_most_probable"
    experiment = replace(experiment, criterion=replace(experiment.criterion, assigner=name))
    expected = state_of(experiment, torch.device("cpu"))
    with SimulatedDevice() as device:
        run = state_of(experiment, DEVICE)
        step = train_step(run, batch_with(5), 0, 1e-3)
        reference = train_step(expected, batch_with(5), 0, 1e-3)
        assert step is not None
        assert reference is not None
        for term in TERMS:
            assert step[term] == pytest.approx(reference[term], rel=1e-4), term
        assert +device.waits == {"copy to the host": 2}


def test_train_step_waits_once_with_loss_scaling(experiment: Experiment) -> None:
    """The scale and whether the gradient is finite arrive with the losses. A step that overflows changes nothing."""
    experiment = replace(experiment, criterion=replace(experiment.criterion, class_weight=1000.0))
    expected = state_of(experiment, torch.device("cpu"))
    with SimulatedDevice() as device:
        run = state_of(experiment, DEVICE)
        for state in (run, expected):
            state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1)
        step, reference = (train_step(state, batch_with(5), 0, 1e-3) for state in (run, expected))
        assert step is not None
        assert reference is not None
        assert not math.isfinite(step["gradient"])
        assert not math.isfinite(reference["gradient"])
        assert +device.waits == {"copy to the host": 1}
        assert expected.average is not None
        assert expected.average.updates == 0
        assert not expected.optimizer.state
        assert expected.scaler.get_scale() == 2.0**126
        device.waits.clear()
        for state in (run, expected):
            state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1)
        step, reference = (train_step(state, batch_with(5), 0, 1e-3) for state in (run, expected))
        assert step is not None
        assert reference is not None
        for name in TERMS:
            assert step[name] == pytest.approx(reference[name], rel=1e-4), name
        assert +device.waits == {"copy to the host": 1}
        assert expected.average.updates == 1
        assert expected.scaler.get_scale() == 4.0


@pytest.mark.parametrize("objects", [2, 30])
def test_train_step_launches_few_operations_for_any_number_of_objects(experiment: Experiment, objects: int) -> None:
    """The operations of three images, by part of the step; the bars are a tenth above what was counted."""
    counts = {}
    with SimulatedDevice() as device:
        run = state_of(experiment, DEVICE)
        train_step(run, batch_with(objects), 0, 1e-3)  # computes what later steps reuse

        def count(part: str, function: Callable[[], Any]) -> Any:
            device.launches.clear()
            result = function()
            counts[part] = device.launches.total()
            return result

        batch = count("move", lambda: move_batch(batch_with(objects), DEVICE))
        outputs = count("forward", lambda: forward(run.network, batch.images, "fp32"))
        assignment = count("assign", lambda: run.criterion.assign(batch, None, 0))
        terms = count("losses", lambda: run.criterion.losses(outputs, batch, assignment))
        count("backward", total(terms).backward)
        assert run.average is not None
        count("average", lambda: run.average and run.average.update(run.model))
    assert counts["move"] == counts["assign"] == 0  # copies and parts of them
    for part, limit in LAUNCHES.items():
        assert counts[part] <= limit, part
