"""The upper bound of AP with the padding bug: perfect boxes, classes and masks, drawn with the bug in inference.

It needs neither a network nor training: no model that predicts with the bug can exceed it, on any data set and at any
input size, including the paper's 1333x800 on a machine that could never train there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, object_mask
from sais.evaluation.coco_metrics import Metrics, coco_metrics
from sais.ops.letterbox import letterbox
from sais.ops.masks import pixel_window
from sais.ops.rasterize import inside, transform_mask
from sais.paper.padding_bug import padding_ratio
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

COLUMNS = ("input", "padding bug", "mask AP", "AP50", "AP75", "small", "medium", "large")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
CAPTION = (
    "Upper bound with the padding bug: perfect boxes, classes and masks of {data}, drawn with the bug in inference. "
    "No model that predicts with the bug can exceed it. Percent."
)


def upper_bound_rows(split: DatasetSplit, sizes: Sequence[tuple[int, int]]) -> list[list[str]]:
    """Format the rows of a table with `COLUMNS`: each input size without and with the bug.

    Args:
        split: split with annotations.
        sizes: (short side, maximum long side) of inputs that keep the ratio, in pixels.
    """
    rows = []
    for size in dict.fromkeys(sizes):
        for bug in (False, True):
            scores = padding_bug_upper_bound(split, size, bug).to_dict()["mask"]
            values = [scores[name] for name in METRICS]
            cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
            rows.append([f"{size[1]}x{size[0]}", "yes" if bug else "no", *cells])
    return rows


def padding_bug_upper_bound(split: DatasetSplit, size: tuple[int, int], bug: bool = True) -> Metrics:
    """Compute COCO metrics of perfect predictions drawn with the bug in inference.

    Args:
        split: split with annotations.
        size: (short side, maximum long side) of an input that keeps the ratio, in pixels.
        bug: False computes the same without the bug, which shows the effect of rounding.
    """
    results: list[dict[str, Any]] = []
    for record in split.images:
        objects = [a for a in record.annotations if not a.crowd and a.segmentation is not None]
        if objects:
            detections = _perfect_detections(record, objects, size, bug, split.class_names)
            results += detections.to_coco(record.id, split.category_ids)
    return coco_metrics(split, results, ("bbox", "segm"))


def _perfect_detections(
    record: ImageRecord, objects: list[Annotation], size: tuple[int, int], bug: bool, class_names: tuple[str, ...]
) -> Detections:
    canvas_map = letterbox(record.size, "keep_ratio", size)
    vertical, horizontal = padding_ratio(canvas_map, canvas_map.canvas_size) if bug else (1.0, 1.0)
    masks = []
    for annotation in objects:
        mask = object_mask(annotation, record.size)
        assert mask is not None
        x1, y1, x2, y2 = pixel_window(annotation.box, record.size)
        # With the bug a pixel shows the part of the mask that is farther right and below by the padding ratio.
        bits = inside(transform_mask(mask, 1 / horizontal, 1 / vertical, 0, 0), (x1, y1, x2, y2))
        masks.append(CroppedMask(x1, y1, bits))
    return Detections(
        image_size=record.size,
        boxes=np.stack([annotation.box for annotation in objects]).astype(np.float32),
        scores=np.ones(len(objects), np.float32),
        labels=np.array([annotation.label for annotation in objects], np.int64),
        class_names=class_names,
        cropped_masks=masks,
    )
