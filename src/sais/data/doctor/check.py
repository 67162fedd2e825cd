"""Check of a data set before training: unreadable images, wrong sizes, malformed masks and suspicious boxes.

The data set is not changed; `sais check DIR` prints the report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, object_mask, summarize
from sais.errors import SaisError
from sais.io.images import read_size
from sais.ops.numpy_boxes import box_area, box_intersection
from sais.ops.rasterize import bounding_box

_MIN_SIDE = 4.0
"""Side in pixels below which an object is reported: about one cell of the prototype grid."""
_MASK_MARGIN = 2.0
"""Pixels by which a mask may exceed its box before it is reported; annotation tools round."""
_DUPLICATE_IOU = 0.95
"""Box IoU above which two objects of one class are reported as duplicates."""
_MAX_CASES = 5
"""Maximum number of cases listed for each finding."""

UNREADABLE_IMAGE = "unreadable images"
SIZE_MISMATCH = "images of another size than annotated"
MALFORMED_MASK = "malformed masks"
MASK_OUTSIDE_BOX = f"masks that exceed their box by more than {_MASK_MARGIN:g} px"
EMPTY_MASK = "empty masks"
TINY_OBJECT = f"objects with a side below {_MIN_SIDE:g} px"
DUPLICATE_OBJECT = f"duplicate objects (same class, box IoU above {_DUPLICATE_IOU:g})"

ERRORS = (UNREADABLE_IMAGE, SIZE_MISMATCH, MALFORMED_MASK)
"""Findings that stop a training run or make it wrong; the others are warnings."""


@dataclass
class CheckReport:
    """The findings of a check."""

    split: DatasetSplit
    """The split that was checked."""
    findings: dict[str, list[str]] = field(default_factory=dict)
    """Finding -> one line for each case."""

    @property
    def ok(self) -> bool:
        """Whether training can start: there are no `ERRORS`."""
        return not any(finding in self.findings for finding in ERRORS)

    def summary(self) -> str:
        """Return lines of text: the contents of the split, and the first cases of each finding, errors first."""
        lines = [summarize(self.split)]
        for finding in sorted(self.findings, key=lambda finding: finding not in ERRORS):
            cases = self.findings[finding]
            lines.append(f"  {'ERROR' if finding in ERRORS else 'warning'}: {finding}: {len(cases)}")
            lines += [f"    {case}" for case in cases[:_MAX_CASES]]
            if len(cases) > _MAX_CASES:
                lines.append(f"    and {len(cases) - _MAX_CASES} more")
        if not self.findings:
            lines.append("  no problems found")
        return "\n".join(lines)

    def add(self, finding: str, case: str) -> None:
        """Add one case of a finding."""
        self.findings.setdefault(finding, []).append(case)


def check_dataset(
    split: DatasetSplit, decode: bool = True, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Check every image and every object of a split.

    Args:
        split: Split from `sais.data.formats.read_dataset`.
        decode: Whether images are decoded completely, to find truncated files; otherwise only headers are read.
        progress: Function called after each image with the number of images done and the total number.

    Returns:
        The findings; a defect in the data set never raises.
    """
    report = CheckReport(split)
    for done, record in enumerate(split.images, 1):
        _check_image(report, record, decode)
        for annotation in record.annotations:
            _check_object(report, record, annotation)
        _check_duplicates(report, record)
        if progress is not None:
            progress(done, len(split.images))
    return report


def _check_image(report: CheckReport, record: ImageRecord, decode: bool) -> None:
    try:
        if decode or not isinstance(record.source, Path):
            height, width = record.read().shape[:2]
        else:
            height, width = read_size(record.source)
    except SaisError as error:
        report.add(UNREADABLE_IMAGE, str(error))
        return
    size = (height, width)
    if size != tuple(record.size):
        hint = " (rotated by EXIF?)" if size == tuple(record.size[::-1]) else ""
        case = f"{record.location}: {_size_text(size)}, annotated as {_size_text(record.size)}{hint}"
        report.add(SIZE_MISMATCH, case)


def _check_object(report: CheckReport, record: ImageRecord, annotation: Annotation) -> None:
    where = f"{record.name}: annotation {annotation.id}"
    x1, y1, x2, y2 = (float(v) for v in annotation.box)
    if min(x2 - x1, y2 - y1) < _MIN_SIDE:
        report.add(TINY_OBJECT, f"{where}: {x2 - x1:.1f} x {y2 - y1:.1f}")
    try:
        mask = object_mask(annotation, record.size)
    except SaisError as error:
        report.add(MALFORMED_MASK, f"{record.name}: {error}")
        return
    if mask is None:
        return  # counted in the notes of the split
    extent = bounding_box(mask)
    if extent[2] <= extent[0] or extent[3] <= extent[1]:
        report.add(EMPTY_MASK, where)
        return
    height, width = record.size
    clipped = np.clip(extent, 0, (width, height, width, height))  # boxes are clipped to the image as well
    excess = float(max((annotation.box[:2] - clipped[:2]).max(), (clipped[2:] - annotation.box[2:]).max()))
    if excess > _MASK_MARGIN:
        report.add(MASK_OUTSIDE_BOX, f"{where}: by {excess:.1f} px")


def _check_duplicates(report: CheckReport, record: ImageRecord) -> None:
    objects = [a for a in record.annotations if not a.crowd]
    if len(objects) < 2:
        return
    boxes = np.stack([a.box for a in objects]).astype(np.float64)
    labels = np.array([a.label for a in objects])
    shared, areas = box_intersection(boxes[:, None], boxes), box_area(boxes)
    duplicates = shared > _DUPLICATE_IOU * (areas[:, None] + areas - shared)
    for i, j in np.argwhere(np.triu(duplicates & (labels[:, None] == labels), 1)):
        report.add(DUPLICATE_OBJECT, f"{record.name}: annotations {objects[i].id} and {objects[j].id}")


def _size_text(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
