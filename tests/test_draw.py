"""Drawing: what is painted where, in which colour, and that nothing is changed, cut off or stacked up."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import sais.draw
from sais.detections import Detections, Patch
from sais.draw import PALETTE, contact_sheet, draw, draw_objects, paint


def scene(number: int = 2, size: tuple[int, int] = (200, 300)) -> Detections:
    """Discs side by side, one per 60 pixels."""
    y, x = np.mgrid[:41, :41]
    disc = (x - 20) ** 2 + (y - 20) ** 2 <= 20**2
    boxes = np.array([[10 + 60 * i, 80, 51 + 60 * i, 121] for i in range(number)])
    patches = [Patch(10 + 60 * i, 80, disc) for i in range(number)]
    return Detections(
        size, boxes, np.linspace(0.9, 0.4, number), [i % 2 for i in range(number)], ("bear", "deer"), patches
    )


GREY = np.full((200, 300, 3), 100, np.uint8)


def test_masks_are_blended_in_their_colours() -> None:
    d = scene()
    picture = GREY.copy()
    found = draw(picture, d, boxes=False, names=False, opacity=0.5)
    assert found.shape == picture.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(picture, GREY)
    for i, (x, y) in enumerate(((30, 100), (90, 100))):
        wanted = np.rint(np.array(PALETTE[i]) * 0.5 + 50)
        np.testing.assert_allclose(found[y, x], wanted, atol=1)
    on_border = found[100, 10].astype(int)  # the line is nearly the full colour
    assert np.abs(on_border - PALETTE[0]).max() < 40
    changed = (found != GREY).any(2)
    near = np.zeros((200, 300), bool)
    near[76:126, 6:56] = near[76:126, 66:116] = True
    assert changed[d.masks().any(0)].all()
    assert not changed[~near].any()
    np.testing.assert_array_equal(draw(GREY, d, boxes=False, names=False, opacity=0.5), found)


def test_a_mask_that_leaves_the_picture_has_no_line_there() -> None:
    d = Detections((200, 300), [[0, 0, 300, 200]], [0.9], [0], ("bear",), [Patch(0, 0, np.ones((200, 300), bool))])
    found = draw(GREY, d, boxes=False, names=False)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) == 1


def test_small_objects_lie_over_large_ones() -> None:
    patches = [Patch(100, 100, np.ones((20, 20), bool)), Patch(20, 20, np.ones((160, 260), bool))]
    d = Detections((200, 300), [[100, 100, 120, 120], [20, 20, 280, 180]], [0.9, 0.8], [0, 1], ("a", "b"), patches)
    found = draw(GREY, d, boxes=False, names=False, opacity=1.0)
    assert tuple(found[110, 110]) == PALETTE[0]
    assert tuple(found[60, 60]) == PALETTE[1]


def test_score_and_parts() -> None:
    d = scene()
    np.testing.assert_array_equal(draw(GREY, d, score=0.95), GREY)
    np.testing.assert_array_equal(draw(GREY, d[:0]), GREY)
    np.testing.assert_array_equal(draw(GREY, d, score=0.5), draw(GREY, d[:1]))
    boxes_only = Detections(d.size, d.boxes, d.scores, d.labels, d.class_names)
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
def test_tags_stay_in_the_picture(box: list[float]) -> None:
    long = "a class with a rather long name"
    d = Detections((200, 300), [box], [0.9], [0], (long,))
    tag = (draw(GREY, d, boxes=False) == PALETTE[0]).all(2)
    rows, columns = np.flatnonzero(tag.any(1)), np.flatnonzero(tag.any(0))
    assert rows[-1] - rows[0] >= 10
    assert columns[-1] - columns[0] >= 100
    assert draw(GREY, d).shape == GREY.shape


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 3), (17, 23)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    d = Detections(size, [[0, 0, size[1], size[0]]], [0.9], [0], ("bear",), [Patch(0, 0, np.ones(size, bool))])
    assert draw(np.zeros((*size, 3), np.uint8), d).shape == (*size, 3)


@pytest.mark.parametrize("strip", [1, 500, 3000])
def test_strips_of_a_mask_leave_no_trace(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    picture = random.integers(0, 256, (80, 90, 3), np.uint8)
    patches = [Patch(0, 3, random.random((70, 90)) < 0.95), Patch(20, 30, np.ones((50, 30), bool))]
    boxes = np.array([[0, 3, 90, 73], [20, 30, 50, 80]])
    detections = Detections((80, 90), boxes, np.array([0.9, 0.8]), np.array([0, 0]), ("a",), patches)
    whole = draw(picture, detections)
    monkeypatch.setattr(sais.draw, "_STRIP", strip)
    assert (draw(picture, detections) == whole).all()
    assert (whole != picture).mean() > 0.5


def test_many_objects_on_a_large_picture_need_little_memory() -> None:
    picture = np.zeros((1000, 1400, 3), np.uint8)
    y, x = np.divmod(np.arange(200), 20)
    bits = np.ones((40, 40), bool)
    patches = [Patch(int(60 * a), int(90 * b), bits) for a, b in zip(x, y, strict=True)]
    boxes = np.stack([60 * x, 90 * y, 60 * x + 40, 90 * y + 40], 1)
    d = Detections((1000, 1400), boxes, np.ones(200), np.zeros(200), ("bear",), patches)
    tracemalloc.start()
    draw(picture, d, names=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * picture.nbytes < 200 * picture.nbytes / 3


def test_ground_truth() -> None:
    d = scene()
    found = draw_objects(GREY, d.boxes, d.labels, d.class_names, d.patches)
    assert tuple(found[80, 30]) != (100, 100, 100)
    assert tuple(found[100, 30]) != (100, 100, 100)
    assert tuple(draw_objects(GREY, d.boxes, d.labels, d.class_names)[100, 30]) == (100, 100, 100)
    np.testing.assert_array_equal(draw_objects(GREY, np.zeros((0, 4)), np.zeros(0), ("a",)), GREY)


def test_colours_may_be_chosen() -> None:
    d = scene()
    one_by_one = paint(GREY, d.boxes, [], d.patches)
    turned = list(range(len(d)))[::-1]
    np.testing.assert_array_equal(paint(GREY, d.boxes, [], d.patches, colours=range(len(d))), one_by_one)
    swapped = paint(GREY, d.boxes, [], d.patches, colours=turned)
    inside = d.patches[0].y + d.patches[0].shape[0] // 2, d.patches[0].x + d.patches[0].shape[1] // 2
    assert tuple(swapped[inside]) != tuple(one_by_one[inside])
    np.testing.assert_array_equal(
        paint(GREY, d.boxes[:1], [], d.patches[:1], colours=[len(PALETTE) + 3]),
        paint(GREY, d.boxes[:1], [], d.patches[:1], colours=[3]),
    )
    texts = [d.class_names[label] for label in d.labels]
    usual = draw_objects(GREY, d.boxes, d.labels, d.class_names, d.patches)
    np.testing.assert_array_equal(paint(GREY, d.boxes, texts, d.patches), usual)
    assert (paint(GREY, d.boxes, texts, d.patches, letters=2.0) != usual).any()


def test_refuses() -> None:
    for wrong in (GREY[:100], GREY[..., 0], GREY.astype(np.float32), np.zeros((200, 300, 4), np.uint8)):
        with pytest.raises(ValueError, match="picture"):
            draw(wrong, scene())


def test_contact_sheet() -> None:
    colours = ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    sizes = ((40, 80), (80, 40), (500, 500))
    pictures = [np.full((*size, 3), colour, np.uint8) for size, colour in zip(sizes, colours, strict=True)]
    sheet = contact_sheet(pictures, columns=2, tile=(100, 120), gap=10)
    assert sheet.shape == (2 * 110 + 10, 2 * 130 + 10, 3)
    assert tuple(sheet[10 + 50, 10 + 60]) == colours[0]
    assert tuple(sheet[10 + 50, 140 + 60]) == colours[1]
    assert tuple(sheet[120 + 50, 10 + 60]) == colours[2]
    areas = [(sheet == colour).all(2).sum() for colour in colours]
    assert areas == [60 * 120, 100 * 50, 100 * 100]  # ratios are kept
    captioned = contact_sheet(pictures, 5, (100, 120), ["one", "two", "three " * 40], gap=10)
    assert captioned.shape[1] == 3 * 130 + 10
    assert captioned.shape[0] > 120
    assert (captioned[110:, 270:-10].max(2) > 150).any()
    assert (captioned[:, -10:] == captioned[0, 0]).all()
    for pictures_, columns, captions in (([], 2, None), (pictures, 0, None), (pictures, 2, ["one"])):
        with pytest.raises(ValueError, match="contact sheet"):
            contact_sheet(pictures_, columns, captions=captions)
