"""Images of every kind come out right, broken ones say so, and placing and fitting is exact."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.errors import SaisError
from sais.io import images
from sais.io.images import as_image, read_image, read_size, to_array
from sais.ops.letterbox import PADDING, letterbox

COLORS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 200, 200], [0, 0, 0]]], np.uint8)
"""2 x 3 pixels, all different."""


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_brings_the_image_upright(tmp_path: Path, orientation: int) -> None:
    # What the camera stores for each orientation, from the EXIF standard's "row 0 is ..., column 0 is ...".
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](COLORS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), COLORS)
    assert read_size(path) == (2, 3)
    assert read_image(path).flags.c_contiguous


def test_grey_palette_and_cmyk(tmp_path: Path) -> None:
    gray = np.array([[0, 100], [200, 255]], np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.repeat(gray[:, :, None], 3, 2))
    Image.fromarray(COLORS).quantize(8).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), COLORS)
    flat = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    flat.save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - (200, 40, 90)).max() <= 6
    Image.fromarray(gray > 50).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png")[:, :, 0], (gray > 50) * 255)


def test_alpha_lies_over_white(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 128]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [127, 177, 227]]]
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), expected)
    np.testing.assert_array_equal(as_image(rgba), expected)
    Image.fromarray(np.array([[[50, 0], [50, 255]]], np.uint8), "LA").save(tmp_path / "grey_alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey_alpha.png")[0, :, 1], [255, 50])
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 60, 70, 80])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "clear.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), [[[255, 255, 255], [60, 70, 80]]])


def test_sixteen_bits_and_floats(tmp_path: Path) -> None:
    words = np.array([[0, 257, 128, 129], [65535, 32768, 65407, 65406]], np.uint16)
    expected = [[0, 1, 0, 1], [255, 128, 255, 254]]
    for name in ("words.png", "words.tif"):
        Image.fromarray(words).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name)[:, :, 0], expected)
    np.testing.assert_array_equal(as_image(words)[:, :, 2], expected)
    Image.fromarray(words.astype(np.int32) + 10).save(tmp_path / "long.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "long.tif")[1, 0], [255] * 3)
    for greatest in (1.0, 255.0, 65535.0):
        shares = np.array([[0, 0.5, 1]], np.float32) * greatest
        Image.fromarray(shares).save(tmp_path / "float.tif")
        np.testing.assert_array_equal(read_image(tmp_path / "float.tif")[0, :, 0], [0, 128, 255])


def test_bad_files_are_named_with_a_remedy(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, word in (("cut.jpg", "broken"), ("text.jpg", "not an image"), ("empty.png", "not an image")):
        with pytest.raises(SaisError, match=f"{name}: .*{word}.*; ") as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(SaisError, match=r"gone\.jpg: no such image"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(SaisError, match="a folder"):
        read_image(tmp_path)
    assert read_size(tmp_path / "cut.jpg") == (64, 64)


def test_truncation_anywhere_is_an_error_or_a_image(tmp_path: Path) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save(whole, "PNG")
    for length in range(1, len(whole.getvalue()), 37):
        try:
            assert read_image(io.BytesIO(whole.getvalue()[:length])).shape == (20, 20, 3)
        except SaisError:
            continue


def test_python_inputs(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    for source in (COLORS, Image.fromarray(COLORS), tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(as_image(source), COLORS)
    with (tmp_path / "a.png").open("rb") as file:
        np.testing.assert_array_equal(as_image(file), COLORS)
    assert as_image(COLORS[:, :, :1]).shape == (2, 3, 3)
    assert as_image(COLORS[:, :, 0]).shape == (2, 3, 3)
    assert as_image(COLORS[:, ::-1]).flags.c_contiguous
    for bad, word in (
        (COLORS / 255.0, "float64.*uint8"),
        (np.zeros((3, 5, 7), np.uint8), "transpose"),
        (COLORS[:, :, :2], "shape"),
        (COLORS[:0], "shape"),
        (3, "int"),
    ):
        with pytest.raises(SaisError, match=word):
            as_image(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("strip", [1, 30, 100, 2**24])
def test_to_array_strip_by_strip(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_STRIP", strip)
    pixels = np.random.default_rng(0).integers(0, 256, (23, 13, 3), np.uint8)
    array = to_array(Image.fromarray(pixels))
    assert (array == pixels).all()
    assert array.flags.owndata
    assert array.flags.writeable
    assert array.flags.c_contiguous


def test_place_fixed_and_keep_ratio() -> None:
    fixed = letterbox((480, 640), "fixed", (768, 512))
    assert fixed.canvas_size == (768, 512)
    assert fixed.scale == (768 / 480, 512 / 640)
    kept = letterbox((480, 640), "keep_ratio", (800, 1333))
    assert kept.canvas_size == (800, 1088)
    assert kept.scale == (800 / 480, 1067 / 640)
    long = letterbox((100, 1000), "keep_ratio", (800, 1333))
    assert long.canvas_size == (160, 1344)
    assert long.scale == (133 / 100, 1333 / 1000)
    assert letterbox((1, 5000), "keep_ratio", (320, 640)).canvas_size == (32, 640)
    with pytest.raises(SaisError, match="multiples of 32, for instance 320 640"):
        letterbox((480, 640), "fixed", (310, 640))


def test_fit_resizes_and_pads() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)
    canvas_map = letterbox((50, 80), "keep_ratio", (100, 160))
    canvas = canvas_map.image(image)
    assert canvas.shape == (128, 160, 3)
    resized = np.asarray(Image.fromarray(image).resize((160, 100), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(canvas[:100], resized)
    assert (canvas[100:] == PADDING).all()
    same = letterbox((128, 160), "fixed", (128, 160)).image(canvas)
    np.testing.assert_array_equal(same, canvas)
    assert same is not canvas
    assert same.flags.writeable


def test_fit_keeps_places() -> None:
    """A dot of the image lies on the canvas where Placement says."""
    image = np.zeros((90, 120, 3), np.uint8)
    image[40:50, 60:70] = 255
    for mode, size in (("fixed", (256, 192)), ("keep_ratio", (200, 300))):
        canvas_map = letterbox((90, 120), mode, size)  # type: ignore[arg-type]
        canvas = canvas_map.image(image)[:, :, 0].astype(float)
        canvas[round(90 * canvas_map.scale[0]) :] = 0
        canvas[:, round(120 * canvas_map.scale[1]) :] = 0
        down = (np.arange(canvas.shape[0]) + 0.5) @ canvas.sum(1) / canvas.sum()
        across = (np.arange(canvas.shape[1]) + 0.5) @ canvas.sum(0) / canvas.sum()
        np.testing.assert_allclose([down, across], [45 * canvas_map.scale[0], 65 * canvas_map.scale[1]], atol=0.05)
