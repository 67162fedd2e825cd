"""Winograd's way gives what the direct sum gives, on every road it can take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from sais.config import ModelConfig
from sais.converters.cpu import winograd, winograd_inference
from sais.converters.cpu.winograd import convolve_levels, transformed_weight
from sais.converters.cpu.winograd_inference import WinogradConvolution, with_winograd
from sais.converters.for_device import for_device
from sais.converters.fuse import for_inference
from sais.errors import ConfigError, MissingDependencyError
from sais.modeling.sais import build_model

needs_nnpack = pytest.mark.skipif(not torch.backends.nnpack.is_available(), reason="this torch has no NNPACK")


def convolution(channels_in: int, channels_out: int, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias).requires_grad_(False)


def exact(maps: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
    """The direct sum in float64."""
    bias = None if layer.bias is None else layer.bias.double()
    return functional.conv2d(maps.double(), layer.weight.double(), bias, padding=1)


def assert_equal(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 3e-5) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_transforms_are_those_of_minimal_filtering() -> None:
    """One dimension, by hand: A^T [(G g) * (B^T d)] is the correlation of 6 values with 3."""
    data = torch.tensor([1.0, -2, 3, 5, -7, 11], dtype=torch.float64)
    taps = torch.tensor([2.0, -1, 4], dtype=torch.float64)
    products = (winograd.WEIGHT_TRANSFORM @ taps) * (winograd.INPUT_TRANSFORM @ data)
    expected = torch.tensor([2 + 2 + 12, -4 - 3 + 20, 6 - 5 - 28, 10 + 7 + 44], dtype=torch.float64)
    assert torch.allclose(winograd.OUTPUT_TRANSFORM @ products, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [[(1, 1)], [(4, 4)], [(5, 7), (12, 3)], [(24, 24), (12, 12), (6, 6), (3, 3)]])
def test_convolve_levels_equals_direct_sums(sizes: list[tuple[int, int]], bias: bool) -> None:
    layer = convolution(6, 5, bias).double()
    levels = [torch.randn(2, 6, *size, dtype=torch.float64) for size in sizes]
    outputs = convolve_levels(levels, transformed_weight(layer.weight), layer.bias)
    for maps, actual in zip(levels, outputs, strict=True):
        assert_equal(actual, exact(maps, layer), 1e-13)


@needs_nnpack
@pytest.mark.parametrize(("height", "width", "batch"), [(50, 50, 1), (61, 50, 3), (50, 83, 1)])
def test_winograd_convolution_of_large_maps_in_strips(
    height: int, width: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = convolution(8, 4)
    maps = torch.randn(batch, 8, height, width)
    whole = WinogradConvolution(layer)(maps)
    assert_equal(whole, exact(maps, layer))
    monkeypatch.setattr(winograd_inference, "STRIP", 20 * width)
    strips = WinogradConvolution(layer)(maps)
    assert_equal(strips, exact(maps, layer))


@needs_nnpack
def test_winograd_convolution_of_levels_of_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = convolution(16, 16)
    levels = [torch.randn(2, 16, side, side + 4) for side in (52, 26, 13, 7, 4)]
    monkeypatch.setattr(winograd_inference, "MIN_JOINT_CHANNELS", 16)
    calls = []
    monkeypatch.setattr(
        winograd_inference,
        "convolve_levels",
        lambda maps, *arguments: calls.append(len(maps)) or convolve_levels(maps, *arguments),
    )
    fast = WinogradConvolution(layer)
    for actual, maps in zip(fast.convolve_levels(levels), levels, strict=True):
        assert_equal(actual, exact(maps, layer))
    assert calls == [4]
    monkeypatch.setattr(winograd_inference, "MIN_JOINT_CHANNELS", 17)
    for actual, maps in zip(fast.convolve_levels(levels), levels, strict=True):
        assert_equal(actual, exact(maps, layer))
    assert calls == [4]


def test_winograd_convolution_falls_back_to_torch() -> None:
    layer = convolution(8, 4)
    fast = WinogradConvolution(layer)
    assert fast(torch.zeros(0, 8, 60, 60)).shape == (0, 4, 60, 60)
    maps = torch.randn(1, 8, 60, 60, dtype=torch.float64)
    assert_equal(fast.double()(maps), exact(maps, layer), 1e-12)


@needs_nnpack
def test_winograd_convolution_runs_in_a_new_process(tmp_path: Path) -> None:
    """NNPACK wants to be initialized in every process: a network sent to a spawned worker meets it first there."""
    layer = convolution(8, 4)
    torch.save(WinogradConvolution(layer), tmp_path / "layer.pt")
    code = (
        "import sys, torch\n"
        "layer = torch.load(sys.argv[1], weights_only=False)\n"
        "print(layer(torch.ones(1, 8, 60, 60)).sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "layer.pt")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(exact(torch.ones(1, 8, 60, 60), layer).sum()), rel=1e-3)


def test_with_winograd_replaces_only_supported_convolutions() -> None:
    layers = [
        nn.Conv2d(128, 128, 3, padding=1),
        nn.Conv2d(128, 127, 3, padding=1),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(128, 128, 3),
    ]
    network = with_winograd(nn.Sequential(nn.Sequential(*layers)))
    assert [isinstance(m, WinogradConvolution) for m in network[0]] == [True] + [False] * 6


@needs_nnpack
def test_for_device_with_winograd_equals_the_prepared_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd_inference, "nnpack_is_faster", torch.backends.nnpack.is_available)
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet18.a1_in1k", pretrained=False, channels=256, prototype_channels=128)
    prepared = for_inference(build_model(config, 3).eval())
    images = torch.randint(0, 256, (1, 3, 416, 448), dtype=torch.uint8)  # P3 is above, P4 below the limit
    with torch.inference_mode():
        expected = prepared(images)
        quick = for_device(prepared, "fp32")
        actual = quick(images)
    assert sum(isinstance(m, WinogradConvolution) for m in quick.modules()) == 3 + 8 + 4
    assert not any(isinstance(m, WinogradConvolution) for m in prepared.modules())  # it may be exported still
    for name in ("class_logits", "quality_logits", "distances", "coefficients", "prototypes"):
        assert_equal(getattr(actual, name), getattr(expected, name), 1e-4)


def test_for_device_bf16_is_close_with_fp32_outputs() -> None:
    torch.manual_seed(0)
    prepared = for_inference(build_model(ModelConfig(backbone="resnet18.a1_in1k", pretrained=False, channels=32), 3))
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected = prepared(images)
        quick = for_device(prepared, "bf16")
        actual = quick(images)
    assert quick.mean.dtype == torch.float32
    assert quick.backbone.dtype == torch.bfloat16
    assert prepared.backbone.dtype == torch.float32
    for name in ("class_logits", "quality_logits", "distances", "coefficients", "prototypes"):
        output = getattr(actual, name)
        assert output.dtype == torch.float32
        assert_equal(output, getattr(expected, name), 0.05)


def test_for_device_rejects_what_a_device_does_not_support(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = for_inference(build_model(ModelConfig(backbone="resnet18.a1_in1k", pretrained=False, channels=32), 3))
    with pytest.raises(ConfigError, match="int4"):
        for_device(prepared, "int4")
    with pytest.raises(ConfigError, match="bf16 or fp32"):
        for_device(prepared, "fp16")
    monkeypatch.setattr("sais.converters.for_device.shutil.which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="compiler"):
        for_device(prepared, compile=True)


@pytest.mark.parametrize(
    ("device", "version", "mode"),
    [
        *(("cpu", "2.14.1", None), ("cuda", "2.14.0+cu130", "reduce-overhead"), ("xpu", "2.14.1", None)),
        ("cuda", "2.13.1+cu130", None),  # threads would read each other's outputs
    ],
)
def test_compiled_networks_are_cuda_graphs_on_cuda(
    device: str, version: str, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sais.converters import for_device as module

    modes: list[str | None] = []
    monkeypatch.setattr(module, "check_compiler", lambda device: None)
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)(version))
    monkeypatch.setattr(torch, "compile", lambda network, mode=None: modes.append(mode) or network)
    network = torch.nn.Identity()
    assert module._compiled(network, device) is network
    assert modes == [mode]
