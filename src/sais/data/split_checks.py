"""Checks of a data set split that was built in Python, or read by a format of your own."""

from __future__ import annotations

import math
from collections import Counter

from sais.data.annotation_limits import classes_problem, crowding_problem, outline_problem, size_problem
from sais.data.annotations import Annotation, DatasetSplit
from sais.errors import InputError


def check_split(split: DatasetSplit) -> None:
    """Check a split that was built in Python.

    Raises:
        InputError: An id occurs twice, a label has no class, a box is not inside its image, a size is not positive, or
            something is beyond `sais.input_limits`.
    """
    if len(split.category_ids) != len(split.class_names) or not split.class_names:
        raise InputError(
            f"{split.name}: {len(split.class_names)} class names and {len(split.category_ids)} category ids. "
            "Give at least one class and one category id for each."
        )
    problem = classes_problem(split.class_names)
    if problem:
        raise InputError(f"{split.name}: {problem}.")
    _check_unique(split.name, "image id", [record.id for record in split.images])
    _check_unique(split.name, "annotation id", [a.id for record in split.images for a in record.annotations])
    for record in split.images:
        height, width = record.size
        if height < 1 or width < 1:
            raise InputError(f"{split.name}: {record.location}: size {record.size}. Give (height, width) in pixels.")
        problem = size_problem(height, width) or crowding_problem(record.annotations, record.size)
        if problem:
            raise InputError(f"{split.name}: {record.location} {problem}.")
        for annotation in record.annotations:
            where = f"{split.name}: {record.location}: annotation {annotation.id}"
            if not 0 <= annotation.label < len(split.class_names):
                last = len(split.class_names) - 1
                raise InputError(f"{where}: label {annotation.label}. Give a label from 0 to {last}.")
            x1, y1, x2, y2 = (float(edge) for edge in annotation.box)
            if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):  # NaN is rejected as well
                raise InputError(
                    f"{where}: box {x1:g} {y1:g} {x2:g} {y2:g} in an image of {width} x {height} pixels. "
                    "Give x1 < x2 and y1 < y2 inside the image."
                )
            _check_outline(annotation, record.size, where)


def _check_outline(annotation: Annotation, size: tuple[int, int], where: str) -> None:
    """Raise InputError for a polygon that is not near the image (H, W), which evaluators take gigabytes to fill."""
    if not isinstance(annotation.segmentation, list):
        return
    problem = outline_problem(annotation.segmentation, 3 * sum(size))
    if problem:
        raise InputError(f"{where}: {problem}.")
    side = max(size)
    for part in annotation.segmentation:
        if part and not (math.isfinite(sum(part)) and -side <= min(part) and max(part) <= 2 * side):
            raise InputError(
                f"{where}: outline from {min(part):g} to {max(part):g} in an image of {size[1]} x {size[0]} pixels. "
                "Clip it to the image."
            )


def _check_unique(name: str, kind: str, ids: list[int]) -> None:
    if len(set(ids)) < len(ids):
        duplicate = next(value for value, count in Counter(ids).items() if count > 1)
        raise InputError(f"{name}: {kind} {duplicate} occurs more than once. Give unique ids.")
