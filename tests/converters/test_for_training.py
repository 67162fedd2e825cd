"""The one call that prepares a network for training: names, layout, settings, and the guard of strided convolutions."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sais.config import Experiment, InputConfig, ModelConfig, RunConfig
from sais.converters.activation_checkpointing import CheckpointedHead, CheckpointedModule
from sais.converters.cpu.for_training import OneCellSafeConvolution, guard_strided_convolutions
from sais.converters.for_training import changes_buffers, for_training
from sais.converters.frozen_batch_norm import FrozenBatchNorm
from sais.modeling.fpn import FPN
from sais.modeling.sais import SAIS, build_model

CPU = torch.device("cpu")
MODEL = ModelConfig(backbone="resnet18.a1_in1k", channels=32, tower_depth=1, prototype_channels=16, prototypes=4)


def prepared(model: ModelConfig = MODEL, side: int = 64, **run: object) -> SAIS:
    """A network of three classes, rewritten for training."""
    experiment = Experiment(model=model, input=InputConfig(size=(side, side)), run=RunConfig(device="cpu", **run))  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = for_training(build_model(model, 3), experiment, CPU)
    assert isinstance(network, SAIS)
    return network


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("convolutions", ["direct", "winograd"])
@pytest.mark.parametrize("mode", ["none", "norms", "all"])
def test_for_training_keeps_the_state_dict(mode: str, convolutions: str, precision: str) -> None:
    torch.manual_seed(0)
    built = build_model(MODEL, 3)
    network = prepared(activation_checkpointing=mode, cpu_convolutions=convolutions, precision=precision)
    state, expected = network.state_dict(), built.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    names = [name for name, _ in network.named_parameters()]
    assert names == [name for name, _ in built.named_parameters()]
    copied = copy.deepcopy(network)  # as a moving average is made
    copied.load_state_dict({name: value + 1 for name, value in expected.items()})
    assert all(torch.equal(network.state_dict()[name], value) for name, value in expected.items())


def test_for_training_folds_batch_norm_only_if_all_of_it_is_frozen() -> None:
    def count(network: nn.Module) -> int:
        return sum(isinstance(module, FrozenBatchNorm) for module in network.modules())

    assert count(prepared()) == 20
    assert count(prepared(replace(MODEL, frozen_batch_norm=False))) == 0
    assert count(prepared(replace(MODEL, pretrained=False))) == 0


def test_changes_buffers_only_with_statistics_of_batch_norm_or_foreign_modules() -> None:
    assert not changes_buffers(prepared())
    assert not changes_buffers(prepared(replace(MODEL, distance_origin="corner")))
    assert changes_buffers(prepared(replace(MODEL, frozen_batch_norm=False)))
    assert changes_buffers(prepared(replace(MODEL, norm="batch")))
    assert not changes_buffers(build_model(MODEL, 3))  # frozen, but not folded
    foreign = prepared()
    foreign.fpn.add_module("own", nn.BatchNorm2d(2, affine=False))
    assert changes_buffers(foreign)
    assert changes_buffers(nn.Linear(2, 2))


def test_for_training_uses_channels_last_except_on_large_canvases() -> None:
    small, large = prepared(cpu_convolutions="direct"), prepared(side=512, cpu_convolutions="direct")
    for network, contiguous in ((small, False), (large, True)):
        weight = network.head.get_submodule("class_logits").weight
        assert weight.is_contiguous() == contiguous
    assert small.backbone.network.get_submodule("layer2.0.conv1").weight.is_contiguous(
        memory_format=torch.channels_last
    )


def test_for_training_recomputes_an_own_head_only_as_a_whole() -> None:
    class OwnHead(nn.Module):
        def __init__(self, **_: object) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

    network = build_model(MODEL, 3)
    for mode, expected in (("none", OwnHead), ("norms", OwnHead), ("all", CheckpointedModule)):
        network.head = OwnHead()
        run = RunConfig(activation_checkpointing=mode, device="cpu")  # type: ignore[arg-type]
        rewritten = for_training(copy.deepcopy(network), Experiment(model=MODEL, run=run), CPU)
        assert type(rewritten.head) is expected
    assert type(prepared().head) is CheckpointedHead


def gradients(network: nn.Module, maps: Tensor, autocast: bool) -> dict[str, Tensor]:
    """The gradients of one pass through the last levels of a pyramid."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        levels, _ = network([maps], [maps], ["5"])
    sum(level.float().square().mean() for level in levels).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("side", [1, 2, 4])
def test_strided_convolutions_of_one_cell_have_correct_bf16_gradients(side: int) -> None:
    """On CPUs with native bf16, torch returns uninitialized memory as the gradient of the weights of P7 of a 64-pixel
    canvas: without the guard this fails there in most repetitions."""
    torch.manual_seed(0)
    levels = FPN((16, 16, 16), 64).last_levels
    guarded = copy.deepcopy(levels)
    guard_strided_convolutions(guarded)
    assert isinstance(guarded.p7, OneCellSafeConvolution)
    assert list(guarded.state_dict()) == list(levels.state_dict())
    maps = torch.randn(2, 64, side, side).contiguous(memory_format=torch.channels_last)
    expected = gradients(copy.deepcopy(levels).double(), maps.double(), autocast=False)
    for _ in range(40):
        actual = gradients(guarded, maps, autocast=True)
        for name, gradient in expected.items():
            error = (actual[name].double() - gradient).abs().max()
            assert error <= 0.03 * gradient.abs().max(), name
    full = gradients(guarded, maps, autocast=False)
    for name, gradient in expected.items():
        torch.testing.assert_close(full[name].double(), gradient, rtol=1e-4, atol=1e-6)


def test_one_cell_safe_convolution_is_its_original_on_larger_maps() -> None:
    convolution = nn.Conv2d(16, 16, 3, stride=2, padding=1)
    safe = OneCellSafeConvolution(convolution)
    for side in (2, 3, 8):
        maps = torch.randn(1, 16, side, side)
        assert torch.equal(safe(maps), convolution(maps))
    maps = torch.randn(3, 16, 1, 1, dtype=torch.float64)
    exact = functional.conv2d(maps, convolution.weight.double(), convolution.bias.double(), 2, 1)  # type: ignore[union-attr]
    torch.testing.assert_close(safe.double()(maps), exact, rtol=1e-12, atol=1e-12)


def test_for_training_guards_strided_convolutions_in_half_precision_only() -> None:
    def guarded(network: SAIS) -> int:
        return sum(isinstance(module, OneCellSafeConvolution) for module in network.fpn.modules())

    assert guarded(prepared(precision="bf16")) == 2
    assert guarded(prepared()) == 0
