"""Tests of Mask R-CNN and FCOS as architectures: losses, detections, training runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peers.torchvision_peers import FCOS, MASK_RCNN, fcos_torchvision_r50, mask_rcnn_r50, mask_rcnn_r101
from peers.torchvision_peers.common import with_float32_outputs
from peers.torchvision_peers.mask_rcnn import MaskRcnn
from peers.torchvision_peers.masks import full_masks
from sais.checkpoint import Checkpoint, add_prefix, load_checkpoint, load_weights, save_checkpoint
from sais.config import Experiment, from_dict, to_dict
from sais.config_ranges import check_ranges
from sais.data.formats import read_dataset
from sais.data.paths import DataPaths
from sais.data.synthetic import write_shapes
from sais.engine.optim import parameter_groups
from sais.engine.train_step import compute_losses
from sais.engine.trainer import train
from sais.errors import ConfigError
from sais.evaluation.evaluate import evaluate
from sais.inference.predictor import Predictor
from sais.inference.trained_model import TrainedModel
from sais.modeling.architecture import Architecture
from sais.ops.letterbox import CanvasMap
from sais.structures import GroundTruth
from tests.peers.torchvision_peers.torchvision_samples import (
    BOTH,
    CLASSES,
    NAMES,
    TWO,
    batch_of,
    built,
    objects_of,
    small,
)

TERMS = {
    "mask-rcnn": ["objectness", "proposal", "classification", "box", "mask"],
    "fcos-torchvision": ["classification", "box", "centerness"],
}


# --- networks and losses


def losses_of(
    architecture: Architecture, model: nn.Module, *ground_truths: GroundTruth, precision: str = "fp32"
) -> dict[str, Tensor]:
    experiment = small(architecture)
    experiment = replace(experiment, run=replace(experiment.run, precision=precision))
    criterion = architecture.build_criterion(experiment)
    return compute_losses(model, criterion, batch_of(*ground_truths), precision)


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_have_gradients_for_every_part(architecture: Architecture, precision: str) -> None:
    model = built(architecture).train()
    terms = losses_of(architecture, model, objects_of(TWO), objects_of([]), precision=precision)
    assert list(terms) == TERMS[architecture.name]
    assert all(term.isfinite() and term > 0 and term.dtype == torch.float32 for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for part in (
        "backbone.network",
        "fpn",
        *(("rpn", "roi_heads", "mask_head") if architecture is MASK_RCNN else ("detector",)),
    ):
        assert any(p.grad is not None and p.grad.any() for p in model.get_submodule(part).parameters()), part


@BOTH
def test_losses_without_objects(architecture: Architecture) -> None:
    model = built(architecture).train()
    terms = losses_of(architecture, model, objects_of([]), objects_of([]))
    assert terms["box"] == 0
    assert terms["classification"] > 0
    if architecture is MASK_RCNN:
        assert terms["mask"] == 0
        assert terms["objectness"] > 0
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_objects_without_masks_have_no_mask_loss() -> None:
    terms = losses_of(MASK_RCNN, built(MASK_RCNN).train(), objects_of(TWO, masks=False))
    assert terms["mask"] == 0
    assert terms["box"] > 0


@BOTH
def test_checkpoint_has_every_parameter_once(architecture: Architecture, tmp_path: Path) -> None:
    model = architecture.build(small(architecture, pretrained=True), len(CLASSES))
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(p) for p in model.parameters()})
    inside = {id(p) for p in model.backbone.parameters()}
    assert all((id(p) in inside) == name.startswith("backbone.") for name, p in model.named_parameters())
    assert any(not p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad for p in built(architecture).parameters())
    trained = sum(p.requires_grad for p in model.parameters())
    assert sum(len(g["params"]) for g in parameter_groups(model, Experiment().optim)) == trained
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Checkpoint(small(architecture), CLASSES, (1, 2, 3), add_prefix("model", model.state_dict())))
    other = built(architecture, pretrained=True)
    load_weights(other, load_checkpoint(path).part("model"), path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_build_mask_rcnn_is_cheaper_below_256_channels() -> None:
    wide, narrow = built(MASK_RCNN, channels=256), built(MASK_RCNN, channels=96)
    assert isinstance(wide, MaskRcnn)
    assert isinstance(narrow, MaskRcnn)
    assert wide.roi_heads.box_head.fc7.out_features == 1024
    assert narrow.roi_heads.box_head.fc7.out_features == 384
    assert wide.roi_heads.fg_bg_sampler.batch_size_per_image == 512
    assert narrow.roi_heads.fg_bg_sampler.batch_size_per_image == 64
    assert (wide.mask_regions, narrow.mask_regions) == (128, 8)
    assert wide.rpn.pre_nms_top_n() == wide.rpn.post_nms_top_n() == 2000
    assert wide.eval().rpn.pre_nms_top_n() == wide.rpn.post_nms_top_n() == 1000
    with torch.no_grad():
        features = narrow.features(torch.zeros(1, 3, 192, 128, dtype=torch.uint8))
    assert [tuple(f.shape[1:]) for f in features.values()] == [(96, 192 // s, 128 // s) for s in (4, 8, 16, 32, 64)]


def test_with_float32_outputs_converts_nested_outputs() -> None:
    class Identity(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
            return x, [x], {"x": x}

    single, several, named = with_float32_outputs(Identity())(torch.zeros(2, dtype=torch.bfloat16))
    assert single.dtype == several[0].dtype == named["x"].dtype == torch.float32


@BOTH
def test_build_rejects_unsupported_settings(architecture: Architecture) -> None:
    with pytest.raises(ConfigError, match=r"model\.masks"):
        architecture.build(small(architecture, masks=architecture is FCOS), 3)
    with pytest.raises(ConfigError, match="multiple of 32"):
        FCOS.build(small(FCOS, channels=80), 3)


# --- prediction


def predictor_of(model: nn.Module, experiment: Experiment) -> Predictor:
    return Predictor(TrainedModel(model, experiment, CLASSES, (1, 2, 3)), device="cpu")


def test_mask_rcnn_detects_inside_the_image_only() -> None:
    """Boxes are clipped to the image without padding; both mask assemblies agree up to rounding."""
    model = built(MASK_RCNN)
    experiment = small(MASK_RCNN)
    experiment = replace(
        experiment, postprocess=replace(experiment.postprocess, score_threshold=0.1, max_detections=20)
    )
    predictor = predictor_of(model, experiment)
    images = batch_of(*[objects_of([])] * 2, side=128).images
    canvas_maps = [CanvasMap((150, 90), (128, 128), (0.8, 0.8)), CanvasMap((64, 64), (128, 128), (2.0, 2.0))]
    results = predictor.detect(images, canvas_maps)
    with torch.inference_mode():
        model.eval().set_postprocess(experiment.postprocess)
        expected = model(images, [canvas_map.content_size for canvas_map in canvas_maps])
    for detections, regions, canvas_map in zip(results, expected, canvas_maps, strict=True):
        height, width = canvas_map.image_size
        vertical, horizontal = canvas_map.scale
        boxes = regions.boxes / torch.tensor([horizontal, vertical, horizontal, vertical])
        masks = full_masks(regions.probabilities, boxes, (height, width))
        assert 0 < len(detections) <= 20
        assert len(detections.cropped_masks) == len(detections)
        assert detections.boxes.min() >= 0
        assert (detections.boxes[:, 2:] <= [width, height]).all()
        assert (detections.boxes[:, 2:] > detections.boxes[:, :2]).all()
        assert (np.diff(detections.scores) <= 0).all()
        assert detections.scores.min() > 0.1
        np.testing.assert_allclose(boxes.numpy(), detections.boxes, atol=1e-3)
        assert masks.shape == (len(detections), height, width)
        assert (masks.numpy() == detections.masks()).mean() > 0.95


def test_fcos_decodes_injected_outputs() -> None:
    """Outputs at known locations are returned as boxes in image pixels; boxes in the padding are removed."""
    model = built(FCOS)
    experiment = small(FCOS)
    images = batch_of(objects_of([]), side=128).images

    def inject(module: nn.Module, inputs: object, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, distances = torch.full_like(outputs["cls_logits"], -20), torch.zeros_like(outputs["bbox_regression"])
        centerness = torch.full_like(outputs["bbox_ctrness"], 20)
        inside = 5 * 16 + 4  # location (32, 40) of the 16 x 16 locations of P3
        logits[0, inside, 2], distances[0, inside] = 20, torch.tensor([2.0, 3.0, 4.0, 1.0])  # strides of 8
        beyond = 2 * 16 + 15  # location (120, 16), entirely in the padding, which starts at 64
        logits[0, beyond, 1], distances[0, beyond] = 20, torch.tensor([1.0, 1.0, 1.0, 1.0])
        return {"cls_logits": logits, "bbox_regression": distances, "bbox_ctrness": centerness}

    model.detector.head.register_forward_hook(inject)
    predictor = predictor_of(model, experiment)
    detections = predictor.detect(images, [CanvasMap((256, 128), (128, 128), (0.5, 0.5))])[0]
    np.testing.assert_allclose(detections.boxes, [[2 * 16, 2 * 16, 2 * 64, 2 * 48]], atol=1e-3)
    assert detections.labels.tolist() == [2]
    assert detections.scores[0] > 0.99
    assert detections.cropped_masks == []


# --- recipes and runs


@pytest.mark.parametrize("make", [mask_rcnn_r50, mask_rcnn_r101, fcos_torchvision_r50])
def test_recipes_are_valid(make: object) -> None:
    assert callable(make)
    experiment = make()
    check_ranges(experiment)
    assert from_dict(Experiment, to_dict(experiment)) == experiment
    assert experiment.optim.batch_size == 16
    assert (experiment.schedule.epochs, experiment.schedule.milestones) == (12, (8, 11))
    assert experiment.model.masks == (make is not fcos_torchvision_r50)


@BOTH
def test_train_predict_and_evaluate(architecture: Architecture, shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    masks = architecture is MASK_RCNN
    experiment = replace(tiny, model=replace(tiny.model, masks=masks, architecture=NAMES[architecture.name]))
    result = train(experiment, DataPaths(shapes), tmp_path / "run", max_iterations=2)
    assert result.iterations == 2
    train(experiment, DataPaths(shapes), tmp_path / "run", resume=True, max_iterations=3)
    predictor = Predictor(tmp_path / "run" / "last.safetensors", device="cpu")
    assert predictor.experiment.model == experiment.model
    assert predictor(np.zeros((50, 60, 3), np.uint8)).image_size == (50, 60)
    assert evaluate(predictor, shapes, workers=0).metrics is not None


def test_micro_batches_are_rejected(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    experiment = replace(
        tiny,
        model=replace(tiny.model, architecture=NAMES["mask-rcnn"]),
        optim=replace(tiny.optim, batch_size=4, micro_batch=2),
    )
    with pytest.raises(ConfigError, match="no normalizers"):
        train(experiment, DataPaths(shapes), tmp_path / "run", max_iterations=1)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "lr", "epochs"), [(MASK_RCNN, 2e-3, 120), (FCOS, 1e-3, 60)])
def test_overfits_four_images(
    architecture: Architecture, lr: float, epochs: int, tiny: Experiment, tmp_path: Path
) -> None:
    write_shapes(tmp_path / "four", train=4, valid=1, size=(96, 96), seed=3)
    masks = architecture is MASK_RCNN
    experiment = replace(
        tiny,
        input=replace(tiny.input, size=(96, 96)),
        augment=replace(tiny.augment, flip=0.0),
        model=replace(tiny.model, masks=masks, architecture=NAMES[architecture.name]),
        postprocess=replace(tiny.postprocess, score_threshold=0.05),
        optim=replace(tiny.optim, lr=lr, grad_clip_norm=10.0),
        schedule=replace(tiny.schedule, epochs=epochs),
    )
    result = train(experiment, DataPaths(tmp_path / "four"), tmp_path / "run")
    predictor = Predictor(tmp_path / "run" / "model.safetensors", device="cpu")
    metrics = evaluate(predictor, read_dataset(tmp_path / "four", "train"), workers=0).metrics
    assert metrics is not None
    assert metrics.box is not None
    assert (metrics.mask is not None) == masks
    scores = metrics.mask or metrics.box
    print(f"{architecture.name}: AP50 {scores.AP50:.3f}, AP {scores.AP:.3f}, {result.seconds:.1f} s")
    assert scores.AP50 > 0.9
