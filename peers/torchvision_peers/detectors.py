"""How the peers predict: from canvases to detections, by the network's own `forward` under the limits of a recipe.

Masks are box-local and exact (`masks.pasted`), so that accuracy is compared without differences of assembly.
"""

from __future__ import annotations

from torch import Tensor

from peers.torchvision_peers.common import Regions
from peers.torchvision_peers.fcos import TorchvisionFcos
from peers.torchvision_peers.mask_rcnn import MaskRcnn
from peers.torchvision_peers.masks import paste_masks
from sais.config import PostprocessConfig
from sais.ops.letterbox import CanvasMap
from sais.results.detections import Detections


def detect_masks(
    model: MaskRcnn,
    canvases: Tensor,
    canvas_maps: list[CanvasMap],
    class_names: tuple[str, ...],
    settings: PostprocessConfig,
) -> list[Detections]:
    """By Mask R-CNN. Of the settings it reads score, nms and detections."""
    model.set_limits(settings.score_threshold, settings.nms_iou, settings.max_detections)
    found = model(canvases, [p.content_size for p in canvas_maps])
    return [_detections(regions, p, class_names) for regions, p in zip(found, canvas_maps, strict=True)]


def detect_boxes(
    model: TorchvisionFcos,
    canvases: Tensor,
    canvas_maps: list[CanvasMap],
    class_names: tuple[str, ...],
    settings: PostprocessConfig,
) -> list[Detections]:
    """By torchvision's FCOS. Of the settings it reads score, nms, detections and candidates."""
    model.set_limits(settings.score_threshold, settings.nms_iou, settings.max_detections, settings.pre_nms_topk)
    found = model(canvases, [p.content_size for p in canvas_maps])
    return [_detections(regions, p, class_names) for regions, p in zip(found, canvas_maps, strict=True)]


def _detections(regions: Regions, canvas_map: CanvasMap, class_names: tuple[str, ...]) -> Detections:
    """Regions of one image in canvas pixels -> what a user holds, in image pixels."""
    boxes = canvas_map.boxes_to_image(regions.boxes.cpu().numpy())
    probabilities = regions.probabilities
    patches = [] if probabilities is None else paste_masks(probabilities.cpu().numpy(), boxes, canvas_map.image_size)
    return Detections(
        image_size=canvas_map.image_size,
        boxes=boxes,
        scores=regions.scores.cpu().numpy(),
        labels=regions.labels.cpu().numpy(),
        class_names=class_names,
        cropped_masks=patches,
    )
