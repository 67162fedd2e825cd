"""Choice of the labels to look at: by class, size, image name, or finding of the doctor."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.doctor.findings import Case, Finding
from sais.errors import InputError
from sais.resolve import suggest
from sais.text import short_name

ObjectSize = Literal["small", "medium", "large"]
SIZE_AREAS: dict[ObjectSize, tuple[float, float]] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, float("inf")),
}
"""Size of an object -> minimum and maximum of its area in pixels, as COCO evaluates; the maximum is not included."""

Image = TypeVar("Image")

Places = Mapping[int, Collection[int] | None]
"""Id of an image -> ids of its annotations, None for the whole image."""


@dataclass(frozen=True)
class LabelFilter:
    """The labels to choose; empty fields choose all."""

    classes: tuple[str, ...] = ()
    """Names of classes."""
    size: ObjectSize | None = None
    """Size of the objects, as in the COCO evaluation."""
    min_area: float = 0.0
    """Minimum area of an object in pixels."""
    max_area: float = float("inf")
    """Maximum area of an object in pixels."""
    images: tuple[str, ...] = ()
    """Names of images, or patterns such as IMG_20*.jpg."""

    @property
    def is_of_objects(self) -> bool:
        """Whether objects are chosen, so that images without any of them are left out."""
        return bool(self.classes or self.size or self.min_area > 0 or np.isfinite(self.max_area))

    def accepts(self, annotation: Annotation, class_names: Sequence[str]) -> bool:
        """Return whether an object is chosen by its class and its area."""
        low, high = (0.0, float("inf")) if self.size is None else SIZE_AREAS[self.size]
        is_size = low <= annotation.area < high and self.min_area <= annotation.area <= self.max_area
        return is_size and (not self.classes or class_names[annotation.label] in self.classes)

    def accepts_image(self, record: ImageRecord) -> bool:
        """Return whether an image is chosen by its name; a pattern with a slash is matched with the end of the path."""
        if not self.images:
            return True
        name, path = record.name, record.location.replace("\\", "/")
        return any(
            fnmatch.fnmatchcase(f"/{path}", f"*/{pattern.removeprefix('./')}")
            if "/" in pattern
            else fnmatch.fnmatchcase(name, pattern)
            for pattern in self.images
        )


def choose_labels(split: DatasetSplit, label_filter: LabelFilter, places: Places | None = None) -> list[ImageRecord]:
    """Return the chosen images of a split, each with the chosen objects only.

    Args:
        split: split of a data set.
        label_filter: what is chosen.
        places: images, and objects in them, that are chosen as well as by the filter; None for all.
    """
    records = []
    for record in split.images:
        if not label_filter.accepts_image(record) or (places is not None and record.id not in places):
            continue
        ids = None if places is None else places[record.id]
        chosen = tuple(a for a in record.annotations if label_filter.accepts(a, split.class_names))
        if ids is not None:  # a crowd region of a finding is shown like an object
            chosen = tuple(replace(a, crowd=False) for a in chosen if a.id in ids)
        if chosen or not (label_filter.is_of_objects or ids):
            records.append(replace(record, annotations=chosen))
    return records


def check_class_names(classes: Sequence[str], splits: Iterable[DatasetSplit]) -> None:
    """Raise InputError if a chosen class is in no split."""
    known = dict.fromkeys(name for split in splits for name in split.class_names)
    for name in classes:
        if name not in known:
            raise InputError(f"classes {short_name(name)!r}: no such class{suggest(name, known)}")


def cases_of(kind: str, findings: Iterable[Finding]) -> list[Case]:
    """Return the cases of the findings whose kind contains a text, without regard to case.

    Args:
        kind: the text, such as "duplicate".
        findings: findings of all splits.

    Raises:
        InputError: no kind contains it.
    """
    findings = list(findings)
    chosen = [finding for finding in findings if kind.casefold() in finding.kind.casefold()]
    if not chosen:
        names = "; ".join(dict.fromkeys(finding.kind for finding in findings)) or "none"
        raise InputError(f"finding {short_name(kind)!r}: not among the findings ({names}). Give a part of one of them.")
    return [case for finding in chosen for case in finding.cases]


def places_of(cases: Iterable[Case], split_name: str) -> Places:
    """Return the images of a split, and the objects in them, that cases are about."""
    places: dict[int, set[int] | None] = {}
    for case in cases:
        for number, reference in enumerate((case.image, *case.others) if case.image else ()):
            if reference.split != split_name:
                continue
            ids = case.annotation_ids if number == 0 else ()
            known = places.get(reference.image_id, set())
            places[reference.image_id] = {*known, *ids} if ids and known is not None else None
    return places


def case_order(cases: Iterable[Case]) -> dict[tuple[str, int], int]:
    """Return the rank of each image, by split and id, in the order in which cases name them."""
    references = (reference for case in cases if case.image for reference in (case.image, *case.others))
    order: dict[tuple[str, int], int] = {}
    for reference in references:
        order.setdefault((reference.split, reference.image_id), len(order))
    return order


def sample_images(images: Sequence[Image], count: int, seed: int) -> list[Image]:
    """Return at most `count` images, drawn at random, in their order.

    Args:
        images: images to draw from, of any type.
        count: maximum number of images.
        seed: random seed; the same seed draws the same images.
    """
    if len(images) <= count:
        return list(images)
    places = np.random.default_rng(seed).choice(len(images), count, replace=False)
    return [images[place] for place in sorted(places.tolist())]
