"""Letterboxing: canvas sizes, scales and positions, and the map between image and canvas."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sais.errors import ConfigError, InputError
from sais.ops.letterbox import PADDING, CanvasMap, group_by_canvas, letterbox
from sais.ops.rasterize import Polygons, inside


def test_letterbox_fixed_and_keep_ratio() -> None:
    fixed = letterbox((480, 640), "fixed", (768, 512))
    assert fixed.canvas_size == (768, 512)
    assert fixed.scale == (768 / 480, 512 / 640)
    keep_ratio = letterbox((480, 640), "keep_ratio", (800, 1333))
    assert keep_ratio.canvas_size == (800, 1088)
    assert keep_ratio.scale == (800 / 480, 1067 / 640)
    long = letterbox((100, 1000), "keep_ratio", (800, 1333))
    assert long.canvas_size == (160, 1344)
    assert long.scale == (133 / 100, 1333 / 1000)
    assert letterbox((1, 5000), "keep_ratio", (320, 640)).canvas_size == (32, 640)


def test_letterbox_rejects_invalid_sizes() -> None:
    with pytest.raises(ConfigError, match="320 640"):
        letterbox((480, 640), "fixed", (310, 640))
    with pytest.raises(ConfigError):
        letterbox((480, 640), "keep_ratio", (0, 640))
    with pytest.raises(InputError):
        letterbox((0, 640), "fixed", (320, 640))


def test_image_resizes_and_pads() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)
    canvas = letterbox((50, 80), "keep_ratio", (100, 160)).image(image)
    assert canvas.shape == (128, 160, 3)
    resized = np.asarray(Image.fromarray(image).resize((160, 100), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(canvas[:100], resized)
    assert (canvas[100:] == PADDING).all()
    copy = letterbox((128, 160), "fixed", (128, 160)).image(canvas)
    np.testing.assert_array_equal(copy, canvas)
    assert copy is not canvas
    assert copy.flags.writeable


def test_image_places_pixels_where_the_map_places_points() -> None:
    image = np.zeros((90, 120, 3), np.uint8)
    image[40:50, 60:70] = 255
    for mode, size in (("fixed", (256, 192)), ("keep_ratio", (200, 300))):
        canvas_map = letterbox((90, 120), mode, size)  # type: ignore[arg-type]
        canvas = canvas_map.image(image)[:, :, 0].astype(float)
        canvas[round(90 * canvas_map.scale[0]) :] = 0
        canvas[:, round(120 * canvas_map.scale[1]) :] = 0
        y = (np.arange(canvas.shape[0]) + 0.5) @ canvas.sum(1) / canvas.sum()
        x = (np.arange(canvas.shape[1]) + 0.5) @ canvas.sum(0) / canvas.sum()
        np.testing.assert_allclose([y, x], [45 * canvas_map.scale[0], 65 * canvas_map.scale[1]], atol=0.05)


def test_canvas_map_with_shift_maps_boxes_masks_and_image_alike() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:50] = 255
    square = Polygons((np.array([[20.0, 10], [50, 10], [50, 30], [20, 30]]),))
    boxes = np.array([[20, 10, 50, 30]], np.float32)
    canvas_map = CanvasMap((40, 60), (100, 200), (2.0, 3.0), (5, -12))
    np.testing.assert_array_equal(canvas_map.boxes(boxes), [[48, 25, 138, 65]])
    np.testing.assert_array_equal(canvas_map.boxes_to_image(canvas_map.boxes(boxes)), boxes)
    mask, box_only = canvas_map.masks([square, None])
    assert box_only is None
    window = (0, 5, 168, 85)
    pixels = canvas_map.image_window(image, window)[:, :, 0]
    np.testing.assert_array_equal(inside(mask, window), pixels > 127)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="canvas map"):
        canvas_map.image(image)


def test_group_by_canvas_groups_images_of_one_canvas_size() -> None:
    images = [np.zeros((size, 64, 3), np.uint8) for size in (32, 64, 32)]
    groups = list(group_by_canvas(images, "keep_ratio", (64, 64)))
    assert [indices for indices, _, _ in groups] == [[0, 2], [1]]
    assert [canvases.shape for _, _, canvases in groups] == [(2, 32, 64, 3), (1, 64, 64, 3)]
