"""A step: however its batch is split it is the step of the whole batch; losses that are none change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sais.checkpoint import load_checkpoint
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.architecture import SAIS_ARCHITECTURE, Architecture
from sais.engine.train_step import empty_batch, pad_batch
from sais.engine.trainer import train
from sais.errors import SaisError
from sais.ops.letterbox import PADDING
from sais.structures import Batch


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


def with_losses(change: Callable[[int, dict[str, Tensor]], dict[str, Tensor]]) -> Architecture:
    """SAIS with the terms of each step changed; steps are counted from 1."""
    count = iter(range(1, 1000))

    def losses(*arguments: Any) -> dict[str, Tensor]:
        return change(next(count), SAIS_ARCHITECTURE.losses(*arguments))

    return replace(SAIS_ARCHITECTURE, losses=losses)


def no_number(step: int, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return terms | {"box": terms["box"] * float("nan")} if step == 3 else terms


def no_gradient(step: int, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The root of 0: a number whose gradient is none."""
    return terms | {"box": terms["box"] + (terms["box"] * 0).sqrt()} if step == 3 else terms


def exploding(step: int, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return terms | {"box": terms["box"] * 1e6} if step == 3 else terms


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_number, r"the loss is nan at iteration 3, images \[.*\]"),
        (no_gradient, r"the loss is \d.*, but its gradient is nan at iteration 3"),
        (exploding, r"the loss is .*e\+0.*, where the greatest of the last 2 was \d.* at iteration 3"),
    ],
)
def test_a_bad_loss_is_skipped_or_stops(
    shapes: Path,
    tiny: Experiment,
    tmp_path: Path,
    change: Callable[[int, dict[str, Tensor]], dict[str, Tensor]],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    often = replace(tiny, run=replace(tiny.run, checkpoint_every=1, ema=0.9))
    with pytest.raises(SaisError, match=said + ".*; the last checkpoint is as it was before"):
        train(often, DataPaths(shapes), tmp_path / "stopped", architecture=with_losses(change))
    kept = load_checkpoint(tmp_path / "stopped/last.safetensors")
    assert kept.state["iteration"] == 2
    # What stands there is the state before the bad batch: skipping it comes to the same.
    skipping = replace(often, run=replace(often.run, on_nonfinite_loss="skip"))
    capsys.readouterr()
    train(skipping, DataPaths(shapes), tmp_path / "skipped", architecture=with_losses(change), max_iterations=3)
    assert "skipped: the loss is" in capsys.readouterr().out
    after = load_checkpoint(tmp_path / "skipped/last.safetensors")
    assert (after.state["iteration"], after.state["skipped_batches"]) == (3, 1)
    assert [s["iteration"] for s in log_of(tmp_path / "skipped", "iteration")] == [1, 2]
    assert all(torch.equal(after.tensors[name], tensor) for name, tensor in kept.tensors.items())
    # And the run resumes, with the option taken anew.
    result = train(
        skipping, DataPaths(shapes), tmp_path / "stopped", resume=True, changed_settings=("run.on_nonfinite_loss",)
    )
    assert result.iterations == 6


def test_ten_bad_losses_in_a_row_stop_a_run_that_skips(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    system = with_losses(lambda step, terms: {name: term * float("inf") for name, term in terms.items()})
    many = replace(
        tiny,
        schedule=replace(tiny.schedule, epochs=5),
        run=replace(tiny.run, on_nonfinite_loss="skip", checkpoint_every=1),
    )
    with pytest.raises(SaisError, match="10 batches in a row skipped, so it is not the batches"):
        train(many, DataPaths(shapes), tmp_path / "run", architecture=system)
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["skipped_batches"] == 9


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_has_sane_losses(shapes: Path, tiny: Experiment, tmp_path: Path, precision: str) -> None:
    """Within a hundredth of fp32's in the first step, and fp16's scale survives a resume to the bit."""
    half = replace(tiny, run=replace(tiny.run, precision=precision))
    train(tiny, DataPaths(shapes), tmp_path / "fp32", max_iterations=1)
    train(half, DataPaths(shapes), tmp_path / "half", max_iterations=3)
    one, other = log_of(tmp_path / "fp32", "iteration")[0], log_of(tmp_path / "half", "iteration")[0]
    for name in ("total", "classification", "box", "centerness", "mask"):
        assert other[name] == pytest.approx(one[name], rel=0.02), name
    train(half, DataPaths(shapes), tmp_path / "parts", max_iterations=2)
    train(half, DataPaths(shapes), tmp_path / "parts", resume=True, max_iterations=3)
    straight, resumed = (
        load_checkpoint(tmp_path / "half/last.safetensors"),
        load_checkpoint(tmp_path / "parts/last.safetensors"),
    )
    assert resumed.state["scaler"] == straight.state["scaler"]
    assert bool(straight.state["scaler"]) == (precision == "fp16")
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in straight.tensors.items())


def test_a_rank_without_images_has_an_empty_one() -> None:
    batch = empty_batch((64, 96), torch.device("cpu"))
    assert batch.images.shape == (1, 3, 64, 96)
    assert batch.images[0, :, 5, 7].tolist() == list(PADDING)
    assert len(batch.ground_truths[0].boxes) == 0


def test_a_share_is_padded_to_the_largest_canvas() -> None:
    images = torch.arange(2 * 3 * 32 * 32).remainder(251).to(torch.uint8).view(2, 3, 32, 32)
    batch = Batch(images, [], [1, 2], [])
    padded = pad_batch(batch, (64, 96)).images
    assert torch.equal(padded[:, :, :32, :32], images)
    assert (padded[:, :, 32:] == torch.tensor(PADDING)[:, None, None]).all()
    assert (padded[:, :, :, 32:] == torch.tensor(PADDING)[:, None, None]).all()
    assert pad_batch(batch, (32, 32)) is batch


def test_a_system_without_normalizers_is_not_split(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    parts = replace(tiny, optim=replace(tiny.optim, micro_batch=2))
    with pytest.raises(SaisError, match="a batch of other cannot be split"):
        train(
            parts,
            DataPaths(shapes),
            tmp_path / "run",
            architecture=replace(SAIS_ARCHITECTURE, name="other", match=None),
        )
