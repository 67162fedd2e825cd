"""The page of the service in a headless browser: what a reader does, and what the canvases show."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--force-color-profile=srgb", "--disable-dev-shm-usage")
DEADLINE_MS = 90_000
"""Milliseconds after which a test fails that waits for the page, also on a machine with other work."""
EXPECTED_MESSAGES = ("Failed to load resource", "willReadFrequently")
"""Messages of the browser about statuses that a test asks for, and about the test's reading of the canvas."""

_TRANSFER = """(files) => {
  const transfer = new DataTransfer();
  for (const [content, name, type] of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name, { type }));
  }
  return transfer;
}"""
_SAMPLE = """([selector, width, height]) => {
  const read = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const image = read(document.querySelector(".image-layer"));
  let [left, top, right, bottom] = [Infinity, Infinity, 0, 0];
  for (let i = 3; i < image.data.length; i += 4) if (image.data[i]) {
    const pixel = (i - 3) / 4, x = pixel % image.width, y = Math.floor(pixel / image.width);
    [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x + 1), Math.max(bottom, y + 1)];
  }
  const canvas = read(document.querySelector(selector));
  const values = new Uint8Array(4 * width * height);
  for (let row = 0; row < height; row++) for (let column = 0; column < width; column++) {
    const x = Math.floor(left + ((column + 0.5) * (right - left)) / width);
    const y = Math.floor(top + ((row + 0.5) * (bottom - top)) / height);
    const pixel = 4 * (y * canvas.width + x);
    values.set(canvas.data.subarray(pixel, pixel + 4), 4 * (row * width + column));
  }
  return btoa(String.fromCharCode(...values));
}"""
_IDLE = "() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"


def find_chromium() -> str | None:
    """Return the path of an installed Chromium, or None. Nothing is downloaded."""
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


def new_page(browser: Any, url: str, **options: Any) -> Any:
    """Open the page; errors of scripts and violations of the policy are collected in `page.problems`."""
    page = browser.new_context(**({"viewport": {"width": 1200, "height": 800}} | options)).new_page()
    page.set_default_timeout(DEADLINE_MS)
    page.problems = []

    def record(message: Any) -> None:
        if message.type in ("error", "warning") and not any(text in message.text for text in EXPECTED_MESSAGES):
            page.problems.append(message.text)

    page.on("console", record)
    page.on("pageerror", lambda problem: page.problems.append(str(problem)))
    page.goto(url)
    return page


def drop_file(page: Any, content: bytes, name: str = "scene.png", kind: str = "image/png") -> None:
    """Drop a file on the page."""
    drop_files(page, [(content, name, kind)])


def drop_files(page: Any, files: Sequence[tuple[bytes, str, str]]) -> None:
    """Drop files on the page: content, name and media type of each."""
    transfer = _transfer(page, files)
    page.dispatch_event("#view", "dragenter", {"dataTransfer": transfer})
    page.dispatch_event("#view", "drop", {"dataTransfer": transfer})


def paste_file(page: Any, content: bytes, name: str = "image.png", kind: str = "image/png") -> None:
    """Paste a file."""
    script = (
        "(data) => document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }))"
    )
    page.evaluate(script, _transfer(page, [(content, name, kind)]))


def _transfer(page: Any, files: Sequence[tuple[bytes, str, str]]) -> Any:
    return page.evaluate_handle(_TRANSFER, [[base64.b64encode(content).decode(), *names] for content, *names in files])


def wait_for_objects(page: Any) -> None:
    """Wait until the objects of the current image are shown."""
    page.wait_for_selector("#panel:not([hidden])")
    page.wait_for_selector("#progress", state="hidden")
    page.evaluate(_IDLE)


def set_slider(page: Any, selector: str, value: float) -> None:
    """Move a slider and wait for the next frames."""
    page.fill(selector, f"{value:g}")
    page.evaluate(_IDLE)


def sample_canvas(page: Any, selector: str, size: tuple[int, int]) -> np.ndarray:
    """Return what a canvas has at the center of each pixel of the image, (H, W, 4) uint8 RGBA.

    The image layer is transparent outside of the image, which shows where the image is.

    Args:
        page: The page; the whole image is visible.
        selector: `.image-layer` or `.mask-layer`.
        size: (H, W) of the image.
    """
    page.evaluate(_IDLE)
    values = page.evaluate(_SAMPLE, [selector, size[1], size[0]])
    return np.frombuffer(base64.b64decode(values), np.uint8).reshape(*size, 4)
