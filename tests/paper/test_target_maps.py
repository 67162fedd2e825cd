"""Target images by value: Figure 2's scene under both rules, and an image of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.config import InputConfig
from sais.data.annotations import Annotation, ImageRecord
from sais.errors import SaisError
from sais.paper.target_maps import MIN_BRIGHTNESS, SCENE_BOXES, SCENE_SIZE, draw_scene, draw_target_maps, level_sizes
from sais.results.draw import PALETTE

GAP = 12
"""Pixels around and between the panels."""
BLACK = (0, 0, 0)


def panel(sheet: np.ndarray, number: int, size: tuple[int, int]) -> np.ndarray:
    """One panel of the sheet."""
    left = GAP + number * (size[1] + GAP)
    return sheet[GAP : GAP + size[0], left : left + size[1]]


def color(owner: int, box: tuple[float, ...], x: float, y: float) -> np.ndarray:
    """What a location (x, y) of this object looks like: its color, the brighter the more central (Eq. 3)."""
    left, top, right, bottom = x - box[0], y - box[1], box[2] - x, box[3] - y
    central = (min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)) ** 0.5
    return np.array(PALETTE[owner]) * (MIN_BRIGHTNESS + (1 - MIN_BRIGHTNESS) * central)


def test_draw_scene_shows_both_assigners() -> None:
    large, small = SCENE_BOXES
    assert small[0] < (large[0] + large[2]) / 2 < small[2]
    assert small[1] < (large[1] + large[3]) / 2 < small[3]
    sheet = draw_scene("figure2", ("center", "area"))
    image, center, area = (panel(sheet, i, SCENE_SIZE) for i in range(3))
    # Locations (columns and rows of 16 pixels), drawn as squares; read off-center, clear of crosses and frames.
    beside_center, in_small, outside, ground = (19, 14), (25, 19), (8, 8), (1, 1)
    expected = {  # location -> owner under center, owner under area
        beside_center: (0, 1),
        in_small: (1, 1),
        outside: (0, 0),
        ground: (None, None),
    }
    for (column, row), owners in expected.items():
        x, y = column * 16 + 8, row * 16 + 8
        for owner, drawn in zip(owners, (center, area), strict=True):
            wanted = BLACK if owner is None else color(owner, SCENE_BOXES[owner], x, y)
            np.testing.assert_allclose(drawn[y - 4, x - 5], wanted, atol=1)
    # Under area every location of the small box is the small object's, under center only some are.
    blue = [(drawn[..., 2].astype(int) > drawn[..., 0]) for drawn in (center, area)]
    x1, y1, x2, y2 = (int(v) for v in small)
    assert blue[1][y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean() > 0.98  # all but the white crosses
    assert 0.3 < blue[0][y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean() < 0.7
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 1000  # textured, not flat


def test_draw_scene_of_one_assigner_has_one_panel() -> None:
    both, area = draw_scene("figure2", ("center", "area")), draw_scene("figure2", ("area",))
    np.testing.assert_array_equal(panel(area, 1, SCENE_SIZE), panel(both, 2, SCENE_SIZE))
    assert area.dtype == np.uint8
    assert area.shape[1] < both.shape[1]


def test_draw_scene_refuses_unknown_scenes() -> None:
    with pytest.raises(SaisError, match="figure2"):
        draw_scene("figure3", ("center",))


def test_draw_target_maps_of_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (64, 96), (90, 120, 150)).save(tmp_path / "a.png")
    boxes = [(4.0, 4.0, 28.0, 28.0), (8.0, 36.0, 56.0, 92.0)]
    annotations = tuple(
        Annotation(i, np.array(box, np.float32), 0, None, crowd, 100.0)
        for i, (box, crowd) in enumerate([(boxes[0], False), ((0.0, 0.0, 64.0, 96.0), True), (boxes[1], False)])
    )
    record = ImageRecord(1, tmp_path / "a.png", (96, 64), annotations)
    sheet = draw_target_maps(record, InputConfig(mode="fixed", size=(192, 128)), ("center",))
    drawn = panel(sheet, 1, (192, 128))
    on_canvas = [tuple(2 * v for v in box) for box in boxes]
    x, y = 3 * 8 + 4, 2 * 8 + 4  # of P3
    np.testing.assert_allclose(drawn[y - 2, x - 2], color(0, on_canvas[0], x, y), atol=1)
    x, y = 2 * 16 + 8, 9 * 16 + 8  # of P4: a side of more than 64 pixels
    np.testing.assert_allclose(drawn[y - 5, x - 5], color(1, on_canvas[1], x, y), atol=1)
    np.testing.assert_array_equal(drawn[66, 100], BLACK)  # the crowd is no target


def test_draw_target_maps_without_objects_is_black(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    record = ImageRecord(1, tmp_path / "a.png", (64, 64), ())
    sheet = draw_target_maps(record, InputConfig(mode="fixed", size=(96, 96)), ("center", "area"))
    assert panel(sheet, 2, (96, 96)).max() == 0


def test_level_sizes_are_those_of_the_network() -> None:
    assert level_sizes((768, 768)) == ((96, 96), (48, 48), (24, 24), (12, 12), (6, 6))
    assert level_sizes((800, 1344)) == ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))
