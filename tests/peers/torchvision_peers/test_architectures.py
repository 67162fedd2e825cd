"""Mask R-CNN and FCOS of torchvision as peers: what is trained, what is found, runs through our engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peers.detector import load_detector
from peers.torchvision_peers import FCOS, MASK_RCNN, fcos_torchvision_r50, mask_rcnn_r50, mask_rcnn_r101
from peers.torchvision_peers.common import answering_in_float32
from peers.torchvision_peers.mask_rcnn import MaskRcnn
from peers.torchvision_peers.masks import full_masks
from sais.checkpoint import Checkpoint, add_prefix, load_checkpoint, load_weights, save_checkpoint
from sais.config import Experiment, check_ranges, from_dict, to_dict
from sais.data.formats import read_dataset
from sais.data.paths import DataPaths
from sais.data.synthetic import write_shapes
from sais.engine.architecture import Architecture
from sais.engine.optim import parameter_groups
from sais.engine.trainer import train
from sais.errors import SaisError
from sais.evaluation.evaluate import evaluate
from sais.ops.letterbox import CanvasMap
from tests.peers.torchvision_peers.torchvision_samples import BOTH, CLASSES, TWO, batch_of, built, objects_of, small

TERMS = {
    "mask-rcnn": ["objectness", "proposal", "classification", "box", "mask"],
    "fcos-torchvision": ["classification", "box", "centerness"],
}


# --- networks and losses


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_reach_every_trained_part(system: Architecture, precision: str) -> None:
    model = built(system).train()
    experiment = small(system)
    experiment = replace(experiment, run=replace(experiment.run, precision=precision))
    terms = system.losses(model, batch_of(objects_of(TWO), objects_of([])), experiment, 0)
    assert list(terms) == TERMS[system.name]
    assert all(term.isfinite() and term > 0 and term.dtype == torch.float32 for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    for part in (
        "backbone.network",
        "fpn",
        *(("rpn", "roi_heads", "mask_head") if system is MASK_RCNN else ("detector",)),
    ):
        assert any(p.grad is not None and p.grad.any() for p in model.get_submodule(part).parameters()), part


@BOTH
def test_images_without_objects_train(system: Architecture) -> None:
    model = built(system).train()
    terms = system.losses(model, batch_of(objects_of([]), objects_of([])), small(system), 0)
    assert terms["box"] == 0
    assert terms["classification"] > 0
    if system is MASK_RCNN:
        assert terms["mask"] == 0
        assert terms["objectness"] > 0
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_bare_boxes_train_everything_but_the_mask() -> None:
    model = built(MASK_RCNN).train()
    terms = MASK_RCNN.losses(model, batch_of(objects_of(TWO, outlines=False)), small(MASK_RCNN), 0)
    assert terms["mask"] == 0
    assert terms["box"] > 0


@BOTH
def test_the_engine_finds_the_backbone_once_and_a_checkpoint_holds_everything(
    system: Architecture, tmp_path: Path
) -> None:
    model = system.build(small(system, pretrained=True), len(CLASSES))
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(p) for p in model.parameters()})
    inside = {id(p) for p in model.backbone.parameters()}
    assert all((id(p) in inside) == name.startswith("backbone.") for name, p in model.named_parameters())
    assert any(not p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad for p in built(system).parameters())
    trained = sum(p.requires_grad for p in model.parameters())
    assert sum(len(g["params"]) for g in parameter_groups(model, Experiment().optim)) == trained
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Checkpoint(small(system), CLASSES, (1, 2, 3), add_prefix("model", model.state_dict())))
    other = built(system, pretrained=True)
    load_weights(other, load_checkpoint(path).part("model"), path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_widths() -> None:
    """torchvision's own numbers at 256 channels, cheaper ones below."""
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


def test_outputs_in_float32() -> None:
    class Answers(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
            return x, [x], {"one": x}

    one, several, named = answering_in_float32(Answers())(torch.zeros(2, dtype=torch.bfloat16))
    assert one.dtype == several[0].dtype == named["one"].dtype == torch.float32


@BOTH
def test_systems_refuse_what_they_are_not(system: Architecture) -> None:
    with pytest.raises(SaisError, match=r"--model.masks"):
        system.build(small(system, masks=system is FCOS), 3)
    with pytest.raises(SaisError, match="multiple of 32"):
        FCOS.build(small(FCOS, channels=80), 3)


# --- prediction


def test_mask_rcnn_finds_inside_the_image_only() -> None:
    """Boxes lie in the image, never in the padding; masks of both assemblies are the same but for rounding."""
    model = built(MASK_RCNN)
    experiment = small(MASK_RCNN)
    experiment = replace(
        experiment, postprocess=replace(experiment.postprocess, score_threshold=0.1, max_detections=20)
    )
    finder = MASK_RCNN.finder(model, experiment, CLASSES, (1, 2, 3), "cpu")
    images = batch_of(*[objects_of([])] * 2, side=128).images
    canvas_maps = [CanvasMap((150, 90), (128, 128), (0.8, 0.8)), CanvasMap((64, 64), (128, 128), (2.0, 2.0))]
    found = finder.detect(images, canvas_maps)
    with torch.inference_mode():
        answers = model(images, [canvas_map.content_size for canvas_map in canvas_maps])
    for detections, regions, canvas_map in zip(found, answers, canvas_maps, strict=True):
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


def test_fcos_finds_the_boxes_it_was_told() -> None:
    """Outputs injected at known locations come out as boxes in image pixels; what lies in the padding goes."""
    model = built(FCOS)
    experiment = small(FCOS)
    finder = FCOS.finder(model, experiment, CLASSES, (1, 2, 3), "cpu")
    images = batch_of(objects_of([]), side=128).images

    def injected(module: nn.Module, inputs: object, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, distances = torch.full_like(outputs["cls_logits"], -20), torch.zeros_like(outputs["bbox_regression"])
        centerness = torch.full_like(outputs["bbox_ctrness"], 20)
        at = 5 * 16 + 4  # of P3's 16 x 16: the location (32, 40)
        logits[0, at, 2], distances[0, at] = 20, torch.tensor([2.0, 3.0, 4.0, 1.0])  # strides of 8
        beyond = 2 * 16 + 15  # (120, 16): wholly in the padding, whose right half begins at 64
        logits[0, beyond, 1], distances[0, beyond] = 20, torch.tensor([1.0, 1.0, 1.0, 1.0])
        return {"cls_logits": logits, "bbox_regression": distances, "bbox_ctrness": centerness}

    model.detector.head.register_forward_hook(injected)
    detections = finder.detect(images, [CanvasMap((256, 128), (128, 128), (0.5, 0.5))])[0]
    np.testing.assert_allclose(detections.boxes, [[2 * 16, 2 * 16, 2 * 64, 2 * 48]], atol=1e-3)
    assert detections.labels.tolist() == [2]
    assert detections.scores[0] > 0.99
    assert detections.cropped_masks == []
    assert model.detector.score_thresh == 0.05
    assert model.detector.topk_candidates == 1000


# --- recipes and runs


@pytest.mark.parametrize("make", [mask_rcnn_r50, mask_rcnn_r101, fcos_torchvision_r50])
def test_recipes_are_whole(make: object) -> None:
    assert callable(make)
    experiment = make()
    check_ranges(experiment)
    assert from_dict(Experiment, to_dict(experiment)) == experiment
    assert experiment.optim.batch_size == 16
    assert (experiment.schedule.epochs, experiment.schedule.milestones) == (12, (8, 11))
    assert experiment.model.masks == (make is not fcos_torchvision_r50)


@BOTH
def test_a_run_through_the_engine(system: Architecture, shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    experiment = replace(tiny, model=replace(tiny.model, masks=system is MASK_RCNN))
    result = train(experiment, DataPaths(shapes), tmp_path / "run", max_iterations=2, architecture=system)
    assert result.iterations == 2
    train(experiment, DataPaths(shapes), tmp_path / "run", resume=True, max_iterations=3, architecture=system)
    finder = load_detector(tmp_path / "run" / "last.safetensors", system, "cpu")
    assert finder.experiment.model == experiment.model
    with pytest.raises(SaisError, match=f"a run of {system.name}, not of sais"):
        train(experiment, DataPaths(shapes), tmp_path / "run", resume=True)


def test_another_system_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(
        path, Checkpoint(Experiment(), CLASSES, (1, 2, 3), {"model.weight": torch.zeros(1)}, {"system": "sais"})
    )
    with pytest.raises(SaisError, match="a model of sais; give one of mask-rcnn"):
        load_detector(path, MASK_RCNN)


@pytest.mark.slow
@pytest.mark.parametrize(("system", "lr", "epochs"), [(MASK_RCNN, 2e-3, 60), (FCOS, 1e-3, 45)])
def test_eight_images_are_learnt_by_heart(
    system: Architecture, lr: float, epochs: int, tiny: Experiment, tmp_path: Path
) -> None:
    write_shapes(tmp_path / "eight", train=8, valid=1, size=(96, 96), seed=3)
    masks = system is MASK_RCNN
    experiment = replace(
        tiny,
        input=replace(tiny.input, size=(128, 128)),
        augment=replace(tiny.augment, flip=0.0),
        model=replace(tiny.model, masks=masks),
        postprocess=replace(tiny.postprocess, score_threshold=0.05),
        optim=replace(tiny.optim, lr=lr, grad_clip_norm=10.0),
        schedule=replace(tiny.schedule, epochs=epochs),
    )
    result = train(experiment, DataPaths(tmp_path / "eight"), tmp_path / "run", architecture=system)
    finder = load_detector(tmp_path / "run" / "model.safetensors", system, "cpu")
    metrics = evaluate(finder, read_dataset(tmp_path / "eight", "train"), workers=0).metrics
    assert metrics is not None
    assert metrics.box is not None
    assert (metrics.mask is not None) == masks
    judged = metrics.mask or metrics.box
    print(f"{system.name}: AP50 {judged.AP50:.3f}, AP {judged.AP:.3f}, {result.seconds:.1f} s")
    assert judged.AP50 > 0.9
