"""Images that are another one again: exact copies by the content of the file, near-duplicates by what is visible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.doctor import kinds
from sais.data.doctor.report import CheckReport
from sais.data.doctor.similar import Signatures, SimilarImage, similar_images

Located = tuple[DatasetSplit, ImageRecord]
"""An image with its split."""


def check_copies(report: CheckReport) -> None:
    """Add the images of a split that are copies or near-duplicates of an image before them.

    Args:
        report: Report with `facts` about each image of the split, which receives the findings.
    """
    split = report.split
    digests: dict[str, ImageRecord] = {}
    for record, facts in zip(split.images, report.facts, strict=True):
        if not facts.digest:
            continue
        first = digests.setdefault(facts.digest, record)
        if first.source != record.source:
            text = f"{record.name}: the same as {first.name}"
            report.add(kinds.SAME_CONTENT, text, record, others=[(split, first)])
    for index, similar in enumerate(similar_images(signatures(report))):
        record, digest = split.images[index], report.facts[index].digest
        if any(report.facts[other.position].digest == digest and digest for other in similar):
            continue  # reported as a copy
        others = [other for other in similar if split.images[other.position].source != record.source]
        if others:
            first = split.images[others[0].position]
            text = f"{record.name}: nearly the same as {first.name}{_mirrored(others[0])}"
            report.add(kinds.NEAR_DUPLICATE, text, record, others=[(split, first)])


def _mirrored(image: SimilarImage) -> str:
    return " mirrored" if image.mirrored else ""


def signatures(report: CheckReport) -> Signatures:
    """Return the signatures of the images of a report, by which they are compared."""
    return Signatures([facts.thumbnail for facts in report.facts], [facts.size for facts in report.facts])


def check_shared(reports: Sequence[CheckReport]) -> None:
    """Add the images that are in several splits, or nearly so, to the report of the later split.

    Args:
        reports: A report for each split.
    """
    earlier: dict[str, Located] = {}  # path or digest -> image
    compared: list[tuple[CheckReport, Signatures]] = []
    for report in reports:
        shared: set[int] = set()
        own: dict[str, Located] = {}
        for index, record in enumerate(report.split.images):
            digest = report.facts[index].digest if report.facts else ""
            path = str(record.source.resolve()) if isinstance(record.source, Path) else ""
            own |= {key: (report.split, record) for key in (path, digest) if key}
            other = earlier.get(path) or earlier.get(digest)
            if other is not None:
                shared.add(index)
                text = f"{record.name}: also in {other[0].name}"
                report.add(kinds.SHARED_IMAGE, text, record, others=[other])
        if any(facts.thumbnail is not None for facts in report.facts):
            own_signatures = signatures(report)
            _check_near(report, own_signatures, compared, shared)
            compared.append((report, own_signatures))
        earlier = own | earlier


def _check_near(
    report: CheckReport, own: Signatures, compared: Sequence[tuple[CheckReport, Signatures]], shared: set[int]
) -> None:
    """Add the near-duplicates of images of earlier splits; images in `shared` are reported as copies."""
    reported = set(shared)
    for other, others in compared:
        for index, found in enumerate(similar_images(own, others)):
            if not found or index in reported:
                continue
            reported.add(index)
            record, first = report.split.images[index], other.split.images[found[0].position]
            text = f"{record.name}: nearly the same as {first.name}{_mirrored(found[0])} in {other.split.name}"
            report.add(kinds.SHARED_NEAR_DUPLICATE, text, record, others=[(other.split, first)])
