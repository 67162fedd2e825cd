"""A look through a data set before hours of training: does every image open, and do boxes and masks make sense?

Nothing is changed; `sais check DIR` prints the summary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, object_mask, summarize
from sais.errors import SaisError
from sais.io.images import read_image, read_size
from sais.ops.rasterize import bounding_box

_TINY = 4.0
"""Pixels: an object with a side under this is hardly a cell of the prototype grid."""
_BEYOND = 2.0
"""Pixels a mask may reach beyond its box before it is reported; tools round."""
_SAME = 0.95
"""Box IoU over which two objects of one class are taken for the same."""
_EXAMPLES = 5
"""Cases named in the summary for each kind of finding."""

BROKEN = "images that cannot be read"
OTHER_SIZE = "images of another size than the annotations say"
BAD_MASK = "masks that cannot be read"
MASK_BEYOND = f"masks reaching more than {_BEYOND:g} px beyond their box"
EMPTY_MASK = "masks without a pixel"
TINY = f"objects with a side under {_TINY:g} px"
DOUBLE = f"objects there twice (same class, box IoU over {_SAME:g})"

ERRORS = (BROKEN, OTHER_SIZE, BAD_MASK)
"""Findings that would stop or spoil a training run; the others are for a person to judge."""


@dataclass
class CheckReport:
    """What a check found: for each kind, every case in words."""

    index: DatasetSplit
    findings: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether training can start: no broken image, wrong size or unreadable mask."""
        return not any(kind in self.findings for kind in ERRORS)

    def summary(self) -> str:
        """Lines for a person: what is there, what was found and where, at most a few cases of each kind."""
        lines = [summarize(self.index)]
        for kind in sorted(self.findings, key=lambda kind: kind not in ERRORS):
            cases = self.findings[kind]
            lines.append(f"  {'ERROR' if kind in ERRORS else 'look at'}: {kind}: {len(cases)}")
            lines += [f"    {case}" for case in cases[:_EXAMPLES]]
            if len(cases) > _EXAMPLES:
                lines.append(f"    and {len(cases) - _EXAMPLES} more")
        if not self.findings:
            lines.append("  nothing wrong found")
        return "\n".join(lines)

    def add(self, kind: str, case: str) -> None:
        """Note one case of a kind of finding."""
        self.findings.setdefault(kind, []).append(case)


def check_dataset(
    index: DatasetSplit, decode: bool = True, progress: Callable[[int, int], None] | None = None
) -> CheckReport:
    """Look at every image and every object of an index.

    Args:
        index: from `sais.data.formats.read_dataset`.
        decode: read the images whole, so that files cut short are found; otherwise only their headers.
        progress: called after each image with how many are done and how many there are.

    Returns:
        The findings; none of them raises.
    """
    found = CheckReport(index)
    for done, record in enumerate(index.images, 1):
        _check_image(found, record, decode)
        for annotation in record.annotations:
            _check_object(found, record, annotation)
        _check_doubles(found, record)
        if progress is not None:
            progress(done, len(index.images))
    return found


def _check_image(found: CheckReport, record: ImageRecord, decode: bool) -> None:
    try:
        size = read_image(record.path).shape[:2] if decode else read_size(record.path)
    except SaisError as error:
        found.add(BROKEN, str(error))
        return
    if tuple(size) != record.size:
        turned = " (turned by EXIF?)" if tuple(size) == record.size[::-1] else ""
        found.add(OTHER_SIZE, f"{record.path}: {_by(tuple(size))}, annotated as {_by(record.size)}{turned}")


def _check_object(found: CheckReport, record: ImageRecord, annotation: Annotation) -> None:
    where = f"{record.path.name}: annotation {annotation.id}"
    x1, y1, x2, y2 = (float(v) for v in annotation.box)
    if min(x2 - x1, y2 - y1) < _TINY:
        found.add(TINY, f"{where}: {x2 - x1:.1f} x {y2 - y1:.1f}")
    try:
        mask = object_mask(annotation, record.size)
    except SaisError as error:
        found.add(BAD_MASK, f"{record.path.name}: {error}")
        return
    if mask is None:
        return  # counted in the notes of the index
    extents = bounding_box(mask)
    if extents[2] <= extents[0] or extents[3] <= extents[1]:
        found.add(EMPTY_MASK, where)
        return
    height, width = record.size
    inner = np.clip(extents, 0, (width, height, width, height))  # boxes were clipped to the image too
    beyond = float(max((annotation.box[:2] - inner[:2]).max(), (inner[2:] - annotation.box[2:]).max()))
    if beyond > _BEYOND:
        found.add(MASK_BEYOND, f"{where}: by {beyond:.1f} px")


def _check_doubles(found: CheckReport, record: ImageRecord) -> None:
    objects = [a for a in record.annotations if not a.crowd]
    if len(objects) < 2:
        return
    boxes = np.stack([a.box for a in objects]).astype(np.float64)
    labels = np.array([a.label for a in objects])
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    across = np.clip(np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner, 0, None)
    shared = across[..., 0] * across[..., 1]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    same = shared > _SAME * (areas[:, None] + areas[None] - shared)
    for i, j in np.argwhere(np.triu(same & (labels[:, None] == labels[None]), 1)):
        found.add(DOUBLE, f"{record.path.name}: annotations {objects[i].id} and {objects[j].id}")


def _by(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
