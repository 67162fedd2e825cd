"""Thumbnails for comparisons: sizes, orientation, contrast, and files that end too early."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.errors import InputError
from sais.io.images import read_image
from sais.io.thumbnails import read_thumbnail


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Return a JPEG file of 480 x 640 pixels."""
    colors = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
    Image.fromarray(colors).resize((640, 480), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=90)
    return tmp_path / "a.jpg"


def test_read_thumbnail_equals_the_reduced_image(photo: Path) -> None:
    thumbnail = read_thumbnail(photo, (32, 32))
    expected = Image.fromarray(read_image(photo)).convert("L").resize((32, 32), Image.Resampling.BOX)
    assert (thumbnail.size, thumbnail.orientation, thumbnail.gray.shape) == ((480, 640), 1, (32, 32))
    assert np.abs(thumbnail.gray.astype(int) - np.asarray(expected)).max() <= 3
    assert thumbnail.contrast > 100


def test_read_thumbnail_turns_the_image_upright(photo: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photo) as image:
        image.save(photo.with_name("turned.jpg"), exif=exif, quality=95)
    thumbnail = read_thumbnail(photo.with_name("turned.jpg"), (32, 32))
    assert (thumbnail.size, thumbnail.orientation) == ((640, 480), 6)
    upright = np.rot90(read_thumbnail(photo, (32, 32)).gray, -1)
    assert np.abs(thumbnail.gray.astype(int) - upright).max() <= 6


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("fraction", [0.3, 0.9, 0.99])
def test_read_thumbnail_notices_a_truncated_file(photo: Path, fraction: float, progressive: bool) -> None:
    """A file that is decoded at an eighth of its size is read to its end as well."""
    with Image.open(photo) as image:
        image.save(photo, quality=90, progressive=progressive)
    content = photo.read_bytes()
    photo.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match="truncated"):
        read_thumbnail(photo, (32, 32))


def test_read_thumbnail_counts_conversions_and_has_no_contrast_for_one_color(tmp_path: Path) -> None:
    Image.new("L", (50, 40), 90).save(tmp_path / "a.png")
    notes: Counter[str] = Counter()
    assert read_thumbnail(tmp_path / "a.png", (32, 32), notes).contrast == 0
    assert notes == {"grayscale": 1}
