"""From what the anchors say to detections: Fast NMS (Section 5), and the paper's own assembly of masks.

`detect` gives `sais.structures.Instances`, which `sais.modeling.postprocess.assemble` turns into detections with the very masks
of SAIS. `full_masks` is the paper's assembly: every mask on the whole grid, cropped, upsampled to the whole image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from peers.yolact.anchors import decode, pairwise_iou
from peers.yolact.model import AnchorOutputs
from sais.modeling.postprocess import clip_boxes
from sais.structures import Instances

BEST_PER_CLASS = 200
"""Candidates of each class that take part in Fast NMS."""
CROP_PADDING = 1.0
"""Grid cells by which `full_masks` grows a box before it crops, as the authors' code does."""


def postprocess(
    outputs: AnchorOutputs,
    anchors: Tensor,
    contents: list[tuple[float, float]],
    score: float = 0.05,
    nms: float = 0.5,
    detections: int = 100,
    best: int = BEST_PER_CLASS,
) -> Instances:
    """The detections of a batch in fixed shapes.

    Args:
        outputs: (B, A, .).
        anchors: (A, 4) canvas pixels.
        contents: B times (height, width) of the image on its canvas; boxes are clipped to it before NMS, and those
            that lie wholly in the padding go.
        score: least class probability.
        nms: IoU above which the lower of two boxes of one class goes.
        detections: D, kept per image.
        best: candidates of each class.

    Returns:
        Instances; empty slots have score 0, label 0 and a box of zeros.
    """
    batch, device = len(outputs.class_logits), anchors.device
    boxes = torch.zeros(batch, detections, 4, device=device)
    scores = torch.zeros(batch, detections, device=device)
    labels = torch.zeros(batch, detections, dtype=torch.int64, device=device)
    coefficients = torch.zeros(batch, detections, outputs.coefficients.shape[2], device=device)
    probabilities = outputs.class_logits.softmax(dim=2)[:, :, 1:]  # (B, A, C), without the background
    for image in range(batch):
        passed = (probabilities[image].amax(1) > score).nonzero().squeeze(1)
        found = clip_boxes(decode(anchors[passed], outputs.offsets[image, passed]), contents[image])
        inside = (found[:, 2:] > found[:, :2]).all(1)
        found, passed = found[inside], passed[inside]
        kept, label, value = fast_nms(found, probabilities[image, passed], score, nms, detections, best)
        n = len(kept)
        boxes[image, :n], scores[image, :n], labels[image, :n] = found[kept], value, label
        coefficients[image, :n] = outputs.coefficients[image, passed[kept]]
    return Instances(boxes, scores, labels, coefficients, outputs.prototypes)


def fast_nms(
    boxes: Tensor,
    scores: Tensor,
    score: float = 0.05,
    nms: float = 0.5,
    detections: int = 100,
    best: int = BEST_PER_CLASS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fast NMS (Section 5): of each class a box goes where any better one overlaps it, be that one gone or not.

    Args:
        boxes: (M, 4).
        scores: (M, C).
        score, nms, detections, best: as in `detect`.

    Returns:
        Of the D kept, scores descending: index into `boxes` (D,), label (D,) and score (D,).
    """
    values, order = scores.T.sort(dim=1, descending=True, stable=True)
    values, order = values[:, :best], order[:, :best]  # (C, T)
    candidates = boxes[order]  # (C, T, 4)
    overlap = pairwise_iou(candidates, candidates).triu(diagonal=1)  # (C, T, T): rows are the better ones
    greatest = overlap.amax(1) if overlap.shape[1] else overlap.new_zeros(values.shape)
    labels, rank = ((greatest <= nms) & (values > score)).nonzero().unbind(1)
    kept = values[labels, rank].argsort(descending=True, stable=True)[:detections]
    labels, rank = labels[kept], rank[kept]
    return order[labels, rank], labels, values[labels, rank]


def full_masks(prototypes: Tensor, coefficients: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The paper's assembly (Eq. 1, Section 3.3): sigmoid(P C), crop on the grid, upsample, threshold at 0.5.

    The grid is stretched over the whole image. A cell is kept where its index is at least the box's left edge less
    `CROP_PADDING` and below its right edge plus `CROP_PADDING`, in cells; likewise up and down.

    Args:
        prototypes: (K, h, w) of one image.
        coefficients: (D, K).
        boxes: (D, 4) pixels of the image.
        size: (H, W) of the image, which fills its canvas.

    Returns:
        (D, H, W) bool.
    """
    if len(boxes) == 0:
        return torch.zeros(0, *size, dtype=torch.bool, device=boxes.device)
    height, width = prototypes.shape[1:]
    masks = torch.einsum("dk,khw->dhw", coefficients, prototypes).sigmoid()
    cells = boxes * boxes.new_tensor([width / size[1], height / size[0]]).repeat(2)
    x1, y1, x2, y2 = cells[:, :, None].unbind(1)  # (D, 1) each
    columns, rows = torch.arange(width, device=boxes.device), torch.arange(height, device=boxes.device)
    across = (columns >= x1 - CROP_PADDING) & (columns < x2 + CROP_PADDING)  # (D, w)
    down = (rows >= y1 - CROP_PADDING) & (rows < y2 + CROP_PADDING)  # (D, h)
    masks = masks * (down[:, :, None] & across[:, None, :])
    return functional.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0] > 0.5
