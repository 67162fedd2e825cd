"""GroupNorm that keeps layout and type: torch's numbers, gradients and names."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sais.config import ModelConfig, OptimConfig
from sais.converters.activation_checkpointing import apply_activation_checkpointing
from sais.converters.gpu import group_norm as module_of_group_norm
from sais.converters.gpu.group_norm import ChannelsLastGroupNorm, group_norm, keep_layout_in_group_norms
from sais.engine.optim import NORMS, parameter_groups
from sais.errors import ConfigError
from sais.modeling.sais import build_model

LAYOUT = torch.channels_last


def random_inputs(dtype: torch.dtype, offset: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return maps and an outer gradient (2, 8, 5, 7), weight and bias (8,)."""
    generator = torch.Generator().manual_seed(0)
    parameter_type = torch.float64 if dtype == torch.float64 else torch.float32
    maps, outer = (torch.randn(2, 8, 5, 7, generator=generator).add(offset) for _ in range(2))
    weight, bias = (torch.randn(8, generator=generator, dtype=parameter_type) for _ in range(2))
    return maps.to(dtype, memory_format=LAYOUT), outer.to(dtype, memory_format=LAYOUT), weight, bias


def results(inputs: tuple[Tensor, Tensor, Tensor, Tensor], own: bool) -> tuple[Tensor, ...]:
    """Return output and gradients of four groups."""
    maps, outer, weight, bias = inputs
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (maps, weight, bias)]
    out = group_norm(*leaves, 4, 1e-5) if own else nn.functional.group_norm(leaves[0], 4, *leaves[1:], 1e-5)
    return out.detach(), *torch.autograd.grad(out, leaves, outer.to(out.dtype))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_group_norm_equals_torch(dtype: torch.dtype, tolerance: float) -> None:
    inputs = random_inputs(dtype)
    for own, expected in zip(results(inputs, True), results(inputs, False), strict=True):
        assert own.dtype == expected.dtype
        assert (own - expected).abs().max() <= tolerance * expected.abs().max()
    assert results(inputs, True)[0].is_contiguous(memory_format=LAYOUT)
    assert results(inputs, True)[1].is_contiguous(memory_format=LAYOUT)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_group_norm_of_half_precision_rounds_its_results_only(
    dtype: torch.dtype, tolerance: float, offset: float
) -> None:
    """Compared with float64 on the same rounded maps; autocast, which would cast to fp32, changes nothing."""
    inputs = random_inputs(dtype, offset)
    with torch.autocast("cpu", torch.bfloat16):
        actual = results(inputs, True)
    exact = results(tuple(tensor.double() for tensor in inputs), False)  # type: ignore[arg-type]
    assert [tensor.dtype for tensor in actual] == [dtype, dtype, torch.float32, torch.float32]
    for own, expected, bound in zip(actual, exact, (tolerance, tolerance, 1e-5, 1e-5), strict=True):
        assert (own.double() - expected).abs().max() <= bound * expected.abs().max()


def test_group_norm_does_not_overflow_in_fp16() -> None:
    """Gradients are scaled up in fp16: their products with maps exceed its range."""
    maps, outer, weight, bias = random_inputs(torch.float16)
    actual = results((maps * 100, outer * 2000, weight, bias), True)
    assert all(tensor.isfinite().all() for tensor in actual)


def test_keep_layout_in_group_norms_keeps_names_numbers_and_weight_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_of_group_norm, "MIN_NUMBERS", 2 * 64 * 4 * 4)  # P3 and P4 of 64 x 64
    config = ModelConfig(
        backbone="tf_efficientnet_lite0.in1k", channels=64, tower_depth=2, prototype_channels=16, pretrained=False
    )
    torch.manual_seed(0)
    network = build_model(config, 3).to(memory_format=LAYOUT).train()
    rewritten = copy.deepcopy(network)
    keep_layout_in_group_norms(rewritten)
    norms = [module for module in rewritten.modules() if type(module) is ChannelsLastGroupNorm]
    assert len(norms) == 4
    assert all(isinstance(norm, NORMS) for norm in norms)
    assert list(rewritten.state_dict()) == list(network.state_dict())
    settings = OptimConfig(name="adamw", weight_decay=0.05)
    decays = [[g["weight_decay"] for g in parameter_groups(model, settings)] for model in (network, rewritten)]
    assert decays[0] == decays[1]
    apply_activation_checkpointing(rewritten, "norms")
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    for model in (network, rewritten):
        outputs = model(images)
        loss = outputs.class_logits.mean() + outputs.distances.log().mean() + outputs.coefficients.square().mean()
        (loss + outputs.quality_logits.mean()).backward()
    for name, expected in (*network.fpn.named_parameters(prefix="fpn"), *network.head.named_parameters(prefix="head")):
        own = rewritten.get_parameter(name)
        assert own.grad is not None, name
        assert expected.grad is not None, name
        assert (own.grad - expected.grad).norm() <= 1e-4 * expected.grad.norm(), name


def test_gradients_with_a_graph_equal_those_without_and_refuse_a_second_derivative() -> None:
    maps, outer, weight, bias = random_inputs(torch.float32)
    expected = results((maps, outer, weight, bias), True)[1:]
    leaves = [tensor.detach().requires_grad_() for tensor in (maps, weight, bias)]
    gradients = torch.autograd.grad(group_norm(*leaves, 4, 1e-5), leaves, outer, create_graph=True)
    assert all(torch.equal(own, other) for own, other in zip(gradients, expected, strict=True))
    with pytest.raises(ConfigError, match="GroupNorm: its second derivative is not implemented"):
        gradients[0].square().sum().backward()
