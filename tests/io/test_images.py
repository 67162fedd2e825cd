"""Image reading: orientation, color modes, bit depths, corrupt files, and the pixel limit."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.errors import InputError, ResourceError
from sais.io import images
from sais.io.images import as_image, read_image, read_size, to_array

COLORS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 200, 200], [0, 0, 0]]], np.uint8)
"""(2, 3, 3) all pixels different."""


@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_applies_exif_orientation(tmp_path: Path, orientation: int) -> None:
    # The stored pixels for each orientation, from the EXIF standard's "row 0 is ..., column 0 is ...".
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


def test_read_image_converts_gray_palette_cmyk_and_bits(tmp_path: Path) -> None:
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


def test_read_image_composites_alpha_over_white(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 128]]], np.uint8)
    expected = [[[10, 20, 30], [255, 255, 255], [127, 177, 227]]]
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), expected)
    np.testing.assert_array_equal(as_image(rgba), expected)
    Image.fromarray(np.array([[[50, 0], [50, 255]]], np.uint8), "LA").save(tmp_path / "gray_alpha.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray_alpha.png")[0, :, 1], [255, 50])
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 60, 70, 80])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "clear.png", transparency=0)
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), [[[255, 255, 255], [60, 70, 80]]])


def test_read_image_scales_16_bit_and_float_data(tmp_path: Path) -> None:
    words = np.array([[0, 257, 128, 129], [65535, 32768, 65407, 65406]], np.uint16)
    expected = [[0, 1, 0, 1], [255, 128, 255, 254]]
    for name in ("words.png", "words.tif"):
        Image.fromarray(words).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name)[:, :, 0], expected)
    np.testing.assert_array_equal(as_image(words)[:, :, 2], expected)
    Image.fromarray(words.astype(np.int32) + 10).save(tmp_path / "long.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "long.tif")[1, 0], [255] * 3)
    for maximum in (1.0, 255.0, 65535.0):
        levels = np.array([[0, 0.5, 1]], np.float32) * maximum
        Image.fromarray(levels).save(tmp_path / "float.tif")
        np.testing.assert_array_equal(read_image(tmp_path / "float.tif")[0, :, 0], [0, 128, 255])


def test_read_image_names_corrupt_files(tmp_path: Path) -> None:
    valid = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(valid, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(valid.getvalue()[: len(valid.getvalue()) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.jpg", "text.jpg", "empty.png"):
        with pytest.raises(InputError, match=f"{name}: ") as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"gone\.jpg: "):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(InputError, match="a folder"):
        read_image(tmp_path)
    assert read_size(tmp_path / "cut.jpg") == (64, 64)


def test_read_image_of_truncated_png_raises_or_returns_an_image(tmp_path: Path) -> None:
    valid = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save(valid, "PNG")
    for length in range(1, len(valid.getvalue()), 37):
        try:
            assert read_image(io.BytesIO(valid.getvalue()[:length])).shape == (20, 20, 3)
        except InputError:
            continue


def test_as_image_accepts_paths_files_pillow_and_arrays(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    for source in (COLORS, Image.fromarray(COLORS), tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(as_image(source), COLORS)
    with (tmp_path / "a.png").open("rb") as file:
        np.testing.assert_array_equal(as_image(file), COLORS)
    assert as_image(COLORS[:, :, :1]).shape == (2, 3, 3)
    assert as_image(COLORS[:, :, 0]).shape == (2, 3, 3)
    assert as_image(COLORS[:, ::-1]).flags.c_contiguous
    for source, word in (
        (COLORS / 255.0, "float64.*uint8"),
        (np.zeros((3, 5, 7), np.uint8), "transpose"),
        (COLORS[:, :, :2], "shape"),
        (COLORS[:0], "shape"),
        (3, "int"),
    ):
        with pytest.raises(InputError, match=word):
            as_image(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("strip", [1, 30, 100, 2**24])
def test_to_array_in_strips_copies_all_pixels(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_STRIP_PIXELS", strip)
    pixels = np.random.default_rng(0).integers(0, 256, (23, 13, 3), np.uint8)
    array = to_array(Image.fromarray(pixels))
    assert (array == pixels).all()
    assert array.flags.owndata
    assert array.flags.writeable
    assert array.flags.c_contiguous


def test_read_image_limits_pixels_for_one_call_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)  # Pillow rejects images above twice the limit
    for _ in range(2):
        with pytest.raises(ResourceError, match="too many pixels"):
            read_image(tmp_path / "large.png")
        assert read_image(tmp_path / "large.png", max_pixels=2000).shape == (40, 50, 3)
        assert Image.MAX_IMAGE_PIXELS == 900
