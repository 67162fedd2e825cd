"""Frame rate of the page while a slider moves, in headless Chromium with software rendering (no test).

    python -m tests.serving.frame_rate  # 100 and 1,000 objects, 12 and 50 megapixels, desktop and phone

On a busy machine, the CPU time of a frame is the figure to compare: 33 ms are 30 frames/s of one core.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from tests.serving.browser_page import ARGUMENTS, drop_file, find_chromium, wait_for_objects
from tests.serving.page_server import Answer, PageServer, answer_of, encode_image

NAMES = ("cell", "bead", "fiber", "debris")
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 3}
CASES: tuple[tuple[str, tuple[int, int], int, dict[str, Any]], ...] = (
    ("desktop", (3000, 4000), 100, DESKTOP),
    ("desktop", (3000, 4000), 1000, DESKTOP),
    ("desktop", (6000, 8400), 100, DESKTOP),
    ("phone, 3x", (3000, 4000), 100, PHONE),
)
"""Device, size (H, W) of the image, number of objects, options of the browser."""
MOVE = """([selector, low, high, frames]) => new Promise((resolve) => {
  const slider = document.querySelector(selector);
  const times = [];
  const step = (time) => {
    times.push(time);
    if (times.length > frames) return resolve(times);
    const phase = (times.length % 60) / 30;
    slider.value = low + (high - low) * Math.abs(1 - phase);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
"""Moves a slider in each frame, up and down, and returns the times of the frames in milliseconds."""


def random_objects(size: tuple[int, int], count: int, radius: float, seed: int = 0) -> Detections:
    """Return `count` objects with wavy outlines, a fifth of them with a hole, on an image (H, W).

    Args:
        size: (H, W).
        count: number of objects.
        radius: mean radius as a fraction of the width.
        seed: seed of the random generator.
    """
    height, width = size
    random = np.random.default_rng(seed)
    boxes, masks = [], []
    for _ in range(count):
        mean = random.uniform(0.5, 1.5) * radius * width
        cx, cy = random.uniform(0, width), random.uniform(0, height)
        x1, y1 = (max(0, int(center - 1.4 * mean)) for center in (cx, cy))
        x2, y2 = min(width, int(cx + 1.4 * mean) + 1), min(height, int(cy + 1.4 * mean) + 1)
        y, x = np.mgrid[y1:y2, x1:x2]
        angle, distance = np.arctan2(y - cy, x - cx), np.hypot(x - cx, y - cy)
        lobes, phase = random.integers(2, 6), random.uniform(0, 2 * np.pi)
        bits = distance < mean * (1 + 0.25 * np.sin(lobes * angle + phase) + 0.05 * np.sin(17 * angle))
        if random.random() < 0.2:
            bits &= distance > 0.4 * mean
        boxes.append([x1, y1, x2, y2])
        masks.append(CroppedMask(x1, y1, bits))
    scores = np.sort(random.uniform(0.06, 0.99, count))[::-1]
    return Detections(size, np.array(boxes), scores, random.integers(0, len(NAMES), count), NAMES, masks)


def random_image(size: tuple[int, int]) -> bytes:
    """Return a JPEG of an image (H, W) of smooth random colors."""
    height, width = size
    colors = np.random.default_rng(1).integers(60, 200, (height // 50, width // 50, 3)).astype(np.uint8)
    return encode_image(np.kron(colors, np.ones((50, 50, 1), np.uint8)), "JPEG", quality=85)


def measure(page: Any, session: Any, selector: str, low: float, high: float, frames: int = 180) -> str:
    """Return frames per second while a slider moves, mean and slowest, and the CPU time of a frame."""
    before = cpu_seconds(session)
    times = np.diff(np.array(page.evaluate(MOVE, [selector, low, high, frames])))
    cpu_ms = 1000 * (cpu_seconds(session) - before) / frames
    low_rate, high_rate = 1000 / np.percentile(times, 95), 1000 / times.mean()
    return f"{high_rate:5.1f} frames/s, {low_rate:5.1f} in the slowest twentieth; {cpu_ms:5.1f} ms of CPU a frame"


def cpu_seconds(session: Any) -> float:
    """Return the CPU time that all processes of the browser have used."""
    return sum(process["cpuTime"] for process in session.send("SystemInfo.getProcessInfo")["processInfo"])


def main() -> None:
    """Measure all cases and print a line for each."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=list(ARGUMENTS))
        session = browser.new_browser_cdp_session()
        for device, size, count, options in CASES:
            answer = Answer(answer_of(random_objects(size, count, 0.03 if count <= 100 else 0.012)))
            with PageServer(lambda request, answer=answer: answer) as server:
                page = browser.new_context(**options).new_page()
                page.goto(server.url)
                page.wait_for_selector("body.ready")
                drop_file(page, random_image(size), "large.jpg", "image/jpeg")
                wait_for_objects(page)
                megapixels = size[0] * size[1] / 1e6
                print(f"{device}, {megapixels:.0f} megapixels, {count} objects:")
                print(f"  opacity slider  {measure(page, session, '#opacity', 0, 100)}")
                print(f"  score slider    {measure(page, session, '#score', 0.05, 1)}")
                page.context.close()
        browser.close()


if __name__ == "__main__":
    main()
