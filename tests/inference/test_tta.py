"""Test-time augmentation: views mapped back exactly, merged as by a plain loop over whole masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sais.config import InputConfig
from sais.errors import ConfigError
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.inference.trained_model import load_model
from sais.inference.tta import hflip, merge_tta, predict_tta, tta_inputs
from sais.io.images import read_image
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

NAMES = ("cat", "dog")


def view_of(
    boxes: Sequence[tuple[int, int, int, int]],
    scores: Sequence[float],
    labels: Sequence[int] | None = None,
    full: bool = True,
) -> Detections:
    """Return objects that fill their boxes, in an image of 40 x 60."""
    masks = [CroppedMask(x1, y1, np.ones((y2 - y1, x2 - x1))) for x1, y1, x2, y2 in boxes] if full else []
    names = np.array(labels or [0] * len(boxes))
    return Detections((40, 60), np.array(boxes), np.array(scores), names, NAMES, masks)


def test_hflip_mirrors_and_is_its_own_inverse() -> None:
    bits = np.array([[1, 1, 0], [0, 1, 0]], bool)
    detections = Detections(
        (4, 10), np.array([[1.25, 0.5, 4.0, 2.0]]), np.array([0.7]), np.array([1]), NAMES, [CroppedMask(1, 0, bits)]
    )
    mirrored = hflip(detections)
    assert mirrored.boxes.tolist() == [[6.0, 0.5, 8.75, 2.0]]
    assert (mirrored.masks()[0] == detections.masks()[0, :, ::-1]).all()
    assert (mirrored.cropped_masks[0].x, mirrored.cropped_masks[0].y) == (6, 0)
    restored = hflip(mirrored)
    assert restored.boxes.tolist() == detections.boxes.tolist()
    assert (restored.masks() == detections.masks()).all()
    assert hflip(replace(detections, cropped_masks=[])).cropped_masks == []


def test_merge_tta_averages_scores_and_boxes_and_votes_on_masks() -> None:
    """Two of three views, scores 0.6 and 0.3: (0.6 + 0.3) / 3; the first has two thirds of the vote."""
    views = [view_of([(10, 10, 20, 20)], [0.6]), view_of([(10, 10, 20, 23)], [0.3]), view_of([], [])]
    actual = merge_tta(views)
    assert actual.scores.tolist() == pytest.approx([0.3])
    np.testing.assert_allclose(actual.boxes, [[10, 10, 20, 21]], atol=1e-6)
    assert (actual.cropped_masks[0].y, actual.area[0]) == (10, 100)
    third = view_of([(10, 10, 20, 23)], [0.5])  # now 0.8 of 1.4 vote for the rows from 20 on
    assert merge_tta([*views[:2], third]).area[0] == 130


def test_merge_tta_separates_classes_views_and_places() -> None:
    here = (10, 10, 20, 20)
    assert len(merge_tta([view_of([here], [0.9], [0]), view_of([here], [0.8], [1])])) == 2
    assert (
        len(merge_tta([view_of([here, here], [0.9, 0.8]), view_of([here], [0.7])])) == 2
    )  # a view separates its own detections
    assert len(merge_tta([view_of([here], [0.9]), view_of([(10, 10, 20, 15)], [0.8])])) == 1  # IoU 0.5
    assert len(merge_tta([view_of([here], [0.9]), view_of([(10, 10, 20, 14)], [0.8])])) == 2
    assert len(merge_tta([view_of([here], [0.9]), view_of([(40, 10, 50, 20)], [0.8])])) == 2


def test_merge_tta_compares_masks_and_boxes_without_masks() -> None:
    here = (10, 10, 20, 20)
    for full, count in ((True, 2), (False, 1)):
        first, second = view_of([here], [0.9], full=full), view_of([here], [0.8], full=full)
        if full:  # one box, two disjoint masks
            first.cropped_masks = [CroppedMask(10, 10, np.arange(10)[:, None] < np.full(10, 5))]
            second.cropped_masks = [CroppedMask(10, 10, np.arange(10)[:, None] >= np.full(10, 5))]
        assert len(merge_tta([first, second])) == count
    empty = view_of([here], [0.9])
    empty.cropped_masks = [CroppedMask(10, 10, np.zeros((10, 10)))]
    assert len(merge_tta([empty, view_of([here], [0.8])])) == 1


def test_merge_tta_limits_and_sorts_the_objects() -> None:
    boxes = [(x, 0, x + 5, 5) for x in range(0, 60, 6)]
    views = [view_of(boxes, np.linspace(0.5, 0.9, 10)[::-1]), view_of(boxes[5:], [0.9] * 5)]
    actual = merge_tta(views, max_detections=4)
    assert len(actual) == 4
    np.testing.assert_allclose(actual.scores, (np.linspace(0.5, 0.9, 10)[::-1][5:9] + 0.9) / 2)
    assert len(merge_tta([view_of([], []), view_of([], [])])) == 0
    assert merge_tta([view_of([], [], full=False)]).image_size == (40, 60)


def iou(box: np.ndarray, other_box: np.ndarray, mask: np.ndarray, other_mask: np.ndarray) -> float:
    """Return the IoU of whole masks; of boxes if a mask is empty."""
    if mask.any() and other_mask.any():
        return float((mask & other_mask).sum() / (mask | other_mask).sum())
    sides = np.minimum(box[2:], other_box[2:]) - np.maximum(box[:2], other_box[:2])
    shared = sides[0] * sides[1] if (sides > 0).all() else 0.0
    return float(shared / (np.prod(box[2:] - box[:2]) + np.prod(other_box[2:] - other_box[:2]) - shared))


def loop_merge(views: Sequence[Detections]) -> list[tuple[int, float, list[float], np.ndarray]]:
    """Merge as the docstring says, over whole masks: (label, score, box, mask), highest score first."""
    candidates = [
        (float(d.scores[i]), -w, -i, int(d.labels[i]), d.boxes[i].astype(float), d.masks()[i])
        for w, d in enumerate(views)
        for i in range(len(d))
    ]
    clusters: list[list[int]] = []
    order = sorted(range(len(candidates)), key=lambda k: candidates[k][:3], reverse=True)
    for k in order:
        ious = []
        for cluster in clusters:
            first = candidates[cluster[0]]
            alike = candidates[k][1] not in [candidates[m][1] for m in cluster] and first[3] == candidates[k][3]
            ious.append(iou(candidates[k][4], first[4], candidates[k][5], first[5]) if alike else 0.0)
        if ious and max(ious) >= 0.5:
            clusters[int(np.argmax(ious))].append(k)
        else:
            clusters.append([k])
    result = []
    for cluster in clusters:
        weights = np.array([candidates[m][0] for m in cluster])
        box = (np.array([candidates[m][4] for m in cluster]) * weights[:, None]).sum(0) / weights.sum()
        votes = (np.array([candidates[m][5] for m in cluster]) * weights[:, None, None]).sum(0)
        mask = votes >= weights.sum() / 2 - 1e-9
        result.append((candidates[cluster[0]][3], weights.sum() / len(views), box.tolist(), mask))
    return sorted(result, key=lambda merged: -merged[1])


@pytest.mark.parametrize("seed", range(15))
def test_merge_tta_equals_a_plain_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    views = []
    centers = random.integers(5, 35, (6, 2))
    for _ in range(4):
        chosen = centers[random.permutation(6)[: random.integers(0, 7)]]
        corners = chosen + random.integers(-3, 4, chosen.shape)
        boxes = [
            (x, y, x + int(random.integers(4, 22)), min(y + int(random.integers(4, 22)), 40))
            for x, y in corners.clip(0)
        ]
        masks = [CroppedMask(x1, y1, random.random((y2 - y1, x2 - x1)) < 0.9) for x1, y1, x2, y2 in boxes]
        scores = np.sort(random.uniform(0.05, 1, len(boxes)))[::-1]
        labels = random.integers(0, 2, len(boxes))
        views.append(Detections((40, 60), np.array(boxes), scores, labels, NAMES, masks))
    assert_same(merge_tta(views), loop_merge(views))


def assert_same(actual: Detections, expected: list[tuple[int, float, list[float], np.ndarray]]) -> None:
    assert len(actual) == len(expected)
    for i, (label, score, box, mask) in enumerate(expected):
        assert actual.labels[i] == label
        assert actual.scores[i] == pytest.approx(score, abs=1e-6)
        np.testing.assert_allclose(actual.boxes[i], box, atol=1e-4)
        assert (actual.masks()[i] == mask).all()


def test_predict_tta_leaves_identical_views_unchanged() -> None:
    """With equal detections in the mirrored image and at each scale nothing changes, even where two objects overlap."""
    boxes = np.array([(3, 4, 21, 19), (5, 4, 23, 19), (30, 0, 60, 40)])
    image = np.zeros((40, 60, 3), np.uint8)
    image[0, 0] = 1  # marks the orientation
    plain = view_of([tuple(b) for b in boxes.tolist()], [0.9, 0.9, 0.4])  # type: ignore[misc]

    def find(images: Sequence[np.ndarray]) -> list[Detections]:
        return [plain if p[0, 0, 0] else hflip(plain) for p in images]

    for flip, functions in ((True, [find]), (False, [find, find]), (True, [find] * 3)):
        for actual in predict_tta([image, image], functions, flip):
            np.testing.assert_allclose(actual.scores, plain.scores, atol=1e-6)
            np.testing.assert_allclose(actual.boxes, plain.boxes, atol=1e-5)
            assert actual.labels.tolist() == plain.labels.tolist()
            assert (actual.masks() == plain.masks()).all()
    assert predict_tta([], [find], True) == []


def test_tta_inputs_scale_and_round_the_input_size() -> None:
    fixed = InputConfig(mode="fixed", size=(192, 256))
    assert [rules.size for rules in tta_inputs(fixed, (1.0, 1.25, 0.8, 0.1))] == [
        (192, 256),
        (256, 320),  # 240 is halfway between 224 and 256
        (160, 192),
        (32, 32),
    ]
    keep_ratio = InputConfig(mode="keep_ratio", size=(800, 1333))
    assert [rules.size for rules in tta_inputs(keep_ratio, (1.0, 0.5))] == [(800, 1333), (400, 667)]
    assert tta_inputs(fixed, [1.0]) == [fixed]
    for scales, message in (
        ((), "tta_scales: empty"),
        ((0.0,), "0 is not between 0.1 and 8"),
        ((1.0, 80.0), "80 is not between"),
        ((float("nan"),), "nan is not between"),
        ((1.0, 1.05), "1 and 1.05 give the same input of 192 x 256"),
    ):
        with pytest.raises(ConfigError, match=message):
            tta_inputs(fixed, scales)


@pytest.fixture(scope="module")
def image(shapes: Path) -> np.ndarray:
    return read_image(shapes / "images/valid/valid_00002.jpg")


def test_predictor_with_tta_flip_merges_the_mirrored_view(trained: Path, image: np.ndarray) -> None:
    plain = Predictor(trained, device="cpu", score=None)
    width = image.shape[1]
    mirrored = plain(np.ascontiguousarray(image[:, ::-1]))
    assert len(mirrored) > 3
    restored = hflip(mirrored)
    for box, box_mirrored, mask, mask_mirrored in zip(
        restored.boxes, mirrored.boxes, restored.masks(), mirrored.masks(), strict=True
    ):
        np.testing.assert_allclose(
            box, [width - box_mirrored[2], box_mirrored[1], width - box_mirrored[0], box_mirrored[3]], atol=1e-4
        )
        assert (mask == np.fliplr(mask_mirrored)).all()
    actual = Predictor(trained, device="cpu", score=None, tta_flip=True)(image)
    assert_same(actual, loop_merge([plain(image), restored])[:100])


def test_predictor_with_tta_scales_merges_all_views(trained: Path, image: np.ndarray) -> None:
    base = Predictor(trained, device="cpu", score=None)
    experiment = replace(base.experiment, input=replace(base.experiment.input, size=(96, 96)))
    other = Predictor(replace(load_model(trained), experiment=experiment), device="cpu", score=None)
    views = [predictor(p) for predictor in (base, other) for p in (image, np.ascontiguousarray(image[:, ::-1]))]
    expected = loop_merge([views[0], hflip(views[1]), views[2], hflip(views[3])])
    assert len(expected) > 3
    both = Predictor(trained, device="cpu", score=None, tta_flip=True, tta_scales=(1.0, 1.5))
    assert_same(both(image), expected[:100])
    assert both.experiment.input.size == (64, 64)  # unchanged
    threshold = float(np.median([score for _, score, _, _ in expected]))
    few = Predictor(trained, device="cpu", score=threshold, tta_flip=True, tta_scales=(1.0, 1.5))
    assert_same(few(image), [o for o in expected[:100] if np.float32(o[1]) >= np.float32(threshold)])
    with pytest.raises(ConfigError, match="give the same input of 64 x 64"):
        Predictor(trained, device="cpu", tta_scales=(1.0, 1.1))


def test_predictor_combines_tiles_and_tta(trained: Path, image: np.ndarray) -> None:
    """An image of one tile gives the prediction without tiles; of several, each tile is predicted in all views."""
    options = InferenceOptions(device="cpu", score=0.03, tta_flip=True)
    whole, tile = Predictor(trained, options)(image), Predictor(trained, options, tiles=128)(image)
    assert len(whole) > 0
    np.testing.assert_array_equal(tile.boxes, whole.boxes)
    np.testing.assert_array_equal(tile.masks(), whole.masks())
    sliced = Predictor(trained, options, tiles=64, tile_overlap=0.3, batch_size=2)
    done: list[int] = []
    (detections,) = sliced.batch([image], done.append)
    assert done == [2, 2, 2]  # 2 x 3 tiles of 96 x 128
    assert sliced.num_tiles((96, 128)) == 6
    assert detections.image_size == image.shape[:2]
    assert len(detections) > 0


def test_predictor_exchanges_the_labels_of_the_mirrored_view(trained: Path, image: np.ndarray) -> None:
    """A left hand that is seen in the mirrored image as a right hand is a left hand."""
    names = ("left hand", "right hand", "l foot", "r foot", "person")
    model = replace(load_model(trained), class_names=names, thresholds=None)
    plain = Predictor(model, device="cpu", score=None)
    mirrored = plain(np.ascontiguousarray(image[:, ::-1]))
    assert len(set(mirrored.labels.tolist())) > 2
    unchanged = hflip(mirrored)
    restored = replace(unchanged, labels=np.array([1, 0, 3, 2, 4])[mirrored.labels])
    pairs = ("left hand=right hand", "l foot=r foot")
    experiment, none = (
        replace(model.experiment, augment=replace(model.experiment.augment, flip_pairs=p)) for p in (pairs, ("none",))
    )
    augmented = Predictor(replace(model, experiment=experiment), device="cpu", score=None, tta_flip=True)
    expected = loop_merge([plain(image), restored])
    assert_same(augmented(image), expected[:100])
    without = Predictor(replace(model, experiment=none), device="cpu", score=None, tta_flip=True)
    assert_same(without(image), loop_merge([plain(image), unchanged])[:100])
    unlimited = InferenceOptions(device="cpu", score=None, max_detections=1000, nms_iou=0.05)
    views = [Predictor(model, unlimited)(view) for view in (image, np.ascontiguousarray(image[:, ::-1]))]
    views[1] = replace(hflip(views[1]), labels=np.array([1, 0, 3, 2, 4])[views[1].labels])
    options = replace(unlimited, tta_flip=True, classes=("left hand",))
    actual = Predictor(replace(model, experiment=experiment), options)(image)
    assert_same(actual, [one for one in loop_merge(views) if one[0] == 0])
    wrong = replace(model.experiment, augment=replace(model.experiment.augment, flip_pairs=("left hand=x",)))
    with pytest.raises(ConfigError, match="augment.flip_pairs 'left hand=x': no class 'x'"):
        Predictor(replace(model, experiment=wrong), device="cpu", tta_flip=True)
