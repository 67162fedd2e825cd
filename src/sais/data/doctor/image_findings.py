"""Findings about single images: unreadable, of another size than annotated, of one color, unlike the others."""

from __future__ import annotations

import statistics
from pathlib import Path

from sais.data.annotations import ImageRecord
from sais.data.doctor import kinds
from sais.data.doctor.images import ImageFacts
from sais.data.doctor.report import CheckReport
from sais.data.exif_frame import in_stored_frame

_MAX_NOISE = 8
"""Contrast up to which an image is of one color."""
_MIN_COMPARED = 10
"""Number of images from which the median says what is usual."""


def check_images(report: CheckReport) -> None:
    """Add the findings about each image.

    Args:
        report: Report with `facts` about each image of the split, which receives the findings.
    """
    unknown_frames: list[ImageRecord] = []
    pairs = list(zip(report.split.images, report.facts, strict=True))
    for record, facts in pairs:
        report.conversions.update(facts.notes)
        if facts.error:
            report.add(kinds.UNREADABLE_IMAGE, facts.error, record)
        elif not _check_frame(report, record, facts, unknown_frames):
            _check_size(report, record, facts)
        if facts.contrast is not None and facts.contrast <= _MAX_NOISE:
            report.add(kinds.ONE_COLOR, record.name, record)
    if kinds.STORED_FRAME in report.findings:  # otherwise the tool has turned the images
        for record in unknown_frames:
            report.add(kinds.UNKNOWN_FRAME, record.name, record)
    _check_unusual(report, [(record, facts.size) for record, facts in pairs if not facts.error])
    if any(record.annotations for record in report.split.images):  # otherwise labels are missing altogether
        for record in report.split.images:
            if not record.annotations:
                report.add(kinds.NO_OBJECTS, record.name, record)


def _check_frame(
    report: CheckReport, record: ImageRecord, facts: ImageFacts, unknown_frames: list[ImageRecord]
) -> bool:
    """Check an image that EXIF turns, and return whether it is annotated as stored."""
    if facts.orientation <= 1 or not isinstance(record.source, Path):
        return False
    if in_stored_frame(facts.size, record.size, record.source):
        report.add(kinds.STORED_FRAME, record.name, record)
        return True
    if facts.orientation < 5 or facts.size[0] == facts.size[1]:
        unknown_frames.append(record)
    return False


def _check_size(report: CheckReport, record: ImageRecord, facts: ImageFacts) -> None:
    if facts.size == tuple(record.size):
        return
    hint = " (height and width swapped)" if facts.size == tuple(record.size[::-1]) else ""
    text = f"{record.location}: {_size_text(facts.size)}, annotated as {_size_text(record.size)}{hint}"
    report.add(kinds.SIZE_MISMATCH, text, record)


def _check_unusual(report: CheckReport, sizes: list[tuple[ImageRecord, tuple[int, int]]]) -> None:
    """Add the images that are much larger, smaller, wider or higher than the median image."""
    if len(sizes) < _MIN_COMPARED:
        return
    median_side = statistics.median((height * width) ** 0.5 for _, (height, width) in sizes)
    median_aspect = statistics.median(width / height for _, (height, width) in sizes)
    for record, (height, width) in sizes:
        text = f"{record.name}: {_size_text((height, width))}"
        if _ratio((height * width) ** 0.5, median_side) > kinds.ODD_SIZE_RATIO:
            report.add(kinds.ODD_SIZE, text, record)
        if _ratio(width / height, median_aspect) > kinds.ODD_ASPECT_RATIO:
            report.add(kinds.ODD_ASPECT, text, record)


def _ratio(first: float, second: float) -> float:
    return max(first, second) / min(first, second)


def _size_text(size: tuple[int, ...]) -> str:
    return f"{size[0]} x {size[1]} (height x width)"
