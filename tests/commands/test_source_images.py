"""Reading of the sources of `sais predict` in batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.commands.source_images import MAX_LISTED, BatchReader
from sais.errors import InputError
from sais.io.image_reader import ImageReader
from sais.io.sources import SourceImage, find_sources


@pytest.fixture
def images(tmp_path: Path) -> list[SourceImage]:
    """Return seven images, of which the second, third and sixth are unreadable."""
    for i in range(7):
        Image.fromarray(np.full((4, 6), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
    for i in (1, 2):
        (tmp_path / f"{i}.png").write_bytes(b"")
    (tmp_path / "5.png").write_bytes((tmp_path / "5.png").read_bytes()[:50])
    return find_sources([str(tmp_path)]).images


@pytest.mark.parametrize("read_ahead", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 20])
def test_batch_reader_counts_unreadable_images(
    images: list[SourceImage], batch_size: int, read_ahead: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = BatchReader(images, ImageReader(), batch_size, read_ahead)
    values = [(source.file_name, int(array[0, 0, 0])) for batch in batches for source, array in batch]
    assert values == [("0.png", 0), ("3.png", 90), ("4.png", 120), ("6.png", 180)]
    assert batches.unreadable.total() == 3
    assert batches.unreadable["empty file"] == 2
    assert batches.summary()[0] == "converted to 8-bit RGB: 4 grayscale"
    assert batches.summary()[1].startswith("skipped 3 unreadable images: 2 empty file, 1 ")
    assert capsys.readouterr().out.count("skipped, unreadable (") == 3


def test_batch_reader_without_readable_images_raises(images: list[SourceImage]) -> None:
    with pytest.raises(InputError, match=r"none of the 2 images can be read \(2 empty file\); the first: .*1\.png"):
        list(BatchReader(images[1:3], ImageReader(), 4))
    with pytest.raises(InputError, match=r"1\.png: an empty file"):
        list(BatchReader(images[1:2], ImageReader(), 4))
    with pytest.raises(InputError, match="--no-skip-broken"):
        list(BatchReader(images, ImageReader(), 4, skip_unreadable=False))


def test_batch_reader_lists_few_unreadable_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2 * MAX_LISTED):
        (tmp_path / f"{i}.jpg").write_bytes(b"no image")
    Image.new("RGB", (4, 4)).save(tmp_path / "valid.png")
    batches = BatchReader(find_sources([str(tmp_path)]).images, ImageReader(), 4)
    assert sum(len(batch) for batch in batches) == 1
    assert capsys.readouterr().out.count("skipped, unreadable (not an image)") == MAX_LISTED
    assert batches.summary() == [f"skipped {2 * MAX_LISTED} unreadable images: {2 * MAX_LISTED} not an image"]


def test_image_reader_reads_pages_in_any_order(tmp_path: Path) -> None:
    for name in ("a.gif", "b.tif"):
        pages = [Image.fromarray(np.full((4, 6), 50 * i, np.uint8)) for i in range(4)]
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    images = find_sources([str(tmp_path)], pages="all").images
    assert len(images) == 8
    reader = ImageReader()
    for i in (0, 1, 2, 3, 6, 4, 2, 7, 1):
        assert reader.read(images[i])[0, 0, 0] == 50 * (i % 4)
    reader.close()
    with pytest.raises(InputError, match=r"a\.gif page 9: corrupt"):
        reader.read(SourceImage(tmp_path / "a.gif", "a_page_0009.gif", 8))
