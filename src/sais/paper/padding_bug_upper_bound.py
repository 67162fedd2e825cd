"""What the padding slip alone costs: perfect boxes, classes and masks, shown as the slip's test half shows them.

No network and no training: it bounds from above what any model could reach that is tested so, on any data set and at
any input size, also at the paper's 1333x800 on a machine that could never train there.
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
from sais.paper.padding_bug import padded_by_unpadded
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

COLUMNS = ("input", "slip", "mask AP", "AP50", "AP75", "small", "medium", "large")
WORDS = (
    "What the slip alone costs: perfect boxes, classes and masks of {data}, shown as its test half shows them. "
    "No model that is tested so can score more. Percent."
)


def upper_bound_rows(index: DatasetSplit, sizes: Sequence[tuple[int, int]]) -> list[list[str]]:
    """The rows of a table with `COLUMNS`: each input size without and with the slip."""
    rows = []
    for size in dict.fromkeys(sizes):
        for slip in (False, True):
            scores = padding_bug_upper_bound(index, size, slip).to_dict()["mask"]
            values = [scores[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
            each = ["-" if value is None else f"{100 * value:.1f}" for value in values]
            rows.append([f"{size[1]}x{size[0]}", "yes" if slip else "no", *each])
    return rows


def padding_bug_upper_bound(index: DatasetSplit, size: tuple[int, int], slip: bool = True) -> Metrics:
    """COCO metrics of perfect predictions with the test half of the slip (without it: of what rounding leaves).

    Args:
        index: with annotations.
        size: (short side, greatest long side) of an input that keeps the ratio.
    """
    results: list[dict[str, Any]] = []
    for record in index.images:
        shown = [a for a in record.annotations if not a.crowd and a.segmentation is not None]
        if shown:
            results += _perfect(record, shown, size, slip, index.class_names).to_coco(record.id, index.category_ids)
    return coco_metrics(index, results, ("bbox", "segm"))


def _perfect(
    record: ImageRecord, shown: list[Annotation], size: tuple[int, int], slip: bool, class_names: tuple[str, ...]
) -> Detections:
    canvas_map = letterbox(record.size, "keep_ratio", size)
    vertical, horizontal = padded_by_unpadded(canvas_map, canvas_map.canvas_size) if slip else (1.0, 1.0)
    patches = []
    for annotation in shown:
        mask = object_mask(annotation, record.size)
        assert mask is not None
        x1, y1, x2, y2 = pixel_window(annotation.box, record.size)
        # A pixel shows what lies that much farther right and below.
        bits = inside(transform_mask(mask, 1 / horizontal, 1 / vertical, 0, 0), (x1, y1, x2, y2))
        patches.append(CroppedMask(x1, y1, bits))
    return Detections(
        image_size=record.size,
        boxes=np.stack([annotation.box for annotation in shown]).astype(np.float32),
        scores=np.ones(len(shown), np.float32),
        labels=np.array([annotation.label for annotation in shown], np.int64),
        class_names=class_names,
        cropped_masks=patches,
    )
