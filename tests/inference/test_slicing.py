"""Tiles: an oracle that says exactly what each tile shows gives the whole image exactly, whatever lies on a seam."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from sais.benchmark.memory import in_fresh_process, peak_resident
from sais.config import InputConfig
from sais.errors import SaisError
from sais.inference.slice_merging import merge_slices
from sais.inference.slicing import default_slice_size, predict_sliced, slice_windows
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

NAMES = ("ring", "bar", "disc")


def seen(ids: np.ndarray, masks: bool = True, score: float = 0.9) -> Detections:
    """What a perfect network finds on an image whose red and green say which object a pixel is of (0: none) and whose
    blue says its class. The score is the share of the image that the object fills: greater the more of it is seen."""
    number = ids[..., 0].astype(int) + 256 * ids[..., 1].astype(int)
    boxes, labels, patches, scores = [], [], [], []
    for one in np.unique(number[number > 0]):
        mask = number == one
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        y1, y2, x1, x2 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        boxes.append((x1, y1, x2, y2))
        labels.append(ids[mask][0, 2])
        patches.append(CroppedMask(x1, y1, mask[y1:y2, x1:x2]))
        scores.append(score * mask.mean())
    order = np.argsort(-np.array(scores), kind="stable")
    size = (ids.shape[0], ids.shape[1])
    every = Detections(size, np.array(boxes), np.array(scores), np.array(labels), NAMES, patches if masks else [])
    return every[order]


def views(images: Sequence[np.ndarray]) -> list[Detections]:
    """The oracle with masks."""
    return [seen(image) for image in images]


def bare(images: Sequence[np.ndarray]) -> list[Detections]:
    """The oracle of boxes only."""
    return [seen(image, masks=False) for image in images]


def put(scene: np.ndarray, mask: np.ndarray, label: int) -> bool:
    """Plant one more object where nothing is yet; it may touch others. Whether there was room."""
    taken = scene[..., 0].astype(int) + 256 * scene[..., 1].astype(int)
    if not mask.any() or (taken[mask] > 0).any():
        return False
    number = taken.max() + 1
    scene[mask] = (number % 256, number // 256, label)
    return True


def random_scene(random: np.random.Generator, size: tuple[int, int], wanted: int, boxes: bool) -> np.ndarray:
    """Rings, discs and bars of all sizes, some across the whole image, none over another; each in one part."""
    scene = np.zeros((*size, 3), np.uint8)
    y, x = np.mgrid[: size[0], : size[1]]
    planted = 0
    for _ in range(40 * wanted):
        kind = 1 if boxes else int(random.integers(3))
        cy, cx = random.uniform(0, size[0]), random.uniform(0, size[1])
        far = float(random.choice([4, 12, 40, 120]))
        distance = np.hypot(y - cy, x - cx)
        if kind == 0:
            mask = (distance < far) & (distance > 0.8 * far - 3)
            mask &= y > 0  # a ring cut by the image's own side lies in two parts
            if cy - far < 0 or cy + far >= size[0] or cx - far < 0 or cx + far >= size[1]:
                continue
        elif kind == 1:
            high, wide = far * random.uniform(0.1, 1), far * random.uniform(0.1, 1)
            mask = (abs(y - cy) < high) & (abs(x - cx) < wide)
        else:
            mask = distance < far / 2
        planted += put(scene, mask, kind)
        if planted == wanted:
            break
    return scene


def same_objects(found: Detections, wanted: Detections) -> None:
    """The same objects, in whatever order: classes, boxes and masks to the pixel."""
    assert found.image_size == wanted.image_size
    assert (np.diff(found.scores) <= 0).all()
    assert sorted(map(tuple, listed(found))) == sorted(map(tuple, listed(wanted)))
    if wanted.cropped_masks:
        assert found.cropped_masks or not len(found)


def listed(detections: Detections) -> list[list[object]]:
    """Each object as what can be compared and sorted: class, box, run lengths."""
    runs = [one["counts"] for one in detections.rle()] if detections.cropped_masks else [""] * len(detections)
    pairs = zip(detections.labels.tolist(), detections.boxes.tolist(), runs, strict=True)
    return [[label, tuple(box), run] for label, box, run in pairs]


@pytest.mark.parametrize("overlap", [0, 0.01, 0.2, 0.5, 0.89])
@pytest.mark.parametrize("size", [(100, 300), (32, 33), (20, 500), (317, 211)])
def test_windows_cover_and_overlap(size: tuple[int, int], overlap: float) -> None:
    windows = slice_windows(size, 64, overlap)
    count = np.zeros(size, int)
    for x1, y1, x2, y2 in windows.tolist():
        assert (y2 - y1, x2 - x1) == (min(64, size[0]), min(64, size[1]))
        count[y1:y2, x1:x2] += 1
    assert count.min() >= 1
    assert count.shape == size  # no window reaches beyond
    for low, high in ((0, 2), (1, 3)):
        starts, ends = np.unique(windows[:, low]), np.unique(windows[:, high])
        shared = ends[:-1] - starts[1:]
        assert (shared >= max(64 * overlap, overlap > 0)).all()
        assert starts[0] == 0
        assert ends[-1] == size[1 - low]
    fewest = [1 if n <= 64 else int(np.ceil((n - 64) / int(64 * (1 - overlap)))) + 1 for n in size]
    assert len(windows) == np.prod(fewest)


@pytest.mark.parametrize(
    ("change", "said"),
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
def test_what_cannot_be_is_said(change: dict[str, float], said: str) -> None:
    with pytest.raises(SaisError, match=said) as error:
        predict_sliced(np.zeros((64, 64, 3), np.uint8), views, **{"side": 64, **change})  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_random_scenes_come_out_exactly(seed: int, boxes: bool) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(40, 260)), int(random.integers(40, 260)))
    scene = random_scene(random, size, wanted=14, boxes=boxes)
    side, overlap = int(random.integers(32, 100)), float(random.choice([0.05, 0.2, 0.45]))
    found = predict_sliced(scene, bare if boxes else views, side, overlap, batch_size=3)
    wanted = seen(scene, masks=not boxes)
    assert len(wanted) > 3
    same_objects(found, wanted)


def test_touching_objects_of_one_class_stay_apart() -> None:
    """The whole image is full of rectangles of one class, side by side, smaller and larger than the tiles."""
    scene = np.zeros((200, 230, 3), np.uint8)
    rows, columns = [0, 3, 40, 41, 150, 200], [0, 25, 64, 130, 131, 230]
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            mask = np.zeros((200, 230), bool)
            mask[top:bottom, left:right] = True
            assert put(scene, mask, 1)
    for side in (32, 50, 64, 120):
        for find, masks in ((views, True), (bare, False)):
            same_objects(predict_sliced(scene, find, side), seen(scene, masks))


def test_the_score_is_the_greatest_and_the_order_descends() -> None:
    scene = np.zeros((64, 160, 3), np.uint8)
    scene[20:40, 50:70] = (1, 0, 2)
    scene[20:24, 130:134] = (2, 0, 2)
    tiles = [seen(scene[:, x : x + 64]) for x in (0, 48, 96)]
    found = predict_sliced(scene, views, 64, 0.25)
    same_objects(found, seen(scene))
    assert found.scores[0] == max(tiles[0].scores[0], tiles[1].scores[0])
    assert found.scores[1] == tiles[2].scores[0]


def test_nothing_and_a_single_tile() -> None:
    empty = np.zeros((100, 100, 3), np.uint8)
    for find in (views, bare):
        found = predict_sliced(empty, find, 40)
        assert len(found) == 0
        assert found.image_size == (100, 100)
        assert found.class_names == NAMES
    scene = random_scene(np.random.default_rng(5), (60, 70), 6, True)
    whole, tiled = seen(scene), predict_sliced(scene, views, 70)
    assert len(whole) > 2
    assert listed(tiled) == listed(whole)  # in the same order too
    np.testing.assert_array_equal(tiled.scores, whole.scores)


def test_tiles_come_in_batches_and_are_reported() -> None:
    batches: list[int] = []
    done: list[int] = []

    def find(images: Sequence[np.ndarray]) -> list[Detections]:
        assert all(p.flags.c_contiguous and p.flags.owndata and p.shape == (40, 40, 3) for p in images)
        batches.append(len(images))
        return views(images)

    image = np.zeros((100, 130, 3), np.uint8)
    predict_sliced(image, find, 40, 0.2, batch_size=5, progress=done.append)
    assert batches == done == [5, 5, 2]  # 3 x 4 tiles
    with pytest.raises(ValueError, match="shorter"):
        predict_sliced(image, lambda images: views(images)[1:], 40)
    with pytest.raises(ValueError, match="detections of an image of"):
        predict_sliced(image, lambda images: [seen(image)] * len(images), 40)


LEFT, RIGHT = (0, 0, 100, 100), (80, 0, 180, 100)
"""Two tiles of 100 pixels that share columns 80 to 100."""


def at(*windows: tuple[int, int, int, int]) -> np.ndarray:
    """A mask of rectangles x1 y1 x2 y2 in the image of both tiles."""
    mask = np.zeros((100, 180), bool)
    for x1, y1, x2, y2 in windows:
        mask[y1:y2, x1:x2] = True
    return mask


def tile(*masks: np.ndarray, boxes: Sequence[tuple[int, int, int, int]] = (), labels: Sequence[int] = ()) -> Detections:
    """One tile's detections from masks in full, scores falling from 0.9."""
    hulls = [
        (m.any(0).argmax(), m.any(1).argmax(), 180 - m.any(0)[::-1].argmax(), 100 - m.any(1)[::-1].argmax())
        for m in masks
    ]
    patches = [CroppedMask(x1, y1, m[y1:y2, x1:x2]) for m, (x1, y1, x2, y2) in zip(masks, hulls, strict=True)]
    scores = 0.9 - 0.1 * np.arange(len(masks))
    return Detections(
        (100, 180), np.array(boxes or hulls), scores, np.array(labels or [0] * len(masks)), NAMES, patches
    )


def merged(left: Detections, right: Detections, agreement: float = 0.5) -> list[np.ndarray]:
    """The masks of what two tiles found, together."""
    return list(merge_slices([left, right], np.array([LEFT, RIGHT]), agreement).masks())


def test_agreement_is_of_the_smaller_and_its_threshold_is_an_argument() -> None:
    """The left tile's border cuts the object, and the network there found 8 of 20 rows of what both tiles see."""
    left, right = at((85, 10, 100, 18)), at((85, 10, 130, 30))
    (mask,) = merged(tile(left), tile(right))
    assert (mask == right).all()
    left = at((85, 4, 100, 14))  # 10 rows, 4 of them on the object
    assert len(merged(tile(left), tile(right), agreement=0.5)) == 2
    (mask,) = merged(tile(left), tile(right), agreement=0.4)
    assert (mask == (left | right)).all()


def test_other_classes_do_not_merge() -> None:
    one = at((85, 10, 95, 20))
    assert len(merged(tile(one, labels=[0]), tile(one, labels=[1]))) == 2


def test_an_edge_over_the_neighbor_glues_nothing() -> None:
    """Two touching objects: the left one's mask is a column too wide, and all of that column is the right one's."""
    left, right = at((30, 10, 81, 60)), at((80, 10, 120, 60))
    assert len(merged(tile(left), tile(right))) == 2
    wide = at((30, 10, 96, 60))  # most of what the right one has in the region: no mere edge
    assert len(merged(tile(wide), tile(right))) == 1


def test_two_legs_in_one_tile_are_one_animal_in_the_next() -> None:
    legs = at((60, 10, 100, 20)), at((60, 40, 100, 50))
    whole = at((80, 10, 140, 20), (80, 40, 140, 50), (110, 10, 140, 50))
    (mask,) = merged(tile(*legs), tile(whole))
    assert (mask == (legs[0] | legs[1] | whole)).all()


def test_whoever_sees_it_whole_knows() -> None:
    """As the legs, but the left tile sees one of the two whole, away from its border: the right tile glued them."""
    near, cut = at((82, 10, 94, 20)), at((82, 20, 100, 50))
    both = at((82, 10, 94, 20), (82, 20, 130, 50))
    found = merged(tile(near, cut), tile(both))
    assert len(found) == 2
    assert any((mask == near).all() for mask in found)


def test_objects_over_one_another_find_their_own_partners() -> None:
    """Masks may overlap: each agrees with both of the other tile, and best with its own. Borders cut all of them."""
    long, short = at((20, 10, 160, 30)), at((60, 15, 120, 45))
    left, right = at((0, 0, 100, 100)), at((80, 0, 180, 100))
    found = merged(tile(long & left, short & left), tile(short & right, long & right))
    assert len(found) == 2
    assert sorted(int(m.sum()) for m in found) == [int(short.sum()), int(long.sum())]


def test_a_fragment_goes_only_where_a_fuller_view_covers_it() -> None:
    """The right tile takes a sliver of what the left one sees whole for something, with a mask beside the object."""
    whole = at((40, 10, 88, 60))
    sliver = tile(at((80, 30, 90, 60)) & ~whole, boxes=[(80, 30, 90, 60)])
    (mask,) = merged(tile(whole), sliver)
    assert (mask == whole).all()
    assert len(merged(tile(whole, labels=[1]), sliver)) == 2  # another class says nothing
    inside = tile(at((84, 30, 90, 60)) & ~whole, boxes=[(84, 30, 90, 60)])
    assert len(merged(tile(whole), inside)) == 2  # no border cuts this one
    short = at((81, 10, 88, 60))
    assert len(merged(tile(short), sliver)) == 2  # sees no more of it than the right tile


def test_masks_that_are_empty_where_both_tiles_look_agree_in_nothing() -> None:
    """Both boxes hold the region; neither mask has a pixel there. Boxes alone would have been one object."""
    left, right = at((10, 10, 70, 90)), at((110, 10, 170, 90))
    ends = [(10, 10, 100, 90)], [(80, 10, 170, 90)]
    assert len(merged(tile(left, boxes=ends[0]), tile(right, boxes=ends[1]))) == 2
    one, other = (Detections((100, 180), np.array(b), np.array([0.5]), np.array([0]), NAMES, []) for b in ends)
    found = merge_slices([one, other], np.array([LEFT, RIGHT]))
    assert found.boxes.tolist() == [[10, 10, 170, 90]]
    assert found.cropped_masks == []


def test_a_mask_without_a_pixel_is_judged_by_its_box() -> None:
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
def test_masks_a_pixel_off_still_find_one_another(seed: int) -> None:
    """Each tile's masks are moved by up to a pixel: the same number of objects, each nearly the mask it should have."""
    random = np.random.default_rng(100 + seed)
    scene = np.zeros((220, 240, 3), np.uint8)
    for top in range(4, 200, 42):
        for left in range(4, 220, 46):
            mask = np.zeros((220, 240), bool)
            mask[top : top + random.integers(14, 43), left : left + random.integers(14, 47)] = True
            put(scene, mask, int(random.integers(2)))

    def moved(images: Sequence[np.ndarray]) -> list[Detections]:
        found = []
        for image in images:
            exact = seen(image)
            height, width = exact.image_size
            patches = []
            for patch in exact.cropped_masks:
                down, right = random.integers(-1, 2, 2)
                y = int(np.clip(patch.y + down, 0, height - patch.shape[0]))
                x = int(np.clip(patch.x + right, 0, width - patch.shape[1]))
                patches.append(CroppedMask(x, y, patch.bits))
            found.append(Detections(exact.image_size, exact.boxes, exact.scores, exact.labels, NAMES, patches))
        return found

    found, wanted = predict_sliced(scene, moved, 80), seen(scene)
    assert len(found) == len(wanted)
    shared = (found.masks()[:, None] & wanted.masks()[None]).sum((2, 3))
    iou = shared / (found.area[:, None] + wanted.area[None] - shared)
    assert (iou.max(1) > 0.7).all()
    assert (iou.max(0) > 0.7).all()


def test_default_side() -> None:
    assert default_slice_size(InputConfig(mode="fixed", size=(256, 256))) == 512
    assert default_slice_size(InputConfig(mode="keep_ratio", size=(800, 1333))) == 1600


def crowded(images: Sequence[np.ndarray]) -> list[Detections]:
    """30 discs and one object that fills the tile, in each tile."""
    found = []
    for image in images:
        height, width = image.shape[:2]
        y, x = np.mgrid[:120, :120]
        disc = np.hypot(y - 59.5, x - 59.5) < 60
        corners = np.random.default_rng(0).integers(0, (width - 120, height - 120), (30, 2))
        patches = [CroppedMask(0, 0, np.ones((height, width), bool)), *(CroppedMask(x, y, disc) for x, y in corners)]
        boxes = [(0, 0, width, height), *((x, y, x + 120, y + 120) for x, y in corners)]
        labels = np.array([1] + [2] * 30)
        found.append(Detections((height, width), np.array(boxes), np.linspace(0.9, 0.5, 31), labels, NAMES, patches))
    return found


def peak_of_a_large_image() -> list[int]:
    """Bytes at the peak above the image itself, and what the largest object covers; for a process of its own."""
    image = np.ones((10_000, 10_000, 3), np.uint8)
    before = peak_resident(reset=True) or 0
    found = predict_sliced(image, crowded, 1024)
    after = peak_resident() or 0
    return [before, after, int(found.area.max()), len(found)]


@pytest.mark.slow
def test_ten_thousand_by_ten_thousand_stays_small() -> None:
    """One object over all 144 tiles is one, and the whole process stays far below 2 GB, 300 MB of it the image."""
    before, after, largest, count = in_fresh_process("tests.test_tiles:peak_of_a_large_image")
    assert largest == 10_000 * 10_000
    assert count > 1000
    if not after:
        pytest.skip("this system does not tell the peak of a process")
    assert before > 300e6
    assert after < 900e6
