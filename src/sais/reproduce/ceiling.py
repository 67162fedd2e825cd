"""What the padding slip alone costs: perfect boxes, classes and masks, shown as the slip's test half shows them.

No network and no training: it bounds from above what any model could reach that is tested so, on any data set and at
any input size, also at the paper's 1333x800 on a machine that could never train there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sais.data.index import Annotation, ImageRecord, Index, object_mask
from sais.detections import Detections, Patch
from sais.engine.metrics import Metrics, coco_metrics
from sais.geometry.masks import pixel_window
from sais.geometry.raster import inside, moved
from sais.images import place
from sais.reproduce.slip import padded_by_unpadded

COLUMNS = ("input", "slip", "mask AP", "AP50", "AP75", "small", "medium", "large")
WORDS = (
    "What the slip alone costs: perfect boxes, classes and masks of {data}, shown as its test half shows them. "
    "No model that is tested so can score more. Percent."
)


def ceiling_rows(index: Index, sizes: Sequence[tuple[int, int]]) -> list[list[str]]:
    """The rows of a table with `COLUMNS`: each input size without and with the slip."""
    rows = []
    for size in dict.fromkeys(sizes):
        for slip in (False, True):
            scores = slip_ceiling(index, size, slip).to_dict()["mask"]
            values = [scores[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
            each = ["-" if value is None else f"{100 * value:.1f}" for value in values]
            rows.append([f"{size[1]}x{size[0]}", "yes" if slip else "no", *each])
    return rows


def slip_ceiling(index: Index, size: tuple[int, int], slip: bool = True) -> Metrics:
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
    placement = place(record.size, "keep_ratio", size)
    vertical, horizontal = padded_by_unpadded(placement, placement.canvas_size) if slip else (1.0, 1.0)
    patches = []
    for annotation in shown:
        mask = object_mask(annotation, record.size)
        assert mask is not None
        x1, y1, x2, y2 = pixel_window(annotation.box, record.size)
        # A pixel shows what lies that much farther right and below.
        bits = inside(moved(mask, 1 / horizontal, 1 / vertical, 0, 0), (x1, y1, x2, y2))
        patches.append(Patch(x1, y1, bits))
    return Detections(
        size=record.size,
        boxes=np.stack([annotation.box for annotation in shown]).astype(np.float32),
        scores=np.ones(len(shown), np.float32),
        labels=np.array([annotation.label for annotation in shown], np.int64),
        class_names=class_names,
        patches=patches,
    )
