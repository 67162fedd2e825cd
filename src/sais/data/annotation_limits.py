"""What is wrong with annotations beyond `sais.input_limits`, in words, for the readers and for splits built in Python.

Each function returns a description of the problem with its remedy, or "" within the limits. P is the number of points,
N of objects.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sais import input_limits

if TYPE_CHECKING:
    from sais.data.annotations import Annotation

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 3, 4, 4


def quoted(value: Any) -> str:
    """Return the repr of a value from a file, shortened: a value may be megabytes long or nested a thousand times."""
    return _REPR.repr(value)


def size_problem(height: int, width: int) -> str:
    """Return what is wrong with a stated size in pixels."""
    side, pixels = input_limits.MAX_STATED_SIDE, input_limits.MAX_STATED_PIXELS
    if max(height, width) <= side and height * width <= pixels:
        return ""
    limit = f"above the limit of {pixels} pixels and sides of {side}"
    return f"has the size {quoted(width)} x {quoted(height)}, {limit}. Cut the image into parts, or correct its size"


def outline_problem(parts: Sequence[Sequence[float]], around: float) -> str:
    """Return what is wrong with the polygons of an object.

    Args:
        parts: Polygons as flat lists of 2 P numbers.
        around: Sum of the sides of their bounding box, in pixels.
    """
    points = sum(map(len, parts)) // 2
    if points > input_limits.MAX_OUTLINE_POINTS:
        return f"an outline of {points} points, above the limit of {input_limits.MAX_OUTLINE_POINTS}. Simplify it"
    limit = input_limits.MAX_OUTLINE_LENGTH
    if points * around <= limit:  # no edge is longer than the sides of the box
        return ""
    length = 0.0
    for part in parts:
        corners = np.asarray(part, np.float64).reshape(-1, 2)
        length += float(np.abs(corners - np.roll(corners, 1, 0)).sum())
    return "" if length <= limit else f"an outline of {length:.3g} px, above the limit of {limit:.3g}. Simplify it"


def crowding_problem(annotations: Sequence[Annotation], size: tuple[int, int]) -> str:
    """Return what is wrong with the number and the boxes of the N objects of an image of the size (H, W)."""
    if len(annotations) <= input_limits.MAX_BOX_COVERAGE:  # no box is larger than the image
        return ""
    if len(annotations) > input_limits.MAX_OBJECTS_PER_IMAGE:
        limit = input_limits.MAX_OBJECTS_PER_IMAGE
        return f"has {len(annotations)} objects, above the limit of {limit}. Cut the image into parts"
    boxes = np.stack([annotation.box for annotation in annotations]).astype(np.float64)
    coverage = float((boxes[:, 2:] - boxes[:, :2]).prod(1).sum()) / (size[0] * size[1])
    if coverage <= input_limits.MAX_BOX_COVERAGE:
        return ""
    limit = input_limits.MAX_BOX_COVERAGE
    return f"has boxes that together cover it {coverage:.0f} times, above the limit of {limit}. Remove repeated objects"


def classes_problem(names: Sequence[str]) -> str:
    """Return what is wrong with the number and the length of class names."""
    if len(names) > input_limits.MAX_CATEGORIES:
        return f"{len(names)} categories, above the limit of {input_limits.MAX_CATEGORIES}. Remove unused ones"
    longest = max(names, key=len, default="")
    if len(longest) <= input_limits.MAX_NAME_LETTERS:
        return ""
    limit = input_limits.MAX_NAME_LETTERS
    return f"a class name of {len(longest)} letters, above the limit of {limit} ({quoted(longest)}). Shorten it"
