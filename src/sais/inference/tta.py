"""An image seen several ways (test-time augmentation): mirrored, larger, smaller; what is found is fused. Numpy only.

What each way finds is brought back into the image exactly, clustered class by class, and each cluster becomes one
object:

- its score is the sum of the scores divided by the number of ways: a way that did not find it counts 0. A mean over
  those which found it would rank what one way alone took for an object beside what all of them are sure of;
- its box is the mean of the boxes, weighted by their scores;
- its mask has the pixels that at least half of the scores vote for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sais.config import InputConfig
from sais.errors import SaisError
from sais.ops.letterbox import CANVAS_MULTIPLE
from sais.results import mask_ops as masks
from sais.results.detections import DetectFunction, Detections

SAME_OBJECT_IOU = 0.5
"""IoU from which two detections of one class are of one object."""

MIN_SCALE, MAX_SCALE = 0.1, 8.0


def tta_inputs(settings: InputConfig, scales: Sequence[float]) -> list[InputConfig]:
    """The input of the network at each scale: 1 is the size it was trained with, 2 shows everything twice as large.

    A fixed input goes to the nearest multiple of 32 on both sides; with the ratio kept, the short side and the limit of
    the long one are multiplied.

    Raises:
        SaisError: no scale, one outside of 0.1 to 8, or two that give the same input (it would only count double).
    """
    if not scales:
        raise SaisError("no scale: give at least one, 1.0 for the size the model was trained with")
    inputs: list[InputConfig] = []
    for scale in scales:
        if not MIN_SCALE <= scale <= MAX_SCALE:
            raise SaisError(f"a scale of {scale:g} is not between {MIN_SCALE:g} and {MAX_SCALE:g}")
        one = replace(settings, size=_scaled(settings, scale))
        if one in inputs:
            first = scales[inputs.index(one)]
            both = f"{one.size[0]} x {one.size[1]}"
            raise SaisError(f"scales {first:g} and {scale:g} both make the input {both}; take them further apart")
        inputs.append(one)
    return inputs


def predict_tta(
    images: Sequence[np.ndarray], finders: Sequence[DetectFunction], flip: bool, most: int = 100
) -> list[Detections]:
    """What several ways of looking find together.

    Args:
        images: each (H, W, 3) uint8.
        finders: one for each scale; each is given all images.
        flip: each looks at the mirrored images too.
        most: kept of each image, the best.

    Returns:
        For each image its Detections.
    """
    found: list[list[Detections]] = [[] for _ in images]
    turned = [np.ascontiguousarray(image[:, ::-1]) for image in images] if flip else []
    for find in finders:
        runs = [find(list(images))]
        if flip:
            runs.append([hflip(one) for one in find(turned)])
        for run in runs:
            for ways, one in zip(found, run, strict=True):
                ways.append(one)
    return [merge_tta(ways, most) for ways in found]


def hflip(detections: Detections) -> Detections:
    """The detections as they lie in the mirrored image; twice is where they were."""
    width = detections.image_size[1]
    boxes = detections.boxes.astype(np.float64)
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return replace(
        detections, boxes=boxes, cropped_masks=[masks.hflip(patch, width) for patch in detections.cropped_masks]
    )


def merge_tta(ways: Sequence[Detections], most: int = 100) -> Detections:
    """One image's objects from what each way found, all in the image's own pixels.

    From the highest score to the lowest, a detection joins the cluster of its class whose first it overlaps most, by
    IoU of the masks (of the boxes where one has no mask or an empty one), at least `SAME`, unless the cluster has one
    of the same way already: a way has told its own detections apart. Else it opens a cluster.

    Args:
        ways: at least one, of one image and one model.
        most: kept, the best.

    Returns:
        Detections, scores descending.
    """
    every = _Every(ways)
    clusters: list[list[int]] = []
    for k in np.argsort(-every.scores, kind="stable").tolist():
        best, home = SAME_OBJECT_IOU, None
        for i in np.flatnonzero(every.meet[k, [cluster[0] for cluster in clusters]]):
            cluster = clusters[i]
            if every.way[k] in every.way[cluster]:
                continue
            overlap = every.overlap(k, cluster[0])
            if overlap >= best and (home is None or overlap > best):
                best, home = overlap, cluster
        if home is None:
            clusters.append([k])
        else:
            home.append(k)
    scores = np.array([every.scores[cluster].sum() / len(ways) for cluster in clusters])
    kept = [clusters[i] for i in np.argsort(-scores, kind="stable")[:most]]
    boxes = [np.average(every.boxes[cluster], axis=0, weights=every.weights[cluster]) for cluster in kept]
    return Detections(
        ways[0].image_size,
        np.array(boxes),
        np.sort(scores)[::-1][:most],
        every.labels[[cluster[0] for cluster in kept]],
        ways[0].class_names,
        [masks.vote([every.patches[k] for k in c], every.weights[c].tolist()) for c in kept] if every.patches else [],
    )


class _Every:
    """What all ways found, side by side: N detections."""

    def __init__(self, ways: Sequence[Detections]) -> None:
        self.way = np.repeat(np.arange(len(ways)), [len(one) for one in ways])
        self.boxes = np.concatenate([one.boxes for one in ways]).astype(np.float64)
        self.scores = np.concatenate([one.scores for one in ways]).astype(np.float64)
        self.weights = np.maximum(self.scores, 1e-12)
        self.labels = np.concatenate([one.labels for one in ways])
        self.patches = [patch for one in ways for patch in one.cropped_masks]
        self.pixels = np.array([patch.area for patch in self.patches] or np.zeros(len(self.way)))
        extents = self.boxes.copy()
        for k in np.flatnonzero(self.pixels):
            extents[k] = masks.window_of(self.patches[k])
        low = np.maximum(extents[:, None, :2], extents[None, :, :2])
        high = np.minimum(extents[:, None, 2:], extents[None, :, 2:])
        self.meet = (low < high).all(-1) & (self.labels[:, None] == self.labels[None])
        """(N, N) whether two are of one class and their masks' windows (or boxes) overlap."""

    def overlap(self, first: int, second: int) -> float:
        """IoU of two masks, or of two boxes."""
        if self.pixels[first] and self.pixels[second]:
            areas = self.pixels[[first, second]]
            if areas.min() < SAME_OBJECT_IOU * areas.max():
                return 0.0  # even one inside the other would not be enough: no need to look
            shared = float(masks.intersection_area(self.patches[first], self.patches[second]))
        else:
            a, b = self.boxes[first], self.boxes[second]
            areas = np.array([np.prod(box[2:] - box[:2]) for box in (a, b)])
            shared = float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)))
        return shared / max(float(areas.sum()) - shared, 1e-12)


def _scaled(settings: InputConfig, scale: float) -> tuple[int, int]:
    multiple = CANVAS_MULTIPLE if settings.mode == "fixed" else 1
    first, second = (max(1, math.floor(side * scale / multiple + 0.5)) * multiple for side in settings.size)
    return first, second
