"""Several ways of seeing one image: brought back exactly, fused as a slow loop over whole masks does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sais.config import InputConfig
from sais.errors import SaisError
from sais.inference.predictor import Predictor
from sais.inference.tta import hflip, merge_tta, predict_tta, tta_inputs
from sais.io.images import read_image
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

NAMES = ("cat", "dog")


def one_way(
    boxes: Sequence[tuple[int, int, int, int]],
    scores: Sequence[float],
    labels: Sequence[int] | None = None,
    full: bool = True,
) -> Detections:
    """Objects in an image of 40 x 60 that fill their boxes."""
    patches = [CroppedMask(x1, y1, np.ones((y2 - y1, x2 - x1))) for x1, y1, x2, y2 in boxes] if full else []
    names = np.array(labels or [0] * len(boxes))
    return Detections((40, 60), np.array(boxes), np.array(scores), names, NAMES, patches)


def test_mirrored_by_hand_and_twice() -> None:
    bits = np.array([[1, 1, 0], [0, 1, 0]], bool)
    one = Detections(
        (4, 10), np.array([[1.25, 0.5, 4.0, 2.0]]), np.array([0.7]), np.array([1]), NAMES, [CroppedMask(1, 0, bits)]
    )
    there = hflip(one)
    assert there.boxes.tolist() == [[6.0, 0.5, 8.75, 2.0]]
    assert (there.masks()[0] == one.masks()[0, :, ::-1]).all()
    assert (there.cropped_masks[0].x, there.cropped_masks[0].y) == (6, 0)
    back = hflip(there)
    assert back.boxes.tolist() == one.boxes.tolist()
    assert (back.masks() == one.masks()).all()
    assert hflip(replace(one, cropped_masks=[])).cropped_masks == []


def test_scores_boxes_and_votes_by_hand() -> None:
    """Found by two of three ways, with scores of 0.6 and 0.3: (0.6 + 0.3) / 3; the first has two thirds of the say."""
    ways = [one_way([(10, 10, 20, 20)], [0.6]), one_way([(10, 10, 20, 23)], [0.3]), one_way([], [])]
    found = merge_tta(ways)
    assert found.scores.tolist() == pytest.approx([0.3])
    np.testing.assert_allclose(found.boxes, [[10, 10, 20, 21]], atol=1e-6)
    assert (found.cropped_masks[0].y, found.area[0]) == (10, 100)
    third = one_way([(10, 10, 20, 23)], [0.5])  # now 0.8 of 1.4 vote for the rows from 20 on
    assert merge_tta([*ways[:2], third]).area[0] == 130


def test_classes_ways_and_distances_are_kept_apart() -> None:
    here = (10, 10, 20, 20)
    assert len(merge_tta([one_way([here], [0.9], [0]), one_way([here], [0.8], [1])])) == 2
    assert len(merge_tta([one_way([here, here], [0.9, 0.8]), one_way([here], [0.7])])) == 2  # a way tells its own apart
    assert len(merge_tta([one_way([here], [0.9]), one_way([(10, 10, 20, 15)], [0.8])])) == 1  # IoU 0.5
    assert len(merge_tta([one_way([here], [0.9]), one_way([(10, 10, 20, 14)], [0.8])])) == 2
    assert len(merge_tta([one_way([here], [0.9]), one_way([(40, 10, 50, 20)], [0.8])])) == 2


def test_masks_decide_and_boxes_where_there_are_none() -> None:
    here = (10, 10, 20, 20)
    for full, count in ((True, 2), (False, 1)):
        first, second = one_way([here], [0.9], full=full), one_way([here], [0.8], full=full)
        if full:  # one box, two masks that share nothing
            first.cropped_masks = [CroppedMask(10, 10, np.arange(10)[:, None] < np.full(10, 5))]
            second.cropped_masks = [CroppedMask(10, 10, np.arange(10)[:, None] >= np.full(10, 5))]
        assert len(merge_tta([first, second])) == count
    empty = one_way([here], [0.9])
    empty.cropped_masks = [CroppedMask(10, 10, np.zeros((10, 10)))]
    assert len(merge_tta([empty, one_way([here], [0.8])])) == 1


def test_the_best_are_kept_in_order() -> None:
    every = [(x, 0, x + 5, 5) for x in range(0, 60, 6)]
    ways = [one_way(every, np.linspace(0.5, 0.9, 10)[::-1]), one_way(every[5:], [0.9] * 5)]
    found = merge_tta(ways, most=4)
    assert len(found) == 4
    np.testing.assert_allclose(found.scores, (np.linspace(0.5, 0.9, 10)[::-1][5:9] + 0.9) / 2)
    assert len(merge_tta([one_way([], []), one_way([], [])])) == 0
    assert merge_tta([one_way([], [], full=False)]).image_size == (40, 60)


def iou(box: np.ndarray, other_box: np.ndarray, mask: np.ndarray, other_mask: np.ndarray) -> float:
    """Of whole masks; of boxes where a mask is empty."""
    if mask.any() and other_mask.any():
        return float((mask & other_mask).sum() / (mask | other_mask).sum())
    sides = np.minimum(box[2:], other_box[2:]) - np.maximum(box[:2], other_box[:2])
    shared = sides[0] * sides[1] if (sides > 0).all() else 0.0
    return float(shared / (np.prod(box[2:] - box[:2]) + np.prod(other_box[2:] - other_box[:2]) - shared))


def slow(ways: Sequence[Detections]) -> list[tuple[int, float, list[float], np.ndarray]]:
    """Fusion as written in the docstring, over whole masks: (label, score, box, mask), best first."""
    every = [
        (float(d.scores[i]), -w, -i, int(d.labels[i]), d.boxes[i].astype(float), d.masks()[i])
        for w, d in enumerate(ways)
        for i in range(len(d))
    ]
    clusters: list[list[int]] = []
    order = sorted(range(len(every)), key=lambda k: every[k][:3], reverse=True)
    for k in order:
        ious = []
        for cluster in clusters:
            first = every[cluster[0]]
            alike = every[k][1] not in [every[m][1] for m in cluster] and first[3] == every[k][3]
            ious.append(iou(every[k][4], first[4], every[k][5], first[5]) if alike else 0.0)
        if ious and max(ious) >= 0.5:
            clusters[int(np.argmax(ious))].append(k)
        else:
            clusters.append([k])
    result = []
    for cluster in clusters:
        weights = np.array([every[m][0] for m in cluster])
        box = (np.array([every[m][4] for m in cluster]) * weights[:, None]).sum(0) / weights.sum()
        votes = (np.array([every[m][5] for m in cluster]) * weights[:, None, None]).sum(0)
        mask = votes >= weights.sum() / 2 - 1e-9
        result.append((every[cluster[0]][3], weights.sum() / len(ways), box.tolist(), mask))
    return sorted(result, key=lambda one: -one[1])


@pytest.mark.parametrize("seed", range(15))
def test_fusion_against_a_slow_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    ways = []
    centers = random.integers(5, 35, (6, 2))
    for _ in range(4):
        chosen = centers[random.permutation(6)[: random.integers(0, 7)]]
        corners = chosen + random.integers(-3, 4, chosen.shape)
        boxes = [
            (x, y, x + int(random.integers(4, 22)), min(y + int(random.integers(4, 22)), 40))
            for x, y in corners.clip(0)
        ]
        patches = [CroppedMask(x1, y1, random.random((y2 - y1, x2 - x1)) < 0.9) for x1, y1, x2, y2 in boxes]
        scores = np.sort(random.uniform(0.05, 1, len(boxes)))[::-1]
        labels = random.integers(0, 2, len(boxes))
        ways.append(Detections((40, 60), np.array(boxes), scores, labels, NAMES, patches))
    assert_same(merge_tta(ways), slow(ways))


def assert_same(found: Detections, wanted: list[tuple[int, float, list[float], np.ndarray]]) -> None:
    assert len(found) == len(wanted)
    for i, (label, score, box, mask) in enumerate(wanted):
        assert found.labels[i] == label
        assert found.scores[i] == pytest.approx(score, abs=1e-6)
        np.testing.assert_allclose(found.boxes[i], box, atol=1e-4)
        assert (found.masks()[i] == mask).all()


def test_what_is_found_alike_in_every_way_is_unchanged() -> None:
    """A finder that sees the same in the mirror, and at each scale: all as it was, also where two objects overlap."""
    boxes = np.array([(3, 4, 21, 19), (5, 4, 23, 19), (30, 0, 60, 40)])
    image = np.zeros((40, 60, 3), np.uint8)
    image[0, 0] = 1  # which way round it is
    plain = one_way([tuple(b) for b in boxes.tolist()], [0.9, 0.9, 0.4])  # type: ignore[misc]

    def find(images: Sequence[np.ndarray]) -> list[Detections]:
        return [plain if p[0, 0, 0] else hflip(plain) for p in images]

    for flip, finders in ((True, [find]), (False, [find, find]), (True, [find] * 3)):
        for found in predict_tta([image, image], finders, flip):
            np.testing.assert_allclose(found.scores, plain.scores, atol=1e-6)
            np.testing.assert_allclose(found.boxes, plain.boxes, atol=1e-5)
            assert found.labels.tolist() == plain.labels.tolist()
            assert (found.masks() == plain.masks()).all()
    assert predict_tta([], [find], True) == []


def test_inputs_of_scales() -> None:
    fixed = InputConfig(mode="fixed", size=(192, 256))
    assert [one.size for one in tta_inputs(fixed, (1.0, 1.25, 0.8, 0.1))] == [
        (192, 256),
        (256, 320),  # 240 lies halfway between 224 and 256
        (160, 192),
        (32, 32),
    ]
    kept = InputConfig(mode="keep_ratio", size=(800, 1333))
    assert [one.size for one in tta_inputs(kept, (1.0, 0.5))] == [(800, 1333), (400, 667)]
    assert tta_inputs(fixed, [1.0]) == [fixed]
    for scales, said in (
        ((), "no scale"),
        ((0.0,), "a scale of 0 is not between 0.1 and 8"),
        ((1.0, 80.0), "a scale of 80"),
        ((float("nan"),), "a scale of nan"),
        ((1.0, 1.05), "scales 1 and 1.05 both make the input 192 x 256"),
    ):
        with pytest.raises(SaisError, match=said):
            tta_inputs(fixed, scales)


@pytest.fixture(scope="module")
def image(shapes: Path) -> np.ndarray:
    return read_image(shapes / "images/valid/valid_00002.jpg")


def test_a_model_on_the_mirrored_image(trained: Path, image: np.ndarray) -> None:
    """What it finds there, mapped back by hand, is what the second way contributes."""
    plain = Predictor(trained, device="cpu")
    width = image.shape[1]
    there = plain(np.ascontiguousarray(image[:, ::-1]))
    assert len(there) > 3
    back = hflip(there)
    for box, hand, mask, seen in zip(back.boxes, there.boxes, back.masks(), there.masks(), strict=True):
        np.testing.assert_allclose(box, [width - hand[2], hand[1], width - hand[0], hand[3]], atol=1e-4)
        assert (mask == np.fliplr(seen)).all()
    found = Predictor(trained, device="cpu", flip=True)(image)
    assert_same(found, slow([plain(image), back])[:100])


def test_a_model_with_scales_batches_and_score(trained: Path, image: np.ndarray) -> None:
    base = Predictor(trained, device="cpu")
    other = Predictor(trained, device="cpu")
    other.experiment = replace(base.experiment, input=replace(base.experiment.input, size=(96, 96)))
    every = [way(p) for way in (base, other) for p in (image, np.ascontiguousarray(image[:, ::-1]))]
    wanted = slow([every[0], hflip(every[1]), every[2], hflip(every[3])])
    assert len(wanted) > 3
    both = Predictor(trained, device="cpu", flip=True, scales=(1.0, 1.5))
    assert (both.flip, both.scales) == (True, (1.0, 1.5))
    assert_same(both(image), wanted[:100])
    assert both.experiment.input.size == (64, 64)  # what it looks at first is as it was
    least = float(np.median([score for _, score, _, _ in wanted]))
    few = Predictor(trained, device="cpu", score=least, flip=True, scales=(1.0, 1.5))
    assert_same(few(image), [one for one in wanted[:100] if np.float32(one[1]) >= np.float32(least)])
    with pytest.raises(SaisError, match="both make the input 64 x 64"):
        Predictor(trained, device="cpu", scales=(1.0, 1.1))


def test_tiles_and_ways_go_together(trained: Path, image: np.ndarray) -> None:
    """An image of one tile is the plain prediction; of several, each tile is seen in every way."""
    predictor = Predictor(trained, device="cpu", score=0.03, flip=True)
    whole, tile = predictor(image), predictor.tiled(image)
    assert len(whole) > 0
    np.testing.assert_array_equal(tile.boxes, whole.boxes)
    np.testing.assert_array_equal(tile.masks(), whole.masks())
    done: list[int] = []
    tiled = predictor.tiled(image, side=64, overlap=0.3, batch=2, progress=done.append)
    assert done == [2, 2, 2]  # 2 x 3 tiles of 96 x 128
    assert tiled.image_size == image.shape[:2]
    assert len(tiled) > 0
    with pytest.raises(SaisError, match="tiles of 16 pixels"):
        predictor.tiled(image, side=16)
