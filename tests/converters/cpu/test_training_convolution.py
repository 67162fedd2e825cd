"""Convolutions in training give what torch's give, forward and backward, no less exactly and with no more kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn
from torch.nn import functional

from sais.benchmark.workload import make_workload, training_batch
from sais.config import Experiment, InputConfig, ModelConfig, RunConfig
from sais.converters.activation_checkpointing import CHECKPOINTING_MODES
from sais.converters.cpu import training_convolution, winograd
from sais.converters.cpu.for_training import set_convolutions
from sais.converters.cpu.training_convolution import (
    FastConvolution,
    convolution,
    use_fast_convolutions,
    weight_gradient,
)
from sais.converters.for_training import for_training
from sais.converters.fuse import for_inference
from sais.converters.replacement import original_of, restore_originals
from sais.engine.activation_memory import saved_bytes_per_image
from sais.engine.train_step import compute_losses
from sais.errors import ConfigError
from sais.modeling.criterion import build_criterion
from sais.modeling.sais import SAIS, build_model

SCENE = make_workload(30, (120, 160), 20)
MODEL = ModelConfig(backbone="resnet18.a1_in1k", channels=64, prototype_channels=64, tower_depth=2)
SIDE = 160
"""P3 then has 20 x 20 cells: 25 tiles an image, 75 in a batch of three, enough for minimal filtering."""


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Drawn as those of maps and weights are, channels-last."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn


def exact(
    maps: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor, stride: tuple[int, int] = (1, 1)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output and gradients of maps, weight and bias: the direct sum, in float64."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in (maps, weight, bias)]
    out = functional.conv2d(*leaves, stride=stride, padding=1)
    return (out.detach(), *torch.autograd.grad(out, leaves, gradient.double()))


def error(actual: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, over that of what is wanted."""
    assert actual.shape == wanted.shape
    return float((actual - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("strip", [1, 8, 1000])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (5, 7), (16, 12), (13, 32)])
def test_convolution_and_gradients_equal_direct_sums(
    height: int, width: int, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "STRIP", strip)
    monkeypatch.setattr(training_convolution, "MIN_TILES", 1)
    maps, weight = values(2, 6, height, width, dtype=torch.float64), values(5, 6, 3, 3, dtype=torch.float64, seed=1)
    bias, gradient = values(5, dtype=torch.float64), values(2, 5, height, width, dtype=torch.float64, seed=2)
    leaves = [leaf.clone().requires_grad_() for leaf in (maps, weight, bias)]
    out = convolution(*leaves)
    results = (out.detach(), *torch.autograd.grad(out, leaves, gradient))
    assert out.is_contiguous(memory_format=torch.channels_last)
    for actual, wanted in zip(results, exact(maps, weight, bias, gradient), strict=True):
        assert error(actual, wanted) <= 1e-13


@pytest.mark.parametrize("at_once", [1, 10**9])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (8, 8), (9, 12)])
def test_convolution_of_small_maps_and_with_strides(
    height: int, width: int, stride: tuple[int, int], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_convolution, "ROWS", at_once)
    maps, weight, bias = values(3, 4, height, width), values(5, 4, 3, 3, seed=1), values(5)
    leaves = [leaf.clone().requires_grad_() for leaf in (maps, weight, bias)]
    out = convolution(*leaves, stride=stride)  # type: ignore[misc]
    gradient = values(*out.shape, seed=2)
    results = (out.detach(), *torch.autograd.grad(out, leaves, gradient))
    for actual, wanted in zip(results, exact(maps, weight, bias, gradient, stride), strict=True):
        assert error(actual, wanted) <= 1e-6
    assert error(weight_gradient(maps, gradient, stride), exact(maps, weight, bias, gradient, stride)[2]) <= 1e-6


def laid_out_in_all_ways(maps: Tensor) -> list[Tensor]:
    """The same numbers: contiguous, channels-last, every second column of something, one number expanded."""
    spread = torch.stack([maps, maps], -1).flatten(3)[..., ::2]
    return [maps.contiguous(), maps.contiguous(memory_format=torch.channels_last), spread, maps[:1, :1].expand_as(maps)]


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_convolution_of_maps_and_gradients_in_any_layout(stride: tuple[int, int]) -> None:
    """Of more images than one strip takes."""
    weight, bias = values(16, 64, 3, 3, seed=1) * 0.04, values(16)
    for maps in laid_out_in_all_ways(values(24, 64, 11, 13)):
        out = convolution(maps.requires_grad_(), weight.requires_grad_(), bias, stride)
        for gradient in laid_out_in_all_ways(values(*out.shape, seed=2)):
            gradients = torch.autograd.grad(out, (maps, weight), gradient, retain_graph=True)
            true = exact(maps, weight, bias, gradient, stride)[:3]
            for actual, wanted in zip((out.detach(), *gradients), true, strict=True):
                assert error(actual, wanted) <= 2e-6


def test_convolution_rounds_only_the_tiles_of_a_large_value() -> None:
    maps, weight = values(1, 64, 64, 64), values(16, 64, 3, 3, seed=1)
    wanted = convolution(maps, weight)
    maps = maps.clone()
    maps[0, 0, 30, 30] = 1e4
    away = torch.ones(64, 64, dtype=torch.bool)
    away[25:36, 25:36] = False
    outputs = convolution(maps, weight)
    assert torch.equal(outputs[..., away], wanted[..., away])
    assert error(outputs, exact(maps, weight, torch.zeros(16), outputs)[0]) <= 2e-6


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_convolution_computes_only_the_gradients_asked_for(missing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_convolution, "MIN_TILES", 1)
    inputs = [values(1, 4, 8, 8), values(3, 4, 3, 3, seed=1), values(3)]
    for number, leaf in enumerate(inputs):
        leaf.requires_grad_(number != missing)
    convolution(*inputs).sum().backward()
    assert [leaf.grad is None for leaf in inputs] == [number == missing for number in range(3)]
    without = convolution(inputs[0].detach(), inputs[1].detach().requires_grad_())  # no bias
    assert torch.autograd.grad(without.sum(), without.grad_fn.next_functions[1][0].variable)[0].shape == (3, 4, 3, 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("min_tiles", [1, 10**9])
def test_convolution_refuses_a_second_derivative(min_tiles: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights' gradient depends on the maps, also where the incoming gradient is a constant."""
    monkeypatch.setattr(training_convolution, "MIN_TILES", min_tiles)
    maps, weight = values(1, 4, 8, 8).requires_grad_(), values(3, 4, 3, 3, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(convolution(maps, weight).sum(), weight, create_graph=True)
    with pytest.raises(ConfigError, match="convolution in training on a CPU: its second derivative"):
        gradient.square().sum().backward()


def test_convolution_rounds_like_a_direct_sum() -> None:
    """256 channels, as in the paper's head: about 1e-6, and much less than with the usual points."""
    maps, weight = values(1, 256, 48, 48).relu(), values(256, 256, 3, 3, seed=1) * 0.02
    bias, gradient = values(256), values(1, 256, 48, 48, seed=2)
    wanted = exact(maps, weight, bias, gradient)
    errors = [error(*pair) for pair in zip(_of(maps, weight, bias, gradient), wanted[:3], strict=True)]
    assert max(errors) <= 1.5e-6
    usual = winograd._transforms(1, 2)
    both = [torch.kron(points, points).contiguous() for points in usual]
    names = ("INPUT_2D", "WEIGHT_2D", "OUTPUT_2D")
    with pytest.MonkeyPatch.context() as patched:
        for name, points in zip(names, both, strict=True):
            patched.setattr(winograd, name, points)
        worse = [error(*pair) for pair in zip(_of(maps, weight, bias, gradient), wanted[:3], strict=True)]
    assert worse[0] > 1.5 * errors[0]


def _of(maps: Tensor, weight: Tensor, bias: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = torch.empty(1, len(weight), *maps.shape[2:]).contiguous(memory_format=torch.channels_last)
    winograd.convolve(maps, weight, bias, out)
    back = winograd.gradients(maps, weight, gradient)
    assert back[0] is not None
    assert back[1] is not None
    return out, back[0], back[1]


def test_use_fast_convolutions_replaces_only_supported_convolutions() -> None:
    layers = [
        nn.Conv2d(64, 16, 3, padding=1),
        nn.Conv2d(64, 64, 3, padding=1, stride=2),
        nn.Conv2d(63, 64, 3, padding=1),
        nn.Conv2d(64, 15, 3, padding=1),
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 3, padding=2, dilation=2),
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        StdConv2d(64, 64, 3, padding=1),  # standardises its weights before it uses them
    ]
    network = nn.Sequential(nn.Sequential(*layers))
    names = list(network.state_dict())
    use_fast_convolutions(network)
    assert [isinstance(layer, FastConvolution) for layer in network[0]] == [True] * 2 + [False] * 9
    assert list(network.state_dict()) == names
    copied = copy.deepcopy(network)  # as a moving average is made
    with torch.no_grad():
        copied[0][0].weight.zero_()
    maps = values(1, 64, 40, 40)
    assert bool(copied[0][0](maps).std() < 0.1 * network[0][0](maps).std())  # each its own weight
    restore_originals(network)
    assert list(network[0]) == layers
    assert list(network.state_dict()) == names
    restore_originals(copied)
    assert copied[0][0].weight.abs().max() == 0  # the original of a copy has the weights of the copy


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the maps that `winograd.convolve` is called with."""
    calls: list[tuple[int, ...]] = []
    true: Callable[..., None] = winograd.convolve

    def convolve(maps: Tensor, *arguments: Any) -> None:
        calls.append(tuple(maps.shape))
        true(maps, *arguments)

    monkeypatch.setattr(winograd, "convolve", convolve)
    return calls


def test_fast_convolution_falls_back_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    use_fast_convolutions(network)
    layer = network[0]
    maps = values(1, 64, 40, 40)
    layer(maps)
    assert len(calls) == 1
    with torch.no_grad():
        layer(maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(maps).dtype == torch.bfloat16
    layer(values(0, 64, 40, 40)).sum().backward()
    layer(maps[0])  # without a batch
    with pytest.raises(RuntimeError, match="expected input"):
        layer(values(1, 63, 40, 40))
    layer.eval()(maps)
    layer.train().double()(maps.double())
    layer.float().requires_grad_(False)(maps)
    assert len(calls) == 1
    layer(maps.requires_grad_())
    assert len(calls) == 2


CPU = torch.device("cpu")


def built(kind: str, mode: str = "none", precision: str = "fp32") -> tuple[SAIS, Experiment]:
    """The same weights each time, rewritten for training. timm's last gammas of zero are replaced."""
    run = RunConfig(cpu_convolutions=kind, activation_checkpointing=mode, precision=precision, device="cpu")  # type: ignore[arg-type]
    experiment = Experiment(input=InputConfig(size=(SIDE, SIDE)), model=MODEL, run=run)
    torch.manual_seed(0)
    network = for_training(build_model(MODEL, SCENE.num_classes), experiment, CPU)
    assert isinstance(network, SAIS)
    for name, tensor in network.state_dict().items():
        if name.endswith("bn2.weight"):
            tensor.fill_(0.5)
    return network.train(), experiment


def losses_of(
    network: SAIS, experiment: Experiment, images: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """The terms of one step on copies of an image with 8 objects."""
    batch = training_batch(SCENE, experiment.input.size, images, 8)
    batch.images = batch.images.to(dtype)
    return compute_losses(network, build_criterion(experiment), batch)


def gradients(network: SAIS, experiment: Experiment, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The gradients of one step on three images."""
    torch.stack(list(losses_of(network, experiment, 3, dtype).values())).sum().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def test_gradients_of_the_network_are_as_exact_as_those_of_torch() -> None:
    """Against those in float64, the median of the parameters: a ReLU that rounding switches moves one of them far."""
    plain, experiment = built("direct")
    wanted = gradients(plain.double(), experiment, torch.float64)
    errors = {}
    for kind in ("direct", "winograd"):
        measured = gradients(*built(kind))
        assert measured.keys() == wanted.keys()
        errors[kind] = torch.tensor([error(measured[name], wanted[name]) for name in wanted])
    assert errors["winograd"].median() <= max(3e-6, 2 * errors["direct"].median())


@pytest.mark.parametrize("recompute", CHECKPOINTING_MODES)
def test_activation_checkpointing_does_not_change_gradients(recompute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = gradients(*built("winograd"))
    calls = counted(monkeypatch)
    recomputed = gradients(*built("winograd", recompute))
    assert recomputed.keys() == wanted.keys()
    assert all(torch.equal(recomputed[name], wanted[name]) for name in wanted)
    # On P3: pyramid, two towers of two, classes and coefficients, ProtoNet before the doubling, and behind it.
    once = {(3, 64, 20, 20): 1 + 4 + 2 + 3, (3, 64, 40, 40): 1, (3, 128, 20, 20): 3}
    # A part that ends with a convolution never computes it twice: with "norms" only the coefficients', which lie before
    # the classes', come again; with "all" the towers and all of ProtoNet and C3, too, which end with something else.
    again = {
        "none": {},
        "norms": {(3, 64, 20, 20): 1},
        "all": {(3, 64, 20, 20): 1 + 4 + 3, (3, 64, 40, 40): 1, (3, 128, 20, 20): 3},
    }
    assert {shape: calls.count(shape) for shape in calls} == {
        shape: count + again[recompute].get(shape, 0) for shape, count in once.items()
    }


def test_fast_convolutions_save_as_many_bytes_as_torch() -> None:
    saved = {}
    for kind in ("direct", "winograd"):
        network, experiment = built(kind, "norms")

        def losses(images: int, network: SAIS = network, experiment: Experiment = experiment) -> dict[str, Tensor]:
            return losses_of(network, experiment, images)

        saved[kind] = saved_bytes_per_image(network, losses, dict(network.named_children())).total
    assert saved["winograd"] == saved["direct"]


def test_for_training_follows_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(network: nn.Module) -> int:
        return sum(isinstance(module, FastConvolution) for module in network.modules())

    assert quick(built("direct")[0]) == 0
    network = built("winograd")[0]
    assert quick(network) > 15
    assert quick(for_inference(network)) == 0
    for capability, wanted in (("AVX2", True), ("AVX512", False), ("DEFAULT", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert (quick(built("auto")[0]) > 0) is wanted
    assert quick(built("winograd", precision="bf16")[0]) == 0
    with pytest.raises(ConfigError, match="auto, direct, winograd"):
        set_convolutions(build_model(MODEL, 3), "fft", (64, 64))


def test_set_convolutions_chooses_the_layout_of_large_canvases() -> None:
    network = build_model(MODEL, 3).to(memory_format=torch.channels_last)
    set_convolutions(network, "winograd", (768, 768))
    assert network.head.get_submodule("class_logits").weight.is_contiguous(memory_format=torch.channels_last)
    network = build_model(MODEL, 3).to(memory_format=torch.channels_last)
    set_convolutions(network, "direct", (768, 768))
    assert network.head.get_submodule("class_logits").weight.is_contiguous()


def test_for_inference_restores_the_original_convolutions() -> None:
    network = built("winograd", "all")[0]
    assert any(original_of(module) is not None for module in network.modules())
    prepared = for_inference(network)
    assert not any(original_of(module) is not None for module in prepared.modules())
    assert any(isinstance(module, FastConvolution) for module in network.modules())  # the network did not change
