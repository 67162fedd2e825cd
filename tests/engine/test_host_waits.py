"""A training step on a simulated accelerator: equal to the CPU's, and the host waits once, for the losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.engine.optim import MovingAverage, build_optimizer
from sais.engine.train_state import TrainState
from sais.engine.train_step import train_step
from sais.modeling.architecture import find_architecture
from sais.structures import Batch
from tests.modeling.dense_samples import CANVAS, CLASSES, random_objects
from tests.simulated_device import DEVICE, SimulatedDevice, module_to_device

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
        for _ in range(2):
            device.waits.clear()
            device.copies_to_device = 0
            step = train_step(run, batch_with(5), 0, 1e-3)
            reference = train_step(expected, batch_with(5), 0, 1e-3)
            assert step is not None
            assert reference is not None
            for name in TERMS:
                assert step[name] == pytest.approx(reference[name], rel=1e-4), name
            assert +device.waits == {"copy to the host": 1}
            parts = 1 if micro_batch is None else 3
            assert device.copies_to_device == 2 + 2 * parts


def test_losses_launch_the_same_operations_for_any_number_of_objects(experiment: Experiment) -> None:
    counts = []
    with SimulatedDevice() as device:
        for objects in (2, 30):
            run = state_of(experiment, DEVICE)
            device.launches.clear()
            train_step(run, batch_with(objects), 0, 1e-3)
            counts.append(device.launches.total())
    assert counts[0] == counts[1]
