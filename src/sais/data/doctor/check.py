"""Check of a data set before training: unreadable images, wrong sizes, malformed masks and suspicious boxes.

The data set is not changed; `sais check DIR` prints the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sais import input_limits
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, object_mask, segmentation_bounds
from sais.data.doctor.findings import SEVERITIES, Finding, note_severity
from sais.data.exif_frame import file_orientation, in_stored_frame
from sais.data.flip_pairs import find_flip_pairs
from sais.data.options import duplicate_files
from sais.data.remarks import describe_crowds, describe_empty_classes, file_digest
from sais.data.split_summary import summarize
from sais.errors import OutOfMemoryError, SaisError
from sais.io.images import SEVERAL_PAGES, read_size
from sais.ops.numpy_boxes import box_area, box_intersection
from sais.ops.rasterize import inside

_MIN_SIDE = 4.0
"""Side in pixels below which an object is reported: about one cell of the prototype grid."""
_MASK_MARGIN = 2.0
"""Pixels by which a mask may exceed its box before it is reported; annotation tools round."""
_LOOSE_BOX = 4.0
"""Area of a box, as a multiple of the area of its mask's box, above which it is reported."""
_COMPARED_PAIRS = 2**20
"""Number of pairs of objects that are compared at once."""
_STRIP_PIXELS = 2**20
"""Number of pixels that are searched at once for one inside a mask."""
_DUPLICATE_IOU = 0.95
"""Box IoU above which two objects of one class are reported as duplicates."""

UNREADABLE_IMAGE = "unreadable images"
SIZE_MISMATCH = "images of another size than annotated"
MALFORMED_MASK = "malformed masks"
MASK_OUTSIDE_BOX = f"masks that exceed their box by more than {_MASK_MARGIN:g} px"
LOOSE_BOX = f"boxes of more than {_LOOSE_BOX:g} times the area of their mask's box"
LARGE_AREA = "areas larger than the box"
EMPTY_MASK = "empty masks"
TINY_OBJECT = f"objects with a side below {_MIN_SIDE:g} px"
DUPLICATE_OBJECT = f"duplicate objects (same class, box IoU above {_DUPLICATE_IOU:g})"
STORED_FRAME = "images turned by EXIF but annotated as stored (used as stored)"
UNKNOWN_FRAME = "images turned by EXIF whose size does not show how they are annotated (used upright)"
REPEATED_FILE = "image files listed more than once (merge_duplicate_images merges their objects)"
SAME_CONTENT = "images with the content of another one"
SHARED_IMAGE = "images that are in another split as well"
CROWDS = "crowds"
EMPTY_CLASS = "classes without objects"
FLIP_PAIRS = "pairs of classes whose labels a horizontal flip exchanges (augment.flip_pairs)"
NO_OUTLINES = "no object has an outline"

ERRORS = (UNREADABLE_IMAGE, SIZE_MISMATCH, MALFORMED_MASK)
"""Findings that stop a training run or make it wrong; the others are warnings."""


@dataclass
class CheckReport:
    """The findings of a check."""

    split: DatasetSplit
    """The split that was checked."""
    findings: dict[str, list[str]] = field(default_factory=dict)
    """Finding -> one line for each case."""
    problems: Mapping[str, list[str]] = field(default_factory=dict)
    """Kind of problem -> an error message for each entry that could not be read."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of a file's content -> its name, for images in files that were decoded."""
    conversions: Counter[str] = field(default_factory=Counter)
    """How decoded images were converted to 8-bit RGB, such as "grayscale" -> number of images."""

    @property
    def ok(self) -> bool:
        """Whether training can start: there is no ERROR."""
        return not self.problems and not any(finding in self.findings for finding in ERRORS)

    def all_findings(self) -> list[Finding]:
        """Return all findings, those of reading the annotations included: errors first, then warnings and notes."""
        notes, examples = self.split.notes, self.split.examples
        findings = [Finding("ERROR", kind, len(cases), tuple(cases)) for kind, cases in self.problems.items()]
        findings += [
            Finding("ERROR" if kind in ERRORS else "WARNING", kind, len(cases), tuple(cases))
            for kind, cases in self.findings.items()
        ]
        findings += [Finding(note_severity(note), note, count, examples.get(note, ())) for note, count in notes.items()]
        for conversion, count in self.conversions.items():
            kind = f"images {conversion}" if conversion == SEVERAL_PAGES else f"images converted to RGB: {conversion}"
            findings.append(Finding("WARNING" if conversion == SEVERAL_PAGES else "NOTE", kind, count))
        crowds = sum(a.crowd for record in self.split.images for a in record.annotations)
        if crowds:
            text = describe_crowds(self.split)
            findings.append(Finding("WARNING" if ";" in text else "NOTE", CROWDS, crowds, remark=text))
        empty = describe_empty_classes(self.split)
        if empty:
            findings.append(Finding("NOTE", EMPTY_CLASS, int(empty.split()[0]), remark=empty.partition(": ")[2]))
        pairs = find_flip_pairs(self.split.class_names)
        if pairs:
            findings.append(Finding("NOTE", FLIP_PAIRS, len(pairs), pairs))
        objects = [a for record in self.split.images for a in record.annotations if not a.crowd]
        if objects and all(a.segmentation is None for a in objects):
            remark = "training on them makes a model without masks, which predicts boxes only"
            findings.append(Finding("WARNING", NO_OUTLINES, len(objects), remark=remark))
        return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))

    def summary(self) -> str:
        """Return lines of text: the contents of the split, and the first cases of each finding, errors first."""
        lines = summarize(self.split, with_notes=False).splitlines()
        findings = self.all_findings()
        for finding in findings:
            lines += finding.lines()
        return "\n".join(lines if findings else [*lines, "  no problems found"])

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of the split and the findings for JSON."""
        annotations = [a for record in self.split.images for a in record.annotations]
        return {
            "ok": self.ok,
            "images": len(self.split.images),
            "objects": sum(not a.crowd for a in annotations),
            "crowds": sum(a.crowd for a in annotations),
            "images_without_objects": sum(not record.annotations for record in self.split.images),
            "classes": {
                name: sum(a.label == label and not a.crowd for a in annotations)
                for label, name in enumerate(self.split.class_names)
            },
            "findings": [finding.to_dict() for finding in self.all_findings()],
        }

    def add(self, finding: str, case: str) -> None:
        """Add one case of a finding."""
        self.findings.setdefault(finding, []).append(case)


def check_dataset(
    split: DatasetSplit,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
    problems: Mapping[str, list[str]] | None = None,
) -> CheckReport:
    """Check every image and every object of a split.

    Args:
        split: Split from `sais.data.formats.read_dataset`.
        decode: Whether images are decoded completely, to find truncated files; otherwise only headers are read.
        progress: Function called after each image with the number of images done and the total number.
        problems: Error messages of entries that `read_dataset` could not read, by kind.

    Returns:
        The findings; a defect in the data set never raises.

    Raises:
        OutOfMemoryError: Memory does not suffice.
    """
    report = CheckReport(split, problems=problems or {})
    unknown_frames: list[str] = []
    for done, record in enumerate(split.images, 1):
        _check_image(report, record, decode, unknown_frames)
        pixels = sum(_check_object(report, record, annotation) for annotation in record.annotations)
        if pixels > input_limits.MAX_BITMAP_PIXELS:
            limit = input_limits.MAX_BITMAP_PIXELS
            report.add(MALFORMED_MASK, f"{record.name}: RLE masks of {pixels} pixels, above the limit of {limit}")
        _check_duplicates(report, record)
        if progress is not None:
            progress(done, len(split.images))
    if STORED_FRAME in report.findings:  # otherwise the tool has turned the images
        for case in unknown_frames:
            report.add(UNKNOWN_FRAME, case)
    for path, count in duplicate_files(split).items():
        report.add(REPEATED_FILE, f"{path.name}: {count} entries")
    return report


def check_across(reports: Sequence[CheckReport]) -> None:
    """Add the images that are in several splits, by path or by content, to the report of the later split.

    Args:
        reports: A report for each split.
    """
    splits: dict[str, str] = {}  # path or digest -> split
    for report in reports:
        own: dict[str, str] = {}
        by_path = {str(r.path.resolve()): r.name for r in report.split.images if isinstance(r.source, Path)}
        shared: dict[str, str] = {}
        for names in (by_path, report.digests):
            own |= dict.fromkeys(names, report.split.name)
            shared |= {name: splits[key] for key, name in names.items() if key in splits}
        for name, other in shared.items():
            report.add(SHARED_IMAGE, f"{name}: also in {other}")
        splits = own | splits


def _check_image(report: CheckReport, record: ImageRecord, decode: bool, unknown_frames: list[str]) -> None:
    try:
        if decode or not isinstance(record.source, Path):
            height, width = record.read(notes=report.conversions).shape[:2]
        else:
            height, width = read_size(record.source)
    except OutOfMemoryError:
        raise
    except SaisError as error:
        report.add(UNREADABLE_IMAGE, str(error))
        return
    if decode and isinstance(record.source, Path):
        _check_content(report, record)
    size = (height, width)
    turned = file_orientation(record.source) if isinstance(record.source, Path) else 1
    if turned > 1:
        upright = size if not decode else read_size(record.path)
        if in_stored_frame(upright, record.size, record.path):
            report.add(STORED_FRAME, record.name)
            return
        if turned < 5 or height == width:
            unknown_frames.append(record.name)
    if size != tuple(record.size):
        hint = " (height and width swapped)" if size == tuple(record.size[::-1]) else ""
        case = f"{record.location}: {_size_text(size)}, annotated as {_size_text(record.size)}{hint}"
        report.add(SIZE_MISMATCH, case)


def _check_content(report: CheckReport, record: ImageRecord) -> None:
    digest = file_digest(record.path)
    name = report.digests.setdefault(digest, record.name)
    if name != record.name:
        report.add(SAME_CONTENT, f"{record.name}: the same as {name}")


def _check_object(report: CheckReport, record: ImageRecord, annotation: Annotation) -> int:
    """Check one object, and return the number of pixels of its decoded mask if that is an RLE of a trainable object."""
    where = f"{record.name}: annotation {annotation.id}"
    x1, y1, x2, y2 = (float(v) for v in annotation.box)
    if min(x2 - x1, y2 - y1) < _MIN_SIDE:
        report.add(TINY_OBJECT, f"{where}: {x2 - x1:.1f} x {y2 - y1:.1f}")
    if annotation.area > 1.1 * (x2 - x1) * (y2 - y1) + _MIN_SIDE**2:
        report.add(LARGE_AREA, f"{where}: {annotation.area:g} in a box of {x2 - x1:.1f} x {y2 - y1:.1f}")
    try:
        bounds = segmentation_bounds(annotation, record.size)
    except SaisError as error:
        report.add(MALFORMED_MASK, f"{record.name}: {error}")
        return 0
    if bounds is None:
        return 0  # counted in the notes of the split
    height, width = record.size
    extent = np.clip(bounds, 0, (width, height, width, height))  # boxes are clipped to the image as well
    left, top, right, bottom = (float(v) for v in extent)
    if not _has_pixels(annotation, record.size, extent):
        report.add(EMPTY_MASK, where)
        return 0
    excess = float(max((annotation.box[:2] - extent[:2]).max(), (extent[2:] - annotation.box[2:]).max()))
    if excess > _MASK_MARGIN:
        report.add(MASK_OUTSIDE_BOX, f"{where}: by {excess:.1f} px")
    elif (x2 - x1) * (y2 - y1) > _LOOSE_BOX * (right - left + _MASK_MARGIN) * (bottom - top + _MASK_MARGIN):
        sides = f"{x2 - x1:.1f} x {y2 - y1:.1f}, mask {right - left:.1f} x {bottom - top:.1f}"
        report.add(LOOSE_BOX, f"{where}: {sides}")
    is_bitmap = isinstance(annotation.segmentation, dict) and not annotation.crowd
    return round((right - left) * (bottom - top)) if is_bitmap else 0


def _check_duplicates(report: CheckReport, record: ImageRecord) -> None:
    objects = [a for a in record.annotations if not a.crowd]
    if len(objects) < 2:
        return
    boxes = np.stack([a.box for a in objects]).astype(np.float64)
    labels, areas = np.array([a.label for a in objects]), box_area(boxes)
    step = max(1, _COMPARED_PAIRS // len(objects))
    for first in range(0, len(objects), step):
        rows = slice(first, first + step)
        shared = box_intersection(boxes[rows, None], boxes)
        duplicates = shared > _DUPLICATE_IOU * (areas[rows, None] + areas - shared)
        duplicates &= labels[rows, None] == labels
        earliest = duplicates.argmax(1)  # an object is its own duplicate
        for row in np.flatnonzero(earliest < np.arange(first, first + len(earliest))).tolist():
            ids = f"{objects[earliest[row]].id} and {objects[first + row].id}"
            report.add(DUPLICATE_OBJECT, f"{record.name}: annotations {ids}")


def _has_pixels(annotation: Annotation, size: tuple[int, int], extent: np.ndarray) -> bool:
    """Return whether any pixel's center is inside a mask, of which `extent` (4,) x1 y1 x2 y2 is the box."""
    if isinstance(annotation.segmentation, dict):
        return bool((extent[2:] > extent[:2]).all())
    mask = object_mask(annotation, size)
    (x1, y1), (x2, y2) = np.floor(extent[:2]).astype(int).tolist(), np.ceil(extent[2:]).astype(int).tolist()
    step = max(1, _STRIP_PIXELS // max(1, x2 - x1))
    strips = ((x1, top, x2, min(top + step, y2)) for top in range(y1, y2, step))
    return mask is not None and any(inside(mask, strip).any() for strip in strips)


def _size_text(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
