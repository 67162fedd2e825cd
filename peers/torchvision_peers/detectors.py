"""Prediction of the torchvision peers: from canvases to detections.

Masks are box-local and exact (`masks.paste_masks`), so that accuracy does not depend on the assembly.
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
    """Detect objects with Mask R-CNN; see `sais.modeling.architecture.Detect`.

    Args:
        model: the network in evaluation mode.
        canvases: canvases (B, 3, H, W) uint8 on its device.
        canvas_maps: B maps from the images to their canvases.
        class_names: the names of the classes.
        settings: of them, score threshold, NMS IoU and maximum number of detections are used.
    """
    return _detect(model, canvases, canvas_maps, class_names, settings)


def detect_boxes(
    model: TorchvisionFcos,
    canvases: Tensor,
    canvas_maps: list[CanvasMap],
    class_names: tuple[str, ...],
    settings: PostprocessConfig,
) -> list[Detections]:
    """Detect boxes with torchvision's FCOS on canvases (B, 3, H, W) uint8; arguments as those of `detect_masks`.

    The number of candidates per level is used of the settings as well.
    """
    return _detect(model, canvases, canvas_maps, class_names, settings)


def _detect(
    model: MaskRcnn | TorchvisionFcos,
    canvases: Tensor,
    canvas_maps: list[CanvasMap],
    class_names: tuple[str, ...],
    settings: PostprocessConfig,
) -> list[Detections]:
    model.set_postprocess(settings)
    results: list[Regions] = model(canvases, [canvas_map.content_size for canvas_map in canvas_maps])
    return [
        _image_detections(regions, canvas_map, class_names)
        for regions, canvas_map in zip(results, canvas_maps, strict=True)
    ]


def _image_detections(regions: Regions, canvas_map: CanvasMap, class_names: tuple[str, ...]) -> Detections:
    """Convert the regions of one image from canvas pixels to detections in image pixels."""
    boxes = canvas_map.boxes_to_image(regions.boxes.cpu().numpy())
    probabilities = regions.probabilities
    masks = [] if probabilities is None else paste_masks(probabilities.cpu().numpy(), boxes, canvas_map.image_size)
    return Detections(
        image_size=canvas_map.image_size,
        boxes=boxes,
        scores=regions.scores.cpu().numpy(),
        labels=regions.labels.cpu().numpy(),
        class_names=class_names,
        cropped_masks=masks,
    )
