"""The page of the service in headless Firefox: drop, masks on the canvas, slider, file to save.

The other tests use Chromium. Playwright drives the Firefox of the system by WebDriver BiDi, and downloads none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sais.ops.rle import decode
from sais.results.palette import class_color
from tests.serving.browser_page import DEADLINE_MS, drop_file, new_page, sample_canvas, set_slider, wait_for_objects
from tests.serving.page_server import PageServer, encode_image
from tests.serving.scene import IMAGE, SCENE, SIZE, iou

FIREFOX_NAMES = ("firefox-esr", "firefox")
AS_IT_IS = dict.fromkeys(("color_scheme", "reduced_motion", "forced_colors", "contrast"), "null")
"""Options of a page that has the media features of the browser: Firefox 153 cannot change them over BiDi."""
KEEP_FILES = """() => {
  window.files = [];
  const create = URL.createObjectURL;
  URL.createObjectURL = (file) => (window.files.push(file), create(file));
}"""
"""Script that keeps what the page saves: Playwright is not notified of downloads over BiDi."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield a headless Firefox; skip the tests where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra browser)")
    executable = next((path for name in FIREFOX_NAMES if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip("no Firefox is installed (Debian: apt install firefox-esr)")
    home = tmp_path_factory.mktemp("home")
    with playwright.sync_playwright() as driver, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        firefox = driver.firefox.launch(channel="moz-firefox", executable_path=executable, timeout=DEADLINE_MS)
        yield firefox
        firefox.close()


@pytest.mark.slow
def test_drop_slider_and_saved_file_in_firefox(browser: Any, server: PageServer) -> None:
    from playwright.sync_api import Error

    try:
        page = new_page(browser, server.url, **AS_IT_IS)
    except Error as error:
        if "unknown command" not in str(error):
            raise
        pytest.skip(f"this Playwright does not drive Firefox {browser.version}: {str(error).splitlines()[0]}")
    page.wait_for_selector("body.ready")
    drop_file(page, encode_image(IMAGE))
    wait_for_objects(page)
    page.uncheck("#labels")
    set_slider(page, "#opacity", 100)
    set_slider(page, "#score", 0.05)
    assert np.array_equal(sample_canvas(page, ".image-layer", SIZE)[..., :3], IMAGE)
    for index, mask in enumerate(SCENE.masks()):
        page.locator("#objects button").nth(index).dispatch_event("click")
        page.click("#zoom-fit")
        color = np.array([*class_color(int(SCENE.labels[index])), 255])
        shown = (sample_canvas(page, ".mask-layer", SIZE).astype(int) == color).all(2)
        assert iou(shown, mask) >= 0.99, index
    page.keyboard.press("Escape")
    set_slider(page, "#score", 0.75)
    selected = SCENE.above(0.75)
    painted = sample_canvas(page, ".mask-layer", SIZE)[..., 3] > 128
    assert iou(painted, selected.masks().any(0)) >= 0.99
    assert len(server.predictions) == 1
    page.evaluate(KEEP_FILES)
    page.click("#save-coco")
    page.wait_for_function("() => window.files.length === 1")
    content = json.loads(page.evaluate("() => window.files[0].text()"))
    assert len(content["annotations"]) == len(selected)
    for entry, mask in zip(content["annotations"], selected.masks(), strict=True):
        np.testing.assert_array_equal(decode(entry["segmentation"]), mask)
    assert not page.problems
    page.context.close()
