"""The network: sizes and costs of the paper's models, frozen parts, outputs, and the effect of each setting."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sais.config import ModelConfig
from sais.errors import ConfigError
from sais.modeling.fpn import FPN
from sais.modeling.head import Head
from sais.modeling.sais import SAIS, build_model
from sais.recipes import recipe
from sais.structures import STRIDES

COCO_CLASSES = 80
TINY = ModelConfig(
    backbone="resnet18.tv_in1k", pretrained=False, channels=64, tower_depth=1, prototypes=8, prototype_channels=16
)
PAPER = {  # millions of parameters, GFLOPs (a multiply-add counts as two) and the canvas; docs/paper.md gives the same
    "sais-r50-640": (34.74, 218.0, (640, 640)),
    "sais-r50-768": (34.74, 314.0, (768, 768)),
    "sais-r101-768": (53.73, 401.2, (768, 768)),
    "sais-x101-768": (92.64, 581.3, (768, 768)),
    "fcos-r50": (32.30, 429.5, (800, 1344)),
}


def parameters(model: nn.Module) -> int:
    """How many, frozen ones too."""
    return sum(p.numel() for p in model.parameters())


def gigaflops(model: SAIS, size: tuple[int, int]) -> float:
    """Of one image; on the meta device, where shapes are computed and pixels are not."""
    model = model.eval().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, *size, device="meta"))
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize("name", PAPER)
def test_build_model_has_the_size_and_cost_of_the_paper(name: str) -> None:
    millions, cost, size = PAPER[name]
    config = recipe(name).model
    model = build_model(config, COCO_CLASSES)
    assert parameters(model) / 1e6 == pytest.approx(millions, abs=0.006)
    assert (model.protonet is None) == (name == "fcos-r50")
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    plain = timm.create_model(config.backbone, features_only=True)  # where the batch-norms are
    wanted = {"backbone.network." + n for n, _ in model.backbone.network.named_parameters() if n.startswith("layer1.")}
    wanted |= {"backbone.network.conv1.weight"}
    for module_name, module in plain.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            wanted |= {f"backbone.network.{module_name}.{kind}" for kind in ("weight", "bias")}
    assert frozen == wanted
    assert gigaflops(model, size) == pytest.approx(cost, abs=0.06)


def test_documentation_states_the_same_sizes_and_costs(root: Path) -> None:
    rows = (root / "docs/paper.md").read_text(encoding="utf-8").splitlines()
    for name, (millions, cost, (height, width)) in PAPER.items():
        wanted = f"| `{name}` | {height}x{width} | {millions:.2f} M | {cost:.1f} |"
        assert wanted in rows


def test_build_model_without_pretraining_freezes_nothing() -> None:
    model = build_model(TINY, 3)
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.train().modules())


def test_frozen_batch_norm_stays_in_evaluation_mode() -> None:
    config = dataclasses.replace(TINY, pretrained=True)
    model = build_model(config, 3).train()
    network = model.backbone.network
    assert not any(m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    before = {n: v.clone() for n, v in network.named_buffers()}
    assert sum(n.endswith("running_mean") for n in before) == 20
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    outputs = model(images)
    outputs.class_logits.sum().backward()
    assert all(torch.equal(v, before[n]) for n, v in network.named_buffers())
    assert network.conv1.weight.grad is None
    assert network.layer2[0].conv1.weight.grad is not None
    with torch.no_grad():  # GroupNorm in the towers: training and evaluation say the same
        assert torch.allclose(model.eval()(images).class_logits, outputs.class_logits, atol=1e-6)
    moving = build_model(dataclasses.replace(config, frozen_batch_norm=False, frozen_stages=0), 3).train()
    assert all(m.training for m in moving.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(p.requires_grad for p in moving.parameters())


@pytest.mark.parametrize(("stages", "first_free"), [(0, "conv1"), (1, "layer2"), (2, "layer3"), (3, "layer4")])
def test_frozen_stages(stages: int, first_free: str) -> None:
    config = dataclasses.replace(TINY, pretrained=True, frozen_stages=stages, frozen_batch_norm=False)
    network = build_model(config, 3).backbone.network
    parts = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == (parts.index(name.split(".")[0]) >= parts.index(first_free)), name


def run(config: ModelConfig, height: int = 64, width: int = 96, batch: int = 2) -> tuple:
    """A model of five classes and what it says about random images."""
    torch.manual_seed(0)
    model = build_model(config, 5).eval()
    images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)
    with torch.no_grad():
        return model, images, model(images)


def test_outputs_have_the_documented_shapes_and_ranges() -> None:
    model, _, outputs = run(TINY)
    assert outputs.level_sizes == ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
    length = sum(h * w for h, w in outputs.level_sizes)
    assert outputs.class_logits.shape == (2, length, 5)
    assert outputs.quality_logits.shape == (2, length)
    assert outputs.distances.shape == (2, length, 4)
    assert (outputs.distances > 0).all()
    assert outputs.coefficients.shape == (2, length, 8)
    assert outputs.coefficients.abs().max() < 1
    assert outputs.prototypes.shape == (2, 8, 16, 24)
    assert outputs.prototypes.min() == 0
    assert model.head.scales.tolist() == [1.0] * 5
    assert all(t.dtype == torch.float32 for t in (outputs.class_logits, outputs.distances, outputs.prototypes))


def test_head_starts_at_the_prior_probability() -> None:
    model = Head(5, STRIDES)
    assert torch.allclose(model.class_logits.bias.sigmoid(), torch.full((5,), 0.01))
    _, _, outputs = run(TINY)
    assert outputs.class_logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)


def test_build_model_without_quality_branch() -> None:
    model, _, outputs = run(dataclasses.replace(TINY, quality="none"))
    assert outputs.quality_logits is None
    assert model.head.quality_logits is None
    assert outputs.class_logits.shape[2] == 5
    assert not [name for name in model.state_dict() if "quality" in name]


def test_build_model_rejects_unknown_heads() -> None:
    with pytest.raises(ConfigError, match="head 'other'"):
        build_model(dataclasses.replace(TINY, head="other"), 3)


def test_prototype_norm_adds_a_group_norm_before_each_relu() -> None:
    model, _, outputs = run(dataclasses.replace(TINY, prototype_norm="group"))
    assert outputs.prototypes is not None
    assert outputs.prototypes.min() == 0
    blocks = [*model.protonet.before, model.protonet.after]
    assert [[type(layer) for layer in block] for block in blocks] == [[nn.Conv2d, nn.GroupNorm, nn.ReLU]] * 4
    assert all(block[0].bias is None and block[1].num_groups == 8 for block in blocks)
    for setting in ("prototype_", ""):
        with pytest.raises(ConfigError, match=rf"model\.{setting}channels 72: not a multiple of 32"):
            build_model(dataclasses.replace(TINY, prototype_norm="group", **{f"{setting}channels": 72}), 3)
    build_model(dataclasses.replace(TINY, prototype_channels=72), 3)


def test_build_model_without_masks_is_fcos() -> None:
    model, _, outputs = run(dataclasses.replace(TINY, masks=False))
    assert outputs.coefficients is None
    assert outputs.prototypes is None
    assert model.protonet is None
    assert model.head.coefficients is None
    assert outputs.distances.shape[2] == 4
    assert not [n for n, _ in model.named_parameters() if "prototypes" in n or "coefficients" in n]


def test_fusion_adds_no_parameter_and_changes_the_coefficients_only() -> None:
    fused, images, before = run(TINY)
    alone = build_model(dataclasses.replace(TINY, coefficients_from="classification"), 5).eval()
    alone.load_state_dict(fused.state_dict())  # the same parameters, by name and shape
    with torch.no_grad():
        after = alone(images)
    for name in ("class_logits", "quality_logits", "distances", "prototypes"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert not torch.allclose(before.coefficients, after.coefficients)
    for p in alone.head.regression_tower.parameters():
        p.data += 1
    with torch.no_grad():
        moved = alone(images)
    assert torch.equal(moved.coefficients, after.coefficients)
    assert not torch.allclose(moved.distances, after.distances)
    fused.load_state_dict(alone.state_dict())
    with torch.no_grad():
        assert not torch.allclose(fused(images).coefficients, before.coefficients)


def test_head_predicts_from_the_right_towers() -> None:
    """The head's outputs at one place, from its towers: which tower feeds what, and the scale of each level."""
    torch.manual_seed(0)
    head = Head(2, (8, 16), channels=32, tower_depth=1, prototypes=3)
    head.scales.data = torch.tensor([1.0, 3.0])
    maps = [torch.randn(1, 32, 4, 6), torch.randn(1, 32, 2, 3)]
    logits, centerness, distances, coefficients = head(maps)
    for level, first, width in ((0, 0, 6), (1, 24, 3)):
        row, column = 1, 2
        place = first + row * width + column
        left, right = head.classification_tower(maps[level]), head.regression_tower(maps[level])
        at = (0, slice(None), row, column)
        torch.testing.assert_close(logits[0, place], head.class_logits(left)[at])
        torch.testing.assert_close(centerness[0, place], head.quality_logits(left)[at][0])
        scale = (1.0, 3.0)[level]
        torch.testing.assert_close(distances[0, place], (scale * head.distances(right)[at]).exp())
        assert coefficients is not None
        assert head.coefficients is not None
        torch.testing.assert_close(coefficients[0, place], head.coefficients(left + right)[at].tanh())


def test_distance_unit_multiplies_by_the_stride() -> None:
    pixels, images, before = run(TINY)
    strides = build_model(dataclasses.replace(TINY, distance_unit="stride"), 5).eval()
    strides.load_state_dict(pixels.state_dict())
    with torch.no_grad():
        after = strides(images)
    first = 0
    for (height, width), stride in zip(before.level_sizes, STRIDES, strict=True):
        last = first + height * width
        torch.testing.assert_close(after.distances[:, first:last], before.distances[:, first:last] * stride)
        first = last


def test_head_distances_do_not_overflow() -> None:
    head = Head(2, (8,), channels=32, tower_depth=1)
    head.distances.bias.data[:] = 1e4  # type: ignore[union-attr]
    assert torch.isfinite(head([torch.randn(1, 32, 4, 4)])[2]).all()


@pytest.mark.parametrize("options", [{"tower_kind": "depthwise"}, {"norm": "batch"}], ids=str)
def test_build_tower_variants(options: dict[str, str]) -> None:
    model, _, outputs = run(dataclasses.replace(TINY, tower_depth=2, **options))  # type: ignore[arg-type]
    assert torch.isfinite(outputs.class_logits).all()
    kinds = [type(m).__name__ for m in model.head.classification_tower]
    assert ("BatchNorm2d" in kinds) == (options.get("norm") == "batch")


def test_normalization_is_a_buffer_of_the_model() -> None:
    model, images, outputs = run(TINY)
    assert isinstance(model, SAIS)
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    assert mean == pytest.approx([123.675, 116.28, 103.53])
    assert std == pytest.approx([58.395, 57.12, 57.375])
    assert {"mean", "std"} <= set(model.state_dict())
    with torch.no_grad():
        again = model(images.float())
    assert torch.equal(again.class_logits, outputs.class_logits)


def test_images_of_a_batch_are_independent() -> None:
    model, images, outputs = run(TINY)
    with torch.no_grad():
        alone = model(images[:1])
    torch.testing.assert_close(alone.class_logits, outputs.class_logits[:1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.prototypes, outputs.prototypes[:1], rtol=1e-4, atol=1e-5)
    assert math.isfinite(float(outputs.prototypes.sum()))


def test_fpn_accepts_sides_that_are_no_powers_of_two_in_any_layout() -> None:
    """Sides that are no powers of two; maps of either layout."""
    fpn = FPN((8, 12, 16), 32)
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, c, 24 // s, 40 // s, generator=generator) for c, s in ((8, 1), (12, 2), (16, 4))]
    wanted = fpn.pyramid(dict(zip("345", maps, strict=True)))
    for layout in (torch.contiguous_format, torch.channels_last):
        levels = fpn.to(memory_format=layout)([level.contiguous(memory_format=layout) for level in maps])
        assert [tuple(level.shape[2:]) for level in levels] == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
        for level, other in zip(levels, wanted.values(), strict=False):
            assert torch.allclose(level, other, atol=1e-5)
