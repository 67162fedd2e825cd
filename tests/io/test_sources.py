"""Finding images, and videos written and read back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sais.errors import SaisError
from sais.io.sources import find_images
from sais.io.video import VideoWriter, is_video, read_video, video_info


def names(paths: list[Path]) -> list[str]:
    """File names only."""
    return [path.name for path in paths]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files named like images, and others, in two levels."""
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


def test_find_images(folder: Path) -> None:
    assert names(find_images(folder)) == ["a1.png", "a2.JPG", "a10.jpg", "b.webp"]
    assert names(find_images(str(folder) + "/a1*")) == ["a1.png", "a10.jpg"]
    assert names(find_images(f"{folder}/**/*")) == ["a1.png", "a2.JPG", "a10.jpg", "b.webp", "a3.tif"]
    assert names(find_images(folder / "b.webp")) == ["b.webp"]
    odd = folder / "take [1].png"  # a file may look like a pattern
    odd.write_bytes(b"")
    assert find_images(odd) == [odd]


@pytest.mark.parametrize("source", ["missing", "missing*.jpg", "notes.txt", "*.txt", "", "film.mp4"])
def test_no_images(folder: Path, source: str) -> None:
    source = f"{folder}/{source}" if source else str(folder.parent)
    with pytest.raises(SaisError) as caught:
        find_images(source)
    assert str(caught.value).startswith(source.rstrip("/"))
    assert "\n" not in str(caught.value)


def test_images_in_subfolders_are_told(folder: Path) -> None:
    with pytest.raises(SaisError, match=r"5 in its subfolders: give '.*/\*\*/\*'"):
        find_images(folder.parent)


def test_is_video() -> None:
    assert is_video("a.MP4")
    assert is_video(Path("b/c.mkv"))
    assert not is_video("a.jpg")
    assert not is_video("mp4")


def film(number: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Smooth images whose brightness tells their number."""
    ramp = np.linspace(0, 60, size[1])[None, :, None]
    return [np.broadcast_to(ramp + 15 * i + np.array([0, 10, 20]), (*size, 3)).astype(np.uint8) for i in range(number)]


@pytest.mark.parametrize("size", [(48, 64), (47, 65)])
def test_video_round_trip(tmp_path: Path, size: tuple[int, int]) -> None:
    pytest.importorskip("av")
    path, images = tmp_path / "new" / "film.mp4", film(10, size)
    with VideoWriter(path, rate=10) as writer:
        for image in images:
            writer.write(image)
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["film.mp4"]
    info = video_info(path)
    assert info.rate == pytest.approx(10)
    assert info.frames == 10
    found = list(read_video(path))
    assert [index for index, _, _ in found] == list(range(10))
    np.testing.assert_allclose([seconds for _, seconds, _ in found], np.arange(10) / 10, atol=1e-3)
    for (_, _, image), wanted in zip(found, images, strict=True):
        assert image.dtype == np.uint8
        assert image.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
        assert np.abs(image[: size[0], : size[1]].astype(int) - wanted).mean() < 4
    some = list(read_video(path, every=4))
    assert [index for index, _, _ in some] == [0, 4, 8]
    np.testing.assert_array_equal(some[1][2], found[4][2])


def test_failed_video_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("av")

    def fail() -> None:
        with VideoWriter(tmp_path / "film.mp4") as writer:
            writer.write(film(1, (32, 32))[0])
            writer.write(film(1, (32, 34))[0])

    with pytest.raises(ValueError, match="in a video of"):
        fail()
    with VideoWriter(tmp_path / "empty.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(SaisError, match="cannot be written"):
        VideoWriter(tmp_path / "file" / "film.mp4")


def test_broken_videos(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with VideoWriter(path) as writer:
        for image in film(30, (64, 64)):
            writer.write(np.random.default_rng(len(image)).integers(0, 255, image.shape).astype(np.uint8))
    whole = path.read_bytes()
    path.write_bytes(b"not a video at all" * 50)
    with pytest.raises(SaisError, match=r"film\.mp4"):
        read_video(path)
    path.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(SaisError, match=r"film\.mp4"):
        list(read_video(path))
    with pytest.raises(SaisError, match="no such video"):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="every"):
        read_video(path, every=0)


def test_without_av(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (lambda: read_video(tmp_path / "film.mp4"), lambda: VideoWriter(tmp_path / "film.mp4")):
        with pytest.raises(SaisError, match=r'pip install "sais-seg\[video\]"'):
            call()
