"""Mask R-CNN and FCOS of torchvision as peers: mask targets and pasting by value, losses, runs through our engine."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from benchmarks.finder import load_finder
from benchmarks.torchvision_peers import FCOS, MASK_RCNN, fcos_torchvision_r50, mask_rcnn_r50, mask_rcnn_r101
from benchmarks.torchvision_peers.common import answering_in_float32
from benchmarks.torchvision_peers.losses import Chosen, choose_mask_regions
from benchmarks.torchvision_peers.mask_rcnn import MaskRcnn
from benchmarks.torchvision_peers.masks import coverage_grids, full_masks, mask_loss, mask_targets, pasted
from sais.checkpoint import Checkpoint, fill, load, prefixed, save
from sais.config import Experiment, check_ranges, from_dict, to_dict
from sais.data.formats import find
from sais.data.paths import DataPaths
from sais.data.synthetic import write_shapes
from sais.detections import Patch
from sais.engine.evaluate import evaluate
from sais.engine.optim import parameter_groups
from sais.engine.system import System
from sais.engine.train import train
from sais.images import place
from sais.structures import Batch, Objects, Placement, SaisError

CLASSES = ("a", "b", "c")
TERMS = {
    "mask-rcnn": ["objectness", "proposal", "classification", "box", "mask"],
    "fcos-torchvision": ["classification", "box", "centerness"],
}
BOTH = pytest.mark.parametrize("system", [MASK_RCNN, FCOS], ids=lambda system: system.name)


def small(system: System, **model: object) -> Experiment:
    """Random weights, 64 channels."""
    settings = {
        "backbone": "tf_efficientnet_lite0.in1k",
        "channels": 64,
        "pretrained": False,
        "masks": system is MASK_RCNN,
    }
    return replace(Experiment(), model=replace(Experiment().model, **(settings | model)))


def built(system: System, **model: object) -> nn.Module:
    torch.manual_seed(0)
    return system.build(small(system, **model), len(CLASSES))


def objects_of(boxes: list[list[float]], outlines: bool = True) -> Objects:
    """Objects of labels 0, 1, 2, ... whose coverage is random in their windows."""
    windows, values = [], [torch.zeros(0, dtype=torch.uint8)]
    generator = torch.Generator().manual_seed(1)
    for x1, y1, x2, y2 in boxes:
        window = [math.floor(x1 / 4), math.floor(y1 / 4), math.ceil(x2 / 4), math.ceil(y2 / 4)] if outlines else [0] * 4
        windows.append(window)
        area = (window[2] - window[0]) * (window[3] - window[1])
        values.append(torch.randint(0, 256, (area,), generator=generator, dtype=torch.uint8))
    return Objects(
        torch.tensor(boxes).view(-1, 4),
        torch.arange(len(boxes)) % len(CLASSES),
        torch.tensor(windows, dtype=torch.int64).view(-1, 4),
        torch.cat(values),
    )


def batch_of(*objects: Objects, side: int = 96) -> Batch:
    generator = torch.Generator().manual_seed(2)
    pictures = torch.randint(0, 256, (len(objects), 3, side, side), generator=generator, dtype=torch.uint8)
    placements = [place((side, side), "fixed", (side, side))] * len(objects)
    return Batch(pictures, list(objects), list(range(len(objects))), placements)


TWO = [[8.0, 12.0, 50.0, 60.0], [40.0, 30.0, 90.0, 80.0]]


# --- mask targets and pasting


def bilinear(grid: Tensor, x: float, y: float) -> float:
    """The value at a point in cells (continuous edges); beyond the outermost centres the outermost cell's, beyond the
    grid by more than half a cell 0."""
    height, width = grid.shape
    x, y = x - 0.5, y - 0.5
    if x < -1 or y < -1 or x > width or y > height:
        return 0.0
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    across, down = x - left, y - top
    upper = (1 - across) * float(grid[top, left]) + across * float(grid[top, left + 1])
    lower = (1 - across) * float(grid[top + 1, left]) + across * float(grid[top + 1, left + 1])
    return (1 - down) * upper + down * lower


def test_coverage_lies_where_its_window_is() -> None:
    objects = objects_of([[8.0, 4.0, 16.0, 16.0], [0.0, 0.0, 4.0, 8.0]])
    grids = coverage_grids(objects, (6, 7))
    assert grids.shape == (2, 6, 7)
    torch.testing.assert_close(grids[0, 1:4, 2:4].flatten(), objects.mask_values[:6] / 255)
    torch.testing.assert_close(grids[1, :2, :1].flatten(), objects.mask_values[6:] / 255)
    assert (grids[0] > 0).sum() <= 6
    assert (grids[1] > 0).sum() <= 2


def test_mask_targets_equal_a_loop() -> None:
    objects = objects_of(TWO)
    regions = torch.tensor([[6.0, 10.0, 52.0, 66.0], [40.0, 30.0, 90.0, 80.0], [0.5, 41.0, 95.5, 63.3]])
    matched, side = torch.tensor([0, 1, 1]), 7
    found = mask_targets(objects, regions, matched, (24, 24), side)
    grids = coverage_grids(objects, (24, 24))
    for target, index, box in zip(found, matched, regions, strict=True):
        x1, y1, x2, y2 = (box / 4).tolist()
        points = [math.ceil((y2 - y1) / side), math.ceil((x2 - x1) / side)]  # asked in each cell, down and across
        for row in range(side):
            for column in range(side):
                asked = [
                    bilinear(
                        grids[index],
                        x1 + (column + (i + 0.5) / points[1]) * (x2 - x1) / side,
                        y1 + (row + (j + 0.5) / points[0]) * (y2 - y1) / side,
                    )
                    for i in range(points[1])
                    for j in range(points[0])
                ]
                assert float(target[row, column]) == pytest.approx(sum(asked) / len(asked), abs=1e-5)
    assert mask_targets(objects, regions[:0], matched[:0], (24, 24)).shape == (0, 28, 28)


def test_the_mask_loss_looks_at_the_own_class_only() -> None:
    logits = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(3))
    targets = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([1, 3, 2])
    total = 0.0
    for region, label in enumerate(labels):
        for t, p in zip(targets[region].flatten(), logits[region, label].sigmoid().flatten(), strict=True):
            total -= float(t * p.log() + (1 - t) * (1 - p).log())
    assert float(mask_loss(logits, labels, targets)) == pytest.approx(total / 75, abs=1e-5)
    assert mask_loss(logits[:0], labels[:0], targets[:0]) == 0


def test_mask_regions_have_an_object_with_an_outline() -> None:
    bare = objects_of(TWO)
    bare.mask_windows[0] = 0  # the first has a box only
    boxes = torch.rand(60, 4)
    matched, labels = torch.arange(60) % 2, torch.tensor([1, 2, 0, 0] * 15)
    chosen = Chosen([boxes] * 2, [matched] * 2, [labels] * 2, [boxes] * 2)
    torch.manual_seed(0)
    found = choose_mask_regions(chosen, [objects_of(TWO), bare], limit=20)
    assert [len(b) for b in found.boxes] == [20, 15]
    assert found.matched[1].unique().tolist() == [1]
    assert found.labels[1].unique().tolist() == [2]
    kept = [int((boxes == box).all(1).nonzero()) for box in found.boxes[0]]
    assert len(set(kept)) == 20
    assert found.labels[0].tolist() == labels[kept].tolist()
    assert (found.labels[0] > 0).all()


def blobs(number: int, seed: int, cells: int = 7) -> Tensor:
    """(number, 28, 28) probabilities of smooth random shapes."""
    noise = torch.randn(number, 1, cells, cells, generator=torch.Generator().manual_seed(seed)) * 4 + 1
    return nn.functional.interpolate(noise, (28, 28), mode="bicubic")[:, 0].sigmoid()


def whole(patches: list[Patch], size: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(patches), *size), bool)
    for full, patch in zip(masks, patches, strict=True):
        full[patch.y : patch.y + patch.bits.shape[0], patch.x : patch.x + patch.bits.shape[1]] = patch.bits
    return masks


def test_pasted_masks_agree_with_torchvision() -> None:
    """Rounded as torchvision rounds boxes, the same pixels; as they are, half a pixel apart at the box's edges."""
    boxes = torch.tensor([[20.3, 10, 90, 110.8], [60, 60.9, 160, 120], [0, 5, 30.5, 45], [100, 2, 130, 40]])
    size = (128, 160)
    for maps, least in ((blobs(4, 5), 0.98), (blobs(4, 5, cells=3), 0.99)):
        theirs = full_masks(maps, boxes, size).numpy()
        assert np.array_equal(theirs, (paste_masks_in_image(maps[:, None], boxes, size)[:, 0] > 0.5).numpy())
        assert (theirs.sum((1, 2)) > 0.2 * (boxes[:, 2:] - boxes[:, :2]).prod(1).numpy()).all()
        ours = whole(pasted(maps.numpy(), boxes.numpy(), size), size)
        assert (ours == theirs).mean((1, 2)).min() > least
        # Theirs: the padded map covers whole pixels, from the truncated edge through the pixel of the other one.
        middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (30 / 28)
        low, high = (middle - half).to(torch.int64), (middle + half).to(torch.int64) + 1
        middle, half = (low + high) / 2, (high - low) / 2 * (28 / 30)
        rounded = torch.cat([middle - half, middle + half], dim=1)
        assert (whole(pasted(maps.numpy(), rounded.numpy(), size), size) == theirs).mean() > 0.9999
    assert full_masks(maps[:0], boxes[:0], size).shape == (0, *size)


def test_pasted_masks_equal_a_loop() -> None:
    boxes = np.array([[3.3, 4.2, 50.7, 30.9], [0, 0, 64, 40], [10.6, 10.6, 11.2, 11.9], [10.6, 3, 11.4, 9]], np.float32)
    maps = blobs(4, 6)
    patches = pasted(maps.numpy(), boxes, (40, 64))
    padded = nn.functional.pad(maps, (1, 1, 1, 1))  # zeros around, as torchvision has them
    assert patches[3].bits.shape == (6, 0)  # no pixel's centre lies in it
    for patch, values, (x1, y1, x2, y2) in zip(patches, padded, boxes.tolist(), strict=True):
        for row, column in np.ndindex(patch.bits.shape):
            x, y = patch.x + column + 0.5, patch.y + row + 0.5
            assert x1 <= x <= x2
            assert y1 <= y <= y2
            value = bilinear(values, (x - x1) / (x2 - x1) * 28 + 1, (y - y1) / (y2 - y1) * 28 + 1)
            assert bool(patch.bits[row, column]) == (value > 0.5) or abs(value - 0.5) < 1e-5
    assert sum(patch.bits.sum() for patch in patches) > 500


# --- networks and losses


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_reach_every_trained_part(system: System, precision: str) -> None:
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
def test_pictures_without_objects_train(system: System) -> None:
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
def test_the_engine_finds_the_backbone_once_and_a_checkpoint_holds_everything(system: System, tmp_path: Path) -> None:
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
    save(path, Checkpoint(small(system), CLASSES, (1, 2, 3), prefixed("model", model.state_dict())))
    other = built(system, pretrained=True)
    fill(other, load(path).part("model"), path)
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
def test_systems_refuse_what_they_are_not(system: System) -> None:
    with pytest.raises(SaisError, match=r"--model.masks"):
        system.build(small(system, masks=system is FCOS), 3)
    with pytest.raises(SaisError, match="multiple of 32"):
        FCOS.build(small(FCOS, channels=80), 3)


# --- prediction


def test_mask_rcnn_finds_inside_the_picture_only() -> None:
    """Boxes lie in the picture, never in the padding; masks of both assemblies are the same but for rounding."""
    model = built(MASK_RCNN)
    experiment = small(MASK_RCNN)
    experiment = replace(experiment, test=replace(experiment.test, score=0.1, detections=20))
    finder = MASK_RCNN.finder(model, experiment, CLASSES, (1, 2, 3), "cpu")
    pictures = batch_of(*[objects_of([])] * 2, side=128).pictures
    placements = [Placement((150, 90), (128, 128), (0.8, 0.8)), Placement((64, 64), (128, 128), (2.0, 2.0))]
    found = finder.detect(pictures, placements)
    with torch.inference_mode():
        answers = model(pictures, [placement.content_size for placement in placements])
    for detections, regions, placement in zip(found, answers, placements, strict=True):
        height, width = placement.picture_size
        vertical, horizontal = placement.scale
        boxes = regions.boxes / torch.tensor([horizontal, vertical, horizontal, vertical])
        masks = full_masks(regions.probabilities, boxes, (height, width))
        assert 0 < len(detections) <= 20
        assert len(detections.patches) == len(detections)
        assert detections.boxes.min() >= 0
        assert (detections.boxes[:, 2:] <= [width, height]).all()
        assert (detections.boxes[:, 2:] > detections.boxes[:, :2]).all()
        assert (np.diff(detections.scores) <= 0).all()
        assert detections.scores.min() > 0.1
        np.testing.assert_allclose(boxes.numpy(), detections.boxes, atol=1e-3)
        assert masks.shape == (len(detections), height, width)
        assert (masks.numpy() == detections.masks()).mean() > 0.95


def test_fcos_finds_the_boxes_it_was_told() -> None:
    """Outputs planted at known locations come out as boxes in picture pixels; what lies in the padding goes."""
    model = built(FCOS)
    experiment = small(FCOS)
    finder = FCOS.finder(model, experiment, CLASSES, (1, 2, 3), "cpu")
    pictures = batch_of(objects_of([]), side=128).pictures

    def planted(module: nn.Module, inputs: object, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        logits, distances = torch.full_like(outputs["cls_logits"], -20), torch.zeros_like(outputs["bbox_regression"])
        centerness = torch.full_like(outputs["bbox_ctrness"], 20)
        at = 5 * 16 + 4  # of P3's 16 x 16: the location (32, 40)
        logits[0, at, 2], distances[0, at] = 20, torch.tensor([2.0, 3.0, 4.0, 1.0])  # strides of 8
        beyond = 2 * 16 + 15  # (120, 16): wholly in the padding, whose right half begins at 64
        logits[0, beyond, 1], distances[0, beyond] = 20, torch.tensor([1.0, 1.0, 1.0, 1.0])
        return {"cls_logits": logits, "bbox_regression": distances, "bbox_ctrness": centerness}

    model.detector.head.register_forward_hook(planted)
    detections = finder.detect(pictures, [Placement((256, 128), (128, 128), (0.5, 0.5))])[0]
    np.testing.assert_allclose(detections.boxes, [[2 * 16, 2 * 16, 2 * 64, 2 * 48]], atol=1e-3)
    assert detections.labels.tolist() == [2]
    assert detections.scores[0] > 0.99
    assert detections.patches == []
    assert model.detector.score_thresh == 0.05
    assert model.detector.topk_candidates == 1000


# --- recipes and runs


@pytest.mark.parametrize("make", [mask_rcnn_r50, mask_rcnn_r101, fcos_torchvision_r50])
def test_recipes_are_whole(make: object) -> None:
    assert callable(make)
    experiment = make()
    check_ranges(experiment)
    assert from_dict(Experiment, to_dict(experiment)) == experiment
    assert experiment.optim.batch == 16
    assert (experiment.schedule.epochs, experiment.schedule.steps) == (12, (8, 11))
    assert experiment.model.masks == (make is not fcos_torchvision_r50)


@BOTH
def test_a_run_through_the_engine(system: System, shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    experiment = replace(tiny, model=replace(tiny.model, masks=system is MASK_RCNN))
    result = train(experiment, DataPaths(shapes), tmp_path / "run", steps=2, system=system)
    assert result.iterations == 2
    train(experiment, DataPaths(shapes), tmp_path / "run", resume=True, steps=3, system=system)
    finder = load_finder(tmp_path / "run" / "last.safetensors", system, "cpu")
    assert finder.experiment.model == experiment.model
    with pytest.raises(SaisError, match=f"a run of {system.name}, not of sais"):
        train(experiment, DataPaths(shapes), tmp_path / "run", resume=True)


def test_another_system_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save(path, Checkpoint(Experiment(), CLASSES, (1, 2, 3), {"model.weight": torch.zeros(1)}, {"system": "sais"}))
    with pytest.raises(SaisError, match="a model of sais; give one of mask-rcnn"):
        load_finder(path, MASK_RCNN)


@pytest.mark.slow
@pytest.mark.parametrize(("system", "lr", "epochs"), [(MASK_RCNN, 2e-3, 60), (FCOS, 1e-3, 45)])
def test_eight_pictures_are_learnt_by_heart(
    system: System, lr: float, epochs: int, tiny: Experiment, tmp_path: Path
) -> None:
    write_shapes(tmp_path / "eight", train=8, valid=1, size=(96, 96), seed=3)
    masks = system is MASK_RCNN
    experiment = replace(
        tiny,
        input=replace(tiny.input, size=(128, 128), flip=0.0),
        model=replace(tiny.model, masks=masks),
        test=replace(tiny.test, score=0.05),
        optim=replace(tiny.optim, lr=lr, clip=10.0),
        schedule=replace(tiny.schedule, epochs=epochs),
    )
    result = train(experiment, DataPaths(tmp_path / "eight"), tmp_path / "run", system=system)
    finder = load_finder(tmp_path / "run" / "model.safetensors", system, "cpu")
    metrics = evaluate(finder, find(tmp_path / "eight", "train"), workers=0).metrics
    assert metrics is not None
    assert metrics.box is not None
    assert (metrics.mask is not None) == masks
    judged = metrics.mask or metrics.box
    print(f"{system.name}: AP50 {judged.AP50:.3f}, AP {judged.AP:.3f}, {result.seconds:.1f} s")
    assert judged.AP50 > 0.9
