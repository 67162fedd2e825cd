"""Modules of the page, called in headless Chromium: masks, outlines and PNG files equal those of the package."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.ops.outlines import fill_rings, ring_area, simplify_ring
from sais.ops.rle import encode
from tests.ops.mask_samples import random_masks
from tests.serving.page_server import Answer, PageServer, encode_image

DECODE = """async (rles) => {
  const { crop, extent, isSet, runEnds } = await import("./static/rle.js");
  const { simplifyRing, traceRings } = await import("./static/outlines.js");
  const pack = (values) => Array.from(values, Number).join("");
  return rles.map(({ size: [height, width], counts }) => {
    const ends = runEnds(counts, height * width);
    const { area, bounds } = extent(ends, height);
    const { bits } = crop(ends, height, bounds);
    const padded = crop(ends, height, bounds, 1);
    const rings = area ? traceRings(padded.bits, padded.width, bounds[0], bounds[1]) : [];
    const pixels = pack(Array.from({ length: height * width }, (_, i) => isSet(ends, i)));
    const simple = rings.map((ring) => [...simplifyRing(ring, 1)]);
    return { area, bounds, bits: pack(bits), pixels, rings: rings.map((ring) => [...ring]), simple };
  });
}"""


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    """Yield the page, whose modules the tests import."""
    with PageServer(lambda request: Answer({})) as server:
        opened = browser.new_page()
        opened.goto(server.url)
        yield opened
        opened.close()


def unpack(digits: str, shape: tuple[int, int]) -> np.ndarray:
    """Return a mask (h, w) bool from its digits 0 and 1."""
    return (np.frombuffer(digits.encode(), np.uint8) == ord("1")).reshape(shape)


def distances(points: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Return the distance of points (P, 2) from the nearest side of a ring (Q, 2), (P,)."""
    start, direction = ring, np.roll(ring, -1, axis=0) - ring
    offsets = points[:, None] - start
    share = ((offsets * direction).sum(2) / (direction**2).sum(1)).clip(0, 1)
    return np.hypot(*np.moveaxis(offsets - share[..., None] * direction, 2, 0)).min(1)


def test_masks_and_outlines_are_those_of_the_package(page: Any) -> None:
    masks = random_masks(seed=4, count=30)
    for mask, decoded in zip(masks, page.evaluate(DECODE, [encode(mask) for mask in masks]), strict=True):
        height, width = mask.shape
        assert np.array_equal(unpack(decoded["pixels"], (width, height)).T, mask)
        assert decoded["area"] == mask.sum()
        x1, y1, x2, y2 = decoded["bounds"]
        assert np.array_equal(unpack(decoded["bits"], (y2 - y1, x2 - x1)), mask[y1:y2, x1:x2])
        rings = [np.reshape(ring, (-1, 2)).astype(float) for ring in decoded["rings"]]
        assert np.array_equal(fill_rings(rings, mask.shape), mask)
        # Outer rings clockwise, holes counterclockwise: the areas add up to that of the mask.
        assert sum(ring_area(ring) for ring in rings) == mask.sum()
        for ring, points in zip(rings, decoded["simple"], strict=True):
            simple = np.reshape(points, (-1, 2)).astype(float)
            assert distances(ring, simple).max() <= 1
            # Points at the same distance may be chosen differently.
            assert len(simple) <= 1.1 * len(simplify_ring(ring, 1.0)) + 2


def test_malformed_runs_are_rejected(page: Any) -> None:
    script = """async (counts) => {
      const { runEnds } = await import("./static/rle.js");
      try { runEnds(counts, 12); return "accepted"; } catch (error) { return error.message; }
    }"""
    good = encode(np.eye(3, 4, dtype=bool))["counts"]
    assert page.evaluate(script, good) == "accepted"
    for counts in ("", good[:-1], good + "3", "P", "ÿÿÿÿ", "o" * 40):
        assert "malformed mask" in page.evaluate(script, counts), counts


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (200, 300)])
def test_mask_png_is_gray_with_the_same_pixels(page: Any, size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size) > 0.5
    script = """async ([bits, width, height]) =>
      (await import("./static/png.js")).maskToPng(Uint8Array.from(bits), width, height)"""
    content = page.evaluate(script, [mask.astype(int).reshape(-1).tolist(), size[1], size[0]])
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), mask)


def test_zoom_keeps_the_point_under_the_pointer(page: Any) -> None:
    script = """async () => {
      const { fit, toImage, zoomTo } = await import("./static/view.js");
      const [image, stage, point] = [[4000, 3000], [800, 700], [300, 200]];
      const before = fit(image, stage);
      const after = zoomTo(before, before.zoom * 3, point, image, stage);
      return [before.zoom, after.zoom, toImage(before, point), toImage(after, point)];
    }"""
    fitted, zoomed, before, after = page.evaluate(script)
    assert fitted == pytest.approx((800 - 32) / 4000)
    assert zoomed == pytest.approx(3 * fitted)
    assert after == pytest.approx(before)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_detail_is_cut_from_the_upright_image(page: Any, orientation: int) -> None:
    """A detail of an image too large to hold decoded is cut from the file, whose pixels a camera may have rotated."""
    upright = np.zeros((60, 90, 3), np.uint8)
    upright[10:30, 50:80] = (250, 20, 20)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright)}[orientation]
    script = """async (content) => {
      const { WorkerClient } = await import("./static/worker_client.js");
      const worker = new WorkerClient("./image_worker.js");
      const blob = new Blob([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], { type: "image/jpeg" });
      const { width, height } = await worker.call({ action: "open", blob });
      const { bitmap } = await worker.call({ action: "cut", rectangle: [45, 5, 40, 30], width: 40, height: 30 });
      const context = Object.assign(document.createElement("canvas"), { width: 40, height: 30 }).getContext("2d");
      context.drawImage(bitmap, 0, 0);
      return [width, height, btoa(String.fromCharCode(...context.getImageData(0, 0, 40, 30).data))];
    }"""
    file = encode_image(stored, "JPEG", quality=95, subsampling=0, exif=exif)
    width, height, pixels = page.evaluate(script, base64.b64encode(file).decode())
    assert (width, height) == (90, 60)
    cut = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(30, 40, 4)[..., :3]
    assert abs(cut.astype(int) - upright[5:35, 45:85]).mean() < 4
