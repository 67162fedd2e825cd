"""Backbones: any timm name, frozen stages, folded batch-norm, errors."""

from __future__ import annotations

import pytest
import timm
import torch

from sais.config import ModelConfig
from sais.converters.frozen_batch_norm import fold_frozen_batch_norms
from sais.errors import ConfigError
from sais.modeling.backbones import Backbone
from sais.modeling.sais import build_model


@pytest.mark.parametrize(("name", "near"), [("resnet5", "resnet50"), ("resnet50.tv_in2k", "resnet50.tv_in1k")])
def test_backbone_suggests_similar_names(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=near) as caught:
        Backbone(name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_backbone_names_the_list_where_no_name_is_similar() -> None:
    with pytest.raises(ConfigError, match=r"'auto': timm has no .* Choose one of `timm\.list_models\(\)`\.$"):
        Backbone("auto")


def test_backbone_rejects_a_network_without_the_strides() -> None:
    with pytest.raises(ConfigError):
        Backbone("vit_tiny_patch16_224")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_large_100", "convnext_atto", "tf_efficientnet_lite0"])
def test_backbone_accepts_any_features_only_network(name: str) -> None:
    config = ModelConfig(backbone=name, pretrained=False, channels=64, tower_depth=1, prototype_channels=16)
    model = build_model(config, 3).eval()
    with torch.no_grad():
        maps = model.backbone(torch.randn(1, 3, 64, 64))
        outputs = model(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels, side, side) for channels, side in zip(model.backbone.channels, (8, 4, 2), strict=True)
    ]
    assert outputs.class_logits.shape == (1, 64 + 16 + 4 + 1 + 1, 3)
    assert torch.isfinite(outputs.distances).all()


@pytest.mark.parametrize("name", ["mobilenetv3_large_100", "convnext_atto", "tf_efficientnet_lite0"])
def test_frozen_stages_of_any_network(name: str) -> None:
    backbone = Backbone(name, frozen_stages=1, frozen_batch_norm=False)
    flags = [p.requires_grad for p in backbone.network.parameters()]
    first = flags.index(True)
    assert 0 < first < len(flags) // 2
    assert all(flags[first:])
    images = torch.randn(1, 3, 64, 64)
    backbone.train()
    frozen_copy = {n: p.detach().clone() for n, p in backbone.network.named_parameters() if not p.requires_grad}
    sum(m.sum() for m in backbone(images)).backward()  # type: ignore[union-attr]
    for n, p in backbone.network.named_parameters():
        assert (p.grad is None) == (n in frozen_copy), n


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "mobilenetv3_large_100"])
def test_fold_frozen_batch_norms_equals_batch_norm(name: str) -> None:
    """Values and gradients of the adapter equal those of timm's network in evaluation, with statistics of any kind."""
    generator = torch.Generator().manual_seed(0)
    plain = timm.create_model(name, pretrained=False, features_only=True).eval().double()
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                assert tensor is not None
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
            for tensor in (module.bias.data, module.running_mean):
                assert tensor is not None
                tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    backbone = Backbone(name, frozen_stages=0, frozen_batch_norm=True)
    assert fold_frozen_batch_norms(backbone.network) > 15
    backbone.train().double()
    backbone.network.load_state_dict(plain.state_dict())  # the names are the same
    images = torch.randn(2, 3, 64, 96, generator=generator, dtype=torch.float64)
    maps, whole = backbone(images), plain(images)
    wanted = [m for m, stride in zip(whole, plain.feature_info.reduction(), strict=True) if stride in (8, 16, 32)]
    for actual, other in zip(maps, wanted, strict=True):
        torch.testing.assert_close(actual, other, rtol=1e-8, atol=1e-8)
    sum(m.square().mean() for m in maps).backward()  # type: ignore[union-attr]
    sum(m.square().mean() for m in wanted).backward()  # type: ignore[union-attr]
    others = dict(plain.named_parameters())
    compared = 0
    for key, parameter in backbone.network.named_parameters():
        if parameter.grad is not None:
            scale = float(others[key].grad.abs().max()) + 1e-6
            torch.testing.assert_close(parameter.grad / scale, others[key].grad / scale, rtol=1e-7, atol=1e-7)
            compared += 1
    assert compared > 15


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224"])
def test_backbone_rejects_a_network_of_one_input_size(name: str) -> None:
    with pytest.raises(ConfigError, match="does not accept images of any size"):
        Backbone(name)
