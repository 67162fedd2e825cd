"""Augmentation: what the pixels show and what masks and boxes say is the same, through every option and all together.

The judge of most tests is the image itself: every object has a color of its own, so a pixel of exactly that color
shows that object and no other, whatever was zoomed, cut off or pasted over. Blended pixels at edges say nothing.
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
from sais.config import AugmentConfig, Experiment, InputConfig, check_ranges, from_dict
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.dataset import AugmentedSamples, SampleKey
from sais.data.formats import read_dataset
from sais.data.loader import EpochBatches, TrainingDataset, collate, rasterize_ground_truth
from sais.data.transforms.augment import augment
from sais.data.transforms.expand_crop import random_crop_window, random_expand_window
from sais.data.transforms.geometric import crop_to_window, visible_extent
from sais.data.transforms.mosaic_copy_paste import copy_paste, mosaic
from sais.data.transforms.multi_scale import batch_input_size, max_input_size
from sais.data.transforms.photometric import photometric_distort, shift_hue
from sais.data.visualize import draw_samples
from sais.errors import SaisError
from sais.ops.rasterize import Bitmap, CutMask, ObjectMask, Polygons, cut_mask, hflip_mask, inside, transform_mask
from sais.structures import MASK_STRIDE, Sample

SETTINGS = InputConfig(size=(128, 160))
CODE = np.array([65536, 256, 1])
"""A color as one number."""
KEPT = InputConfig(mode="keep_ratio", size=(96, 200))


def scene(seed: int, size: tuple[int, int] = (120, 150), objects: int = 5) -> Sample:
    """Objects side by side, corners with whole numbers for points and blobs of bits in turn, so that each is exactly
    the pixels it is painted with; each in a color that no other image has."""
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
    """A color for each number under 100: none is a mean of others that comes out exact by chance."""
    return 10 + 20 * (label // 10), 5 + 11 * (label % 10), 200 - label


def pixels_agree(sample: Sample, boxes_tight: bool = True) -> Counter[str]:
    """Assert that masks and boxes tell what the pixels show; returns how much there was to see. A zoom only clips boxes
    at the canvas, where they need not be tight."""
    seen: Counter[str] = Counter()
    height, width = sample.image.shape[:2]
    whole = (0, 0, width, height)
    masks = [inside(mask, whole) for mask in sample.masks if mask is not None]
    assert len(masks) == len(sample.masks)
    codes = sample.image.astype(np.int64) @ CODE
    for k in [k for k in range(100) if np.dot(color_of(k), CODE) in set(np.unique(codes).tolist())]:
        shown = codes == np.dot(color_of(k), CODE)
        mine = np.zeros((height, width), bool)
        for mask, label in zip(masks, sample.labels, strict=True):
            if label == k:
                mine |= mask
            else:
                assert not (mask & shown).any(), f"a mask of {label} lies on pixels of {k}"
        if k in sample.labels:
            assert mine[shown].all(), f"pixels of {k} without its mask"
            seen["shown"] += int(shown.sum())
    ground = (sample.image[..., :2] == 250).all(2) | (sample.image == (124, 116, 104)).all(2)
    # Boxes are cut at whole pixels of the image, masks at whatever point.
    slack = 1.1 + max(sample.canvas_map.scale if sample.canvas_map else (1.0, 1.0))
    for box, mask in zip(sample.boxes, masks, strict=True):
        assert not (mask & ground).any()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        tight = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert (box[:2] <= tight[:2] + slack).all()
        assert (box[2:] >= tight[2:] - slack).all()
        if boxes_tight:
            np.testing.assert_allclose(box, tight, atol=slack)
        seen["objects"] += 1
    return seen


def grids_agree(sample: Sample) -> None:
    """The patches are the dense masks of the canvas, averaged over each cell."""
    height, width = sample.image.shape[:2]
    objects = rasterize_ground_truth(sample)
    at = 0
    for mask, (x1, y1, x2, y2) in zip(sample.masks, objects.mask_windows.tolist(), strict=True):
        assert mask is not None
        dense = np.zeros((height, width), bool)
        dense |= by_hand(mask, width, height)
        cells = dense.reshape(height // MASK_STRIDE, MASK_STRIDE, width // MASK_STRIDE, MASK_STRIDE).mean((1, 3))
        number = (x2 - x1) * (y2 - y1)
        patch = objects.mask_values[at : at + number].numpy().reshape(y2 - y1, x2 - x1)
        np.testing.assert_array_equal(patch, np.rint(cells[y1:y2, x1:x2] * 255))
        at += number
    assert at == len(objects.mask_values)


def by_hand(mask: ObjectMask, width: int, height: int) -> np.ndarray:
    """The dense mask of a shape, a cut one made of whole ones."""
    whole = (0, 0, width, height)
    if not isinstance(mask, CutMask):
        return inside(mask, whole)
    dense = inside(mask.shape, whole).copy()
    for cover in mask.covers:
        dense &= ~by_hand(cover, width, height)
    if mask.within is not None:
        x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
        x1, y1, x2, y2 = mask.within
        dense &= ((y >= y1) & (y < y2))[:, None] & (x >= x1) & (x < x2)
    return dense


ONE_EACH = {
    "mosaic": AugmentConfig(mosaic=1.0),
    "copy-paste": AugmentConfig(copy_paste=1.0),
    "expand": AugmentConfig(expand=1.0),
    "crop": AugmentConfig(crop=1.0),
    "jitter": AugmentConfig(scale_jitter=(0.3, 2.5)),
    "all": AugmentConfig(mosaic=0.7, copy_paste=0.7, expand=0.5, crop=0.7, crop_min=0.5, scale_jitter=(0.6, 1.6)),
}


@pytest.mark.parametrize("settings", [SETTINGS, KEPT], ids=["fixed", "keep_ratio"])
@pytest.mark.parametrize("name", ONE_EACH)
def test_masks_and_boxes_tell_what_the_pixels_show(name: str, settings: InputConfig) -> None:
    seen: Counter[str] = Counter()
    for seed in range(12):
        random = np.random.default_rng(seed)
        others = [scene(k, ((100, 170), (140, 90), (120, 150))[seed % 3], 3) for k in range(2, 6)]
        sample = augment(scene(1), settings, ONE_EACH[name], random, lambda _, full, others=others: others.pop())  # type: ignore[misc]
        seen += pixels_agree(sample, boxes_tight=ONE_EACH[name].scale_jitter == (1, 1))
        grids_agree(sample)
    assert seen["objects"] > 30
    assert seen["shown"] > 3000


def test_a_pasted_object_hides_exactly_its_pixels() -> None:
    below, above = scene(1), scene(2)
    pasted = 0
    for seed in range(20):
        after = copy_paste(below, above, np.random.default_rng(seed))
        height, width = below.image.shape[:2]
        before = {
            int(label): by_hand(mask, width, height) for label, mask in zip(below.labels, below.masks, strict=True)
        }  # type: ignore[arg-type]
        now = {int(label): by_hand(mask, width, height) for label, mask in zip(after.labels, after.masks, strict=True)}  # type: ignore[arg-type]
        new = [label for label in now if label >= 20]
        over = np.any([now[label] for label in new], 0)
        for label, mask in before.items():
            left = mask & ~over
            if label in now:
                np.testing.assert_array_equal(now[label], left)
            else:
                assert left.sum() < 0.35 * mask.sum()  # by mask or by box under a tenth, or a pixel wide
        # Two that were pasted share no pixel either.
        assert sum(now[label].sum() for label in new) == over.sum()
        # A pixel that no pasted shape touches is as it was.
        reach = np.zeros((height, width), bool)
        for label in new:
            rows, columns = np.nonzero(now[label])
            reach[max(rows.min() - 1, 0) : rows.max() + 2, max(columns.min() - 1, 0) : columns.max() + 2] = True
        np.testing.assert_array_equal(after.image[~reach], below.image[~reach])
        pasted += len(new)
    assert pasted > 40
    assert np.array_equal(below.image, scene(1).image)  # the given one is untouched


def test_an_object_almost_wholly_hidden_is_no_target() -> None:
    square = Polygons((np.array([[10.0, 10], [50, 10], [50, 50], [10, 50]]),))
    boxes = np.array([[10, 10, 50, 50], [10, 10, 50, 50], [60, 10, 80, 30]], np.float32)
    sample = Sample(1, np.zeros((64, 100, 3), np.uint8), boxes, np.arange(3), [square, None, None])
    cover = Polygons((np.array([[0.0, 0], [46.5, 0], [46.5, 64], [0, 64]]),))  # leaves 4 of 40 columns: a tenth
    left = visible_extent(sample, covers=[cover])
    assert left.labels.tolist() == [0, 1, 2]
    assert left.boxes.tolist() == [[46, 10, 50, 50], [46, 10, 50, 50], [60, 10, 80, 30]]
    assert left.masks[1] is None
    almost = transform_mask(cover, 1.0, 1.0, 1.0, 0.0)
    assert visible_extent(sample, covers=[almost]).labels.tolist() == [2]
    hole = Polygons((np.array([[12.0, 12], [49, 12], [49, 49], [12, 49]]),))  # the box stays whole, the mask is a rim
    assert 0.1 < (40 * 40 - 37 * 37) / 1600 < 0.15
    assert visible_extent(sample, covers=[hole]).boxes[0].tolist() == [10, 10, 50, 50]
    wider = Polygons((np.array([[11.0, 11], [49, 11], [49, 49], [11, 49]]),))
    assert visible_extent(sample, covers=[wider]).labels.tolist() == [2]


def test_a_cut_shape_moves_and_flips_as_its_parts_do() -> None:
    shape = Polygons((np.array([[5.0, 6], [40, 9], [33, 44]]),))
    cover = Bitmap(np.eye(7, dtype=bool), (8.0, 8.0, 36.0, 36.0))
    twice = cut_mask(
        cut_mask(shape, (7, 0, 38, 60), [cover]), (0, 10, 34, 40), [Polygons((np.array([[0.0, 0], [20, 0], [0, 30]]),))]
    )
    assert twice.within == (7, 10, 34, 40)
    assert len(twice.covers) == 2
    whole = (0, 0, 48, 48)
    dense = by_hand(twice, 48, 48)
    np.testing.assert_array_equal(inside(twice, whole), dense)
    assert 100 < dense.sum() < inside(shape, whole).sum()
    np.testing.assert_array_equal(inside(hflip_mask(twice, 48), whole), dense[:, ::-1])
    larger = inside(transform_mask(twice, 3, 2, 4, 5), (4, 5, 4 + 144, 5 + 96))
    assert (larger[1::2, 1::3] == dense).mean() > 0.95  # a third and a half of a pixel beside the old centers
    # A window of it is a part of the whole.
    np.testing.assert_array_equal(inside(twice, (9, 20, 30, 31)), dense[20:31, 9:30])


def test_a_window_cuts_exactly_and_beyond_the_image_there_is_only_ground() -> None:
    sample = scene(3)
    height, width = sample.image.shape[:2]
    for window in ((20, 15, 100, 90), (-30, -10, 90, 130), (0, 0, width, height)):
        seen = crop_to_window(sample, window, (1, 2, 3))
        x1, y1, x2, y2 = window
        assert seen.image.shape == (y2 - y1, x2 - x1, 3)
        padded = np.pad(sample.image, ((200, 200), (200, 200), (0, 0)), constant_values=7)
        wanted = padded[200 + y1 : 200 + y2, 200 + x1 : 200 + x2]
        ground = (wanted == 7).all(2)
        np.testing.assert_array_equal(seen.image[~ground], wanted[~ground])
        assert (seen.image[ground] == (1, 2, 3)).all()
        pixels_agree(seen)
        before = dict(zip(sample.labels.tolist(), sample.masks, strict=True))
        for label, mask in zip(seen.labels.tolist(), seen.masks, strict=True):
            dense = np.pad(inside(before[label], (0, 0, width, height)), 200)[200 + y1 : 200 + y2, 200 + x1 : 200 + x2]
            np.testing.assert_array_equal(inside(mask, (0, 0, x2 - x1, y2 - y1)), dense)


def test_an_outline_that_left_the_image_does_not_reach_onto_the_ground() -> None:
    outline = Polygons((np.array([[-6.0, 10], [30, 10], [30, 40], [-6, 40]]),))
    box = np.array([[0, 10, 30, 40]], np.float32)  # as the reader clips it
    sample = Sample(1, np.zeros((50, 50, 3), np.uint8), box, np.zeros(1, np.int64), [outline])
    seen = crop_to_window(sample, (-20, -20, 80, 80))
    dense = inside(seen.masks[0], (0, 0, 100, 100))  # type: ignore[arg-type]
    assert dense.sum() == 30 * 30
    assert dense[30:60, 20:50].all()
    assert seen.boxes.tolist() == [[20, 30, 50, 60]]


def test_a_mosaic_is_four_images_without_padding() -> None:
    """Four flat colors and no objects: a corner of each, borders on one row and one column, nothing else."""
    colors = [(i * 60, 255 - i * 60, 9) for i in range(4)]
    for seed in range(10):
        flat = [
            planted(color, size) for color, size in zip(colors, ((50, 90), (90, 50), (70, 70), (30, 31)), strict=True)
        ]
        made = mosaic(flat, SETTINGS, np.random.default_rng(seed)).image
        assert made.shape == (128, 160, 3)
        which = np.stack([(made == color).all(2) for color in colors])
        assert (which.sum(0) == 1).all()
        assert [which[i][corner] for i, corner in enumerate(((0, 0), (0, -1), (-1, 0), (-1, -1)))] == [True] * 4
        rows, columns = which[0].any(1).sum(), which[0].any(0).sum()
        assert which[0].sum() == rows * columns
        assert 0.29 * 128 < rows < 0.71 * 128
        assert 0.29 * 160 < columns < 0.71 * 160


def planted(color: tuple[int, int, int], size: tuple[int, int]) -> Sample:
    image = np.empty((*size, 3), np.uint8)
    image[:] = color
    return Sample(0, image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), [])


def test_a_crop_keeps_an_object_where_there_is_one() -> None:
    options = AugmentConfig(flip=0.0, crop=1.0, crop_min=0.2)
    sizes = set()
    for seed in range(60):
        one = scene(4, objects=1 + seed % 2)
        left = augment(one, SETTINGS, options, np.random.default_rng(seed), lambda random, full: None)
        assert len(left.boxes) >= 1
        assert left.canvas_map is not None
        sizes.add(left.canvas_map.image_size)
    assert len(sizes) > 50
    heights = np.array([height for height, _ in sizes]) / 120
    assert heights.min() < 0.35
    assert heights.max() > 0.85


def test_windows_lie_where_they_are_said_to() -> None:
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
        middles = [(2, 2), (98.75, 57.5)]
        assert any(x1 <= x <= x2 and y1 <= y <= y2 for x, y in middles)


def test_the_ground_of_an_expanded_image_is_its_mean_where_asked() -> None:
    options = AugmentConfig(flip=0.0, expand=1.0, expand_max=6.0)
    sample = planted((200, 30, 90), (60, 60))
    sample.image[:, 30:] = (100, 50, 10)
    for ground, color in (("padding", (124, 116, 104)), ("mean", (150, 40, 50))):
        found = augment(
            sample,
            InputConfig(size=(64, 64)),
            replace(options, expand_fill=ground),
            np.random.default_rng(1),
            lambda random, full: None,
        )  # type: ignore[arg-type]
        assert 0.3 < (found.image == color).all(2).mean() < 1


def test_colors_are_distorted_one_by_one_in_any_order() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(photometric_distort(image, 0.0, np.random.default_rng(1)), image)
    made = [photometric_distort(image, 1.0, np.random.default_rng(seed)) for seed in range(8)]
    assert len({one.tobytes() for one in made}) == 8
    assert all(one.shape == image.shape and one.dtype == np.uint8 and one.flags.writeable for one in made)
    np.testing.assert_array_equal(photometric_distort(image, 1.0, np.random.default_rng(3)), made[3])
    some = [photometric_distort(image, 0.5, np.random.default_rng(seed)) for seed in range(60)]
    untouched = sum(np.array_equal(one, image) for one in some)
    assert 1 <= untouched <= 12  # one in sixteen
    gray = np.full((4, 4, 3), 77, np.uint8)
    np.testing.assert_array_equal(np.asarray(shift_hue(Image.fromarray(gray), 13)), gray)  # a gray has no hue to turn
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    third = np.asarray(shift_hue(Image.fromarray(red), 85))[0, 0]  # a third of the circle on
    assert third.argmax() == 1
    assert third[0] < 10


def index_of(shapes: Path) -> DatasetSplit:
    return read_dataset(shapes, "train")


def test_an_option_that_is_off_draws_nothing(shapes: Path) -> None:
    """A run sees the images it saw before there were more options."""
    index = index_of(shapes)
    plain = AugmentedSamples(index, SETTINGS, AugmentConfig(scale_jitter=(0.6, 1.5)), 0).read(SampleKey(2, 3))[0]
    random = np.random.default_rng([0, 2, 3])
    random.random()  # the flip
    usual = index.images[3].size
    factor = np.exp(random.uniform(np.log(0.6), np.log(1.5)))
    assert plain.canvas_map is not None
    assert plain.canvas_map.scale[0] == round(SETTINGS.size[0] * factor) / usual[0]


@pytest.mark.parametrize("options", [AugmentConfig(mosaic=1.0, copy_paste=1.0, crop=0.5, photometric=0.5)])
def test_composed_samples_hang_on_their_key_alone(shapes: Path, options: AugmentConfig) -> None:
    index = index_of(shapes)
    one, other = (TrainingDataset(AugmentedSamples(index, SETTINGS, options, 5)) for _ in range(2))
    other[SampleKey(0, 1)]
    a, b = one[SampleKey(3, 7, 1)].sample, other[SampleKey(3, 7, 2)].sample
    assert a is not None
    assert b is not None
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    assert len(a.boxes) > len(index.images[7].annotations)


def test_composition_stops_after_its_epochs(shapes: Path) -> None:
    index = index_of(shapes)
    usual = AugmentedSamples(index, SETTINGS, AugmentConfig(), 0)
    some = AugmentedSamples(index, SETTINGS, AugmentConfig(mosaic=1.0, copy_paste=1.0, mosaic_copy_paste_epochs=2), 0)
    for epoch, is_plain in ((0, False), (1, False), (2, True), (3, True)):
        images = [one.read(SampleKey(epoch, 4))[0].image for one in (usual, some)]
        assert np.array_equal(*images) == is_plain


def test_broken_partners_are_told_and_passed_over(tmp_path: Path) -> None:
    square = [[8.0, 8, 40, 8, 40, 40, 8, 40]]
    records = []
    for i in range(6):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (64, 64), (10 * i, 20, 30)).save(path)
        note = Annotation(i, np.array([8, 8, 40, 40], np.float32), 0, square, False, 100.0)
        records.append(ImageRecord(i, path, (64, 64), (note,)))
    for i in (2, 4):
        records[i].path.write_bytes(b"no image")
    index = DatasetSplit("train", ("thing",), (1,), tuple(records))
    reader = TrainingDataset(AugmentedSamples(index, SETTINGS, AugmentConfig(mosaic=1.0, copy_paste=1.0), 0))
    items = [reader[SampleKey(epoch, 0)] for epoch in range(12)]
    assert all(item.sample is not None for item in items)
    assert all(len({tuple(c) for c in item.sample.image.reshape(-1, 3)}) > 2 for item in items if item.sample)
    lines = {line for item in items for line in item.broken}
    assert len(lines) == 2
    assert all(any(f"{i}.png" in line for line in lines) for i in (2, 4))
    assert collate(items).unreadable_images == list(dict.fromkeys(line for item in items for line in item.broken))
    for i in (1, 2, 3, 4, 5):
        records[i].path.unlink(missing_ok=True)
    alone = reader[SampleKey(0, 0)]
    assert alone.sample is not None  # composed with itself, or left alone
    assert reader[SampleKey(0, 1)].sample is None


def test_crowds_and_bare_boxes_are_never_pasted(tmp_path: Path) -> None:
    records = []
    for i, (segmentation, crowd) in enumerate([(None, False), ([[8.0, 8, 40, 8, 40, 40, 8, 40]], True), ([], False)]):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (64, 64), (10 * i, 20, 30)).save(path)
        note = Annotation(i, np.array([8, 8, 40, 40], np.float32), 0, segmentation or None, crowd, 100.0)
        records.append(ImageRecord(i, path, (64, 64), (note,)))
    index = DatasetSplit("train", ("thing",), (1,), tuple(records))
    reader = AugmentedSamples(index, SETTINGS, AugmentConfig(copy_paste=1.0), 0)
    for epoch in range(5):
        for position, number in ((0, 1), (1, 0), (2, 1)):
            assert len(reader.read(SampleKey(epoch, position))[0].boxes) == number


def test_a_batch_has_one_size_whoever_reads_it() -> None:
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
    kept = InputConfig(mode="keep_ratio", size=(96, 160))
    for height, width in {batch_input_size(kept, options, 3, 0, n) for n in range(40)}:
        assert height % 32 == 0
        assert width / height == pytest.approx(160 / 96, rel=0.01)


def test_multi_scale_batches_are_whole_and_resumable(shapes: Path) -> None:
    index = index_of(shapes)
    reader = TrainingDataset(AugmentedSamples(index, SETTINGS, AugmentConfig(multi_scale=(0.5, 1.5)), 0))
    batches = EpochBatches(np.zeros(12), 4, 0)
    found = []
    for batches.epoch in range(4):
        for keys in batches:
            shapes_of = {item.sample.image.shape[:2] for item in map(reader.__getitem__, keys) if item.sample}
            assert len(shapes_of) == 1
            found.append(shapes_of.pop())
    assert len(set(found)) > 2
    batches.epoch, batches.first = 2, 1
    assert [reader[keys[0]].sample.image.shape[:2] for keys in batches] == found[7:9]  # type: ignore[union-attr]


def test_settings_of_earlier_files_are_found_where_they_stand_now() -> None:
    earlier = {
        "input": {"mode": "fixed", "size": [64, 64], "flip": 0.25, "scale_jitter": [0.5, 2.0], "color_jitter": 0.1}
    }
    read = from_dict(Experiment, earlier)
    assert read.augment == AugmentConfig(flip=0.25, scale_jitter=(0.5, 2.0), color_jitter=0.1)
    assert read.input == InputConfig(size=(64, 64))
    assert earlier["input"]["flip"] == 0.25  # what was read is not changed
    with pytest.raises(SaisError, match="unknown setting 'flop'"):
        from_dict(Experiment, {"input": {"flop": 0.25, "flip": 0.5}})
    with pytest.raises(SaisError, match="augment.flip"):
        from_dict(Experiment, {"input": {"flip": "often"}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (AugmentConfig(mosaic=1.5), "--augment.mosaic 1.5: must be between 0 and 1"),
        (AugmentConfig(crop_min=0.0), "--augment.crop-min 0.0: must be between 0.05 and 1"),
        (AugmentConfig(expand_max=0.5), "--augment.expand-max 0.5: must be between 1 and 10"),
        (AugmentConfig(multi_scale=(1.5, 0.5)), "--augment.multi-scale 1.5 0.5: the smaller factor comes first"),
        (AugmentConfig(multi_scale=(0.0, 0.5)), "--augment.multi-scale 0.0 0.5: must be between 0.1 and 4"),
    ],
)
def test_ranges(options: AugmentConfig, said: str) -> None:
    with pytest.raises(SaisError) as error:
        check_ranges(Experiment(augment=options))
    assert str(error.value) == said


def test_a_sheet_shows_what_training_will_see(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "sheet.png"
    words = ["draw-augmented", "paper-lite0", "--data", str(shapes), "--input.size", "64", "96", "--images", "3"]
    assert cli.main([*words, "--augment.mosaic", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    sheet = np.asarray(Image.open(out))
    index = index_of(shapes)
    samples = AugmentedSamples(index, InputConfig(size=(64, 96)), AugmentConfig(mosaic=1.0), 0)
    wanted, broken = draw_samples(samples, [SampleKey(0, i) for i in range(3)], index.class_names)
    np.testing.assert_array_equal(sheet, wanted)
    assert broken == []
    assert cli.main([*words, "--image", "2", "--out", str(out)]) == 0
    assert not np.array_equal(np.asarray(Image.open(out)), wanted)
    capsys.readouterr()
    for wrong, said in (
        (["--image", "999"], "no image 999 there"),
        (["--images", "0"], "--images 0: must be 1 or more"),
        (["--augment.crop", "2"], "--augment.crop 2.0: must be between 0 and 1"),
    ):
        assert cli.main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err
    short = ["draw-augmented", "paper-lite0", "--size", "64", "96", "--batch-size", "2", "--images", "3", "--seed", "0"]
    files = ["--train-annotations", str(shapes / "annotations/train.json"), "--train-images"]
    words = [*short, *files, str(shapes / "images/train"), "--augment.mosaic", "1", "--out", str(out)]
    assert cli.main(words) == 0  # the words of `sais train`
    np.testing.assert_array_equal(np.asarray(Image.open(out)), wanted)
    capsys.readouterr()
    assert cli.main(["draw-augmented", "paper-lite0"]) == 2
    assert "no data: give --data DIR" in capsys.readouterr().err
    assert cli.main(["draw-augmented", "--data", "x"]) == 2
    assert "needs a recipe first" in capsys.readouterr().err


def test_the_page_describes_every_option_with_a_image(root: Path) -> None:
    page = (root / "docs/augmentation.md").read_text(encoding="utf-8")
    options = {"--augment." + field.name.replace("_", "-") for field in fields(AugmentConfig)}
    assert set(re.findall(r"--augment\.[a-z-]+", page)) == options
    images = re.findall(r"\((images/[^)]+)\)", page)
    assert len(images) == 9
    for image in images:
        path = root / "docs" / image
        assert path.stat().st_size < 150_000
        Image.open(path).load()
