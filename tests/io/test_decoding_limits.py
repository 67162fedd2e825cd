"""Image files that would take much memory or time, and lack of memory while an image is read."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais import input_limits
from sais.errors import InputError, ResourceError
from sais.io.images import as_image, count_pages, read_image
from sais.io.pages import page_positions
from sais.io.sources import find_sources


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg_of_scans(count: int) -> bytes:
    """Return a progressive JPEG file whose last scan is repeated."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 80, 200)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rfind(b"\xff\xda") : -2]
    return content[:-2] + last * count + content[-2:]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_jpeg_with_many_scans_is_refused(tmp_path: Path, as_bytes: bool) -> None:
    """Each of 5,000 scans in 60 KB is a pass over all pixels: minutes for a large image."""
    path = tmp_path / "scans.jpg"
    path.write_bytes(jpeg_of_scans(5000))
    with pytest.raises(ResourceError, match="progressive JPEG file of more than 100 scans"):
        as_image(path.read_bytes() if as_bytes else path)
    path.write_bytes(jpeg_of_scans(10))
    assert read_image(path).shape == (64, 64, 3)


def test_jpeg_without_a_scan_is_not_searched_byte_by_byte(tmp_path: Path) -> None:
    """Pillow reads zeros in search of a marker one by one: 5 GB of them took half an hour."""
    path = tmp_path / "zeros.jpg"
    path.write_bytes(jpeg_of_scans(0)[:200])
    with path.open("r+b") as file:
        file.truncate(5 * 2**30)  # sparse
    with pytest.raises(InputError, match=r"zeros.jpg: corrupt image \(no scan"):
        read_image(path)


def test_webp_larger_than_memory_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.webp"
    Image.new("RGB", (8, 8)).save(path)
    with path.open("r+b") as file:
        file.truncate(5 * 2**30)  # sparse
    with pytest.raises(ResourceError, match=r"large.webp: a WEBP file of 5.0 GB, above the limit of 1 GB"):
        read_image(path)


def test_stated_number_of_frames_is_limited(tmp_path: Path) -> None:
    """An animated PNG states its number of frames; two billion positions were listed: 70 GB."""
    path = tmp_path / "frames.png"
    Image.new("RGB", (8, 8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:33] + png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + content[33:])
    with pytest.raises(ResourceError, match=r"frames.png: 214748364\d pages or frames, above the limit of 100000"):
        count_pages(path)
    assert read_image(path).shape == (8, 8, 3)
    assert len(find_sources([str(path)], "all").images) == 1


def test_frames_of_a_gif_are_not_counted_to_see_that_there_are_two(tmp_path: Path) -> None:
    path = tmp_path / "frames.gif"
    frames = [Image.new("L", (4, 4), 9 * i) for i in range(5)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        assert page_positions(image, limit=2) == [0, 1]
        assert image._n_frames is None  # type: ignore[attr-defined]
        assert page_positions(image) == [0, 1, 2, 3, 4]


def test_conversions_in_strips_equal_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sais.io import pixels

    random = np.random.default_rng(0)
    arrays = [
        random.integers(0, 4000, (37, 29, 3), dtype=np.uint16),
        random.random((37, 29)) * 300,
        random.integers(0, 255, (37, 29, 4), dtype=np.uint8),
    ]
    whole = [as_image(array) for array in arrays]
    monkeypatch.setattr(pixels, "_CONVERTED_SAMPLES", 100)
    for array, expected in zip(arrays, whole, strict=True):
        np.testing.assert_array_equal(as_image(array), expected)


_READ_WITH_LIMIT = """
import resource, sys
from pathlib import Path
from PIL import Image
from sais.errors import SaisError
from sais.io import decoding, pages, pixels
from sais.io.images import read_image
Image.init()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
for name in sys.argv[1:]:
    try:
        print(read_image(name).shape)
    except SaisError as error:
        print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process through Linux's /proc")
def test_lack_of_memory_is_not_a_corrupt_image(tmp_path: Path) -> None:
    """WebP and JPEG 2000 decoders fail without memory as for a corrupt file, and the image was skipped as broken."""
    names = [str(tmp_path / f"large.{suffix}") for suffix in ("png", "tif", "jpg", "webp", "jp2")]
    for name in names:
        Image.new("RGB", (4000, 3000)).save(name)
    corrupt = tmp_path / "corrupt.webp"
    Image.new("RGB", (64, 64)).save(corrupt)
    corrupt.write_bytes(corrupt.read_bytes()[:40])
    argv = [sys.executable, "-c", _READ_WITH_LIMIT, *names, str(corrupt)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout.split() == ["OutOfMemoryError"] * len(names) + ["InputError"], done.stderr


_ASK_FOR_MEMORY = """
from pathlib import Path
from sais.io.decoding_limits import lacks_memory
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
print(lacks_memory(2**25), peak() - before < 2**16)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks up the memory of a process in Linux's /proc")
def test_memory_for_a_corrupt_image_is_not_taken() -> None:
    """Several processes that took gigabytes for each would be killed by the system, or others instead of them."""
    done = subprocess.run([sys.executable, "-c", _ASK_FOR_MEMORY], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_limits_are_read_when_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("L", (4, 4), i) for i in range(3)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    assert count_pages(tmp_path / "pages.tif") == 3
    monkeypatch.setattr(input_limits, "MAX_PAGES", 2)
    with pytest.raises(ResourceError, match=r"pages.tif: 3 pages or frames, above the limit of 2"):
        count_pages(tmp_path / "pages.tif")
