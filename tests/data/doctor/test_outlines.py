"""Polygons that cross themselves: points out of order are found, tracing noise is not."""

from __future__ import annotations

import numpy as np
import pytest

from sais.data.doctor.outlines import crosses_itself

SIZE = (100, 100)
CIRCLE = 50 + 30 * np.stack([np.cos(np.linspace(0, 6.1, 40)), np.sin(np.linspace(0, 6.1, 40))], 1)


def test_crosses_itself_finds_points_out_of_order() -> None:
    assert crosses_itself(np.array([[10, 10], [60, 60], [60, 10], [10, 60]], float), SIZE)
    assert crosses_itself(np.concatenate([CIRCLE[:20], CIRCLE[:19:-1]]), SIZE)


@pytest.mark.parametrize("part", [CIRCLE, CIRCLE[::-1], CIRCLE[:3], np.zeros((0, 2))], ids=str)
def test_crosses_itself_accepts_simple_polygons(part: np.ndarray) -> None:
    assert not crosses_itself(part, SIZE)


def test_crosses_itself_ignores_a_knot_of_a_pixel() -> None:
    knot = np.concatenate([CIRCLE[:10], CIRCLE[9] + np.array([[0.5, -0.5], [-0.8, 0.2], [0.4, 0.6]]), CIRCLE[10:]])
    assert not crosses_itself(knot, SIZE)


def test_crosses_itself_accepts_a_bridge_to_a_hole() -> None:
    """A polygon that visits a hole over a bridge touches itself along the bridge."""
    ring = [[10, 10], [60, 10], [60, 60], [10, 60], [10, 10], [20, 20], [20, 40], [40, 40], [40, 20], [20, 20]]
    assert not crosses_itself(np.array(ring, float), SIZE)
