"""From outputs to detections: Fast NMS (Section 5), and the mask assembly of the paper.

`postprocess` returns `sais.structures.Instances`, from which the masks are assembled as those of SAIS. `full_masks` is
the assembly of the paper: every mask on the whole grid, cropped, resized to the whole image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from peers.yolact.anchors import decode, pairwise_iou
from peers.yolact.model import AnchorOutputs
from sais.modeling.postprocess import clip_boxes
from sais.structures import Instances

TOPK_PER_CLASS = 200
"""Candidates per class that enter Fast NMS."""
CROP_PADDING = 1.0
"""Grid cells by which `full_masks` enlarges a box before cropping, as the authors' code does."""


def postprocess(
    outputs: AnchorOutputs,
    anchors: Tensor,
    content_sizes: list[tuple[float, float]],
    score_threshold: float = 0.05,
    nms_iou: float = 0.5,
    max_detections: int = 100,
    topk: int = TOPK_PER_CLASS,
) -> Instances:
    """Select the detections of a batch in fixed shapes.

    Args:
        outputs: the outputs (B, A, .) of the network.
        anchors: the anchors (A, 4) in canvas pixels.
        content_sizes: the height and width of each image on its canvas; boxes are clipped to it before NMS, and boxes
            entirely in the padding are removed.
        score_threshold: the minimum class probability.
        nms_iou: the IoU above which the lower-scoring box of two boxes of one class is removed.
        max_detections: the number of slots D per image.
        topk: the number of candidates of each class.

    Returns:
        Instances (B, D, .); empty slots have score 0, label 0 and a box of zeros.
    """
    batch, device = len(outputs.class_logits), anchors.device
    boxes = torch.zeros(batch, max_detections, 4, device=device)
    scores = torch.zeros(batch, max_detections, device=device)
    labels = torch.zeros(batch, max_detections, dtype=torch.int64, device=device)
    coefficients = torch.zeros(batch, max_detections, outputs.coefficients.shape[2], device=device)
    probabilities = outputs.class_logits.softmax(dim=2)[:, :, 1:]  # (B, A, C), without the background
    for image in range(batch):
        candidates = (probabilities[image].amax(1) > score_threshold).nonzero().squeeze(1)
        decoded = clip_boxes(decode(anchors[candidates], outputs.offsets[image, candidates]), content_sizes[image])
        inside = (decoded[:, 2:] > decoded[:, :2]).all(1)
        decoded, candidates = decoded[inside], candidates[inside]
        selected, label, score = fast_nms(
            decoded, probabilities[image, candidates], score_threshold, nms_iou, max_detections, topk
        )
        n = len(selected)
        boxes[image, :n], scores[image, :n], labels[image, :n] = decoded[selected], score, label
        coefficients[image, :n] = outputs.coefficients[image, candidates[selected]]
    return Instances(boxes, scores, labels, coefficients, outputs.prototypes)


def fast_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float = 0.05,
    nms_iou: float = 0.5,
    max_detections: int = 100,
    topk: int = TOPK_PER_CLASS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run Fast NMS (Section 5): a box is removed if any higher-scoring one of its class, removed or not, overlaps it.

    Args:
        boxes: the boxes (M, 4).
        scores: the class probabilities (M, C).
        score_threshold: the minimum class probability.
        nms_iou: the IoU above which a box is removed.
        max_detections: the maximum number D of detections.
        topk: the number of candidates of each class.

    Returns:
        Of the detections, scores descending: index into `boxes` (D,), label (D,) and score (D,).
    """
    values, order = scores.T.sort(dim=1, descending=True, stable=True)
    values, order = values[:, :topk], order[:, :topk]  # (C, T)
    candidates = boxes[order]  # (C, T, 4)
    overlaps = pairwise_iou(candidates, candidates).triu(diagonal=1)  # (C, T, T): rows have the higher scores
    max_overlaps = overlaps.amax(1) if overlaps.shape[1] else overlaps.new_zeros(values.shape)
    labels, rank = ((max_overlaps <= nms_iou) & (values > score_threshold)).nonzero().unbind(1)
    best = values[labels, rank].argsort(descending=True, stable=True)[:max_detections]
    labels, rank = labels[best], rank[best]
    return order[labels, rank], labels, values[labels, rank]


def full_masks(prototypes: Tensor, coefficients: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Assemble masks as the paper does (Eq. 1, Section 3.3): sigmoid(P C), crop on the grid, resize, threshold at 0.5.

    The grid covers the whole image. The crop includes cells whose index is at least the left edge of the box minus
    `CROP_PADDING` and below its right edge plus `CROP_PADDING`, in cells; likewise vertically.

    Args:
        prototypes: the prototypes (K, h, w) of one image.
        coefficients: the coefficients (D, K).
        boxes: the boxes (D, 4) in pixels of the image.
        size: the height and width of the image, which fills its canvas.

    Returns:
        Masks (D, H, W) bool.
    """
    if len(boxes) == 0:
        return torch.zeros(0, *size, dtype=torch.bool, device=boxes.device)
    height, width = prototypes.shape[1:]
    masks = torch.einsum("dk,khw->dhw", coefficients, prototypes).sigmoid()
    cells = boxes * boxes.new_tensor([width / size[1], height / size[0]]).repeat(2)
    x1, y1, x2, y2 = cells[:, :, None].unbind(1)  # (D, 1) each
    columns, rows = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    in_columns = (columns >= x1 - CROP_PADDING) & (columns < x2 + CROP_PADDING)  # (D, w)
    in_rows = (rows >= y1 - CROP_PADDING) & (rows < y2 + CROP_PADDING)  # (D, h)
    masks = masks * (in_rows[:, :, None] & in_columns[:, None, :])
    return functional.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0] > 0.5
