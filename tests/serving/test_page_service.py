"""The page of a running service in headless Chromium: its masks are those of the predictor, nothing is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sais.results.palette import class_color
from tests.serving.browser_page import drop_file, new_page, sample_canvas, set_slider, wait_for_objects
from tests.serving.pixel_model import encoded, noise, pixel_predictor, serving
from tests.serving.scene import iou


def test_masks_of_the_service_are_on_the_canvas(browser: Any, tmp_path: Path) -> None:
    image = noise(3)
    (tmp_path / "example one.png").write_bytes(encoded(image))
    predictor = pixel_predictor()
    with serving({"pixels": predictor}, api_keys=("secret",), examples=tmp_path) as server:
        page = new_page(browser, server.url)
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("body.ready")
        drop_file(page, encoded(image))
        wait_for_objects(page)
        page.uncheck("#labels")
        set_slider(page, "#opacity", 100)
        detections = predictor(image)
        assert len(detections) == 2
        for index, mask in enumerate(detections.masks()):
            page.locator("#objects button").nth(index).click()
            page.click("#zoom-fit")
            color = np.array([*class_color(int(detections.labels[index])), 255])
            shown = (sample_canvas(page, ".mask-layer", mask.shape).astype(int) == color).all(2)
            assert iou(shown, mask) >= 0.99
        page.click("#examples button")
        page.wait_for_function("() => document.title.startsWith('example one.png')")
        wait_for_objects(page)
        assert page.inner_text("#summary") == "2 objects"
        page.click("summary")
        page.check("#tile")
        page.wait_for_selector("#progress", state="hidden")
        assert page.is_hidden("#error")
        assert not page.problems
        page.context.close()
