"""Drawings in styles, notebook cells, Matplotlib axes and viewers; large images stay quick."""

from __future__ import annotations

import base64
import io
import re
import sys
import types
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.errors import ConfigError, InputError
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.display import MAX_ROWS, PREVIEW_SIDE
from sais.results.draw import draw
from sais.results.palette import COLOR_BLIND_PALETTE, PALETTE
from sais.results.shrinking import shrink, shrink_image, shrunk_size
from tests.results.detection_samples import random_detections, random_image, squares

GRAY = np.full((60, 80, 3), 100, np.uint8)


def test_filled_style_is_the_drawing_of_sais_predict() -> None:
    d = squares((10, 10), (40, 20), side=24)
    np.testing.assert_array_equal(d.draw(GRAY), draw(GRAY, d, 0))
    np.testing.assert_array_equal(d.draw(GRAY, labels=False, boxes=False), draw(GRAY, d, 0, labels=False, boxes=False))
    np.testing.assert_array_equal(d.draw(GRAY, score=0.7), draw(GRAY, d[:1], 0))


def test_outline_and_thin_leave_the_inside_of_objects_as_it_is() -> None:
    image = np.full((600, 800, 3), 100, np.uint8)
    bits = np.ones((300, 400), bool)
    d = Detections((600, 800), [[100, 100, 500, 400]], [0.9], [0], ("a",), [CroppedMask(100, 100, bits)])
    outline, thin = (d.draw(image, style, labels=False) for style in ("outline", "thin"))
    for drawn in (outline, thin):
        assert (drawn[110:390, 110:490] == 100).all()
        assert np.abs(drawn[250, 100].astype(int) - PALETTE[0]).max() < 60
    assert 0 < (thin != 100).any(2).sum() < 0.75 * (outline != 100).any(2).sum()
    assert (d.draw(image, "outline", labels=False, opacity=0.5)[250, 300] != 100).any()


@pytest.mark.parametrize("style", ["filled", "outline", "thin"])
def test_boxes_are_drawn_in_every_style_where_there_are_no_masks(style: str) -> None:
    drawn = squares((10, 10), side=30, masks=False).draw(GRAY, style, labels=False)
    assert tuple(drawn[10, 20]) == PALETTE[0]
    assert tuple(drawn[20, 20]) == (100, 100, 100)


def test_palette_and_colors_by_instance() -> None:
    d = squares((10, 10), (40, 20), side=16)
    d.labels = np.array([1, 1])
    options: dict[str, Any] = {"labels": False, "boxes": False, "opacity": 1.0, "palette": "color-blind"}
    by_class, by_instance = d.draw(GRAY, **options), d.draw(GRAY, color_by="instance", **options)
    assert tuple(by_class[18, 18]) == tuple(by_class[28, 48]) == COLOR_BLIND_PALETTE[1]
    assert (tuple(by_instance[18, 18]), tuple(by_instance[28, 48])) == COLOR_BLIND_PALETTE[:2]


@pytest.mark.parametrize("options", [{"style": "fat"}, {"palette": "gray"}, {"color_by": "size"}])
def test_draw_names_unknown_choices(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(options))} .*: unknown. Use \w+"):
        squares((10, 10)).draw(GRAY, **options)
    with pytest.raises(InputError, match="no image"):
        squares((10, 10)).draw()


@pytest.mark.parametrize("options", [{"opacity": 2.0}, {"opacity": -0.1}, {"opacity": float("nan")}, {"max_side": 0}])
def test_draw_refuses_impossible_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        squares((10, 10)).draw(GRAY, **options)


def test_draw_with_a_maximum_side_is_small() -> None:
    d = squares((10, 10), (40, 20), side=24)
    drawn = d.draw(GRAY, max_side=40, labels=False, boxes=False, opacity=1.0)
    assert drawn.shape == (30, 40, 3)
    assert tuple(drawn[11, 11]) == PALETTE[0]
    assert tuple(drawn[3, 3]) == (100, 100, 100)
    assert d.draw(GRAY, max_side=1000).shape == (60, 80, 3)


@pytest.mark.parametrize("size", [(60, 80), (30, 40), (17, 23), (7, 80), (1, 1)])
def test_shrink_looks_masks_up_at_the_centers_of_small_pixels(size: tuple[int, int]) -> None:
    d = random_detections(12, 5)
    small = shrink(d, size)
    y = np.floor((np.arange(size[0]) + 0.5) * 60 / size[0]).astype(int)
    x = np.floor((np.arange(size[1]) + 0.5) * 80 / size[1]).astype(int)
    expected = d.masks()[:, y][:, :, x]
    found = expected.any((1, 2))
    np.testing.assert_array_equal(small.masks()[found], expected[found])
    assert (small.area[~found] == 1).all()
    np.testing.assert_allclose(small.boxes / [*size[::-1], *size[::-1]], d.boxes / [80, 60, 80, 60], rtol=1e-5)


@pytest.mark.parametrize("style", ["filled", "outline", "thin"])
def test_small_objects_remain_in_drawings_of_large_images(style: str) -> None:
    points = [(0, 0), (1999, 0), (1000, 777), (0, 1199), (1999, 1199)]
    masks = [CroppedMask(x, y, np.ones((1, 1), bool)) for x, y in points]
    boxes = [[x, y, x + 1, y + 1] for x, y in points]
    d = Detections((1200, 2000), boxes, [0.9] * 5, [0] * 5, ("a",), masks)
    drawn = d.draw(np.zeros((1200, 2000, 3), np.uint8), style, labels=False, boxes=False, max_side=200)
    for x, y in points:
        assert drawn[y // 10, x // 10].any()


def test_shrunk_size_and_image() -> None:
    assert shrunk_size((3000, 4000), 640) == (480, 640)
    assert shrunk_size((4, 10_000), 640) == (1, 640)
    assert shrunk_size((300, 400), 640) == shrunk_size((300, 400), None) == (300, 400)
    assert shrink_image(random_image(), (60, 80)).shape == (60, 80, 3)
    assert shrink_image(random_image(), (6, 8)).mean() == pytest.approx(127, abs=6)


def image_of(page: str) -> np.ndarray:
    """Return the image in a notebook cell."""
    (encoded,) = re.findall(r"base64,([\w+/=]+)", page)
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        return np.asarray(image.convert("RGB"))


def test_notebook_cell_has_drawing_and_table() -> None:
    d = squares((10, 10), (40, 20), side=24)
    d.class_names = ("<b>bear</b>", "deer\n", "fox")
    d.image = GRAY
    page = d._repr_html_()
    assert page.count("<tr>") == 3
    assert "&lt;b&gt;bear&lt;/b&gt;" in page
    assert "<b>bear" not in page
    assert r"deer\n" in page
    assert "keep_image" not in page
    np.testing.assert_allclose(image_of(page), d.draw(GRAY), atol=90)
    with Image.open(io.BytesIO(d._repr_png_())) as image:
        np.testing.assert_array_equal(np.asarray(image), d.draw(GRAY))


def test_notebook_cell_without_image_says_how_to_have_one() -> None:
    d = squares((10, 10), side=24)
    page = d._repr_html_()
    assert "keep_image=True" in page
    assert image_of(page).shape == (60, 80, 3)
    assert len(np.unique(image_of(page).reshape(-1, 3), axis=0)) > 5


@pytest.mark.parametrize("masks", [True, False])
def test_notebook_cell_of_no_objects(masks: bool) -> None:
    empty = random_detections(masks=masks)[:0]
    assert "nothing" in empty._repr_html_()
    assert "<table" not in empty._repr_html_()
    assert empty._repr_png_().startswith(b"\x89PNG")
    np.testing.assert_array_equal(empty.draw(GRAY, "thin"), GRAY)
    assert Detections((0, 0), [], [], [], ())._repr_png_().startswith(b"\x89PNG")


def test_notebook_cell_of_a_large_image_is_drawn_at_its_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 2000
    rng = np.random.default_rng(0)
    corners = rng.integers(0, side - 400, (40, 2))
    bits = np.hypot(*(np.mgrid[:400, :400] - 200)) < 200
    masks = [CroppedMask(x, y, bits) for x, y in corners.tolist()]
    boxes = np.concatenate([corners, corners + 400], 1)
    d = Detections((side, side), boxes, np.linspace(1, 0.1, 40), np.arange(40) % 3, ("a", "b", "c"), masks)
    d.image = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
    shapes: list[tuple[int, ...]] = []

    def record(image: np.ndarray, detections: Detections, *arguments: Any, **options: Any) -> np.ndarray:
        shapes.append(image.shape)
        assert all(max(mask.shape) <= 130 for mask in detections.cropped_masks)
        return draw(image, detections, *arguments, **options)

    monkeypatch.setattr("sais.results.display.draw", record)
    page = d._repr_html_()
    assert shapes == [(PREVIEW_SIDE, PREVIEW_SIDE, 3)]
    assert image_of(page).shape == shapes[0]
    assert len(page) < 400_000  # noise, which JPEG cannot compress, included
    assert f"{40 - MAX_ROWS} more objects" in page


def test_notebook_cell_of_thousands_of_classes_is_small() -> None:
    names = tuple(f"{'class' * 15}{i}" for i in range(3000))
    d = Detections((60, 80), np.zeros((3000, 4)), np.linspace(1, 0.1, 3000), np.arange(3000), names)
    assert len(d._repr_html_()) < 20_000


def test_plot_draws_on_axes_in_image_coordinates() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    d = squares((10, 10), (40, 20))
    axes = figure.add_subplot()
    assert d.plot(GRAY, axes, style="outline", max_side=40) is axes
    (image,) = axes.get_images()
    assert image.get_extent() == [0, 80, 60, 0]
    np.testing.assert_array_equal(image.get_array(), d.draw(GRAY, "outline", max_side=40))
    assert axes.get_title() == "1 bear, 1 deer"


def test_plot_counts_the_objects_drawn_and_draws_names_with_dollars() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    d = squares((10, 10), (40, 20))
    d.class_names = ("$x^$", "deer", "fox")
    axes = d.plot(GRAY, figure.add_subplot(), score=0.7)
    assert axes.get_title() == "1 $x^$"
    figure.savefig(io.BytesIO())  # raised ValueError for what is no formula of Matplotlib


def test_plot_makes_a_figure_of_its_own() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    with pyplot.rc_context({"backend": "agg"}):
        open_before = set(pyplot.get_fignums())
        axes = squares((10, 10)).plot(GRAY)
        assert axes.figure.number not in open_before
        assert len(axes.images) == 1
        pyplot.close(axes.figure)


def test_show_opens_the_viewer_or_displays_in_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda image: shown.append(image))
    d = squares((10, 10))
    d.show(GRAY, style="thin")
    np.testing.assert_array_equal(np.asarray(shown.pop()), d.draw(GRAY, "thin"))
    kernel = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=1))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    displayed: list[Image.Image] = []
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=displayed.append))
    d.show(GRAY)
    assert not shown
    np.testing.assert_array_equal(np.asarray(displayed[0]), d.draw(GRAY))
