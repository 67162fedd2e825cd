"""The page of the service in headless Chromium: masks on the canvas, no second request, downloads, faults, access."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.data.annotations import object_mask
from sais.data.formats import read_dataset
from sais.ops.rasterize import inside
from sais.ops.rle import decode
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.palette import class_color
from tests.serving.browser_page import drop_file, new_page, paste_file, sample_canvas, set_slider, wait_for_objects
from tests.serving.page_server import Answer, PageServer, answer_of, encode_image, from_masks
from tests.serving.scene import IMAGE, NAMES, SCENE, SIZE, iou


@pytest.fixture
def scene(page: Any) -> Any:
    """Return the page with the objects of the scene, without labels, masks opaque."""
    drop_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    page.uncheck("#labels")
    set_slider(page, "#opacity", 100)
    return page


def painted(page: Any) -> np.ndarray:
    """Return the pixels (H, W) bool that have a mask."""
    return sample_canvas(page, ".mask-layer", SIZE)[..., 3] > 128


def rows(page: Any) -> list[str]:
    """Return the visible rows of the list of objects."""
    return page.locator("#objects li:not([hidden]) button").all_inner_texts()


def test_each_mask_on_the_canvas_is_that_of_the_detections(scene: Any) -> None:
    set_slider(scene, "#score", 0.05)
    for index, mask in enumerate(SCENE.masks()):
        scene.locator("#objects button").nth(index).dispatch_event("click")
        # A tiny object is enlarged; this shows the whole image again.
        scene.click("#zoom-fit")
        color = np.array([*class_color(int(SCENE.labels[index])), 255])
        shown = (sample_canvas(scene, ".mask-layer", SIZE).astype(int) == color).all(2)
        assert iou(shown, mask) >= 0.99, index
    scene.keyboard.press("Escape")
    assert iou(painted(scene), SCENE.masks().any(0)) >= 0.99


def test_the_image_on_the_canvas_is_the_file(page: Any) -> None:
    drop_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    assert np.array_equal(sample_canvas(page, ".image-layer", SIZE)[..., :3], IMAGE)


def test_an_image_taken_upside_down_is_shown_and_sent_as_it_is(page: Any, server: PageServer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # rotated by 180 degrees
    content = encode_image(IMAGE[::-1, ::-1], "JPEG", quality=95, exif=exif)
    drop_file(page, content, "phone.jpg", "image/jpeg")
    wait_for_objects(page)
    shown = sample_canvas(page, ".image-layer", SIZE)[..., :3].astype(int)
    assert abs(shown - IMAGE).mean() < 4
    assert server.predictions[0].body == content
    assert server.predictions[0].headers["content-type"] == "image/jpeg"


def test_slider_filters_without_a_request(scene: Any, server: PageServer) -> None:
    before = len(server.requests)
    for score in (0.05, 0.7, 0.75, 0.99, 0.3):
        set_slider(scene, "#score", score)
        selected = SCENE.above(score)
        assert len(rows(scene)) == len(selected)
        expected = selected.masks().any(0) if len(selected) else np.zeros(SIZE, bool)
        assert (painted(scene) == expected).mean() >= 0.995
    assert len(server.requests) == before
    assert len(server.predictions) == 1
    assert float(server.predictions[0].query["score"][0]) <= 0.05


def test_initial_score_is_that_of_the_model(scene: Any) -> None:
    assert scene.input_value("#score") == "0.3"
    assert scene.inner_text("#summary") == "6 objects"


def test_class_that_is_off_is_not_shown(scene: Any, server: PageServer) -> None:
    labels = scene.locator("#classes label")
    assert [text.split() for text in labels.all_inner_texts()] == [["disc", "3"], ["bar", "3"]]
    scene.uncheck("#classes input >> nth=1")
    selected = SCENE[(SCENE.labels == 0) & (SCENE.scores >= 0.3)]
    assert iou(painted(scene), selected.masks().any(0)) >= 0.99
    assert len(rows(scene)) == len(selected)
    scene.click("#classes-all")
    assert len(rows(scene)) == 6
    assert len(server.predictions) == 1


def test_outlines_only_leave_the_inside_of_an_object(scene: Any) -> None:
    scene.check("#outlines")
    large = SCENE.masks()[2]
    y, x = 45, 60  # inside of the bar, away from other objects
    assert large[y, x]
    assert not painted(scene)[y, x]


def test_pointer_shows_class_score_and_area(scene: Any) -> None:
    bounds = scene.locator("#view").bounding_box()
    zoom = min((bounds["width"] - 32) / 128, (bounds["height"] - 32) / 96, 8)
    left, top = (bounds["width"] - 128 * zoom) / 2, (bounds["height"] - 96 * zoom) / 2
    # The small disc in front of the bar.
    scene.mouse.move(bounds["x"] + left + 85.5 * zoom, bounds["y"] + top + 62.5 * zoom)
    area = int(SCENE.area[3])
    assert scene.inner_text("#tip-name") == "disc 0.70"
    assert scene.inner_text("#tip-area").startswith(f"{area} pixels, ")
    assert scene.locator("#objects li.hovered").inner_text().split()[0] == "disc"
    scene.mouse.move(bounds["x"] + left + 30.5 * zoom, bounds["y"] + top + 30.5 * zoom)  # the hole of the ring
    assert not scene.is_visible("#tip")
    scene.mouse.click(bounds["x"] + left + 15.5 * zoom, bounds["y"] + top + 30.5 * zoom)
    assert scene.inner_text("#summary") == "1 object"


def save_by(page: Any, button: str, folder: Path) -> Path:
    """Click a button and return the file that it saves."""
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_coco_download_has_the_masks(scene: Any, tmp_path: Path) -> None:
    set_slider(scene, "#score", 0.6)
    path = save_by(scene, "#save-coco", tmp_path)
    assert path.name == "scene.coco.json"
    content = json.loads(path.read_text())
    assert content["categories"] == [{"id": 0, "name": "disc"}, {"id": 1, "name": "bar"}]
    assert content["images"] == [{"id": 1, "width": 128, "height": 96, "file_name": "scene.png"}]
    selected = SCENE.above(0.6)
    assert len(content["annotations"]) == len(selected)
    for annotation, mask, label in zip(content["annotations"], selected.masks(), selected.labels, strict=True):
        assert np.array_equal(decode(annotation["segmentation"]), mask)
        assert (annotation["category_id"], annotation["area"]) == (label, mask.sum())


def test_labelme_download_is_read_as_a_data_set(scene: Any, tmp_path: Path) -> None:
    set_slider(scene, "#score", 0.6)
    path = save_by(scene, "#save-labelme", tmp_path)
    (tmp_path / "scene.png").write_bytes(encode_image(IMAGE))
    assert path.name == "scene.json"
    split = read_dataset(tmp_path, "all")
    annotations = split.images[0].annotations
    selected = SCENE.above(0.6)
    assert len(annotations) == len(selected)
    for annotation, mask in zip(annotations, selected.masks(), strict=True):
        shape = object_mask(annotation, SIZE)
        assert shape is not None
        assert iou(inside(shape, (0, 0, 128, 96)), mask) > 0.95


def test_png_download_is_the_image_with_masks(scene: Any, tmp_path: Path) -> None:
    set_slider(scene, "#score", 0.85)
    path = save_by(scene, "#save-png", tmp_path)
    drawn = np.asarray(Image.open(path).convert("RGB")).astype(int)
    masks = SCENE.above(0.85).masks()
    far = ~np.lib.stride_tricks.sliding_window_view(np.pad(masks.any(0), 2), (5, 5)).any((2, 3))
    assert np.array_equal(drawn[far], IMAGE[far])
    assert abs(drawn[masks[0]] - class_color(0)).max() <= 2  # rounding of the outline's blending


def test_keys_zoom_and_pan(scene: Any) -> None:
    scene.focus("#view")
    scene.keyboard.press("1")
    assert scene.inner_text("#zoom-value") == "100 %"
    before = sample_canvas(scene, ".image-layer", SIZE)
    assert np.array_equal(before[..., :3], IMAGE)
    scene.keyboard.press("+")
    assert scene.inner_text("#zoom-value") == "125 %"
    scene.keyboard.press("0")
    assert int(scene.inner_text("#zoom-value").split()[0]) > 400


def test_arrow_keys_move_in_the_list_of_objects(scene: Any) -> None:
    assert scene.locator("#objects button[tabindex='0']").count() == 1
    scene.focus("#objects button[tabindex='0']")
    scene.keyboard.press("ArrowDown")
    scene.keyboard.press("Enter")
    assert scene.locator("#objects button[aria-pressed=true]").inner_text().split()[0] == "bar"
    assert scene.inner_text("#summary") == "1 object"
    scene.keyboard.press("Escape")
    assert scene.inner_text("#summary") == "6 objects"


def test_wheel_pinch_and_drag_move_the_image(browser: Any, server: PageServer) -> None:
    page = new_page(browser, server.url, has_touch=True)
    page.wait_for_selector("body.ready")
    drop_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    bounds = page.locator("#view").bounding_box()
    x, y = bounds["x"] + bounds["width"] / 2, bounds["y"] + bounds["height"] / 2

    def zoom() -> int:
        return int(page.inner_text("#zoom-value").split()[0])

    fitted = zoom()
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    page.wait_for_function("(zoom) => !document.getElementById('zoom-value').textContent.startsWith(zoom)", arg=fitted)
    assert zoom() == pytest.approx(fitted * np.exp(0.3), rel=0.02)  # a wheel turns by at most 200 pixels at once
    page.click("#zoom-fit")
    touches = page.context.new_cdp_session(page)
    for kind, distance in (("touchStart", 50), ("touchMove", 75), ("touchMove", 100), ("touchEnd", None)):
        points = [] if distance is None else [{"x": x + side * distance, "y": y, "id": side} for side in (-1, 1)]
        touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert zoom() == pytest.approx(2 * fitted, rel=0.02)
    page.click("#zoom-fit")
    before = sample_canvas(page, ".image-layer", SIZE)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 150, y)
    page.mouse.move(x - 300, y)
    page.mouse.up()
    assert page.inner_text("#summary") == "6 objects"  # a drag is no click
    moved = sample_canvas(page, ".image-layer", SIZE)
    assert abs(moved.astype(int) - before).mean() > 5  # a part of the image has left the view
    page.context.close()


def test_list_of_a_thousand_objects_has_the_rows_in_view(page: Any, server: PageServer) -> None:
    count = 1000
    masks = [CroppedMask(i % 120, i % 90, np.ones((3, 3), bool)) for i in range(count)]
    boxes = np.array([[mask.x, mask.y, mask.x + 3, mask.y + 3] for mask in masks])
    scores = np.linspace(0.99, 0.1, count)
    many = Detections(SIZE, boxes, scores, np.arange(count) % 2, NAMES, masks)
    server.predict = lambda request: Answer(answer_of(many))
    drop_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    set_slider(page, "#score", 0.5)
    selected = many.above(0.5)
    assert page.inner_text("#summary") == f"{len(selected)} objects"
    assert page.locator("#objects li").count() < 60
    page.focus("#objects button[tabindex='0']")
    page.keyboard.press("End")
    last = page.locator("#objects li", has=page.locator("button:focus"))
    assert last.get_attribute("aria-posinset") == last.get_attribute("aria-setsize") == str(len(selected))
    assert last.inner_text().split()[-1] == "0.50"
    page.keyboard.press("Enter")
    assert page.inner_text("#summary") == "1 object"


def test_pasted_and_chosen_images_are_predicted(page: Any, server: PageServer) -> None:
    paste_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    with page.expect_request("**/v1/predict*"):
        page.set_input_files("#file-input", {"name": "b.png", "mimeType": "image/png", "buffer": encode_image(IMAGE)})
    page.wait_for_function("() => document.title.startsWith('b.png')")
    wait_for_objects(page)
    assert [request.body for request in server.predictions] == [encode_image(IMAGE)] * 2


def test_examples_and_models_can_be_chosen(browser: Any, server: PageServer) -> None:
    server.examples = {"first one.png": encode_image(IMAGE), "second.png": encode_image(255 - IMAGE)}
    server.models = [*server.models, {"name": "other", "classes": ["disc"], "default": False, "score": 0.6}]
    page = new_page(browser, server.url)
    page.wait_for_selector("body.ready")
    page.click("#examples button >> nth=0")
    wait_for_objects(page)
    assert server.predictions[0].body == encode_image(IMAGE)
    with page.expect_response("**/v1/predict*"):
        page.select_option("#model", "other")
    page.wait_for_function("() => document.getElementById('score').value === '0.6'")
    wait_for_objects(page)
    assert server.predictions[1].query["model"] == ["other"]
    assert not page.problems
    page.context.close()


@pytest.mark.slow
def test_large_image_has_detail_at_high_zoom(browser: Any, server: PageServer) -> None:
    """A pattern of single pixels is lost in the bitmap of limited size, and visible at a scale of 1."""
    y, x = np.mgrid[0:2400, 0:3000]
    pattern = np.where(((x + y) % 2 == 1)[..., None], 255, 0).astype(np.uint8).repeat(3, 2)
    answer = answer_of(from_masks([(abs(x - 1500) < 9) & (y < 9)], [0], [0.9], NAMES))
    server.predict = lambda request: Answer(answer)
    page = new_page(browser, server.url)
    page.wait_for_selector("body.ready")
    drop_file(page, encode_image(pattern, compress_level=1), "large.png")
    wait_for_objects(page)
    page.focus("#view")
    page.keyboard.press("1")
    page.wait_for_function(
        """() => {
          const canvas = document.querySelector(".image-layer");
          const { data } = canvas.getContext("2d").getImageData(300, 300, 2, 1);
          return Math.abs(data[0] - data[4]) === 255;
        }"""
    )
    page.context.close()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1200, "light"),
        (390, "dark"),
        pytest.param(1200, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_page_is_accessible_and_fits(browser: Any, server: PageServer, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (extra browser)")
    server.examples = {"first.png": encode_image(IMAGE)}
    page = new_page(browser, server.url, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.wait_for_selector("body.ready")
    states = {"empty": axe.Axe().run(page)}
    drop_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    page.click("#objects li:not([hidden]) button >> nth=1")
    states["objects"] = axe.Axe().run(page)
    drop_file(page, b"", "table.csv", "text/csv")
    page.evaluate("document.getElementById('key-dialog').showModal()")
    states["dialog and error"] = axe.Axe().run(page)
    for state, results in states.items():
        findings = [f"{finding['id']}: {finding['nodes'][0]['html']}" for finding in results.response["violations"]]
        assert not findings, state
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()
