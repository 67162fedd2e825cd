"""Geometric transforms: image, boxes and masks move together, verified by a colored rectangle in the pixels."""

from __future__ import annotations

import numpy as np
import pytest

from sais.config import AugmentConfig, InputConfig
from sais.data.loader import rasterize_ground_truth
from sais.data.transforms.augment import augment
from sais.data.transforms.geometric import MIN_VISIBLE, flip, resize_sample, visible_extent, zoom
from sais.data.transforms.photometric import color_jitter
from sais.ops.letterbox import PADDING, letterbox
from sais.ops.rasterize import Bitmap, ObjectMask, Polygons, inside
from sais.structures import MASK_STRIDE, Sample

RED = (255, 0, 0)
BLUE = (0, 0, 255)
SQUARE = InputConfig(size=(64, 64))


def augmented(sample: Sample, options: AugmentConfig, seed: int, settings: InputConfig = SQUARE) -> Sample:
    """Augment a sample without partners for mosaic and copy-paste."""
    return augment(sample, settings, options, np.random.default_rng(seed), lambda random, with_objects: None)


def rectangles(size: tuple[int, int], *boxes: tuple[int, int, int, int], bitmap: bool = False) -> Sample:
    """Return a blue image with a red rectangle at each box, with polygon or bitmap masks."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = BLUE
    masks: list[ObjectMask | None] = []
    for x1, y1, x2, y2 in boxes:
        image[y1:y2, x1:x2] = RED
        if bitmap:
            masks.append(Bitmap(np.ones((y2 - y1, x2 - x1), bool), (x1, y1, x2, y2)))
        else:
            masks.append(Polygons((np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64),)))
    labels = np.arange(len(boxes), dtype=np.int64)
    return Sample(7, image, np.array(boxes, np.float32).reshape(-1, 4), labels, masks)


def red_pixels(image: np.ndarray) -> np.ndarray:
    """Return where a pixel is more red than blue and not padding, (H, W) bool; blurred edges keep their position."""
    return (image[..., 0] > image[..., 2]) & (image[..., 1] < 100)


def tight_box(bits: np.ndarray) -> np.ndarray:
    """Return the bounding box of set pixels, (4,)."""
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def assert_agree(sample: Sample, tolerance: float) -> None:
    """Assert that pixels, box and mask of a sample with one object agree to `tolerance` pixels."""
    pixels = red_pixels(sample.image)
    np.testing.assert_allclose(tight_box(pixels), sample.boxes[0], atol=tolerance)
    height, width = pixels.shape
    mask = sample.masks[0]
    assert mask is not None
    shape = inside(mask, (0, 0, width, height))
    if tolerance == 0:
        np.testing.assert_array_equal(shape, pixels)
    else:
        np.testing.assert_allclose(tight_box(shape), tight_box(pixels), atol=1)
        assert (shape & pixels).sum() / (shape | pixels).sum() > 0.9
    # The rasterized mask is the mean of the shape over each cell of the grid, inside the box.
    ground_truth = rasterize_ground_truth(sample)
    x1, y1, x2, y2 = ground_truth.mask_windows[0].tolist()
    values = ground_truth.mask_values.numpy().reshape(y2 - y1, x2 - x1) / 255
    rows, columns = height // MASK_STRIDE, width // MASK_STRIDE
    cells = pixels.reshape(rows, MASK_STRIDE, columns, MASK_STRIDE).mean((1, 3))
    assert np.abs(values - cells[y1:y2, x1:x2]).mean() <= (0.004 if tolerance == 0 else 0.12)
    outside = cells.copy()
    outside[y1:y2, x1:x2] = 0
    assert outside.sum() <= tolerance * (y2 - y1 + x2 - x1)


@pytest.mark.parametrize("bitmap", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (61, 83), (130, 70)])
def test_flip_moves_image_box_and_mask_and_is_its_own_inverse(size: tuple[int, int], bitmap: bool) -> None:
    sample = rectangles(size, (8, 12, 37, 40), bitmap=bitmap)
    once = flip(sample)
    np.testing.assert_array_equal(tight_box(red_pixels(once.image)), once.boxes[0])
    np.testing.assert_array_equal(once.boxes[0], [size[1] - 37, 12, size[1] - 8, 40])
    mask, pixels = once.masks[0], red_pixels(once.image)
    assert mask is not None
    np.testing.assert_array_equal(inside(mask, (0, 0, size[1], size[0])), pixels)
    twice = flip(once)
    np.testing.assert_array_equal(twice.image, sample.image)
    np.testing.assert_array_equal(twice.boxes, sample.boxes)
    window = (0, 0, size[1], size[0])
    np.testing.assert_array_equal(inside(twice.masks[0], window), inside(sample.masks[0], window))  # type: ignore[arg-type]
    assert np.array_equal(sample.boxes[0], [8, 12, 37, 40])  # the input sample is unchanged


@pytest.mark.parametrize("bitmap", [False, True])
def test_resize_sample_at_the_same_size_is_exact(bitmap: bool) -> None:
    sample = rectangles((64, 96), (8, 12, 37, 41), bitmap=bitmap)
    resized = resize_sample(sample, InputConfig(size=(64, 96)))
    assert_agree(resized, 0)
    assert resized.canvas_map is not None
    assert resized.canvas_map.scale == (1, 1)


@pytest.mark.parametrize("mode", ["fixed", "keep_ratio"])
@pytest.mark.parametrize("size", [(100, 150), (47, 81), (200, 90)])
@pytest.mark.parametrize("bitmap", [False, True])
def test_resize_sample_moves_image_box_and_mask(mode: str, size: tuple[int, int], bitmap: bool) -> None:
    sample = rectangles(size, (10, 9, 42, 40), bitmap=bitmap)
    resized = resize_sample(sample, InputConfig(mode=mode, size=(96, 128)))  # type: ignore[arg-type]
    assert_agree(resized, 1.0)
    assert resized.canvas_map is not None
    np.testing.assert_allclose(resized.canvas_map.boxes_to_image(resized.boxes), sample.boxes, atol=1e-4)


def test_resize_sample_keep_ratio_pads_right_and_below() -> None:
    sample = rectangles((50, 90), (0, 0, 90, 50))
    resized = resize_sample(sample, InputConfig(mode="keep_ratio", size=(100, 1000)))
    assert resized.image.shape == (128, 192, 3)  # 100 x 180 on multiples of 32
    assert red_pixels(resized.image[:100, :180]).all()
    assert (resized.image[100:] == PADDING).all()
    assert (resized.image[:, 180:] == PADDING).all()
    np.testing.assert_allclose(resized.boxes[0], [0, 0, 180, 100], atol=1e-4)


@pytest.mark.parametrize("size", [(64, 96), (100, 150), (47, 81)])
def test_zoom_by_one_equals_resize_sample(size: tuple[int, int]) -> None:
    sample = rectangles(size, (10, 9, 42, 40))
    settings = InputConfig(size=(64, 96))
    plain, zoomed = resize_sample(sample, settings), zoom(sample, settings, np.random.default_rng(0), 1.0, 1.0)
    np.testing.assert_array_equal(zoomed.image, plain.image)
    np.testing.assert_allclose(zoomed.boxes, plain.boxes, atol=1e-4)
    window = (0, 0, 96, 64)
    np.testing.assert_array_equal(inside(zoomed.masks[0], window), inside(plain.masks[0], window))  # type: ignore[arg-type]


@pytest.mark.parametrize("bitmap", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_zoom_moves_image_box_and_mask(seed: int, bitmap: bool) -> None:
    """Zoom by 0.5 to 2, cropped or padded at random, and compare the visible rectangle with its box."""
    sample = rectangles((90, 120), (35, 30, 85, 62), bitmap=bitmap)
    zoomed = zoom(sample, InputConfig(size=(96, 128)), np.random.default_rng(seed), 0.5, 2.0)
    assert zoomed.image.shape == (96, 128, 3)
    if len(zoomed.boxes):
        assert_agree(zoomed, 1.5)
        assert (zoomed.boxes >= 0).all()
        assert (zoomed.boxes <= [128, 96, 128, 96]).all()


def test_zoom_reduces_the_box_to_the_visible_part_of_the_mask() -> None:
    """Of a triangle cut at the right, the box ends where its visible part does, not where its whole box was cut."""
    triangle = Polygons((np.array([[20.0, 50], [90, 10], [90, 50]]),))
    image = np.zeros((64, 96, 3), np.uint8)
    sample = Sample(1, image, np.array([[20, 10, 90, 50]], np.float32), np.zeros(1, np.int64), [triangle])
    cut = 0
    for seed in range(40):
        zoomed = zoom(sample, InputConfig(size=(64, 96)), np.random.default_rng(seed), 1.2, 1.6)
        if not len(zoomed.boxes):
            continue
        mask = zoomed.masks[0]
        assert mask is not None
        np.testing.assert_allclose(zoomed.boxes[0], tight_box(inside(mask, (0, 0, 96, 64))), atol=2.0)
        assert zoomed.canvas_map is not None
        clipped = np.clip(zoomed.canvas_map.boxes(sample.boxes)[0], 0, (96, 64, 96, 64))
        cut += bool(np.abs(clipped - zoomed.boxes[0]).max() > 3)
    assert cut > 5


def test_zoom_out_pads_with_the_padding_color() -> None:
    zoomed = zoom(rectangles((64, 64)), InputConfig(size=(64, 64)), np.random.default_rng(1), 0.5, 0.5)
    assert (zoomed.image == BLUE).all(2).sum() == 32 * 32
    assert (zoomed.image == PADDING).all(2).sum() == 64 * 64 - 32 * 32


def test_visible_extent_drops_objects_outside_and_clips_the_others() -> None:
    boxes = [
        [-40, 10, -5, 30],
        [-10, 10, 30, 50],
        [20, 20, 40, 40],
        [63.5, 0, 90, 64],
        [-95, 0, 5, 60],
        [60, 60, 160, 64],
    ]
    masks: list[ObjectMask | None] = [None, Polygons(()), None, None, None, None]
    sample = Sample(1, np.zeros((64, 64, 3), np.uint8), np.array(boxes, np.float32), np.arange(6), masks)
    visible = visible_extent(sample, within=(0, 0, 64, 64))
    # 0 is outside, 3 keeps half a pixel of its width, 4 and 5 keep less than a tenth of their area.
    assert MIN_VISIBLE == 0.1
    np.testing.assert_array_equal(visible.labels, [1, 2])
    np.testing.assert_array_equal(visible.boxes, [[0, 10, 30, 50], [20, 20, 40, 40]])
    assert visible.masks[1] is None
    assert visible.boxes.dtype == np.float32


def test_augment_accepts_images_without_objects() -> None:
    options = AugmentConfig(1.0, ("auto",), 1.0, 1.0, None, 1.0, 3.0, "mean", 1.0, 0.4, (0.5, 2.0), 1.0, 0.3)
    sample = augmented(rectangles((40, 50)), options, 0)
    assert sample.boxes.shape == (0, 4)
    assert sample.labels.shape == (0,)
    assert sample.masks == []
    assert sample.image.shape == (64, 64, 3)


def test_augment_depends_on_its_generator_only() -> None:
    options = AugmentConfig(scale_jitter=(0.7, 1.4), color_jitter=0.3)
    sample = rectangles((90, 120), (35, 30, 85, 62))
    first, repeated, other = (augmented(sample, options, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first.image, repeated.image)
    np.testing.assert_array_equal(first.boxes, repeated.boxes)
    assert not np.array_equal(first.image, other.image)


def test_augment_with_defaults_flips_half_of_the_images() -> None:
    sample = rectangles((64, 64), (4, 8, 20, 40))
    plain, mirrored = resize_sample(sample, SQUARE), resize_sample(flip(sample), SQUARE)
    flips = 0
    for seed in range(200):
        image = augmented(sample, AugmentConfig(), seed).image
        is_flipped = np.array_equal(image, mirrored.image)
        assert is_flipped or np.array_equal(image, plain.image)
        flips += is_flipped
    assert 75 < flips < 125
    never = AugmentConfig(flip=0.0)
    assert all(np.array_equal(augmented(sample, never, seed).image, plain.image) for seed in range(20))


def test_color_jitter_changes_colors_but_not_positions() -> None:
    sample = rectangles((64, 64), (4, 8, 20, 40))
    image = color_jitter(sample.image, 0.3, np.random.default_rng(2))
    assert image.shape == sample.image.shape
    assert image.dtype == np.uint8
    assert not np.array_equal(image, sample.image)
    np.testing.assert_array_equal(red_pixels(image), red_pixels(sample.image))


def test_resize_sample_uses_the_letterbox_of_prediction() -> None:
    """Compare the canvas map of training with that of prediction."""
    for mode, size in (("fixed", (64, 96)), ("keep_ratio", (60, 100))):
        resized = resize_sample(rectangles((75, 41)), InputConfig(mode=mode, size=size))  # type: ignore[arg-type]
        assert resized.canvas_map == letterbox((75, 41), mode, size)  # type: ignore[arg-type]
