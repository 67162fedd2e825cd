"""Weights of torchvision's detectors: our network computes what torchvision's does, from random weights."""

from __future__ import annotations

import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection

from sais.config import Experiment
from sais.errors import CheckpointError, ConfigError, ResourceError
from sais.modeling.postprocess import postprocess
from sais.modeling.sais import SAIS, build_model
from sais.modeling.torchvision_weights import (
    DETECTORS,
    convert_detector,
    match_settings,
    parse_source,
    read_detector_weights,
)
from sais.ops.boxes import locations
from sais.recipes import recipe
from sais.structures import STRIDES

HEIGHT, WIDTH = 96, 160
CLASSES = 91


def vary(network: nn.Module) -> nn.Module:
    """Randomize norms and biases, which are 1 and 0 in a new network, so that a lost one changes the outputs."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.02)
        elif tensor.dim() == 1 and name.endswith("weight"):
            tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def fcos() -> Any:
    """Return torchvision's FCOS with random weights that predict boxes of several sizes and classes."""
    torch.manual_seed(0)
    network: Any = detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, score_thresh=0.05, min_size=HEIGHT, max_size=WIDTH, topk_candidates=100_000
    )
    vary(network)
    head = network.head
    for branch, std in ((head.classification_head.cls_logits, 0.06), (head.regression_head.bbox_ctrness, 0.05)):
        nn.init.normal_(branch.weight, std=std)
    nn.init.normal_(head.regression_head.bbox_reg.weight, std=0.05)
    nn.init.constant_(head.regression_head.bbox_reg.bias, 1.0)
    return network


@pytest.fixture(scope="module")
def converted(fcos: Any) -> SAIS:
    """Return our network with the weights of `fcos`, all 91 outputs of its class layer included."""
    experiment, _ = match_settings(recipe("sais-r50-640"), "torchvision:fcos_resnet50_fpn")
    network = build_model(experiment.model, CLASSES).eval()
    weights = convert_detector(fcos.state_dict(), "fcos_resnet50_fpn")
    class_layer = fcos.head.classification_head.cls_logits.state_dict()
    tensors = weights.tensors | {f"head.class_logits.{name}": value for name, value in class_layer.items()}
    assert not network.load_state_dict(tensors, strict=False).unexpected_keys
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Return two images (2, 3, HEIGHT, WIDTH) uint8 whose sides are multiples of 32: torchvision pads by zeros."""
    return torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.mark.slow
def test_converted_fcos_has_the_outputs_of_torchvision(fcos: Any, converted: SAIS, images: Tensor) -> None:
    with torch.no_grad():
        batch, _ = fcos.transform(list(images / 255.0))
        assert batch.tensors.shape == images.shape
        theirs = fcos.head(list(fcos.backbone(batch.tensors).values()))
        ours = converted(images)
    torch.testing.assert_close(ours.class_logits, theirs["cls_logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.quality_logits, theirs["bbox_ctrness"].squeeze(2), rtol=1e-4, atol=1e-4)
    units = torch.cat([torch.full((h * w,), float(s)) for (h, w), s in zip(ours.level_sizes, STRIDES, strict=True)])
    from_corner = ours.distances - torch.tensor([0.5, 0.5, -0.5, -0.5]) * units[:, None]  # torchvision's anchors
    torch.testing.assert_close(from_corner, theirs["bbox_regression"] * units[:, None], rtol=1e-4, atol=1e-3)
    assert 0 < (theirs["bbox_regression"] == 0).float().mean() < 0.5  # the ReLU is used


@pytest.mark.slow
def test_converted_fcos_has_the_detections_of_torchvision(fcos: Any, converted: SAIS, images: Tensor) -> None:
    """torchvision's score is the square root of ours, and its threshold is on the score."""
    with torch.no_grad():
        theirs = fcos(list(images / 255.0))
        outputs = converted(images)
        points = locations(outputs.level_sizes, STRIDES, images.device)
        sizes = [(float(HEIGHT), float(WIDTH))] * 2
        ours = postprocess(outputs, points, sizes, 0.0, 100_000, fcos.nms_thresh, fcos.detections_per_img)
    for image, expected in enumerate(theirs):
        scores = ours.scores[image].sqrt()
        present = scores > fcos.score_thresh
        assert present.sum() > 20
        assert len(set(expected["labels"].tolist())) > 5
        torch.testing.assert_close(scores[present], expected["scores"], rtol=1e-4, atol=0)
        torch.testing.assert_close(ours.boxes[image][present], expected["boxes"], rtol=1e-4, atol=1e-2)
        assert torch.equal(ours.labels[image][present], expected["labels"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"])
def test_converted_mask_rcnn_has_the_pyramid_of_torchvision(name: str, images: Tensor) -> None:
    """Our P3 to P5 equal the levels of the same stride; batch-norms of the FPN are folded, epsilon 0 is converted."""
    torch.manual_seed(0)
    theirs: Any = vary(getattr(detection, name)(weights=None, weights_backbone=None))
    for module in theirs.backbone.body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = DETECTORS[name].norm_eps
    experiment, notes = match_settings(recipe("sais-r50-640"), f"torchvision:{name}")
    assert notes == []
    assert experiment == recipe("sais-r50-640")
    ours = build_model(experiment.model, 3).eval()
    weights = convert_detector(theirs.state_dict(), name)
    assert weights.class_names == ()
    assert not ours.load_state_dict(weights.tensors, strict=False).unexpected_keys
    inputs = (images - ours.mean) / ours.std
    with torch.no_grad():
        levels = ours.fpn(ours.backbone(inputs))
        expected = theirs.backbone(inputs)
    for level, key in zip(levels, ("1", "2", "3"), strict=False):
        torch.testing.assert_close(level, expected[key], rtol=1e-4, atol=1e-4 * float(expected[key].std()))


def test_convert_detector_names_the_80_classes_of_coco() -> None:
    state = {
        "backbone.body.layer4.2.conv3.weight": torch.zeros(1),
        "backbone.fpn.inner_blocks.2.weight": torch.zeros(1),  # the names before torchvision 0.13
        "backbone.fpn.extra_blocks.p7.bias": torch.zeros(1),
        "head.classification_head.cls_logits.weight": torch.arange(91.0)[:, None],
        "head.classification_head.cls_logits.bias": torch.arange(91.0),
    }
    weights = convert_detector(state, "fcos_resnet50_fpn")
    assert len(weights.class_names) == 80
    rows = dict(zip(weights.class_names, weights.tensors["head.class_logits.bias"].tolist(), strict=True))
    assert (rows["person"], rows["stop sign"], rows["toothbrush"]) == (1, 13, 90)  # COCO's category ids
    own = state | {f"head.classification_head.cls_logits.{part}": torch.zeros(4) for part in ("weight", "bias")}
    trained_elsewhere = convert_detector(own, "fcos_resnet50_fpn")
    assert trained_elsewhere.class_names == ()
    assert "head.class_logits.bias" not in trained_elsewhere.tensors
    with pytest.raises(CheckpointError, match=r"not the weights of fcos_resnet50_fpn"):
        convert_detector({"weight": torch.zeros(1)}, "fcos_resnet50_fpn")


def test_match_settings_sets_the_head_variant_and_says_so() -> None:
    before = recipe("sais-r50-768")
    after, (note,) = match_settings(before, "torchvision:fcos_resnet50_fpn")
    assert after.model.distance_activation == "relu"
    assert "model.distance_unit stride instead of pixel" in note
    assert replace(after, model=before.model) == before
    assert match_settings(recipe("sais-r50-finetune"), "torchvision:fcos_resnet50_fpn")[1] == []


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (recipe("sais-lite"), r"need model\.backbone resnet50\.tv_in1k, not tf_efficientnet_lite0\.in1k"),
        (recipe("sais-r50-640-slim"), r"need model\.channels 256, not 128"),
    ],
)
def test_match_settings_rejects_other_networks(experiment: Experiment, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        match_settings(experiment, "torchvision:fcos_resnet50_fpn")


def test_parse_source_suggests_the_nearest_detector() -> None:
    assert parse_source("torchvision:fcos_resnet50_fpn") == ("fcos_resnet50_fpn", None)
    assert parse_source("torchvision:fcos_resnet50_fpn=a=b.pth") == ("fcos_resnet50_fpn", Path("a=b.pth"))
    with pytest.raises(ConfigError, match=r"did you mean 'fcos_resnet50_fpn'"):
        parse_source("torchvision:fcos_resnet50")
    with pytest.raises(ConfigError, match=r"Write torchvision:fcos_resnet50_fpn=FILE\.pth"):
        parse_source("torchvision:fcos_resnet50_fpn=")


def test_read_detector_weights_reports_a_missing_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ResourceError, match=r"cannot be downloaded \(Name or service not known\)\. Connect") as error:
        read_detector_weights("torchvision:fcos_resnet50_fpn")
    assert f"copy fcos_resnet50_fpn_coco-99b0c9b7.pth to {tmp_path / 'hub' / 'checkpoints'}" in str(error.value)


def test_read_detector_weights_uses_the_cache_of_torch_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    cached.parent.mkdir(parents=True)
    tensors = {
        "backbone.body.layer4.2.conv3.weight": torch.ones(2),
        "backbone.fpn.inner_blocks.3.0.weight": torch.ones(3),
    }
    torch.save(tensors, cached)
    weights = read_detector_weights("torchvision:maskrcnn_resnet50_fpn")
    assert sorted(weights.tensors) == ["backbone.network.layer4.2.conv3.weight", "fpn.pyramid.inner_blocks.2.0.weight"]
    cached.write_bytes(cached.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"corrupted .* Delete it and try again"):
        read_detector_weights("torchvision:maskrcnn_resnet50_fpn")


def test_read_detector_weights_reads_tensors_only_from_a_file(tmp_path: Path) -> None:
    tensors = {
        "backbone.body.layer4.2.conv3.weight": torch.ones(2),
        "backbone.fpn.inner_blocks.3.0.weight": torch.ones(3),
    }
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "checkpoint.pth")
    weights = read_detector_weights(f"torchvision:maskrcnn_resnet50_fpn={tmp_path / 'checkpoint.pth'}")
    assert len(weights.tensors) == 2
    torch.save({"model": tensors, "args": Path("pickled object")}, tmp_path / "objects.pth")
    with pytest.raises(CheckpointError, match=r"objects\.pth: not a file of tensors"):
        read_detector_weights(f"torchvision:maskrcnn_resnet50_fpn={tmp_path / 'objects.pth'}")
    with pytest.raises(CheckpointError, match=r"absent\.pth: no such file"):
        read_detector_weights("torchvision:maskrcnn_resnet50_fpn=absent.pth")
