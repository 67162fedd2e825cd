"""Parts of training that only a GPU uses: GroupNorm that keeps its layout, fused optimizers, the second stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

from sais.converters.gpu.group_norm import MIN_NUMBERS, ChannelsLastGroupNorm
from sais.data.loader import LoadedBatch
from sais.engine.optim import build_optimizer
from tests.gpu.test_steps import batch_of, experiment_of, state_of

pytestmark = pytest.mark.gpu


def norm_results(norm: nn.Module, maps: Tensor, outer: Tensor) -> list[Tensor]:
    """Return output and gradients of a norm."""
    leaf = maps.detach().requires_grad_()
    out = norm(leaf)
    return [out, *torch.autograd.grad(out, [leaf, *norm.parameters()], outer.to(out.dtype))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_group_norm_keeps_layout_and_type(dtype: torch.dtype, tolerance: float, device: torch.device) -> None:
    torch.manual_seed(0)
    plain = nn.GroupNorm(32, 256).to(device)
    own = ChannelsLastGroupNorm(plain)
    shape = (2, 256, 64, MIN_NUMBERS // 2 // 256 // 64)
    maps, outer = (torch.randn(shape).to(device, dtype).contiguous(memory_format=torch.channels_last) for _ in range(2))
    with torch.autocast(device.type, torch.bfloat16 if dtype == torch.float32 else dtype, dtype != torch.float32):
        actual = norm_results(own, maps, outer)
    expected = norm_results(plain, maps.float(), outer.float())
    assert actual[0].dtype == actual[1].dtype == dtype
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in actual[:2])
    for part, reference in zip(actual, expected, strict=True):
        assert float((part.detach().float() - reference.detach()).norm() / reference.detach().norm()) < tolerance


def test_optimizers_are_fused_on_cuda(device: torch.device) -> None:
    for name in ("sgd", "adamw"):
        experiment = experiment_of("sais-lite")
        optimizer = build_optimizer(state_of(experiment, device).model, replace(experiment.optim, name=name))
        assert {bool(group["fused"]) for group in optimizer.param_groups} == {device.type == "cuda"}


def test_batches_copied_ahead_equal_those_of_the_host(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("a second stream is CUDA's")
    from sais.engine.prefetch import copied_ahead

    batches = [batch_of(5, 0), batch_of(1, 3), batch_of(2)]

    def loaded() -> Iterator[LoadedBatch]:
        for batch in batches:
            yield LoadedBatch(batch.pin_memory())

    for expected, copied in zip(batches, copied_ahead(loaded(), device), strict=True):
        assert copied.batch is not None
        assert copied.batch.images.device.type == "cuda"
        assert torch.equal(copied.batch.images.cpu(), expected.images)
        for objects, reference in zip(copied.batch.ground_truths, expected.ground_truths, strict=True):
            assert all(torch.equal(a.cpu(), b) for a, b in zip(objects.tensors(), reference.tensors(), strict=True))
            assert objects.host is not None
