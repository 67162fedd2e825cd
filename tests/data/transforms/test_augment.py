"""Augmentation: pixels, masks and boxes agree for every option and for all together.

Most tests use the image as reference: every object has a unique color, so a pixel of exactly that color shows that
object, however it was zoomed, cropped or covered. Blended pixels at edges are ignored.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais import cli
from sais.config import AugmentConfig, Experiment, InputConfig
from sais.config_ranges import check_ranges
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.dataset import AugmentedSamples, SampleKey
from sais.data.formats import read_dataset
from sais.data.loader import EpochBatches, TrainingDataset, collate, rasterize_ground_truth
from sais.data.transforms.augment import AUGMENTATIONS, augment
from sais.data.transforms.expand_crop import random_crop_window, random_expand_window
from sais.data.transforms.geometric import crop_to_window, visible_extent
from sais.data.transforms.mosaic_copy_paste import copy_paste, mosaic
from sais.data.transforms.multi_scale import (
    batch_input_size,
    growth_factor,
    has_one_size,
    max_input_size,
    relative_pixels,
)
from sais.data.transforms.photometric import photometric_distort, shift_hue
from sais.data.visualize import draw_samples
from sais.errors import ConfigError, SaisError
from sais.ops.rasterize import Bitmap, CutMask, ObjectMask, Polygons, cut_mask, hflip_mask, inside, transform_mask
from sais.structures import MASK_STRIDE, Sample

SETTINGS = InputConfig(size=(128, 160))
CODE = np.array([65536, 256, 1])
"""Weights that encode a color as one number."""
KEPT = InputConfig(mode="keep_ratio", size=(96, 200))


def scene(seed: int, size: tuple[int, int] = (120, 150), objects: int = 5) -> Sample:
    """Return disjoint objects, alternately polygons with integer corners and bitmaps, each in a unique color.

    The pixels of an object are exactly those of its mask.
    """
    random = np.random.default_rng(seed)
    image = np.full((*size, 3), (250, 250, seed % 8), np.uint8)
    boxes: list[list[float]] = []
    masks: list[ObjectMask | None] = []
    taken = np.zeros(size, bool)
    whole = (0, 0, size[1], size[0])
    while len(masks) < objects:
        x, y = random.integers(0, 100, 2).tolist()
        w, h = random.integers(10, 40, 2).tolist()
        mask: ObjectMask
        if len(masks) % 2:
            away = np.hypot(*np.meshgrid(np.linspace(-1, 1, w), np.linspace(-1, 1, h)))
            mask = Bitmap((away < 1) & (away > random.uniform(-1, 0.5)), (x, y, x + w, y + h))
        else:
            points = [
                [x, y],
                [x + w, y],
                [x + w, y + h // 2],
                [x + w // 3, y + h // 2],
                [x + w // 3, y + h],
                [x, y + h],
            ]
            mask = Polygons((np.array(points, np.float64),))
        pixels = inside(mask, whole)
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        if x + w > size[1] or y + h > size[0] or (pixels & taken).any():
            continue
        taken |= pixels
        image[pixels] = color_of(seed * 10 + len(masks))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        masks.append(mask)
    labels = seed * 10 + np.arange(objects, dtype=np.int64)
    return Sample(seed, image, np.array(boxes, np.float32).reshape(-1, 4), labels, masks)


def color_of(label: int) -> tuple[int, int, int]:
    """Return a color for each label below 100; none is exactly a mean of others."""
    return 10 + 20 * (label // 10), 5 + 11 * (label % 10), 200 - label


def assert_pixels_agree(sample: Sample) -> Counter[str]:
    """Assert that masks and boxes agree with the pixels; return the numbers of pixels and objects compared.

    Args:
        sample: An augmented sample.
    """
    compared: Counter[str] = Counter()
    height, width = sample.image.shape[:2]
    whole = (0, 0, width, height)
    masks = [inside(mask, whole) for mask in sample.masks if mask is not None]
    assert len(masks) == len(sample.masks)
    codes = sample.image.astype(np.int64) @ CODE
    for k in [k for k in range(100) if np.dot(color_of(k), CODE) in set(np.unique(codes).tolist())]:
        shown = codes == np.dot(color_of(k), CODE)
        own_mask = np.zeros((height, width), bool)
        for mask, label in zip(masks, sample.labels, strict=True):
            if label == k:
                own_mask |= mask
            else:
                assert not (mask & shown).any(), f"a mask of {label} covers pixels of {k}"
        if k in sample.labels:
            assert own_mask[shown].all(), f"pixels of {k} without its mask"
            compared["pixels"] += int(shown.sum())
    ground = (sample.image[..., :2] == 250).all(2) | (sample.image == (124, 116, 104)).all(2)
    # Boxes are cut at whole pixels of the image, masks at any coordinate.
    slack = 1.1 + max(sample.canvas_map.scale if sample.canvas_map else (1.0, 1.0))
    for box, mask in zip(sample.boxes, masks, strict=True):
        assert not (mask & ground).any()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        np.testing.assert_allclose(box, tight, atol=slack)
        compared["objects"] += 1
    return compared


def assert_grids_agree(sample: Sample) -> None:
    """Assert that the mask targets are the dense masks of the canvas, averaged over each cell."""
    height, width = sample.image.shape[:2]
    ground_truth = rasterize_ground_truth(sample)
    offset = 0
    for mask, (x1, y1, x2, y2) in zip(sample.masks, ground_truth.mask_windows.tolist(), strict=True):
        assert mask is not None
        dense = np.zeros((height, width), bool)
        dense |= dense_mask(mask, width, height)
        cells = dense.reshape(height // MASK_STRIDE, MASK_STRIDE, width // MASK_STRIDE, MASK_STRIDE).mean((1, 3))
        length = (x2 - x1) * (y2 - y1)
        values = ground_truth.mask_values[offset : offset + length].numpy().reshape(y2 - y1, x2 - x1)
        np.testing.assert_array_equal(values, np.rint(cells[y1:y2, x1:x2] * 255))
        offset += length
    assert offset == len(ground_truth.mask_values)


def dense_mask(mask: ObjectMask, width: int, height: int) -> np.ndarray:
    """Return the dense mask of a shape; a cut shape is computed from uncut ones."""
    whole = (0, 0, width, height)
    if not isinstance(mask, CutMask):
        return inside(mask, whole)
    dense = inside(mask.shape, whole).copy()
    for cover in mask.covers:
        dense &= ~dense_mask(cover, width, height)
    if mask.within is not None:
        x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
        x1, y1, x2, y2 = mask.within
        dense &= ((y >= y1) & (y < y2))[:, None] & (x >= x1) & (x < x2)
    return dense


OPTIONS = {
    "mosaic": AugmentConfig(mosaic=1.0),
    "copy-paste": AugmentConfig(copy_paste=1.0),
    "expand": AugmentConfig(expand=1.0),
    "crop": AugmentConfig(crop=1.0),
    "jitter": AugmentConfig(scale_jitter=(0.3, 2.5)),
    "all": AugmentConfig(mosaic=0.7, copy_paste=0.7, expand=0.5, crop=0.7, crop_min=0.5, scale_jitter=(0.6, 1.6)),
}


@pytest.mark.parametrize("settings", [SETTINGS, KEPT], ids=["fixed", "keep_ratio"])
@pytest.mark.parametrize("name", OPTIONS)
def test_augment_keeps_pixels_masks_and_boxes_consistent(name: str, settings: InputConfig) -> None:
    compared: Counter[str] = Counter()
    for seed in range(12):
        random = np.random.default_rng(seed)
        others = [scene(k, ((100, 170), (140, 90), (120, 150))[seed % 3], 3) for k in range(2, 6)]
        sample = augment(scene(1), settings, OPTIONS[name], random, lambda *_, others=others: others.pop())  # type: ignore[misc]
        compared += assert_pixels_agree(sample)
        assert_grids_agree(sample)
    assert compared["objects"] > 30
    assert compared["pixels"] > 3000


def test_copy_paste_hides_exactly_the_pasted_pixels() -> None:
    below, above = scene(1), scene(2)
    pasted = 0
    for seed in range(20):
        after = copy_paste(below, above, np.random.default_rng(seed))
        height, width = below.image.shape[:2]
        before = {
            int(label): dense_mask(mask, width, height) for label, mask in zip(below.labels, below.masks, strict=True)
        }  # type: ignore[arg-type]
        pasted_masks = {
            int(label): dense_mask(mask, width, height) for label, mask in zip(after.labels, after.masks, strict=True)
        }  # type: ignore[arg-type]
        new = [label for label in pasted_masks if label >= 20]
        over = np.any([pasted_masks[label] for label in new], 0)
        for label, mask in before.items():
            visible = mask & ~over
            if label in pasted_masks:
                np.testing.assert_array_equal(pasted_masks[label], visible)
            else:
                assert visible.sum() < 0.35 * mask.sum()  # mask or box below a tenth, or one pixel wide
        # Pasted objects are disjoint.
        assert sum(pasted_masks[label].sum() for label in new) == over.sum()
        # Pixels that no pasted shape touches are unchanged.
        touched = np.zeros((height, width), bool)
        for label in new:
            rows, columns = np.nonzero(pasted_masks[label])
            touched[max(rows.min() - 1, 0) : rows.max() + 2, max(columns.min() - 1, 0) : columns.max() + 2] = True
        np.testing.assert_array_equal(after.image[~touched], below.image[~touched])
        pasted += len(new)
    assert pasted > 40
    assert np.array_equal(below.image, scene(1).image)  # the input is unchanged


def test_visible_extent_drops_objects_hidden_by_more_than_nine_tenths() -> None:
    square = Polygons((np.array([[10.0, 10], [50, 10], [50, 50], [10, 50]]),))
    boxes = np.array([[10, 10, 50, 50], [10, 10, 50, 50], [60, 10, 80, 30]], np.float32)
    sample = Sample(1, np.zeros((64, 100, 3), np.uint8), boxes, np.arange(3), [square, None, None])
    cover = Polygons((np.array([[0.0, 0], [46.5, 0], [46.5, 64], [0, 64]]),))  # leaves 4 of 40 columns, a tenth
    visible = visible_extent(sample, covers=[cover])
    assert visible.labels.tolist() == [0, 1, 2]
    assert visible.boxes.tolist() == [[46, 10, 50, 50], [46, 10, 50, 50], [60, 10, 80, 30]]
    assert visible.masks[1] is None
    larger_cover = transform_mask(cover, 1.0, 1.0, 1.0, 0.0)
    assert visible_extent(sample, covers=[larger_cover]).labels.tolist() == [2]
    hole = Polygons((np.array([[12.0, 12], [49, 12], [49, 49], [12, 49]]),))  # the box is unchanged, the mask is a rim
    assert 0.1 < (40 * 40 - 37 * 37) / 1600 < 0.15
    assert visible_extent(sample, covers=[hole]).boxes[0].tolist() == [10, 10, 50, 50]
    wider = Polygons((np.array([[11.0, 11], [49, 11], [49, 49], [11, 49]]),))
    assert visible_extent(sample, covers=[wider]).labels.tolist() == [2]


def test_cut_mask_transforms_and_flips_like_its_dense_mask() -> None:
    shape = Polygons((np.array([[5.0, 6], [40, 9], [33, 44]]),))
    cover = Bitmap(np.eye(7, dtype=bool), (8.0, 8.0, 36.0, 36.0))
    twice = cut_mask(
        cut_mask(shape, (7, 0, 38, 60), [cover]), (0, 10, 34, 40), [Polygons((np.array([[0.0, 0], [20, 0], [0, 30]]),))]
    )
    assert twice.within == (7, 10, 34, 40)
    assert len(twice.covers) == 2
    whole = (0, 0, 48, 48)
    dense = dense_mask(twice, 48, 48)
    np.testing.assert_array_equal(inside(twice, whole), dense)
    assert 100 < dense.sum() < inside(shape, whole).sum()
    np.testing.assert_array_equal(inside(hflip_mask(twice, 48), whole), dense[:, ::-1])
    larger = inside(transform_mask(twice, 3, 2, 4, 5), (4, 5, 4 + 144, 5 + 96))
    assert (larger[1::2, 1::3] == dense).mean() > 0.95  # samples are shifted by a third and a half of a pixel
    # A window equals the part of the full mask.
    np.testing.assert_array_equal(inside(twice, (9, 20, 30, 31)), dense[20:31, 9:30])


def test_crop_to_window_is_exact_and_fills_outside_the_image() -> None:
    sample = scene(3)
    height, width = sample.image.shape[:2]
    for window in ((20, 15, 100, 90), (-30, -10, 90, 130), (0, 0, width, height)):
        crop = crop_to_window(sample, window, (1, 2, 3))
        x1, y1, x2, y2 = window
        assert crop.image.shape == (y2 - y1, x2 - x1, 3)
        padded = np.pad(sample.image, ((200, 200), (200, 200), (0, 0)), constant_values=7)
        expected = padded[200 + y1 : 200 + y2, 200 + x1 : 200 + x2]
        ground = (expected == 7).all(2)
        np.testing.assert_array_equal(crop.image[~ground], expected[~ground])
        assert (crop.image[ground] == (1, 2, 3)).all()
        assert_pixels_agree(crop)
        before = dict(zip(sample.labels.tolist(), sample.masks, strict=True))
        for label, mask in zip(crop.labels.tolist(), crop.masks, strict=True):
            dense = np.pad(inside(before[label], (0, 0, width, height)), 200)[200 + y1 : 200 + y2, 200 + x1 : 200 + x2]
            np.testing.assert_array_equal(inside(mask, (0, 0, x2 - x1, y2 - y1)), dense)


def test_crop_to_window_cuts_a_polygon_at_the_image_border() -> None:
    outline = Polygons((np.array([[-6.0, 10], [30, 10], [30, 40], [-6, 40]]),))
    box = np.array([[0, 10, 30, 40]], np.float32)  # clipped by the reader
    sample = Sample(1, np.zeros((50, 50, 3), np.uint8), box, np.zeros(1, np.int64), [outline])
    crop = crop_to_window(sample, (-20, -20, 80, 80))
    dense = inside(crop.masks[0], (0, 0, 100, 100))  # type: ignore[arg-type]
    assert dense.sum() == 30 * 30
    assert dense[30:60, 20:50].all()
    assert crop.boxes.tolist() == [[20, 30, 50, 60]]


def test_mosaic_fills_its_quarters_without_padding() -> None:
    """Combine four plain colors: each corner has one color, with borders along one row and one column."""
    colors = [(i * 60, 255 - i * 60, 9) for i in range(4)]
    for seed in range(10):
        flat = [
            plain_sample(color, size)
            for color, size in zip(colors, ((50, 90), (90, 50), (70, 70), (30, 31)), strict=True)
        ]
        image = mosaic(flat, SETTINGS, np.random.default_rng(seed)).image
        assert image.shape == (128, 160, 3)
        which = np.stack([(image == color).all(2) for color in colors])
        assert (which.sum(0) == 1).all()
        assert [which[i][corner] for i, corner in enumerate(((0, 0), (0, -1), (-1, 0), (-1, -1)))] == [True] * 4
        rows, columns = which[0].any(1).sum(), which[0].any(0).sum()
        assert which[0].sum() == rows * columns
        assert 0.29 * 128 < rows < 0.71 * 128
        assert 0.29 * 160 < columns < 0.71 * 160


def plain_sample(color: tuple[int, int, int], size: tuple[int, int]) -> Sample:
    """Return an image of one color without objects."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = color
    return Sample(0, image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), [])


def test_crop_contains_an_object() -> None:
    options = AugmentConfig(flip=0.0, crop=1.0, crop_min=0.2)
    sizes = set()
    for seed in range(60):
        sample = scene(4, objects=1 + seed % 2)
        crop = augment(sample, SETTINGS, options, np.random.default_rng(seed), lambda random, with_objects: None)
        assert len(crop.boxes) >= 1
        assert crop.canvas_map is not None
        sizes.add(crop.canvas_map.image_size)
    assert len(sizes) > 50
    heights = np.array([height for height, _ in sizes]) / 120
    assert heights.min() < 0.35
    assert heights.max() > 0.85


def test_random_windows_satisfy_their_limits() -> None:
    window = (0, 0, 100, 60)
    for seed in range(200):
        random = np.random.default_rng(seed)
        x1, y1, x2, y2 = random_expand_window(window, 3.0, random)
        assert x1 <= 0 <= 100 <= x2
        assert y1 <= 0 <= 60 <= y2
        assert (x2 - x1) / (y2 - y1) == pytest.approx(100 / 60, rel=0.02)
        assert x2 - x1 <= 300
        boxes = np.array([[0, 0, 4, 4], [97.5, 55, 100, 60]], np.float32)
        x1, y1, x2, y2 = random_crop_window(window, boxes, 0.3, random)
        assert 0 <= x1 < x2 <= 100
        assert 0 <= y1 < y2 <= 60
        assert x2 - x1 >= 30
        assert y2 - y1 >= 18
        centers = [(2, 2), (98.75, 57.5)]
        assert any(x1 <= x <= x2 and y1 <= y <= y2 for x, y in centers)


def test_expand_fills_with_padding_or_mean_color() -> None:
    options = AugmentConfig(flip=0.0, expand=1.0, expand_max=6.0)
    sample = plain_sample((200, 30, 90), (60, 60))
    sample.image[:, 30:] = (100, 50, 10)
    for fill, color in (("padding", (124, 116, 104)), ("mean", (150, 40, 50))):
        expanded = augment(
            sample,
            InputConfig(size=(64, 64)),
            replace(options, expand_fill=fill),
            np.random.default_rng(1),
            lambda random, with_objects: None,
        )  # type: ignore[arg-type]
        assert 0.3 < (expanded.image == color).all(2).mean() < 1


def test_photometric_distort_applies_each_change_with_its_probability() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(photometric_distort(image, 0.0, np.random.default_rng(1)), image)
    distorted = [photometric_distort(image, 1.0, np.random.default_rng(seed)) for seed in range(8)]
    assert len({copy.tobytes() for copy in distorted}) == 8
    assert all(copy.shape == image.shape and copy.dtype == np.uint8 for copy in distorted)
    assert all(copy.flags.writeable for copy in distorted)
    np.testing.assert_array_equal(photometric_distort(image, 1.0, np.random.default_rng(3)), distorted[3])
    partial = [photometric_distort(image, 0.5, np.random.default_rng(seed)) for seed in range(60)]
    untouched = sum(np.array_equal(copy, image) for copy in partial)
    assert 1 <= untouched <= 12  # one in sixteen
    gray = np.full((4, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(np.asarray(shift_hue(Image.fromarray(gray), 13)), gray)  # gray has no hue
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    shifted = np.asarray(shift_hue(Image.fromarray(red), 85))[0, 0]  # by a third of the circle
    assert shifted.argmax() == 1
    assert shifted[0] < 10


def test_disabled_options_draw_no_random_numbers(shapes: Path) -> None:
    """Compare the zoom with one drawn directly after the flip."""
    split = read_dataset(shapes, "train")
    plain = AugmentedSamples(split, SETTINGS, AugmentConfig(scale_jitter=(0.6, 1.5)), 0).read(SampleKey(2, 3))[0]
    random = np.random.default_rng([0, 2, 3])
    random.random()  # the flip
    usual = split.images[3].size
    factor = np.exp(random.uniform(np.log(0.6), np.log(1.5)))
    assert plain.canvas_map is not None
    assert plain.canvas_map.scale[0] == round(SETTINGS.size[0] * factor) / usual[0]


@pytest.mark.parametrize("options", [AugmentConfig(mosaic=1.0, copy_paste=1.0, crop=0.5, photometric=0.5)])
def test_mosaic_and_copy_paste_depend_on_the_sample_key_only(shapes: Path, options: AugmentConfig) -> None:
    split = read_dataset(shapes, "train")
    first, second = (TrainingDataset(AugmentedSamples(split, SETTINGS, options, 5)) for _ in range(2))
    second[SampleKey(0, 1)]
    a, b = first[SampleKey(3, 7, 1)].sample, second[SampleKey(3, 7, 2)].sample
    assert a is not None
    assert b is not None
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    assert len(a.boxes) > len(split.images[7].annotations)


def test_mosaic_and_copy_paste_stop_after_their_epochs(shapes: Path) -> None:
    split = read_dataset(shapes, "train")
    plain = AugmentedSamples(split, SETTINGS, AugmentConfig(), 0)
    mixed = AugmentedSamples(split, SETTINGS, AugmentConfig(mosaic=1.0, copy_paste=1.0, mosaic_copy_paste_epochs=2), 0)
    for epoch, is_plain in ((0, False), (1, False), (2, True), (3, True)):
        images = [samples.read(SampleKey(epoch, 4))[0].image for samples in (plain, mixed)]
        assert np.array_equal(*images) == is_plain


def test_unreadable_partners_are_reported_and_replaced(tmp_path: Path) -> None:
    square = [[8.0, 8, 40, 8, 40, 40, 8, 40]]
    records = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (64, 64), (10 * i, 20, 30)).save(path)
        annotation = Annotation(i, np.array([8, 8, 40, 40], np.float32), 0, square, False, 100.0)
        records.append(ImageRecord(i, path, (64, 64), (annotation,)))
    for i in (2, 4):
        records[i].path.write_bytes(b"no image")
    split = DatasetSplit("train", ("thing",), (1,), tuple(records))
    reader = TrainingDataset(AugmentedSamples(split, SETTINGS, AugmentConfig(mosaic=1.0, copy_paste=1.0), 0))
    items = [reader[SampleKey(epoch, 0)] for epoch in range(12)]
    assert all(item.sample is not None for item in items)
    assert all(len({tuple(c) for c in item.sample.image.reshape(-1, 3)}) > 2 for item in items if item.sample)
    lines = {line for item in items for line in item.unreadable_images}
    assert len(lines) == 2
    assert all(any(f"{i}.png" in line for line in lines) for i in (2, 4))
    assert collate(items).unreadable_images == list(
        dict.fromkeys(line for item in items for line in item.unreadable_images)
    )
    for i in (1, 2, 3, 4, 5):
        records[i].path.unlink(missing_ok=True)
    single = reader[SampleKey(0, 0)]
    assert single.sample is not None  # combined with itself, or unchanged
    assert reader[SampleKey(0, 1)].sample is None


def test_copy_paste_ignores_crowds_and_objects_without_a_mask(tmp_path: Path) -> None:
    records = []
    for i, (segmentation, crowd) in enumerate([(None, False), ([[8.0, 8, 40, 8, 40, 40, 8, 40]], True), ([], False)]):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (64, 64), (10 * i, 20, 30)).save(path)
        annotation = Annotation(i, np.array([8, 8, 40, 40], np.float32), 0, segmentation or None, crowd, 100.0)
        records.append(ImageRecord(i, path, (64, 64), (annotation,)))
    split = DatasetSplit("train", ("thing",), (1,), tuple(records))
    reader = AugmentedSamples(split, SETTINGS, AugmentConfig(copy_paste=1.0), 0)
    for epoch in range(5):
        for position, count in ((0, 1), (1, 0), (2, 1)):
            assert len(reader.read(SampleKey(epoch, position))[0].boxes) == count


@pytest.mark.parametrize("epochs", [0, 4, 30])
def test_relative_pixels_sum_the_areas_of_the_batches(epochs: int) -> None:
    options = AugmentConfig(initial_size=0.5, size_growth_epochs=epochs)
    areas = [growth_factor(options, batch // 7) ** 2 for batch in range(100)]
    for batches in (0, 1, 7, 27, 28, 29, 100):
        assert relative_pixels(options, batches, 7) == pytest.approx(sum(areas[:batches]))


def test_batch_input_size_depends_on_seed_epoch_and_batch_only() -> None:
    options = AugmentConfig(multi_scale=(0.5, 1.5))
    sizes = [
        batch_input_size(InputConfig(size=(128, 192)), options, 3, epoch, n) for epoch in range(8) for n in range(25)
    ]
    assert sizes == [
        batch_input_size(InputConfig(size=(128, 192)), options, 3, epoch, n) for epoch in range(8) for n in range(25)
    ]
    assert {height for height, _ in sizes} == {64, 96, 128, 160, 192}
    assert max(sizes) == max_input_size(InputConfig(size=(128, 192)), options) == (192, 288)
    assert max_input_size(InputConfig(size=(128, 192)), AugmentConfig()) == (128, 192)
    assert all(width % 32 == 0 and abs(width / height - 1.5) <= 0.17 for height, width in sizes)
    assert sizes[:25] != sizes[25:50]
    assert {batch_input_size(SETTINGS, AugmentConfig(), 3, 0, n) for n in range(9)} == {SETTINGS.size}
    keep_ratio = InputConfig(mode="keep_ratio", size=(96, 160))
    for height, width in {batch_input_size(keep_ratio, options, 3, 0, n) for n in range(40)}:
        assert height % 32 == 0
        assert width / height == pytest.approx(160 / 96, rel=0.01)


def test_input_size_grows_over_the_first_epochs() -> None:
    settings = InputConfig(size=(256, 384))
    options = AugmentConfig(initial_size=0.5, size_growth_epochs=4)
    sizes = [batch_input_size(settings, options, 3, epoch, 0) for epoch in range(6)]
    assert sizes == [(128, 192), (160, 256), (192, 288), (224, 320), (256, 384), (256, 384)]
    assert max_input_size(settings, options) == (256, 384)
    assert not has_one_size(options)
    assert has_one_size(AugmentConfig(initial_size=0.5))
    assert has_one_size(AugmentConfig(size_growth_epochs=4))
    both = AugmentConfig(initial_size=0.5, size_growth_epochs=4, multi_scale=(1.0, 1.5))
    assert {batch_input_size(settings, both, 3, 0, batch)[0] for batch in range(30)} == {128, 160, 192}
    assert {batch_input_size(settings, both, 3, 4, batch)[0] for batch in range(60)} == {256, 288, 320, 352, 384}


def test_multi_scale_batches_have_one_size_and_resume(shapes: Path) -> None:
    split = read_dataset(shapes, "train")
    reader = TrainingDataset(AugmentedSamples(split, SETTINGS, AugmentConfig(multi_scale=(0.5, 1.5)), 0))
    batches = EpochBatches(np.zeros(12), 4, 0)
    sizes = []
    for batches.epoch in range(4):
        for keys in batches:
            batch_sizes = {item.sample.image.shape[:2] for item in map(reader.__getitem__, keys) if item.sample}
            assert len(batch_sizes) == 1
            sizes.append(batch_sizes.pop())
    assert len(set(sizes)) > 2
    batches.epoch, batches.first = 2, 1
    assert [reader[keys[0]].sample.image.shape[:2] for keys in batches] == sizes[7:9]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (AugmentConfig(mosaic=1.5), "mosaic 1.5"),
        (AugmentConfig(crop_min=0.0), "crop.min 0.0"),
        (AugmentConfig(expand_max=0.5), "expand.max 0.5"),
        (AugmentConfig(multi_scale=(1.5, 0.5)), "multi.scale 1.5 0.5"),
        (AugmentConfig(multi_scale=(0.0, 0.5)), "multi.scale 0.0 0.5"),
    ],
)
def test_check_ranges_rejects_invalid_augmentation_options(options: AugmentConfig, name: str) -> None:
    with pytest.raises(SaisError, match=name):
        check_ranges(Experiment(augment=options))


OWN_MODULE = """
from dataclasses import replace

import numpy as np


def invert(sample, random):
    return replace(sample, image=255 - sample.image)


def noise(sample, random):
    return replace(sample, image=random.integers(0, 256, sample.image.shape, dtype=np.uint8))


def shrink(sample, random):
    return replace(sample, image=sample.image[:-32])


def lose_boxes(sample, random):
    return replace(sample, boxes=sample.boxes[:0])


def nothing(sample, random):
    return None


number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a module with augmentations of the user's own."""
    name = f"own_augmentations_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_extra_augmentations_are_applied_last_and_deterministically(shapes: Path, own_module: str) -> None:
    split = read_dataset(shapes, "train")
    plain = AugmentedSamples(split, SETTINGS, AugmentConfig(mosaic=1.0, color_jitter=0.2), 0)
    options = AugmentConfig(mosaic=1.0, color_jitter=0.2, extra=(f"{own_module}:invert",))
    inverted = AugmentedSamples(split, SETTINGS, options, 0)
    for position in range(3):
        expected, sample = (samples.read(SampleKey(1, position))[0] for samples in (plain, inverted))
        np.testing.assert_array_equal(sample.image, 255 - expected.image)
        np.testing.assert_array_equal(sample.boxes, expected.boxes)
    noisy = AugmentedSamples(split, SETTINGS, AugmentConfig(extra=(f"{own_module}:noise",)), 0)
    first, second, other = (noisy.read(SampleKey(epoch, 2))[0].image for epoch in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).mean() > 0.9


@pytest.mark.parametrize("name", ["shrink", "lose_boxes", "nothing"])
def test_extra_augmentation_with_an_invalid_result_raises(shapes: Path, own_module: str, name: str) -> None:
    options = AugmentConfig(extra=(f"{own_module}:{name}",))
    dataset = TrainingDataset(AugmentedSamples(read_dataset(shapes, "train"), SETTINGS, options, 0))
    with pytest.raises(ConfigError, match=name):
        dataset[SampleKey(0, 0)]


@pytest.mark.parametrize("name", ["missing", "number"])
def test_unknown_extra_augmentation_raises_before_training(shapes: Path, own_module: str, name: str) -> None:
    options = AugmentConfig(extra=(f"{own_module}:{name}",))
    with pytest.raises(ConfigError, match=name):
        AugmentedSamples(read_dataset(shapes, "train"), SETTINGS, options, 0)


def test_augmentations_are_a_table_of_named_steps() -> None:
    assert list(AUGMENTATIONS) == [
        "flip",
        "mosaic",
        "copy_paste",
        "expand_crop",
        "resize",
        "photometric",
        "color_jitter",
    ]


def test_draw_augmented_command_draws_training_samples(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "sheet.png"
    command = ["draw-augmented", "paper-lite0", "--data", str(shapes), "--input.size", "64", "96", "--images", "3"]
    assert cli.main([*command, "--augment.mosaic", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    sheet = np.asarray(Image.open(out))
    split = read_dataset(shapes, "train")
    samples = AugmentedSamples(split, InputConfig(size=(64, 96)), AugmentConfig(mosaic=1.0), 0)
    expected, unreadable = draw_samples(samples, [SampleKey(0, i) for i in range(3)], split.class_names)
    np.testing.assert_array_equal(sheet, expected)
    assert unreadable == []
    assert cli.main([*command, "--image-id", "2", "--out", str(out)]) == 0
    assert not np.array_equal(np.asarray(Image.open(out)), expected)
    for arguments, name in (
        (["--image-id", "999"], "999"),
        (["--images", "0"], "images"),
        (["--augment.crop", "2"], "crop"),
    ):
        capsys.readouterr()
        assert cli.main([*command, *arguments]) == 2
        assert name in capsys.readouterr().err
    short = ["draw-augmented", "paper-lite0", "--size", "64", "96", "--batch-size", "2", "--images", "3", "--seed", "0"]
    files = ["--train-annotations", str(shapes / "annotations/train.json"), "--train-images"]
    command = [*short, *files, str(shapes / "images/train"), "--augment.mosaic", "1", "--out", str(out)]
    assert cli.main(command) == 0  # the options of `sais train`
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected)
    assert cli.main(["draw-augmented", "paper-lite0"]) == 2
    assert cli.main(["draw-augmented", "--data", "x"]) == 2


def test_documentation_describes_every_augmentation_option(root: Path) -> None:
    page = (root / "docs/augmentation.md").read_text(encoding="utf-8")
    options = {"--augment." + field.name.replace("_", "-") for field in fields(AugmentConfig)}
    assert set(re.findall(r"--augment\.[a-z-]+", page)) == options
    images = re.findall(r"\((images/[^)]+)\)", page)
    assert len(images) == 9
    for image in images:
        path = root / "docs" / image
        assert path.stat().st_size < 150_000
        Image.open(path).load()
