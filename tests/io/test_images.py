"""Image reading: orientation, color modes, bit depths, corrupt files, and the pixel limit."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.errors import InputError, ResourceError
from sais.io import pixels
from sais.io.images import SEVERAL_PAGES, as_image, count_pages, read_image, read_size
from sais.io.pixels import to_array

COLORS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 200, 200], [0, 0, 0]]], np.uint8)
"""(2, 3, 3) all pixels different."""


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_read_image_applies_exif_orientation_once(tmp_path: Path, orientation: int, suffix: str) -> None:
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
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), COLORS)
    with Image.open(path) as image:
        np.testing.assert_array_equal(as_image(image), COLORS)
        np.testing.assert_array_equal(as_image(image), COLORS)  # decoded before
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


def png_bytes(samples: np.ndarray) -> bytes:
    """Return a PNG file of samples (H, W, 3) or (H, W, 4) uint16, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff_bytes(samples: np.ndarray, order: str, compressed: bool) -> bytes:
    """Return a TIFF file of samples (H, W, 3) uint16 in a byte order, which Pillow cannot write."""
    height, width, _ = samples.shape
    data = samples.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compressed else data
    offset = 8 + 2 + 12 * 9 + 4
    short = {256: width, 257: height, 259: 8 if compressed else 1, 262: 2, 277: 3, 278: height}
    long = {258: (3, 3, offset), 273: (4, 1, offset + 6), 279: (4, 1, len(data))}
    entries = b""
    for tag in sorted((*short, *long)):
        kind, count, value = long.get(tag, (3, 1, 0))
        entries += struct.pack(f"{order}HHI", tag, kind, count)
        entries += struct.pack(f"{order}HH", short[tag], 0) if tag in short else struct.pack(f"{order}I", value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 9)
    return head + entries + struct.pack(f"{order}I", 0) + struct.pack(f"{order}HHH", 16, 16, 16) + data


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_read_image_scales_gray_by_the_bits_in_use(tmp_path: Path, bits: int) -> None:
    level = 2**bits - 1
    samples = np.array([[0, level // 3, level // 2, level]], np.uint16)
    notes: Counter[str] = Counter()
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(samples).save(tmp_path / name)
        image = read_image(tmp_path / name, notes=notes)
        np.testing.assert_array_equal(image[0, :, 1], np.floor(samples[0] / level * 255 + 0.5))
    np.testing.assert_array_equal(as_image(samples), image)
    assert notes == {f"16-bit (0 to {level} scaled to 0 to 255)": 2}


@pytest.mark.parametrize("kind", ["png", "rgba", "tiff <", "tiff >", "tiff < compressed", "tiff > compressed"])
def test_read_image_keeps_12_bits_of_color(kind: str) -> None:
    samples = np.random.default_rng(0).integers(0, 4096, (9, 7, 3)).astype(np.uint16)
    samples[0, 0] = 4095
    if kind.startswith("tiff"):
        content = tiff_bytes(samples, kind[5], "compressed" in kind)
    else:
        alpha = np.full((9, 7, 1), 65535, np.uint16)
        content = png_bytes(samples if kind == "png" else np.concatenate([samples, alpha], 2))
    notes: Counter[str] = Counter()
    image = read_image(io.BytesIO(content), notes=notes)
    np.testing.assert_array_equal(image, np.floor(samples / 4095 * 255 + 0.5))
    assert notes == {"16-bit (0 to 4095 scaled to 0 to 255)": 1}


def test_read_image_scales_by_the_white_level_given(tmp_path: Path) -> None:
    samples = np.array([[0, 500, 1000, 2000]], np.uint16)
    Image.fromarray(samples).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png", white_level=1000)
    np.testing.assert_array_equal(image[0, :, 0], [0, 128, 255, 255])
    color = np.repeat(samples[:, :, None], 3, 2) * np.uint16(30)
    image = read_image(io.BytesIO(png_bytes(color)), white_level=30000)
    np.testing.assert_array_equal(image[0, :, 2], [0, 128, 255, 255])


def test_read_image_scales_a_pgm_by_its_stated_maximum(tmp_path: Path) -> None:
    (tmp_path / "dark.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([0, 400], ">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "dark.pgm")[0, :, 0], [0, 25])


def test_read_image_scales_a_tiff_by_its_stated_bits(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 400]], np.uint16)).save(tmp_path / "dark.tif")
    with Image.open(tmp_path / "dark.tif") as image:
        image.tag_v2[258] = (12,)  # Pillow writes 16 only, and reads 12-bit samples in the same mode
        np.testing.assert_array_equal(as_image(image)[0, :, 0], [0, 25])


def test_as_image_accepts_bool_and_float_arrays() -> None:
    np.testing.assert_array_equal(as_image(np.array([[False, True]]))[0, :, 0], [0, 255])
    np.testing.assert_array_equal(as_image(COLORS / 255.0), COLORS)
    np.testing.assert_array_equal(as_image(COLORS.astype(np.float32)), COLORS)


def test_as_image_accepts_bytes_and_files_without_seek() -> None:
    file = io.BytesIO()
    Image.fromarray(COLORS).save(file, "PNG")
    content = file.getvalue()

    class Pipe(io.RawIOBase):
        """A file that can only be read on."""

        def __init__(self) -> None:
            self.file = io.BytesIO(content)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self.file.read(size)

    for source in (content, bytearray(content), memoryview(content), io.BytesIO(content), Pipe()):
        np.testing.assert_array_equal(as_image(source), COLORS)


def test_as_image_accepts_tensors_with_channels_first() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(COLORS.transpose(2, 0, 1).copy())
    np.testing.assert_array_equal(as_image(tensor), COLORS)
    np.testing.assert_array_equal(as_image(tensor.float() / 255), COLORS)
    np.testing.assert_array_equal(as_image(tensor[0])[:, :, 2], COLORS[:, :, 0])
    with pytest.raises(InputError, match="a batch"):
        as_image(tensor[None])
    with pytest.raises(InputError, match=r"\(3, H, W\)"):
        as_image(torch.zeros(7, 5, 3))


def test_read_image_counts_conversions(tmp_path: Path) -> None:
    notes: Counter[str] = Counter()
    Image.fromarray(COLORS).convert("L").save(tmp_path / "gray.png")
    Image.fromarray(COLORS).convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((2, 2, 4), 255, np.uint8)).save(tmp_path / "opaque.png")
    Image.fromarray(COLORS).save(tmp_path / "color.png")
    for path in sorted(tmp_path.iterdir()):
        read_image(path, notes=notes)
    assert notes == {"grayscale": 1, "CMYK": 1, "with transparency (composited over white)": 1}


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".webp", ".png"])
def test_read_image_of_each_page(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pages{suffix}"
    pages = [Image.fromarray(np.full((4, 6, 3), 80 * i, np.uint8)) for i in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **({"lossless": True} if suffix == ".webp" else {}))
    assert count_pages(path) == 3
    assert [int(read_image(path, page=i)[0, 0, 0]) for i in range(3)] == [0, 80, 160]
    with pytest.raises(InputError, match="no page 4; the file has 3"):
        read_image(path, page=3)
    notes: Counter[str] = Counter()
    assert read_image(path, notes=notes).max() == 0
    assert notes[SEVERAL_PAGES] == 1


def test_count_pages_counts_the_first_corrupt_page(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 50, 3), np.uint8)) for i in range(4)]
    for name in ("cut.tif", "cut.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    tiff, gif = ((tmp_path / name).read_bytes() for name in ("cut.tif", "cut.gif"))
    (tmp_path / "cut.tif").write_bytes(tiff[: int(0.4 * len(tiff))])
    assert count_pages(tmp_path / "cut.tif") == 3
    np.testing.assert_array_equal(read_image(tmp_path / "cut.tif", page=0), pages[0])
    with pytest.raises(InputError, match=r"cut\.tif: corrupt image"):
        read_image(tmp_path / "cut.tif", page=2)
    for length in range(20, len(gif), len(gif) // 40):
        (tmp_path / "cut.gif").write_bytes(gif[:length])
        with contextlib.suppress(InputError):  # and no other error
            assert 1 <= count_pages(tmp_path / "cut.gif") <= 4


def test_count_pages_leaves_out_reduced_copies(tmp_path: Path) -> None:
    path = tmp_path / "pyramid.tif"
    pages = [Image.fromarray(np.full((8 // 2**i, 8 // 2**i, 3), 80 * i, np.uint8)) for i in range(3)]
    for page, subfile_type in zip(pages, (0, 1, 0), strict=True):
        page.encoderinfo = {"tiffinfo": {254: subfile_type}}
    pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo={254: 0})
    assert count_pages(path) == 2
    assert read_image(path, page=1)[0, 0, 0] == 160


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
        (COLORS / 127.5 - 1, "values from -1"),
        (COLORS.astype(np.int64), "int64.*uint8"),
        (np.zeros((3, 5, 7), np.uint8), "transpose"),
        (COLORS[None], "a list"),
        ([COLORS], "Predictor.batch"),
        (io.StringIO("text"), "'rb'"),
        (COLORS[:, :, :2], "shape"),
        (COLORS[:0], "shape"),
        (3, "int"),
    ):
        with pytest.raises(InputError, match=word):
            as_image(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("strip", [1, 30, 100, 2**24])
def test_to_array_in_strips_copies_all_pixels(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_STRIP_PIXELS", strip)
    image = np.random.default_rng(0).integers(0, 256, (23, 13, 3), np.uint8)
    array = to_array(Image.fromarray(image))
    assert (array == image).all()
    assert array.flags.owndata
    assert array.flags.writeable
    assert array.flags.c_contiguous


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_read_image_limits_pixels_for_one_call_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"large{suffix}"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)  # Pillow rejects images above twice the limit
    for _ in range(2):
        with pytest.raises(ResourceError, match="too many pixels"):
            read_image(path)
        assert read_image(path, max_pixels=2000).shape == (40, 50, 3)
        assert Image.MAX_IMAGE_PIXELS == 900
