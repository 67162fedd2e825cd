"""A step: split over micro-batches it equals the step of the whole batch; diverged losses change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sais.checkpoint import load_checkpoint
from sais.config import Experiment
from sais.converters.for_training import for_training
from sais.data.paths import DataPaths
from sais.distributed import World
from sais.engine.train_step import (
    MAX_CONSECUTIVE_SKIPS,
    DivergedLossError,
    compute_losses,
    empty_batch,
    pad_batch,
    total,
)
from sais.engine.trainer import train
from sais.errors import ConfigError, SaisError
from sais.modeling.architecture import ARCHITECTURES
from sais.modeling.assigners import LocationGrid, ObjectAssignment, assign_center
from sais.modeling.criterion import Assignment, SaisCriterion, build_criterion
from sais.modeling.sais import build_model
from sais.modeling.sais_architecture import SAIS_ARCHITECTURE
from sais.ops.letterbox import PADDING
from sais.structures import Batch, DenseOutputs, GroundTruth
from tests.modeling.dense_samples import CANVAS, CLASSES, random_objects


def log_of(out: Path, kind: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["kind"] == kind]


def weights(out: Path) -> dict[str, Tensor]:
    return load_checkpoint(out / "last.safetensors").part("model")


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Greatest difference of any weight."""
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a if a[name].numel())


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_equal_the_whole_batch(shapes: Path, tiny: Experiment, tmp_path: Path, size: int) -> None:
    """Three steps of SGD on four images at once, and on pieces of which one is smaller than the others."""
    whole = replace(tiny, optim=replace(Experiment().optim, batch_size=4, lr=0.001, grad_clip_norm=1.0))
    parts = replace(whole, optim=replace(whole.optim, micro_batch=size))
    train(whole, DataPaths(shapes), tmp_path / "whole", max_iterations=3)
    train(parts, DataPaths(shapes), tmp_path / "parts", max_iterations=3)
    for a, b in zip(*(log_of(tmp_path / name, "iteration") for name in ("whole", "parts")), strict=True):
        for name in ("total", "classification", "box", "centerness", "mask", "gradient"):
            assert a[name] == pytest.approx(b[name], rel=2e-4), name
    assert difference(weights(tmp_path / "whole"), weights(tmp_path / "parts")) < 2e-6


class ChangedCriterion:
    """SAIS with the terms of each step changed; steps are counted from 1."""

    needs_predictions = False

    def __init__(self, criterion: SaisCriterion, change: Callable[[int, dict[str, Tensor]], dict[str, Tensor]]) -> None:
        self.criterion, self.change, self.count = criterion, change, 0

    def assign(self, batch: Batch, outputs: DenseOutputs | None, epoch: int) -> Assignment:
        return self.criterion.assign(batch, outputs, epoch)

    def losses(self, outputs: DenseOutputs, batch: Batch, assignment: Assignment) -> dict[str, Tensor]:
        self.count += 1
        return self.change(self.count, self.criterion.losses(outputs, batch, assignment))


def add_architecture(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[int, dict[str, Tensor]], dict[str, Tensor]], name: str
) -> None:
    """Add a row to the table of architectures: SAIS with changed terms, counted over all of its runs."""
    changed = replace(SAIS_ARCHITECTURE, build_criterion=lambda e: ChangedCriterion(build_criterion(e), change))
    monkeypatch.setitem(ARCHITECTURES, name, changed)  # type: ignore[arg-type]


def with_architecture(experiment: Experiment, name: str) -> Experiment:
    return replace(experiment, model=replace(experiment.model, architecture=name))


def no_number(step: int, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return terms | {"box": terms["box"] * float("nan")} if step == 3 else terms


def no_gradient(step: int, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The root of 0: a number whose gradient is none."""
    return terms | {"box": terms["box"] + (terms["box"] * 0).sqrt()} if step == 3 else terms


def exploding(step: int, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return terms | {"box": terms["box"] * 1e6} if step == 3 else terms


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (no_number, "the loss is nan"),
        (no_gradient, "its gradient is nan"),
        (exploding, "the largest of the last 2"),
    ],
)
def test_train_step_stops_or_skips_a_diverged_loss_without_a_change(
    shapes: Path,
    tiny: Experiment,
    tmp_path: Path,
    change: Callable[[int, dict[str, Tensor]], dict[str, Tensor]],
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_architecture(monkeypatch, change, "changed")
    often = with_architecture(replace(tiny, run=replace(tiny.run, checkpoint_every=1, ema=0.9)), "changed")
    with pytest.raises(SaisError, match="iteration 3, images") as caught:
        train(often, DataPaths(shapes), tmp_path / "stopped")
    assert problem in str(caught.value)
    before = load_checkpoint(tmp_path / "stopped/last.safetensors")
    assert before.state["iteration"] == 2
    # The checkpoint has the state before the diverged batch: skipping it leads to the same state.
    skipping = replace(often, run=replace(often.run, on_nonfinite_loss="skip"))
    capsys.readouterr()
    train(skipping, DataPaths(shapes), tmp_path / "skipped", max_iterations=3)
    assert problem in capsys.readouterr().out
    after = load_checkpoint(tmp_path / "skipped/last.safetensors")
    assert (after.state["iteration"], after.state["skipped_batches"]) == (3, 1)
    assert [entry["iteration"] for entry in log_of(tmp_path / "skipped", "iteration")] == [1, 2]
    assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
    # The run resumes with the changed setting.
    result = train(
        skipping, DataPaths(shapes), tmp_path / "stopped", resume=True, changed_settings=("run.on_nonfinite_loss",)
    )
    assert result.iterations == 6


def test_consecutive_diverged_losses_end_a_run_that_skips(
    shapes: Path, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infinite(step: int, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: term * float("inf") for name, term in terms.items()}

    add_architecture(monkeypatch, infinite, "infinite")
    many = replace(
        with_architecture(tiny, "infinite"),
        schedule=replace(tiny.schedule, epochs=5),
        run=replace(tiny.run, on_nonfinite_loss="skip", checkpoint_every=1),
    )
    with pytest.raises(DivergedLossError, match="consecutive batches"):
        train(many, DataPaths(shapes), tmp_path / "run")
    skipped = load_checkpoint(tmp_path / "run/last.safetensors").state["skipped_batches"]
    assert skipped == MAX_CONSECUTIVE_SKIPS - 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_has_the_losses_of_fp32(shapes: Path, tiny: Experiment, tmp_path: Path, precision: str) -> None:
    """Within a hundredth of fp32's in the first step, and fp16's scale survives a resume to the bit."""
    half = replace(tiny, run=replace(tiny.run, precision=precision))
    train(tiny, DataPaths(shapes), tmp_path / "fp32", max_iterations=1)
    train(half, DataPaths(shapes), tmp_path / "half", max_iterations=3)
    expected, other = log_of(tmp_path / "fp32", "iteration")[0], log_of(tmp_path / "half", "iteration")[0]
    for name in ("total", "classification", "box", "centerness", "mask"):
        assert other[name] == pytest.approx(expected[name], rel=0.02), name
    train(half, DataPaths(shapes), tmp_path / "parts", max_iterations=2)
    train(half, DataPaths(shapes), tmp_path / "parts", resume=True, max_iterations=3)
    straight, resumed = (
        load_checkpoint(tmp_path / "half/last.safetensors"),
        load_checkpoint(tmp_path / "parts/last.safetensors"),
    )
    assert resumed.state["scaler"] == straight.state["scaler"]
    assert bool(straight.state["scaler"]) == (precision == "fp16")
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in straight.tensors.items())


def test_empty_batch_is_padding_without_objects() -> None:
    batch = empty_batch((64, 96), torch.device("cpu"))
    assert batch.images.shape == (1, 3, 64, 96)
    assert batch.images[0, :, 5, 7].tolist() == list(PADDING)
    assert len(batch.ground_truths[0].boxes) == 0


def test_pad_batch_pads_right_and_below() -> None:
    images = torch.arange(2 * 3 * 32 * 32).remainder(251).to(torch.uint8).view(2, 3, 32, 32)
    batch = Batch(images, [], [1, 2], [])
    padded = pad_batch(batch, (64, 96)).images
    assert torch.equal(padded[:, :, :32, :32], images)
    assert (padded[:, :, 32:] == torch.tensor(PADDING)[:, None, None]).all()
    assert (padded[:, :, :, 32:] == torch.tensor(PADDING)[:, None, None]).all()
    assert pad_batch(batch, (32, 32)) is batch


def test_train_step_rejects_to_split_losses_without_normalizers(
    shapes: Path, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unsplittable(ChangedCriterion):
        def assign(self, batch: Batch, outputs: DenseOutputs | None, epoch: int) -> Assignment:
            return replace(super().assign(batch, outputs, epoch), normalizers={})

    architecture = replace(
        SAIS_ARCHITECTURE, build_criterion=lambda e: Unsplittable(build_criterion(e), lambda step, terms: terms)
    )
    monkeypatch.setitem(ARCHITECTURES, "other", architecture)  # type: ignore[arg-type]
    parts = with_architecture(replace(tiny, optim=replace(tiny.optim, micro_batch=2)), "other")
    with pytest.raises(ConfigError, match="other"):
        train(parts, DataPaths(shapes), tmp_path / "run")


def with_assigner(experiment: Experiment, needs_predictions: bool) -> Any:
    """SAIS whose center-aware assigner is given the predictions, which it ignores."""

    def assigner(
        ground_truths: list[GroundTruth], grid: LocationGrid, outputs: DenseOutputs | None = None
    ) -> ObjectAssignment:
        assert (outputs is not None) == needs_predictions
        return assign_center(ground_truths, grid)

    assigner.needs_predictions = needs_predictions  # type: ignore[attr-defined]
    return replace(build_criterion(experiment), assigner=assigner)


def test_an_assigner_with_predictions_trains_as_one_without(
    shapes: Path, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal to the bit without micro-batches. With them, the gradient is the mean of those of the micro-batches."""
    for name, needed in (("boxes", False), ("predictions", True)):
        row = replace(SAIS_ARCHITECTURE, build_criterion=lambda e, needed=needed: with_assigner(e, needed))
        monkeypatch.setitem(ARCHITECTURES, name, row)  # type: ignore[arg-type]
        train(with_architecture(tiny, name), DataPaths(shapes), tmp_path / name, max_iterations=2)
        parts = with_architecture(replace(tiny, optim=replace(tiny.optim, micro_batch=3)), name)
        train(parts, DataPaths(shapes), tmp_path / f"{name}-parts", max_iterations=2)
    assert difference(weights(tmp_path / "boxes"), weights(tmp_path / "predictions")) == 0
    exact, mean = (log_of(tmp_path / f"{name}-parts", "iteration")[0] for name in ("boxes", "predictions"))
    for term in ("classification", "box", "mask"):
        assert mean[term] == pytest.approx(exact[term], rel=0.2)
        assert mean[term] != exact[term]  # each micro-batch has its own normalizers


@pytest.mark.parametrize("objects", [0, 3])
@pytest.mark.parametrize(
    "changes", [{}, {"masks": False}, {"quality": "none"}, {"coefficients_from": "classification", "norm": "batch"}]
)
def test_every_trained_parameter_has_a_gradient(tiny: Experiment, changes: dict[str, Any], objects: int) -> None:
    """DistributedDataParallel waits for all of them, also where a batch has no objects."""
    experiment = replace(tiny, model=replace(tiny.model, **changes))
    network = for_training(build_model(experiment.model, CLASSES), experiment, torch.device("cpu")).train()
    images = torch.randint(0, 256, (2, 3, *CANVAS), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    batch = Batch(images, [random_objects(1, objects), random_objects(2, 0)], [1, 2], [])
    total(compute_losses(network, build_criterion(experiment), batch)).backward()
    without = [n for n, parameter in network.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert without == []


def test_wrap_model_adds_up_gradients_in_place_and_copies_buffers_only_if_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrapper:
        def __init__(self, model: nn.Module, **options: Any) -> None:
            self.options = options

    monkeypatch.setattr("sais.distributed.DistributedDataParallel", Wrapper)
    world = World(rank=1, world_size=2)
    for sync in (False, True):
        wrapped: Any = world.wrap_model(nn.Linear(1, 1), torch.device("cpu"), sync)
        assert wrapped.options == {"device_ids": None, "gradient_as_bucket_view": True}
        assert wrapped.broadcast_buffers is sync
