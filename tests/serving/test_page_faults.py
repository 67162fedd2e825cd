"""Faults on the page: files that are no image, errors of the server, cancellation, API keys, answers without masks."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from sais.results.detections import Detections
from tests.serving.browser_page import drop_file, drop_files, new_page, sample_canvas, wait_for_objects
from tests.serving.page_server import Answer, PageServer, answer_of, encode_image, error
from tests.serving.scene import IMAGE, NAMES, SCENE, SIZE, iou


def test_file_that_is_no_image_is_an_error_in_words(page: Any, server: PageServer) -> None:
    drop_file(page, b"a,b\n", "table.csv", "text/csv")
    assert page.inner_text("#error-text") == "“table.csv” is not an image. Use a JPEG, PNG or WebP file."
    page.click("#error-close")
    drop_file(page, b"no pixels", "broken.png")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error-text") == "The browser cannot show “broken.png”. Use a JPEG, PNG or WebP file."
    assert not server.predictions


def test_first_of_several_images_is_opened_and_reported(page: Any, server: PageServer) -> None:
    drop_files(page, [(encode_image(image), f"{i}.png", "image/png") for i, image in enumerate((IMAGE, 255 - IMAGE))])
    wait_for_objects(page)
    assert page.inner_text("#error-text") == "This is the first of 2 images. Open the others one at a time."
    assert [request.body for request in server.predictions] == [encode_image(IMAGE)]


def test_error_of_the_server_is_shown_and_can_be_tried_again(page: Any, server: PageServer) -> None:
    server.predict = lambda request: error(503, "busy", "The queue is full.", ("Retry-After", "3"))
    drop_file(page, encode_image(IMAGE))
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error-text") == "The queue is full. Try again in 3 s."
    server.predict = lambda request: Answer(answer_of(SCENE))
    page.click("#error-retry")
    wait_for_objects(page)
    assert page.is_hidden("#error")


def test_page_waits_while_the_models_are_being_loaded(page: Any, server: PageServer) -> None:
    """Without sending the image again and again."""
    refusal = error(503, "not_ready", "The models are being loaded. Try again.", ("Retry-After", "1"))
    release = threading.Event()

    def predict(request: Any) -> Answer:
        if request.path == "/readyz":
            if release.is_set():
                server.predict = lambda request: Answer(answer_of(SCENE))
                return Answer({"status": "ready"})
            release.set()  # the second look finds it ready
        return refusal

    server.predict = predict
    drop_file(page, encode_image(IMAGE))
    page.wait_for_function(
        "() => document.getElementById('progress-text').textContent === 'The server is loading its models'"
    )
    wait_for_objects(page)
    assert page.is_hidden("#error")
    assert [request.path for request in server.requests][-4:] == ["/v1/predict", "/readyz", "/readyz", "/v1/predict"]


def test_malformed_mask_is_an_error_in_words(page: Any, server: PageServer) -> None:
    answer = answer_of(SCENE)
    answer["images"][0]["objects"][0]["mask"]["counts"] += "1"
    server.predict = lambda request: Answer(answer)
    drop_file(page, encode_image(IMAGE))
    page.wait_for_selector("#error:not([hidden])")
    assert "malformed mask" in page.inner_text("#error-text")
    page.click("#error-close")
    for answer in ({"images": []}, {"detail": "a proxy"}, [], None):
        server.predict = lambda request, answer=answer: Answer(answer)
        drop_file(page, encode_image(IMAGE))
        page.wait_for_selector("#error:not([hidden])")
        assert page.inner_text("#error-text") == "The answer of the server has no detections. Check its address."
        page.click("#error-close")


def test_names_are_texts_and_no_markup(page: Any, server: PageServer) -> None:
    name = "<img src=x onerror=alert(1)>"
    answer = answer_of(SCENE[:1])
    answer["images"][0]["objects"][0]["class_name"] = name
    server.predict = lambda request: Answer(answer)
    drop_file(page, encode_image(IMAGE), "<b>file</b>.png")
    wait_for_objects(page)
    assert page.inner_text("#objects .name") == page.inner_text("#classes .name") == name
    assert page.locator("img[src=x], #panel b").count() == 0


def test_prediction_can_be_canceled(page: Any, server: PageServer) -> None:
    release = threading.Event()

    def wait(request: Any) -> Answer:
        release.wait(20)
        return Answer(answer_of(SCENE))

    server.predict = wait
    drop_file(page, encode_image(IMAGE))
    page.wait_for_function("() => document.getElementById('progress-text').textContent === 'Predicting'")
    page.click("#progress-cancel")
    page.wait_for_selector("#progress", state="hidden")
    release.set()
    assert page.inner_text("#error-text") == "The prediction is canceled."
    assert page.is_hidden("#panel")
    page.click("#error-retry")
    wait_for_objects(page)
    assert page.is_hidden("#error")


def test_image_without_objects_is_reported(page: Any, server: PageServer) -> None:
    server.predict = lambda request: Answer(answer_of(SCENE[:0]))
    drop_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    assert page.inner_text("#summary") == "0 objects"
    assert page.inner_text("#none") == "The model detects nothing in this image."
    assert page.is_disabled("#save-coco")


def test_tiles_are_suggested_where_nothing_is_detected_in_a_large_image(page: Any, server: PageServer) -> None:
    size = (20, 2400)
    nothing = Detections(size, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), NAMES, [])
    server.predict = lambda request: Answer(answer_of(nothing))
    drop_file(page, encode_image(np.zeros((*size, 3), np.uint8)))
    wait_for_objects(page)
    assert page.inner_text("#none").endswith("Inference options: tiles detect small objects.")
    page.click("summary")
    page.check("#tile")
    page.wait_for_function(
        "() => document.getElementById('none').textContent === 'The model detects nothing in this image.'"
    )
    assert server.predictions[-1].query["tile"] == ["auto"]


def test_key_is_asked_for_and_sent(browser: Any, server: PageServer) -> None:
    server.api_key = "secret"
    page = new_page(browser, server.url)
    page.wait_for_selector("#key-dialog[open]")
    assert page.inner_text("#key-message") == "The server requires an API key."
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The server does not accept this key.")
    page.fill("#key", "secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("body.ready")
    drop_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    assert server.predictions[-1].headers["x-api-key"] == "secret"
    assert not page.problems
    page.context.close()


def test_detections_without_masks_are_boxes(page: Any, server: PageServer) -> None:
    boxes = Detections(SIZE, SCENE.boxes[2:3], SCENE.scores[2:3], SCENE.labels[2:3], NAMES)
    server.predict = lambda request: Answer(answer_of(boxes))
    drop_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    page.uncheck("#labels")
    assert iou(sample_canvas(page, ".mask-layer", SIZE)[..., 3] > 0, SCENE.masks()[2]) > 0.95
