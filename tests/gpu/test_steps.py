"""A training step on the device: targets, losses, gradients and updates equal those of the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.engine.optim import MovingAverage, build_optimizer
from sais.engine.train_state import TrainState
from sais.engine.train_step import compute_losses, total, train_step
from sais.modeling.architecture import find_architecture
from sais.ops.transfers import move_batch
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings
from sais.structures import Batch
from tests.gpu.exact import exact_arithmetic
from tests.modeling.dense_samples import CANVAS, CLASSES, random_objects

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
TERMS = ("total", "classification", "box", "centerness", "mask", "gradient")


def experiment_of(name: str, **run: Any) -> Experiment:
    """Return a recipe with random weights, a small input and a narrow head."""
    experiment = replace_settings(recipe(name), "input", mode="fixed", size=CANVAS)
    settings = {"channels": 64, "tower_depth": 2, "prototype_channels": 32, "pretrained": False}
    experiment = replace_settings(experiment, "model", **settings)
    return replace_settings(experiment, "run", **run) if run else experiment


def batch_of(*objects: int) -> Batch:
    """Return random images with these numbers of objects, in host memory."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (len(objects), 3, *CANVAS), generator=generator).to(torch.uint8)
    truths = [random_objects(seed, number) for seed, number in enumerate(objects)]
    return Batch(images, truths, list(range(1, len(objects) + 1)), [])


def state_of(experiment: Experiment, device: torch.device) -> TrainState:
    """Return the state of a new run on a device, as `sais.engine.resume` makes it."""
    from sais.converters.for_training import for_training

    architecture = find_architecture(experiment.model.architecture)
    torch.manual_seed(0)
    model = for_training(architecture.build(experiment, CLASSES), experiment, device).train()
    return TrainState(
        *(experiment, Path("unused"), DatasetSplit("train", ("a", "b", "c")), None, model, model),
        *(build_optimizer(model, experiment.optim), MovingAverage(model, 0.9)),
        *(torch.amp.GradScaler(device.type, enabled=experiment.run.precision == "fp16"), device),
        *(architecture, architecture.build_criterion(experiment)),
    )


@pytest.mark.parametrize("assigner", ["center", "area"])
def test_targets_equal_those_of_the_cpu(assigner: str, device: torch.device) -> None:
    experiment = replace_settings(experiment_of("sais-lite"), "criterion", assigner=assigner)
    criterion = find_architecture("sais").build_criterion(experiment)
    batch = batch_of(5, 0, 1)
    expected = criterion.assign(batch, None, 0)
    moved = criterion.assign(move_batch(batch, device), None, 0).to(device)
    for name, value in vars(expected.targets).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(getattr(moved.targets, name).cpu(), value), name
    assert all(torch.equal(a, b.cpu()) for a, b in zip(expected.mask_positives, moved.mask_positives, strict=True))
    assert {name: float(value) for name, value in moved.normalizers.items()} == {
        name: float(value) for name, value in expected.normalizers.items()
    }


@pytest.mark.parametrize("name", ["sais-lite", "sais-r50-640-slim"])
@pytest.mark.parametrize("objects", [(5, 0, 30), (0, 0)], ids=["objects", "empty"])
def test_losses_and_gradients_equal_those_of_the_cpu(name: str, objects: tuple[int, ...], device: torch.device) -> None:
    experiment = experiment_of(name)
    terms, gradients = [], []
    for place in (CPU, device):
        run = state_of(experiment, place)
        with exact_arithmetic():
            losses = compute_losses(run.model, run.criterion, move_batch(batch_of(*objects), place))
            total(losses).backward()
        terms.append({term: float(value.detach()) for term, value in losses.items()})
        gradients.append(torch.cat([p.grad.cpu().flatten() for p in run.model.parameters() if p.grad is not None]))
    assert terms[1] == pytest.approx(terms[0], rel=1e-3, abs=1e-6)
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 5e-3


@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_steps_equal_those_of_the_cpu(optimizer: str, micro_batch: int | None, device: torch.device) -> None:
    """Losses of three steps: the update of the weights, the average and the clipped gradient decide the later ones."""
    experiment = experiment_of("sais-lite")
    experiment = replace_settings(experiment, "optim", name=optimizer, micro_batch=micro_batch, grad_clip_norm=1.0)
    runs = [state_of(experiment, place) for place in (CPU, device)]
    with exact_arithmetic():
        for _ in range(3):
            expected, actual = (train_step(run, batch_of(5, 2), 0, 1e-3) for run in runs)
            assert expected is not None
            assert actual is not None
            for term in TERMS:
                assert actual[term] == pytest.approx(expected[term], rel=2e-2), term
    averages = [torch.cat([p.cpu().flatten() for p in run.evaluation_model.parameters()]) for run in runs]
    # AdamW moves a weight by its gradient's sign, which rounding decides where the gradient is nearly zero.
    limit = 1e-2 if optimizer == "adamw" else 1e-3
    assert float((averages[1] - averages[0]).norm() / averages[0].norm()) < limit


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_autocast_is_near_fp32(precision: str, device: torch.device) -> None:
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("CPUs do not compute in fp16")
    experiment = experiment_of("sais-lite")
    expected = train_step(state_of(experiment, CPU), batch_of(5, 2), 0, 1e-3)
    run = state_of(replace(experiment, run=replace(experiment.run, precision=precision)), device)
    for number in range(12):  # fp16 lowers its loss scale until nothing overflows
        terms = train_step(run, batch_of(5, 2), 0, 1e-3)
        assert terms is not None
        if number == 0:
            assert expected is not None
            for term in TERMS[:-1]:
                assert terms[term] == pytest.approx(expected[term], rel=0.05), term
    assert terms["total"] < expected["total"]
    assert all(bool(torch.isfinite(parameter).all()) for parameter in run.evaluation_model.parameters())


@pytest.mark.parametrize("mode", ["norms", "all"])
def test_activation_checkpointing_changes_no_gradient(mode: str, device: torch.device) -> None:
    gradients = []
    for checkpointing in ("none", mode):
        run = state_of(experiment_of("sais-r50-640-slim", activation_checkpointing=checkpointing), device)
        with exact_arithmetic():
            total(compute_losses(run.model, run.criterion, move_batch(batch_of(5, 2), device))).backward()
        gradients.append(torch.cat([p.grad.cpu().flatten() for p in run.model.parameters() if p.grad is not None]))
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 1e-4
