"""Repair of what needs no decision: the splits of a data set without the faults that a check has found.

Unreadable images, copies, doubled and empty objects are left out; boxes, areas, sizes and outlines are corrected. What
a person has to decide, such as the class of an object, remains. Healthy objects are not changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from sais.data.annotations import (
    Annotation,
    DatasetSplit,
    ImageRecord,
    Segmentation,
    object_mask,
    segmentation_bounds,
)
from sais.data.doctor import kinds
from sais.data.doctor.objects import check_object, mask_pixels
from sais.data.doctor.pairs import check_pairs, compare_objects
from sais.data.doctor.report import CheckReport
from sais.data.formats.image_sizes import trust_file_sizes
from sais.data.formats.notes import NO_MASK
from sais.data.options import DataOptions, apply_options, duplicate_files
from sais.ops.numpy_boxes import box_area
from sais.ops.outlines import crop_shape, mask_rings, ring_area
from sais.ops.rasterize import CutMask
from sais.ops.rle import encode_cropped

REMOVED_UNREADABLE = "unreadable images removed"
REMOVED_COPIES = "images that are a copy of another one removed"
REMOVED_SHARED = "images of an earlier split removed"
REMOVED_OTHER_SIZE = "images whose labels are of an image of another size removed"
REMOVED_ENTRIES = "malformed entries removed"
MERGED_ENTRIES = "entries of images listed more than once merged"
CORRECTED_SIZES = "sizes of images corrected"
REMOVED_MALFORMED = "objects with a malformed mask removed"
REMOVED_EMPTY = "objects with an empty mask removed"
REMOVED_DUPLICATES = "doubled objects removed"
CORRECTED_BOXES = "boxes computed from the mask"
CORRECTED_AREAS = "areas computed"
TRACED = "self-crossing outlines traced from their pixels"
REMOVALS = {
    kinds.MALFORMED_MASK: REMOVED_MALFORMED,
    kinds.EMPTY_MASK: REMOVED_EMPTY,
    kinds.DUPLICATE_OBJECT: REMOVED_DUPLICATES,
}
"""Kind of finding that removes an object -> how the removal is counted."""


@dataclass
class RepairedSplit:
    """A split without the faults that can be repaired."""

    split: DatasetSplit
    """The repaired split."""
    changes: Counter[str] = field(default_factory=Counter)
    """What was changed, and how often."""


def repair(reports: Sequence[CheckReport]) -> list[RepairedSplit]:
    """Repair the splits of a data set.

    Args:
        reports: A report for each split, as `sais.data.doctor.check` has filled it.

    Returns:
        The repaired splits in the same order. Their images are those of the data set, which is not changed.
    """
    return [_repair_split(report) for report in reports]


def _repair_split(report: CheckReport) -> RepairedSplit:
    changes = Counter({note: count for note, count in report.split.notes.items() if note != NO_MASK})  # on reading
    changes[REMOVED_ENTRIES] += sum(map(len, report.problems.values()))
    corrected = _correct_sizes(report)
    changes[CORRECTED_SIZES] += len(corrected)
    removed = _removed_images(report, set(corrected), changes)
    records = [corrected.get(record.id, record) for record in report.split.images if record.id not in removed]
    split = replace(report.split, images=tuple(records))
    merged = apply_options(split, DataOptions(merge_duplicate_images=True))
    changes[MERGED_ENTRIES] += len(split.images) - len(merged.images)
    files = duplicate_files(split)
    changed = [r for r in merged.images if r.id in corrected or (isinstance(r.source, Path) and r.source in files)]
    faults = _object_faults(report, replace(merged, images=tuple(changed)))
    images = tuple(_repair_objects(record, faults, changes) for record in merged.images)
    return RepairedSplit(replace(merged, images=images), +changes)  # without zeros


def _correct_sizes(report: CheckReport) -> dict[int, ImageRecord]:
    """Return the images by id whose labels fit the size of their file, in that size."""
    wrong = _image_ids(report, kinds.SIZE_MISMATCH)
    stated = {record.id: record for record in report.split.images if record.id in wrong}
    fitted = trust_file_sizes(replace(report.split, images=tuple(stated.values()))).images
    return {record.id: record for record in fitted if record.size != stated[record.id].size}


def _removed_images(report: CheckReport, corrected: Set[int], changes: Counter[str]) -> set[int]:
    """Return the ids of the images that are left out.

    Args:
        report: Report of the split.
        corrected: Ids of the images whose size is corrected.
        changes: Takes the number of images by reason.
    """
    records = {record.id: record for record in report.split.images}
    repeated = duplicate_files(report.split)
    groups = {
        REMOVED_UNREADABLE: _image_ids(report, kinds.UNREADABLE_IMAGE) | _crowded_images(report),
        REMOVED_OTHER_SIZE: _image_ids(report, kinds.SIZE_MISMATCH) - corrected,
        REMOVED_SHARED: _image_ids(report, kinds.SHARED_IMAGE),
        REMOVED_COPIES: set[int](),
    }
    for case in report.findings.get(kinds.SAME_CONTENT, ()):
        assert case.image is not None
        later, first = records[case.image.image_id], records[case.others[0].image_id]
        if later.source in repeated or first.source in repeated:
            continue  # its other entries may have further objects
        if _covers(first, later):
            groups[REMOVED_COPIES].add(later.id)
        elif _covers(later, first):
            groups[REMOVED_COPIES].add(first.id)
    removed: set[int] = set()
    for name, ids in groups.items():
        changes[name] += len(ids - removed)
        removed |= ids
    return removed


def _image_ids(report: CheckReport, kind: str) -> set[int]:
    return {case.image.image_id for case in report.findings.get(kind, ()) if case.image is not None}


def _crowded_images(report: CheckReport) -> set[int]:
    """Return the ids of the images whose masks together are above the limit, which cannot be read."""
    cases = report.findings.get(kinds.MALFORMED_MASK, ())
    return {case.image.image_id for case in cases if case.image is not None and not case.annotation_ids}


def _covers(record: ImageRecord, other: ImageRecord) -> bool:
    """Return whether an image has all objects of a copy of it, with the same box and nearly the same mask."""
    own: dict[tuple[int, bool, tuple[int, ...]], list[Annotation]] = {}
    for annotation in record.annotations:
        own.setdefault(_object_key(annotation), []).append(annotation)
    return all(
        any(_is_same(candidate, annotation, record.size) for candidate in own.get(_object_key(annotation), ()))
        for annotation in other.annotations
    )


def _is_same(first: Annotation, second: Annotation, size: tuple[int, int]) -> bool:
    """Return whether two objects with the same box, in copies of an image (H, W), have nearly the same mask."""
    if first.segmentation is None or second.segmentation is None:
        return second.segmentation is None
    return first.segmentation == second.segmentation or compare_objects(first, second, size) == kinds.DUPLICATE_OBJECT


def _object_key(annotation: Annotation) -> tuple[int, bool, tuple[int, ...]]:
    return annotation.label, annotation.crowd, tuple(np.round(annotation.box).astype(int).tolist())


def _object_faults(report: CheckReport, changed: DatasetSplit) -> dict[int, set[str]]:
    """Return the kinds of findings about each object by its annotation id.

    Args:
        report: Report of the split.
        changed: Its images that have other objects or another size than in the report, which are checked again.
    """
    again = CheckReport(changed)
    for record in changed.images:
        for annotation in record.annotations:
            check_object(again, record, annotation)
        check_pairs(again, record)
    changed_ids = {annotation.id for record in changed.images for annotation in record.annotations}
    faults: dict[int, set[str]] = {}
    for source, skipped in ((report, changed_ids), (again, set[int]())):
        for kind, cases in source.findings.items():
            for case in cases:
                # Of doubled objects the first is healthy.
                ids = case.annotation_ids[1:] if kind == kinds.DUPLICATE_OBJECT else case.annotation_ids
                for annotation_id in set(ids) - skipped:
                    faults.setdefault(annotation_id, set()).add(kind)
    return faults


def _repair_objects(record: ImageRecord, faults: dict[int, set[str]], changes: Counter[str]) -> ImageRecord:
    """Return an image without the faults of its objects."""
    objects = record.annotations
    if not any(annotation.id in faults for annotation in objects):
        return record
    annotations = []
    for annotation in objects:
        found = faults.get(annotation.id, set())
        removal = next((REMOVALS[kind] for kind in REMOVALS if kind in found), "")
        if removal:
            changes[removal] += 1
        else:
            annotations.append(_repair_object(annotation, record.size, found, changes))
    return replace(record, annotations=tuple(annotations))


def _repair_object(annotation: Annotation, size: tuple[int, int], found: set[str], changes: Counter[str]) -> Annotation:
    """Return an object of an image (H, W) with its outline, box and area corrected."""
    if kinds.SELF_CROSSING in found:
        annotation = replace(annotation, segmentation=_trace(annotation, size))
        changes[TRACED] += 1
    if found & {kinds.MASK_OUTSIDE_BOX, kinds.BOX_MISMATCH, kinds.SELF_CROSSING}:
        bounds = segmentation_bounds(annotation, size)
        assert bounds is not None
        limits = np.array([size[1], size[0]] * 2, np.float32)
        annotation = replace(annotation, box=np.clip(bounds, 0, limits).astype(np.float32))
        changes[CORRECTED_BOXES] += kinds.SELF_CROSSING not in found
    if found & {kinds.LARGE_AREA, kinds.WRONG_AREA, kinds.BOX_AREA, kinds.SELF_CROSSING}:
        box_pixels = float(box_area(annotation.box))
        area = box_pixels if annotation.segmentation is None else float(mask_pixels(annotation, size))
        changes[CORRECTED_AREAS] += area != annotation.area and kinds.SELF_CROSSING not in found
        annotation = replace(annotation, area=area)
    return annotation


def _trace(annotation: Annotation, size: tuple[int, int]) -> Segmentation:
    """Return the pixels of a mask as polygons along their edges, or as an RLE if they have holes."""
    shape = object_mask(annotation, size)
    assert shape is not None
    assert not isinstance(shape, CutMask)
    bits, x, y = crop_shape(shape, size)
    rings = mask_rings(bits)
    if any(ring_area(ring) < 0 for ring in rings):
        return encode_cropped(bits, x, y, size)
    return [(ring + np.array([x, y])).reshape(-1).tolist() for ring in rings]
