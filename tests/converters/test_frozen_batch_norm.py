"""Frozen batch-norm folded into its convolution: the same outputs, gradients and names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn

from sais.converters.frozen_batch_norm import FrozenBatchNorm, FusedConvolution, fold_frozen_batch_norms


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, features_only=True).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after real training: nothing at its initial value
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            for parameter in module.parameters():
                parameter.requires_grad_(False)
    return model


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_100"])
def test_fold_frozen_batch_norms_keeps_outputs_gradients_and_names(name: str) -> None:
    plain = network(name)
    folded = copy.deepcopy(plain)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    assert fold_frozen_batch_norms(folded) == norms
    assert {n: t.shape for n, t in folded.state_dict().items()} == {n: t.shape for n, t in plain.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    outputs, expected = folded(images), plain(images)
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-3, atol=1e-4)
    sum(o.square().mean() for o in outputs).backward()
    sum(o.square().mean() for o in expected).backward()
    reference = dict(plain.named_parameters())
    for parameter_name, parameter in folded.named_parameters():
        if parameter.requires_grad:
            scale = reference[parameter_name].grad.abs().max().clamp(min=1e-6)
            assert (parameter.grad - reference[parameter_name].grad).abs().max() / scale < 1e-2, parameter_name


def test_a_copy_folds_its_own_batch_norm() -> None:
    folded = network("resnet18")
    fold_frozen_batch_norms(folded)
    clone = copy.deepcopy(folded)
    for module in clone.modules():
        if isinstance(module, FrozenBatchNorm):
            module.bias.data += 1
    images = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(clone(images)[0], folded(images)[0])


def test_folded_networks_load_weights() -> None:
    plain = network("resnet18")
    folded = timm.create_model("resnet18", pretrained=False, features_only=True)
    fold_frozen_batch_norms(folded)
    folded.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(folded(images)[-1], plain(images)[-1], rtol=1e-3, atol=1e-4)


def test_constants_are_computed_once_and_follow_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """In inference mode nothing is kept, because its tensors cannot be used in training."""
    folded = network("resnet18")
    fold_frozen_batch_norms(folded)
    folded.get_submodule("conv1").weight.requires_grad_(False)
    counts: list[FrozenBatchNorm] = []
    compute = FrozenBatchNorm._scale_and_shift
    monkeypatch.setattr(FrozenBatchNorm, "_scale_and_shift", lambda self: counts.append(self) or compute(self))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        folded(images)
    norms = [module for module in folded.modules() if isinstance(module, FrozenBatchNorm)]
    before = len(counts)
    folded(images)[-1].sum().backward()
    assert len(counts) == before + len(norms)
    first = folded(images)[0]
    assert len(counts) == before + len(norms)
    norm, convolution = folded.get_submodule("bn1"), folded.get_submodule("conv1")
    assert convolution.folded()[0] is convolution.folded()[0]  # its weight is frozen
    changes: list[Callable[[], Any]] = [
        lambda: norm.running_mean.add_(1),
        lambda: norm.load_state_dict({name: value + 1 for name, value in norm.state_dict().items()}),
        lambda: norm.load_state_dict({name: value + 1 for name, value in norm.state_dict().items()}, assign=True),
        lambda: convolution.load_state_dict({"weight": convolution.weight * 2}),
        lambda: folded.double(),
    ]
    for change in changes:
        with torch.no_grad():
            change()
        images = images.to(norm.weight.dtype)
        changed = folded(images)[0]
        assert not torch.equal(changed, first)
        fresh = copy.deepcopy(folded)
        assert torch.equal(fresh(images)[0], changed)
        first = changed


def test_fold_frozen_batch_norms_skips_convolutions_with_bias() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert fold_frozen_batch_norms(model) == 0
    assert not any(isinstance(m, FusedConvolution) for m in model.modules())
