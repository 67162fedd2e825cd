"""Outlines of the synthetic shapes, and the classes that they form."""

from __future__ import annotations

import numpy as np

CLASS_NAMES = ("ring", "star", "triangle", "crescent", "cross")
"""Class names, label 0 first; the category id in the JSON file is label + 1. Only the ring has a hole."""
LEFT_RIGHT_NAMES = ("left boot", "right boot", "left flag", "right flag", "star")
"""Class names of the data set in which a horizontal flip turns classes into each other."""

_MAX_TILT = np.pi / 6
"""Maximum angle of a shape that points to the left or right, so that nothing else than the side separates them."""


def random_outline(random: np.random.Generator, name: str) -> np.ndarray:
    """Draw an outline (P, 2) of a class in the unit circle, to be filled by the even-odd rule.

    Args:
        random: Source of randomness.
        name: One of `CLASS_NAMES` and `LEFT_RIGHT_NAMES`.
    """
    side, _, shape = name.rpartition(" ")
    if side:
        points = _rotate(_pointing_right(random, shape), random.uniform(-_MAX_TILT, _MAX_TILT))
        return points * (-1.0, 1.0) if side == "left" else points
    if name == "ring":
        hole = random.uniform(0.42, 0.58)
        # Two closed loops in one part; the bridge between them is traversed twice and cancels. The inner loop runs in
        # the opposite direction, so that the signed area is correct as well.
        points = np.concatenate([_arc(0, 2 * np.pi, 64), hole * _arc(2 * np.pi, 0, 64)])
    elif name == "star":
        tips = 5 if random.random() < 0.5 else 6
        radius = np.where(np.arange(2 * tips) % 2, random.uniform(0.45, 0.55), 1.0)
        points = radius[:, None] * _arc(0, 2 * np.pi, 2 * tips + 1)[:-1]
    elif name == "triangle":
        points = _arc(0, 2 * np.pi, 4)[:-1] * (1.0, random.uniform(0.75, 1.0))
    elif name == "crescent":
        points = _crescent(random.uniform(0.66, 0.78), random.uniform(0.5, 0.62))
    else:
        arm = random.uniform(0.26, 0.34)
        corner = np.array([[1, -arm], [1, arm], [arm, arm]])
        points = np.concatenate([_rotate(corner, k * np.pi / 2) for k in range(4)])
    return _rotate(points, random.uniform(0, 2 * np.pi))


def _pointing_right(random: np.random.Generator, shape: str) -> np.ndarray:
    """Draw the outline (P, 2) of a boot or a flag that points to the right."""
    if shape == "boot":
        leg, sole = random.uniform(-0.15, 0.05), random.uniform(0.3, 0.45)
        return np.array([[-0.55, -0.8], [leg, -0.8], [leg, sole], [0.6, sole], [0.6, 0.8], [-0.55, 0.8]])
    tip, lower = random.uniform(0.7, 0.85), random.uniform(0.1, 0.3)
    return np.array([[-0.5, -0.85], [tip, (lower - 0.85) / 2], [-0.25, lower], [-0.25, 0.85], [-0.5, 0.85]])


def _arc(start: float, end: float, count: int) -> np.ndarray:
    """Return `count` points (count, 2) on the unit circle from angle `start` to `end`, in radians."""
    angles = np.linspace(start, end, count)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _crescent(radius: float, shift: float) -> np.ndarray:
    """Return the outline (P, 2) of the unit disc without a disc of `radius` shifted right by `shift`."""
    x = (1 - radius**2 + shift**2) / (2 * shift)  # of the circles' intersections
    y = np.sqrt(1 - x**2)
    outer, inner = np.arctan2(y, x), np.arctan2(y, x - shift)
    back = _arc(2 * np.pi - inner, inner, 32) * radius + (shift, 0.0)
    return np.concatenate([_arc(outer, 2 * np.pi - outer, 48), back[1:-1]])


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    """Rotate points (P, 2) by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])
