"""Drawing: what is painted where, in which color, and that nothing is changed, cut off or stacked up."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import sais.results.draw
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.draw import PALETTE, contact_sheet, draw, draw_objects, paint


def scene(number: int = 2, size: tuple[int, int] = (200, 300)) -> Detections:
    """Discs side by side, one per 60 pixels."""
    y, x = np.mgrid[:41, :41]
    disc = (x - 20) ** 2 + (y - 20) ** 2 <= 20**2
    boxes = np.array([[10 + 60 * i, 80, 51 + 60 * i, 121] for i in range(number)])
    patches = [CroppedMask(10 + 60 * i, 80, disc) for i in range(number)]
    return Detections(
        size, boxes, np.linspace(0.9, 0.4, number), [i % 2 for i in range(number)], ("bear", "deer"), patches
    )


GREY = np.full((200, 300, 3), 100, np.uint8)


def test_masks_are_blended_in_their_colors() -> None:
    d = scene()
    image = GREY.copy()
    found = draw(image, d, boxes=False, names=False, opacity=0.5)
    assert found.shape == image.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(image, GREY)
    for i, (x, y) in enumerate(((30, 100), (90, 100))):
        wanted = np.rint(np.array(PALETTE[i]) * 0.5 + 50)
        np.testing.assert_allclose(found[y, x], wanted, atol=1)
    on_border = found[100, 10].astype(int)  # the line is nearly the full color
    assert np.abs(on_border - PALETTE[0]).max() < 40
    changed = (found != GREY).any(2)
    near = np.zeros((200, 300), bool)
    near[76:126, 6:56] = near[76:126, 66:116] = True
    assert changed[d.masks().any(0)].all()
    assert not changed[~near].any()
    np.testing.assert_array_equal(draw(GREY, d, boxes=False, names=False, opacity=0.5), found)


def test_a_mask_that_leaves_the_image_has_no_line_there() -> None:
    d = Detections(
        (200, 300), [[0, 0, 300, 200]], [0.9], [0], ("bear",), [CroppedMask(0, 0, np.ones((200, 300), bool))]
    )
    found = draw(GREY, d, boxes=False, names=False)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 1


def test_small_objects_lie_over_large_ones() -> None:
    patches = [CroppedMask(100, 100, np.ones((20, 20), bool)), CroppedMask(20, 20, np.ones((160, 260), bool))]
    d = Detections((200, 300), [[100, 100, 120, 120], [20, 20, 280, 180]], [0.9, 0.8], [0, 1], ("a", "b"), patches)
    found = draw(GREY, d, boxes=False, names=False, opacity=1.0)
    assert tuple(found[110, 110]) == PALETTE[0]
    assert tuple(found[60, 60]) == PALETTE[1]


def test_score_and_parts() -> None:
    d = scene()
    np.testing.assert_array_equal(draw(GREY, d, score=0.95), GREY)
    np.testing.assert_array_equal(draw(GREY, d[:0]), GREY)
    np.testing.assert_array_equal(draw(GREY, d, score=0.5), draw(GREY, d[:1]))
    boxes_only = Detections(d.image_size, d.boxes, d.scores, d.labels, d.class_names)
    found = draw(GREY, boxes_only, names=False)
    assert tuple(found[80, 30]) == PALETTE[0]
    assert tuple(found[120, 50]) == PALETTE[0]
    assert tuple(found[100, 30]) == (100, 100, 100)
    named = draw(GREY, boxes_only, boxes=False)
    assert (named[60:80, 10:60] == PALETTE[0]).all(2).sum() > 100  # the tag lies above the box
    assert (named[60:80, 10:60].max(2) < 60).any()  # with dark letters on it


@pytest.mark.parametrize(
    "box", [[0, 0, 30, 20], [280, 0, 300, 10], [280, 190, 300, 200], [-40, -40, 900, 900], [5, 5, 5, 5]]
)
def test_tags_stay_in_the_image(box: list[float]) -> None:
    long = "a class with a rather long name"
    d = Detections((200, 300), [box], [0.9], [0], (long,))
    tag = (draw(GREY, d, boxes=False) == PALETTE[0]).all(2)
    rows, columns = np.flatnonzero(tag.any(1)), np.flatnonzero(tag.any(0))
    assert rows[-1] - rows[0] >= 10
    assert columns[-1] - columns[0] >= 100
    assert draw(GREY, d).shape == GREY.shape


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 3), (17, 23)])
def test_tiny_images(size: tuple[int, int]) -> None:
    d = Detections(size, [[0, 0, size[1], size[0]]], [0.9], [0], ("bear",), [CroppedMask(0, 0, np.ones(size, bool))])
    assert draw(np.zeros((*size, 3), np.uint8), d).shape == (*size, 3)


@pytest.mark.parametrize("strip", [1, 500, 3000])
def test_strips_of_a_mask_leave_no_trace(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (80, 90, 3), np.uint8)
    patches = [CroppedMask(0, 3, random.random((70, 90)) < 0.95), CroppedMask(20, 30, np.ones((50, 30), bool))]
    boxes = np.array([[0, 3, 90, 73], [20, 30, 50, 80]])
    detections = Detections((80, 90), boxes, np.array([0.9, 0.8]), np.array([0, 0]), ("a",), patches)
    whole = draw(image, detections)
    monkeypatch.setattr(sais.results.draw, "_STRIP", strip)
    assert (draw(image, detections) == whole).all()
    assert (whole != image).mean() > 0.5


def test_many_objects_on_a_large_image_need_little_memory() -> None:
    image = np.zeros((1000, 1400, 3), np.uint8)
    y, x = np.divmod(np.arange(200), 20)
    bits = np.ones((40, 40), bool)
    patches = [CroppedMask(int(60 * a), int(90 * b), bits) for a, b in zip(x, y, strict=True)]
    boxes = np.stack([60 * x, 90 * y, 60 * x + 40, 90 * y + 40], 1)
    d = Detections((1000, 1400), boxes, np.ones(200), np.zeros(200), ("bear",), patches)
    tracemalloc.start()
    draw(image, d, names=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * image.nbytes < 200 * image.nbytes / 3


def test_ground_truth() -> None:
    d = scene()
    found = draw_objects(GREY, d.boxes, d.labels, d.class_names, d.cropped_masks)
    assert tuple(found[80, 30]) != (100, 100, 100)
    assert tuple(found[100, 30]) != (100, 100, 100)
    assert tuple(draw_objects(GREY, d.boxes, d.labels, d.class_names)[100, 30]) == (100, 100, 100)
    np.testing.assert_array_equal(draw_objects(GREY, np.zeros((0, 4)), np.zeros(0), ("a",)), GREY)


def test_colors_may_be_chosen() -> None:
    d = scene()
    one_by_one = paint(GREY, d.boxes, [], d.cropped_masks)
    turned = list(range(len(d)))[::-1]
    np.testing.assert_array_equal(paint(GREY, d.boxes, [], d.cropped_masks, colors=range(len(d))), one_by_one)
    swapped = paint(GREY, d.boxes, [], d.cropped_masks, colors=turned)
    inside = (
        d.cropped_masks[0].y + d.cropped_masks[0].shape[0] // 2,
        d.cropped_masks[0].x + d.cropped_masks[0].shape[1] // 2,
    )
    assert tuple(swapped[inside]) != tuple(one_by_one[inside])
    np.testing.assert_array_equal(
        paint(GREY, d.boxes[:1], [], d.cropped_masks[:1], colors=[len(PALETTE) + 3]),
        paint(GREY, d.boxes[:1], [], d.cropped_masks[:1], colors=[3]),
    )
    texts = [d.class_names[label] for label in d.labels]
    usual = draw_objects(GREY, d.boxes, d.labels, d.class_names, d.cropped_masks)
    np.testing.assert_array_equal(paint(GREY, d.boxes, texts, d.cropped_masks), usual)
    assert (paint(GREY, d.boxes, texts, d.cropped_masks, letters=2.0) != usual).any()


def test_refuses() -> None:
    for wrong in (GREY[:100], GREY[..., 0], GREY.astype(np.float32), np.zeros((200, 300, 4), np.uint8)):
        with pytest.raises(ValueError, match="image"):
            draw(wrong, scene())


def test_contact_sheet() -> None:
    colors = ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    sizes = ((40, 80), (80, 40), (500, 500))
    images = [np.full((*size, 3), color, np.uint8) for size, color in zip(sizes, colors, strict=True)]
    sheet = contact_sheet(images, columns=2, tile=(100, 120), gap=10)
    assert sheet.shape == (2 * 110 + 10, 2 * 130 + 10, 3)
    assert tuple(sheet[10 + 50, 10 + 60]) == colors[0]
    assert tuple(sheet[10 + 50, 140 + 60]) == colors[1]
    assert tuple(sheet[120 + 50, 10 + 60]) == colors[2]
    areas = [(sheet == color).all(2).sum() for color in colors]
    assert areas == [60 * 120, 100 * 50, 100 * 100]  # ratios are kept
    captioned = contact_sheet(images, 5, (100, 120), ["one", "two", "three " * 40], gap=10)
    assert captioned.shape[1] == 3 * 130 + 10
    assert captioned.shape[0] > 120
    assert (captioned[110:, 270:-10].max(2) > 150).any()
    assert (captioned[:, -10:] == captioned[0, 0]).all()
    for images_, columns, captions in (([], 2, None), (images, 0, None), (images, 2, ["one"])):
        with pytest.raises(ValueError, match="contact sheet"):
            contact_sheet(images_, columns, captions=captions)
