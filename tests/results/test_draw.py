"""Drawing: positions and colors of overlays, contact sheets, and memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import sais.results.draw
import sais.results.fonts
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.draw import PALETTE, contact_sheet, draw, draw_objects, overlay


def discs(count: int = 2, size: tuple[int, int] = (200, 300)) -> Detections:
    """Return discs in a row, 60 pixels apart."""
    y, x = np.mgrid[:41, :41]
    disc = (x - 20) ** 2 + (y - 20) ** 2 <= 20**2
    boxes = np.array([[10 + 60 * i, 80, 51 + 60 * i, 121] for i in range(count)])
    masks = [CroppedMask(10 + 60 * i, 80, disc) for i in range(count)]
    return Detections(size, boxes, np.linspace(0.9, 0.4, count), [i % 2 for i in range(count)], ("bear", "deer"), masks)


GRAY = np.full((200, 300, 3), 100, np.uint8)


def near(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Return the pixels (H, W) of a color; tags are slightly transparent."""
    return np.abs(image.astype(int) - color).max(2) < 40


def test_draw_blends_masks_in_the_palette_colors() -> None:
    d = discs()
    image = GRAY.copy()
    drawn = draw(image, d, boxes=False, labels=False, opacity=0.5)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, GRAY)
    for i, (x, y) in enumerate(((30, 100), (90, 100))):
        expected = np.rint(np.array(PALETTE[i]) * 0.5 + 50)
        np.testing.assert_allclose(drawn[y, x], expected, atol=1)
    on_border = drawn[100, 10].astype(int)  # the line is nearly the full color
    assert np.abs(on_border - PALETTE[0]).max() < 40
    changed = (drawn != GRAY).any(2)
    near = np.zeros((200, 300), bool)
    near[76:126, 6:56] = near[76:126, 66:116] = True
    assert changed[d.masks().any(0)].all()
    assert not changed[~near].any()
    np.testing.assert_array_equal(draw(GRAY, d, boxes=False, labels=False, opacity=0.5), drawn)


def test_draw_adds_no_border_line_at_the_image_edge() -> None:
    d = Detections(
        (200, 300), [[0, 0, 300, 200]], [0.9], [0], ("bear",), [CroppedMask(0, 0, np.ones((200, 300), bool))]
    )
    drawn = draw(GRAY, d, boxes=False, labels=False)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1


def test_draw_puts_small_masks_on_top_of_large_masks() -> None:
    masks = [CroppedMask(100, 100, np.ones((20, 20), bool)), CroppedMask(20, 20, np.ones((160, 260), bool))]
    d = Detections((200, 300), [[100, 100, 120, 120], [20, 20, 280, 180]], [0.9, 0.8], [0, 1], ("a", "b"), masks)
    drawn = draw(GRAY, d, boxes=False, labels=False, opacity=1.0)
    assert tuple(drawn[110, 110]) == PALETTE[0]
    assert tuple(drawn[60, 60]) == PALETTE[1]


def test_draw_respects_score_boxes_and_labels() -> None:
    d = discs()
    np.testing.assert_array_equal(draw(GRAY, d, score=0.95), GRAY)
    np.testing.assert_array_equal(draw(GRAY, d[:0]), GRAY)
    np.testing.assert_array_equal(draw(GRAY, d, score=0.5), draw(GRAY, d[:1]))
    boxes_only = Detections(d.image_size, d.boxes, d.scores, d.labels, d.class_names)
    drawn = draw(GRAY, boxes_only, labels=False)
    assert tuple(drawn[80, 30]) == PALETTE[0]
    assert tuple(drawn[120, 50]) == PALETTE[0]
    assert tuple(drawn[100, 30]) == (100, 100, 100)
    named = draw(GRAY, boxes_only, boxes=False)
    assert near(named[60:80, 10:60], PALETTE[0]).sum() > 100  # the tag is above the box
    assert (named[60:80, 10:60].max(2) < 60).any()  # with dark letters on it


@pytest.mark.parametrize(
    "box", [[0, 0, 30, 20], [280, 0, 300, 10], [280, 190, 300, 200], [-40, -40, 900, 900], [5, 5, 5, 5]]
)
def test_draw_keeps_tags_inside_the_image(box: list[float]) -> None:
    long = "a class with a rather long name"
    d = Detections((200, 300), [box], [0.9], [0], (long,))
    tag = near(draw(GRAY, d, boxes=False), PALETTE[0])
    rows, columns = np.flatnonzero(tag.any(1)), np.flatnonzero(tag.any(0))
    assert rows[-1] - rows[0] >= 10
    assert columns[-1] - columns[0] >= 100
    assert draw(GRAY, d).shape == GRAY.shape


def test_draw_measures_the_texts_of_a_video_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sais.results.draw._tag_text.cache_clear()
    names = ("a class with a rather long name", "deer")
    wide, narrow = discs(), Detections((200, 120), [[5, 80, 46, 121]], [0.9], [0], names)
    wide = Detections(wide.image_size, wide.boxes, wide.scores, wide.labels, names)
    expected = [draw(GRAY, wide), draw(GRAY[:, :120], narrow)]
    monkeypatch.setattr(sais.results.draw, "shorten_to_width", None)  # would fail if it were called
    for _ in range(2):
        np.testing.assert_array_equal(draw(GRAY, wide), expected[0])
        np.testing.assert_array_equal(draw(GRAY[:, :120], narrow), expected[1])  # shortened for its own width
    sais.results.draw._tag_text.cache_clear()
    monkeypatch.undo()
    np.testing.assert_array_equal(draw(GRAY[:, :120], narrow), expected[1])


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 3), (17, 23)])
def test_draw_handles_tiny_images(size: tuple[int, int]) -> None:
    d = Detections(size, [[0, 0, size[1], size[0]]], [0.9], [0], ("bear",), [CroppedMask(0, 0, np.ones(size, bool))])
    assert draw(np.zeros((*size, 3), np.uint8), d).shape == (*size, 3)


@pytest.mark.parametrize("strip", [1, 500, 3000])
def test_blending_in_strips_changes_no_pixel(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (80, 90, 3), np.uint8)
    masks = [CroppedMask(0, 3, random.random((70, 90)) < 0.95), CroppedMask(20, 30, np.ones((50, 30), bool))]
    boxes = np.array([[0, 3, 90, 73], [20, 30, 50, 80]])
    detections = Detections((80, 90), boxes, np.array([0.9, 0.8]), np.array([0, 0]), ("a",), masks)
    unstripped = draw(image, detections)
    monkeypatch.setattr(sais.results.draw, "_STRIP_PIXELS", strip)
    assert (draw(image, detections) == unstripped).all()
    assert (unstripped != image).mean() > 0.5


def test_draw_allocates_no_dense_mask_stack() -> None:
    image = np.zeros((1000, 1400, 3), np.uint8)
    y, x = np.divmod(np.arange(200), 20)
    bits = np.ones((40, 40), bool)
    masks = [CroppedMask(int(60 * a), int(90 * b), bits) for a, b in zip(x, y, strict=True)]
    boxes = np.stack([60 * x, 90 * y, 60 * x + 40, 90 * y + 40], 1)
    d = Detections((1000, 1400), boxes, np.ones(200), np.zeros(200), ("bear",), masks)
    tracemalloc.start()
    draw(image, d, labels=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * image.nbytes < 200 * image.nbytes / 3


def test_draw_objects_draws_boxes_and_masks() -> None:
    d = discs()
    drawn = draw_objects(GRAY, d.boxes, d.labels, d.class_names, d.cropped_masks)
    assert tuple(drawn[80, 30]) != (100, 100, 100)
    assert tuple(drawn[100, 30]) != (100, 100, 100)
    assert tuple(draw_objects(GRAY, d.boxes, d.labels, d.class_names)[100, 30]) == (100, 100, 100)
    np.testing.assert_array_equal(draw_objects(GRAY, np.zeros((0, 4)), np.zeros(0), ("a",)), GRAY)


def test_overlay_uses_chosen_colors_and_font_scale() -> None:
    d = discs()
    default = overlay(GRAY, d.boxes, [], d.cropped_masks)
    reversed_colors = list(range(len(d)))[::-1]
    np.testing.assert_array_equal(overlay(GRAY, d.boxes, [], d.cropped_masks, colors=range(len(d))), default)
    swapped = overlay(GRAY, d.boxes, [], d.cropped_masks, colors=reversed_colors)
    inside = (
        d.cropped_masks[0].y + d.cropped_masks[0].shape[0] // 2,
        d.cropped_masks[0].x + d.cropped_masks[0].shape[1] // 2,
    )
    assert tuple(swapped[inside]) != tuple(default[inside])
    np.testing.assert_array_equal(
        overlay(GRAY, d.boxes[:1], [], d.cropped_masks[:1], colors=[len(PALETTE) + 3]),
        overlay(GRAY, d.boxes[:1], [], d.cropped_masks[:1], colors=[3]),
    )
    texts = [d.class_names[label] for label in d.labels]
    expected = draw_objects(GRAY, d.boxes, d.labels, d.class_names, d.cropped_masks)
    np.testing.assert_array_equal(overlay(GRAY, d.boxes, texts, d.cropped_masks), expected)
    assert (overlay(GRAY, d.boxes, texts, d.cropped_masks, font_scale=2.0) != expected).any()


def test_draw_rejects_arrays_that_are_not_uint8_rgb() -> None:
    for image in (GRAY[:100], GRAY[..., 0], GRAY.astype(np.float32), np.zeros((200, 300, 4), np.uint8)):
        with pytest.raises(ValueError, match="image"):
            draw(image, discs())


def test_draw_colors_follow_the_class_in_every_image() -> None:
    d = discs(4)  # classes 0 1 0 1
    drawn = draw(GRAY, d, boxes=False, labels=False, opacity=1.0)
    alone = draw(GRAY, d[1:], boxes=False, labels=False, opacity=1.0)
    truth = draw_objects(GRAY, d.boxes, d.labels, d.class_names, d.cropped_masks, opacity=1.0)
    for i in range(4):
        center = (slice(95, 105), slice(25 + 60 * i, 35 + 60 * i))
        assert (drawn[center] == PALETTE[i % 2]).all()
        assert i == 0 or (alone[center] == PALETTE[i % 2]).all()
        assert (truth[center] == PALETTE[i % 2]).all()
    by_instance = draw(GRAY, d, boxes=False, labels=False, opacity=1.0, color_by="instance")
    assert [tuple(by_instance[100, 30 + 60 * i].tolist()) for i in range(4)] == list(PALETTE[:4])


def test_draw_writes_names_without_a_font_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sais.results.fonts, "font_for", lambda text, size: None)
    monkeypatch.setattr(sais.results.fonts, "_reported", False)
    d = discs()
    foreign = Detections(d.image_size, d.boxes, d.scores, d.labels, ("\U00013000", "deer"), d.cropped_masks)
    numbered = Detections(d.image_size, d.boxes, d.scores, d.labels, ("class 0", "class 1"), d.cropped_masks)
    with pytest.warns(UserWarning, match="no installed font"):
        drawn = draw(GRAY, foreign)
    monkeypatch.undo()
    np.testing.assert_array_equal(drawn, draw(GRAY, numbered))


def test_draw_leaves_small_crowded_objects_visible() -> None:
    y, x = np.divmod(np.arange(300), 20)
    boxes = np.stack([14 * x, 12 * y, 14 * x + 10, 12 * y + 10], 1)
    masks = [CroppedMask(int(a), int(b), np.ones((10, 10), bool)) for a, b in boxes[:, :2]]
    d = Detections((200, 300), boxes, np.linspace(1, 0.5, 300), np.zeros(300), ("nucleus",), masks)
    np.testing.assert_array_equal(draw(GRAY, d), draw(GRAY, d, labels=False))


def test_contact_sheet_keeps_aspect_ratios_and_writes_captions() -> None:
    colors = ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    sizes = ((40, 80), (80, 40), (500, 500))
    images = [np.full((*size, 3), color, np.uint8) for size, color in zip(sizes, colors, strict=True)]
    sheet = contact_sheet(images, columns=2, tile=(100, 120), gap=10)
    assert sheet.shape == (2 * 110 + 10, 2 * 130 + 10, 3)
    assert tuple(sheet[10 + 50, 10 + 60]) == colors[0]
    assert tuple(sheet[10 + 50, 140 + 60]) == colors[1]
    assert tuple(sheet[120 + 50, 10 + 60]) == colors[2]
    areas = [(sheet == color).all(2).sum() for color in colors]
    assert areas == [60 * 120, 100 * 50, 100 * 100]  # aspect ratios are preserved
    captioned = contact_sheet(images, 5, (100, 120), ["one", "two", "three " * 40], gap=10)
    assert captioned.shape[1] == 3 * 130 + 10
    assert captioned.shape[0] > 120
    assert (captioned[110:, 270:-10].max(2) > 150).any()
    assert (captioned[:, -10:] == captioned[0, 0]).all()
    for images_, columns, captions in (([], 2, None), (images, 0, None), (images, 2, ["one"])):
        with pytest.raises(ValueError, match="contact sheet"):
            contact_sheet(images_, columns, captions=captions)


def test_contact_sheet_writes_captions_of_any_script(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((60, 60, 3), 40, np.uint8)
    greek, latin = (contact_sheet([image], captions=[name]) for name in ("Ωμέγα.jpg", "Omega.jpg"))
    assert greek.shape == latin.shape
    assert (greek != latin).any()
    monkeypatch.setattr(sais.results.draw, "font_for", lambda text, size: None)
    np.testing.assert_array_equal(
        contact_sheet([image], captions=["\U00013000.jpg"]), contact_sheet([image], captions=["?.jpg"])
    )
