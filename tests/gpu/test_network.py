"""Networks with random weights: the device computes what the CPU computes, in every precision."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from sais.config import Experiment
from sais.inference.trained_model import TrainedModel, prepare_network
from sais.modeling.architecture import find_architecture
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings
from sais.structures import DenseOutputs
from tests.gpu.exact import exact_arithmetic

pytestmark = pytest.mark.gpu
CLASSES = 20
MAX_DIFFERENCES = {"fp32": 2e-3, "bf16": 0.15, "fp16": 0.02}
"""Precision -> maximum difference of an output, relative to its largest value and at least 1."""


def small(name: str) -> Experiment:
    """Return a recipe with an input of 96 x 128 pixels."""
    return replace_settings(recipe(name), "input", mode="fixed", size=(96, 128))


def model_of(experiment: Experiment) -> TrainedModel:
    """Return a model with random weights."""
    torch.manual_seed(0)
    network = find_architecture(experiment.model.architecture).build(experiment, CLASSES).eval()
    return TrainedModel(network, experiment, tuple(map(str, range(CLASSES))), tuple(range(CLASSES)))


def images_of(experiment: Experiment, number: int = 2) -> torch.Tensor:
    """Return random canvases (B, 3, H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, 3, *experiment.input.size), generator=generator).to(torch.uint8)


def largest_difference(expected: DenseOutputs, actual: DenseOutputs) -> float:
    """Return the largest difference of all outputs (B, L, .), relative to the largest value of each."""
    differences = []
    for name, value in vars(expected).items():
        if isinstance(value, torch.Tensor):
            other = getattr(actual, name).cpu().float()
            differences.append(float((value - other).abs().max() / value.abs().max().clamp(min=1)))
    return max(differences)


@pytest.mark.parametrize("name", ["sais-lite", "sais-r50-768"])
def test_outputs_equal_those_of_the_cpu(name: str, device: torch.device) -> None:
    model = model_of(small(name))
    images = images_of(model.experiment)
    with torch.inference_mode(), exact_arithmetic():
        expected = model.network(images)
        plain = model.network.to(device)(images.to(device))
        prepared = prepare_network(model).to(device)(images.to(device))
    assert largest_difference(expected, plain) <= MAX_DIFFERENCES["fp32"]
    assert largest_difference(expected, prepared) <= MAX_DIFFERENCES["fp32"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_fp32(precision: str, device: torch.device) -> None:
    from sais.converters.for_device import for_device

    if device.type == "cpu" and precision == "fp16":
        pytest.skip("CPUs do not compute in fp16")
    model = model_of(small("sais-r50-768"))
    images = images_of(model.experiment)
    with torch.inference_mode():
        expected = model.network(images)
        model.network.to(device)
        half = for_device(prepare_network(model), precision)(images.to(device))
    assert largest_difference(expected, half) <= MAX_DIFFERENCES[precision]
    for value in vars(half).values():
        assert not isinstance(value, torch.Tensor) or bool(torch.isfinite(value).all())
