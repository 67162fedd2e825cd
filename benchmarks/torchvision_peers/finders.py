"""How the peers predict: from canvases to detections, by the network's own `forward` under the limits of a recipe.

Masks are box-local and exact (`masks.pasted`), so that accuracy is compared without differences of assembly.
"""

from __future__ import annotations

from torch import Tensor

from benchmarks.torchvision_peers.common import Regions
from benchmarks.torchvision_peers.fcos import TorchvisionFcos
from benchmarks.torchvision_peers.mask_rcnn import MaskRcnn
from benchmarks.torchvision_peers.masks import pasted
from sais.config import TestConfig
from sais.detections import Detections
from sais.structures import Placement


def find_with_masks(
    model: MaskRcnn, settings: TestConfig, canvases: Tensor, placements: list[Placement], class_names: tuple[str, ...]
) -> list[Detections]:
    """By Mask R-CNN. Of the settings it reads score, nms and detections."""
    model.set_limits(settings.score, settings.nms, settings.detections)
    found = model(canvases, [p.content_size for p in placements])
    return [_detections(regions, p, class_names) for regions, p in zip(found, placements, strict=True)]


def find_boxes(
    model: TorchvisionFcos,
    settings: TestConfig,
    canvases: Tensor,
    placements: list[Placement],
    class_names: tuple[str, ...],
) -> list[Detections]:
    """By torchvision's FCOS. Of the settings it reads score, nms, detections and candidates."""
    model.set_limits(settings.score, settings.nms, settings.detections, settings.candidates)
    found = model(canvases, [p.content_size for p in placements])
    return [_detections(regions, p, class_names) for regions, p in zip(found, placements, strict=True)]


def _detections(regions: Regions, placement: Placement, class_names: tuple[str, ...]) -> Detections:
    """Regions of one image in canvas pixels -> what a user holds, in picture pixels."""
    boxes = placement.to_picture(regions.boxes.cpu().numpy())
    probabilities = regions.probabilities
    patches = [] if probabilities is None else pasted(probabilities.cpu().numpy(), boxes, placement.picture_size)
    return Detections(
        size=placement.picture_size,
        boxes=boxes,
        scores=regions.scores.cpu().numpy(),
        labels=regions.labels.cpu().numpy(),
        class_names=class_names,
        patches=patches,
    )
