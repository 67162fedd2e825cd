"""Check of a data set before training: its images, its objects, and what the splits have in common.

The data set is not changed; `sais doctor DIR` prints the report.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sais import input_limits
from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.doctor import kinds
from sais.data.doctor.classes import check_classes
from sais.data.doctor.copies import check_copies, check_shared
from sais.data.doctor.image_findings import check_images
from sais.data.doctor.images import examine_images
from sais.data.doctor.objects import check_object
from sais.data.doctor.pairs import check_pairs
from sais.data.doctor.report import CheckReport
from sais.data.options import duplicate_files


def check_dataset(
    split: DatasetSplit,
    decode: bool = True,
    progress: Callable[[int, int], None] | None = None,
    problems: Mapping[str, list[str]] | None = None,
    workers: int = 0,
) -> CheckReport:
    """Check every image and every object of a split.

    Args:
        split: Split from `sais.data.formats.read_dataset`.
        decode: Whether images are decoded completely, to find truncated files, copies and near-duplicates; otherwise
            only headers are read.
        progress: Function called after each image with the number of images done and the total number.
        problems: Error messages of entries that `read_dataset` could not read, by kind.
        workers: Number of threads that read images; 0 for none.

    Returns:
        The findings; a defect in the data set never raises.

    Raises:
        OutOfMemoryError: Memory does not suffice.
    """
    report = CheckReport(split, problems=problems or {})
    with contextlib.closing(examine_images(split.images, decode, workers)) as examined:
        for done, (record, facts) in enumerate(zip(split.images, examined, strict=True), 1):
            report.facts.append(facts)
            _check_objects(report, record)
            if progress is not None:
                progress(done, len(split.images))
    check_images(report)
    check_copies(report)
    records = {record.source: record for record in reversed(split.images) if isinstance(record.source, Path)}
    for path, count in duplicate_files(split).items():
        report.add(kinds.REPEATED_FILE, f"{path.name}: {count} entries", records[path])
    return report


def _check_objects(report: CheckReport, record: ImageRecord) -> None:
    pixels = sum(check_object(report, record, annotation) for annotation in record.annotations)
    if pixels > input_limits.MAX_BITMAP_PIXELS:
        limit = input_limits.MAX_BITMAP_PIXELS
        text = f"{record.name}: RLE masks of {pixels} pixels, above the limit of {limit}"
        report.add(kinds.MALFORMED_MASK, text, record)
    check_pairs(report, record)


def check_across(reports: Sequence[CheckReport]) -> None:
    """Add what concerns several splits: images that are in two of them, and classes that one of them lacks.

    An image of two splits is added to the report of the later split.

    Args:
        reports: A report for each split, the training split first.
    """
    check_shared(reports)
    check_classes(reports)
