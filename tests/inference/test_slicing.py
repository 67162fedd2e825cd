"""Sliced inference: with an oracle that detects every tile exactly, the merged result is the whole image exactly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from sais.benchmark.memory import in_fresh_process, peak_resident
from sais.config import InputConfig
from sais.errors import ConfigError
from sais.inference.options import InferenceOptions
from sais.inference.slice_merging import merge_slices
from sais.inference.slicing import predict_sliced, slice_windows, tile_side
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

NAMES = ("ring", "bar", "disc")


def oracle(ids: np.ndarray, masks: bool = True, score: float = 0.9) -> Detections:
    """Return the detections of a perfect network on an image (H, W, 3) of object ids.

    Red and green are the id of a pixel's object (0: none), blue its class. The score is the fraction of the image that
    the object fills: higher the more of it is visible.
    """
    number = ids[..., 0].astype(int) + 256 * ids[..., 1].astype(int)
    boxes, labels, cropped_masks, scores = [], [], [], []
    for object_id in np.unique(number[number > 0]):
        mask = number == object_id
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        y1, y2, x1, x2 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        boxes.append((x1, y1, x2, y2))
        labels.append(ids[mask][0, 2])
        cropped_masks.append(CroppedMask(x1, y1, mask[y1:y2, x1:x2]))
        scores.append(score * mask.mean())
    order = np.argsort(-np.array(scores), kind="stable")
    size = (ids.shape[0], ids.shape[1])
    cropped = cropped_masks if masks else []
    return Detections(size, np.array(boxes), np.array(scores), np.array(labels), NAMES, cropped)[order]


def oracle_with_masks(images: Sequence[np.ndarray]) -> list[Detections]:
    """Detect with masks."""
    return [oracle(image) for image in images]


def oracle_of_boxes(images: Sequence[np.ndarray]) -> list[Detections]:
    """Detect boxes only."""
    return [oracle(image, masks=False) for image in images]


def add_object(scene: np.ndarray, mask: np.ndarray, label: int) -> bool:
    """Add an object if its pixels are free (it may touch others); return whether it was added."""
    taken = scene[..., 0].astype(int) + 256 * scene[..., 1].astype(int)
    if not mask.any() or (taken[mask] > 0).any():
        return False
    number = taken.max() + 1
    scene[mask] = (number % 256, number // 256, label)
    return True


def random_scene(random: np.random.Generator, size: tuple[int, int], count: int, boxes: bool) -> np.ndarray:
    """Return rings, discs and bars of all sizes, some across the whole image, without overlap, each in one part."""
    scene = np.zeros((*size, 3), np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    added = 0
    for _ in range(40 * count):
        kind = 1 if boxes else int(random.integers(3))
        cy, cx = random.uniform(0, size[0]), random.uniform(0, size[1])
        far = float(random.choice([4, 12, 40, 120]))
        distance = np.hypot(y - cy, x - cx)
        if kind == 0:
            mask = (distance < far) & (distance > 0.8 * far - 3)
            mask &= y > 0  # a ring cut by the image border would be in two parts
            if cy - far < 0 or cy + far >= size[0] or cx - far < 0 or cx + far >= size[1]:
                continue
        elif kind == 1:
            high, wide = far * random.uniform(0.1, 1), far * random.uniform(0.1, 1)
            mask = (abs(y - cy) < high) & (abs(x - cx) < wide)
        else:
            mask = distance < far / 2
        added += add_object(scene, mask, kind)
        if added == count:
            break
    return scene


def assert_same_objects(actual: Detections, expected: Detections) -> None:
    """Assert equal objects in any order: classes, boxes and masks to the pixel."""
    assert actual.image_size == expected.image_size
    assert (np.diff(actual.scores) <= 0).all()
    assert sorted(map(tuple, sortable(actual))) == sorted(map(tuple, sortable(expected)))
    if expected.cropped_masks:
        assert actual.cropped_masks or not len(actual)


def sortable(detections: Detections) -> list[list[object]]:
    """Return class, box and run lengths of each object, for sorting and comparison."""
    runs = [rle["counts"] for rle in detections.rle()] if detections.cropped_masks else [""] * len(detections)
    pairs = zip(detections.labels.tolist(), detections.boxes.tolist(), runs, strict=True)
    return [[label, tuple(box), run] for label, box, run in pairs]


@pytest.mark.parametrize("overlap", [0, 0.01, 0.2, 0.5, 0.89])
@pytest.mark.parametrize("size", [(100, 300), (32, 33), (20, 500), (317, 211)])
def test_slice_windows_cover_the_image_and_overlap(size: tuple[int, int], overlap: float) -> None:
    windows = slice_windows(size, 64, overlap)
    count = np.zeros(size, int)
    for x1, y1, x2, y2 in windows.tolist():
        assert (y2 - y1, x2 - x1) == (min(64, size[0]), min(64, size[1]))
        count[y1:y2, x1:x2] += 1
    assert count.min() >= 1
    assert count.shape == size  # no window extends beyond
    for low, high in ((0, 2), (1, 3)):
        starts, ends = np.unique(windows[:, low]), np.unique(windows[:, high])
        shared = ends[:-1] - starts[1:]
        assert (shared >= max(64 * overlap, overlap > 0)).all()
        assert starts[0] == 0
        assert ends[-1] == size[1 - low]
    fewest = [1 if n <= 64 else int(np.ceil((n - 64) / int(64 * (1 - overlap)))) + 1 for n in size]
    assert len(windows) == np.prod(fewest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": 31}, "a side of 31 pixels"),
        ({"overlap": 0.9}, "tile_overlap: 0.9"),
        ({"overlap": -0.1}, "tile_overlap: -0.1"),
        ({"overlap": float("nan")}, "tile_overlap: nan"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"agreement": 0.0}, "agreement: 0 "),
        ({"agreement": 1.5}, "agreement: 1.5"),
    ],
)
def test_predict_sliced_refuses_values_out_of_range(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        predict_sliced(np.zeros((64, 64, 3), np.uint8), oracle_with_masks, **{"side": 64, **change})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_predict_sliced_restores_random_scenes(seed: int, boxes: bool) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(40, 260)), int(random.integers(40, 260)))
    scene = random_scene(random, size, count=14, boxes=boxes)
    side, overlap = int(random.integers(32, 100)), float(random.choice([0.05, 0.2, 0.45]))
    actual = predict_sliced(scene, oracle_of_boxes if boxes else oracle_with_masks, side, overlap, batch_size=3)
    expected = oracle(scene, masks=not boxes)
    assert len(expected) > 3
    assert_same_objects(actual, expected)


def test_merge_slices_separates_touching_objects_of_one_class() -> None:
    """The image is full of adjacent rectangles of one class, smaller and larger than the tiles."""
    scene = np.zeros((200, 230, 3), np.uint8)
    rows, columns = [0, 3, 40, 41, 150, 200], [0, 25, 64, 130, 131, 230]
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            mask = np.zeros((200, 230), bool)
            mask[top:bottom, left:right] = True
            assert add_object(scene, mask, 1)
    for side in (32, 50, 64, 120):
        for detect, masks in ((oracle_with_masks, True), (oracle_of_boxes, False)):
            assert_same_objects(predict_sliced(scene, detect, side), oracle(scene, masks))


def test_merge_slices_takes_the_maximum_score_and_sorts() -> None:
    scene = np.zeros((64, 160, 3), np.uint8)
    scene[20:40, 50:70] = (1, 0, 2)
    scene[20:24, 130:134] = (2, 0, 2)
    tiles = [oracle(scene[:, x : x + 64]) for x in (0, 48, 96)]
    actual = predict_sliced(scene, oracle_with_masks, 64, 0.25)
    assert_same_objects(actual, oracle(scene))
    assert actual.scores[0] == max(tiles[0].scores[0], tiles[1].scores[0])
    assert actual.scores[1] == tiles[2].scores[0]


def test_predict_sliced_handles_empty_images_and_a_single_tile() -> None:
    empty = np.zeros((100, 100, 3), np.uint8)
    for detect in (oracle_with_masks, oracle_of_boxes):
        actual = predict_sliced(empty, detect, 40)
        assert len(actual) == 0
        assert actual.image_size == (100, 100)
        assert actual.class_names == NAMES
    scene = random_scene(np.random.default_rng(5), (60, 70), 6, True)
    whole, tiled = oracle(scene), predict_sliced(scene, oracle_with_masks, 70)
    assert len(whole) > 2
    assert sortable(tiled) == sortable(whole)  # in the same order
    np.testing.assert_array_equal(tiled.scores, whole.scores)


def test_predict_sliced_batches_tiles_and_reports_progress() -> None:
    batches: list[int] = []
    done: list[int] = []

    def detect(images: Sequence[np.ndarray]) -> list[Detections]:
        assert all(p.flags.c_contiguous and p.flags.owndata and p.shape == (40, 40, 3) for p in images)
        batches.append(len(images))
        return oracle_with_masks(images)

    image = np.zeros((100, 130, 3), np.uint8)
    predict_sliced(image, detect, 40, 0.2, batch_size=5, progress=done.append)
    assert batches == done == [5, 5, 2]  # 3 x 4 tiles
    with pytest.raises(ValueError, match="shorter"):
        predict_sliced(image, lambda images: oracle_with_masks(images)[1:], 40)
    with pytest.raises(ValueError, match="detections of an image of"):
        predict_sliced(image, lambda images: [oracle(image)] * len(images), 40)


LEFT, RIGHT = (0, 0, 100, 100), (80, 0, 180, 100)
"""Two tiles of 100 pixels that share columns 80 to 100."""


def at(*windows: tuple[int, int, int, int]) -> np.ndarray:
    """Return the mask of rectangles x1 y1 x2 y2 in the image of both tiles."""
    mask = np.zeros((100, 180), bool)
    for x1, y1, x2, y2 in windows:
        mask[y1:y2, x1:x2] = True
    return mask


def tile(*masks: np.ndarray, boxes: Sequence[tuple[int, int, int, int]] = (), labels: Sequence[int] = ()) -> Detections:
    """Return the detections of a tile from full masks, scores descending from 0.9."""
    hulls = [
        (m.any(0).argmax(), m.any(1).argmax(), 180 - m.any(0)[::-1].argmax(), 100 - m.any(1)[::-1].argmax())
        for m in masks
    ]
    cropped_masks = [CroppedMask(x1, y1, m[y1:y2, x1:x2]) for m, (x1, y1, x2, y2) in zip(masks, hulls, strict=True)]
    scores = 0.9 - 0.1 * np.arange(len(masks))
    return Detections(
        (100, 180), np.array(boxes or hulls), scores, np.array(labels or [0] * len(masks)), NAMES, cropped_masks
    )


def merged(left: Detections, right: Detections, agreement: float = 0.5) -> list[np.ndarray]:
    """Return the merged masks of two tiles."""
    return list(merge_slices([left, right], np.array([LEFT, RIGHT]), agreement).masks())


def test_merge_slices_rule_1_compares_with_the_smaller_mask() -> None:
    """The left tile's border cuts the object, and the network actual 8 of its 20 rows in the shared region."""
    left, right = at((85, 10, 100, 18)), at((85, 10, 130, 30))
    (mask,) = merged(tile(left), tile(right))
    assert (mask == right).all()
    left = at((85, 4, 100, 14))  # 10 rows, 4 of them on the object
    assert len(merged(tile(left), tile(right), agreement=0.5)) == 2
    (mask,) = merged(tile(left), tile(right), agreement=0.4)
    assert (mask == (left | right)).all()


def test_merge_slices_separates_classes() -> None:
    mask = at((85, 10, 95, 20))
    assert len(merged(tile(mask, labels=[0]), tile(mask, labels=[1]))) == 2


def test_merge_slices_rule_2_ignores_border_strips() -> None:
    """Two touching objects: the left one's mask is a column too wide, and all of that column is the right one's."""
    left, right = at((30, 10, 81, 60)), at((80, 10, 120, 60))
    assert len(merged(tile(left), tile(right))) == 2
    wide = at((30, 10, 96, 60))  # most of the right one's pixels in the region: not just a strip
    assert len(merged(tile(wide), tile(right))) == 1


def test_merge_slices_rule_3_joins_two_legs_by_the_animal_of_the_next_tile() -> None:
    legs = at((60, 10, 100, 20)), at((60, 40, 100, 50))
    whole = at((80, 10, 140, 20), (80, 40, 140, 50), (110, 10, 140, 50))
    (mask,) = merged(tile(*legs), tile(whole))
    assert (mask == (legs[0] | legs[1] | whole)).all()


def test_merge_slices_rule_4_keeps_uncut_detections_apart() -> None:
    """As the legs, but one of the two is uncut in the left tile: the right tile merged two objects wrongly."""
    near, cut = at((82, 10, 94, 20)), at((82, 20, 100, 50))
    both = at((82, 10, 94, 20), (82, 20, 130, 50))
    actual = merged(tile(near, cut), tile(both))
    assert len(actual) == 2
    assert any((mask == near).all() for mask in actual)


def test_merge_slices_matches_overlapping_objects_with_their_best_partners() -> None:
    """Overlapping masks: each agrees with both masks of the other tile, and best with its own. All are cut."""
    long, short = at((20, 10, 160, 30)), at((60, 15, 120, 45))
    left, right = at((0, 0, 100, 100)), at((80, 0, 180, 100))
    actual = merged(tile(long & left, short & left), tile(short & right, long & right))
    assert len(actual) == 2
    assert sorted(int(m.sum()) for m in actual) == [int(short.sum()), int(long.sum())]


def test_merge_slices_rule_5_drops_fragments_that_a_fuller_view_covers() -> None:
    """The right tile detects a sliver of an object that the left one shows completely, with a mask next to it."""
    whole = at((40, 10, 88, 60))
    sliver = tile(at((80, 30, 90, 60)) & ~whole, boxes=[(80, 30, 90, 60)])
    (mask,) = merged(tile(whole), sliver)
    assert (mask == whole).all()
    assert len(merged(tile(whole, labels=[1]), sliver)) == 2  # another class is no fuller view
    inside = tile(at((84, 30, 90, 60)) & ~whole, boxes=[(84, 30, 90, 60)])
    assert len(merged(tile(whole), inside)) == 2  # not cut by a border
    short = at((81, 10, 88, 60))
    assert len(merged(tile(short), sliver)) == 2  # shows no more of it than the right tile


def test_merge_slices_does_not_merge_masks_empty_in_the_shared_region() -> None:
    """Both boxes contain the region; neither mask has a pixel there. By boxes alone it would be one object."""
    left, right = at((10, 10, 70, 90)), at((110, 10, 170, 90))
    ends = [(10, 10, 100, 90)], [(80, 10, 170, 90)]
    assert len(merged(tile(left, boxes=ends[0]), tile(right, boxes=ends[1]))) == 2
    first, second = (Detections((100, 180), np.array(b), np.array([0.5]), np.array([0]), NAMES, []) for b in ends)
    actual = merge_slices([first, second], np.array([LEFT, RIGHT]))
    assert actual.boxes.tolist() == [[10, 10, 170, 90]]
    assert actual.cropped_masks == []


def test_merge_slices_compares_empty_masks_by_box() -> None:
    empty = Detections(
        (100, 180),
        np.array([(85, 10, 100, 30)]),
        np.array([0.8]),
        np.array([0]),
        NAMES,
        [CroppedMask(85, 10, np.zeros((20, 15), bool))],
    )
    whole = at((85, 10, 130, 30))
    (mask,) = merged(empty, tile(whole))
    assert (mask == whole).all()


@pytest.mark.parametrize("seed", range(6))
def test_merge_slices_tolerates_masks_a_pixel_off(seed: int) -> None:
    """With each tile's masks moved by up to a pixel, the number of objects is right and the masks nearly are."""
    random = np.random.default_rng(100 + seed)
    scene = np.zeros((220, 240, 3), np.uint8)
    for top in range(4, 200, 42):
        for left in range(4, 220, 46):
            mask = np.zeros((220, 240), bool)
            mask[top : top + random.integers(14, 43), left : left + random.integers(14, 47)] = True
            add_object(scene, mask, int(random.integers(2)))

    def moved(images: Sequence[np.ndarray]) -> list[Detections]:
        actual = []
        for image in images:
            exact = oracle(image)
            height, width = exact.image_size
            cropped_masks = []
            for cropped in exact.cropped_masks:
                down, right = random.integers(-1, 2, 2)
                y = int(np.clip(cropped.y + down, 0, height - cropped.shape[0]))
                x = int(np.clip(cropped.x + right, 0, width - cropped.shape[1]))
                cropped_masks.append(CroppedMask(x, y, cropped.bits))
            actual.append(Detections(exact.image_size, exact.boxes, exact.scores, exact.labels, NAMES, cropped_masks))
        return actual

    actual, expected = predict_sliced(scene, moved, 80), oracle(scene)
    assert len(actual) == len(expected)
    shared = (actual.masks()[:, None] & expected.masks()[None]).sum((2, 3))
    iou = shared / (actual.area[:, None] + expected.area[None] - shared)
    assert (iou.max(1) > 0.7).all()
    assert (iou.max(0) > 0.7).all()


def test_tile_side_auto_is_twice_the_input() -> None:
    auto = InferenceOptions(tiles="auto")
    assert tile_side(auto, InputConfig(mode="fixed", size=(256, 256))) == 512
    assert tile_side(auto, InputConfig(mode="keep_ratio", size=(800, 1333))) == 1600


def crowded(images: Sequence[np.ndarray]) -> list[Detections]:
    """Detect 30 discs and one object that fills the tile, in each tile."""
    actual = []
    for image in images:
        height, width = image.shape[:2]
        y, x = np.mgrid[:120, :120]
        disc = np.hypot(y - 59.5, x - 59.5) < 60
        corners = np.random.default_rng(0).integers(0, (width - 120, height - 120), (30, 2))
        cropped_masks = [
            CroppedMask(0, 0, np.ones((height, width), bool)),
            *(CroppedMask(x, y, disc) for x, y in corners),
        ]
        boxes = [(0, 0, width, height), *((x, y, x + 120, y + 120) for x, y in corners)]
        labels = np.array([1] + [2] * 30)
        actual.append(
            Detections((height, width), np.array(boxes), np.linspace(0.9, 0.5, 31), labels, NAMES, cropped_masks)
        )
    return actual


def peak_of_a_large_image() -> list[int]:
    """Return memory before and after in bytes, the largest area and the number of objects; for a fresh process."""
    image = np.ones((10_000, 10_000, 3), np.uint8)
    before = peak_resident(reset=True) or 0
    actual = predict_sliced(image, crowded, 1024)
    after = peak_resident() or 0
    return [before, after, int(actual.area.max()), len(actual)]


@pytest.mark.slow
def test_predict_sliced_needs_little_memory_for_100_megapixels() -> None:
    """An object over all 144 tiles is one, and the process stays far below 2 GB, 300 MB of it the image."""
    before, after, largest, count = in_fresh_process("tests.inference.test_slicing:peak_of_a_large_image")
    assert largest == 10_000 * 10_000
    assert count > 1000
    if not after:
        pytest.skip("this system does not report the peak memory of a process")
    assert before > 300e6
    assert after < 900e6
