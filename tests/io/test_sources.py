"""Image sources: files, folders and glob patterns."""

from __future__ import annotations

from pathlib import Path

import pytest

from sais.errors import InputError
from sais.io.sources import find_images


def names(paths: list[Path]) -> list[str]:
    """Return the file names."""
    return [path.name for path in paths]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create files with image suffixes and others, in two levels."""
    for name in (
        "a10.jpg",
        "a2.JPG",
        "b.webp",
        "a1.png",
        "._a1.png",
        "notes.txt",
        "film.mp4",
        "sub/a3.tif",
        "sub/x.json",
    ):
        path = tmp_path / "shots" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "shots"


def test_find_images_sorts_naturally_and_skips_other_files(folder: Path) -> None:
    assert names(find_images(folder)) == ["a1.png", "a2.JPG", "a10.jpg", "b.webp"]
    assert names(find_images(str(folder) + "/a1*")) == ["a1.png", "a10.jpg"]
    assert names(find_images(f"{folder}/**/*")) == ["a1.png", "a2.JPG", "a10.jpg", "b.webp", "a3.tif"]
    assert names(find_images(folder / "b.webp")) == ["b.webp"]
    bracketed = folder / "take [1].png"  # a file name may look like a pattern
    bracketed.write_bytes(b"")
    assert find_images(bracketed) == [bracketed]


@pytest.mark.parametrize("source", ["missing", "missing*.jpg", "notes.txt", "*.txt", "", "film.mp4"])
def test_find_images_without_images_raises(folder: Path, source: str) -> None:
    source = f"{folder}/{source}" if source else str(folder.parent)
    with pytest.raises(InputError) as caught:
        find_images(source)
    assert str(caught.value).startswith(source.rstrip("/"))
    assert "\n" not in str(caught.value)


def test_find_images_counts_images_in_subfolders(folder: Path) -> None:
    with pytest.raises(InputError, match=r"/\*\*/\*' for the 5 in its subfolders"):
        find_images(folder.parent)
