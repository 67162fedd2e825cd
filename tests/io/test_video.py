"""Video reading and writing."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sais import input_limits
from sais.errors import InputError, MissingDependencyError, ResourceError
from sais.io.video import VideoWriter, is_video, metadata_options, read_video, video_info


def test_is_video_compares_suffixes_without_case() -> None:
    assert is_video("a.MP4")
    assert is_video(Path("b/c.mkv"))
    assert not is_video("a.jpg")
    assert not is_video("mp4")


def make_frames(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Return smooth frames whose brightness encodes their index."""
    ramp = np.linspace(0, 60, size[1])[None, :, None]
    return [np.broadcast_to(ramp + 15 * i + np.array([0, 10, 20]), (*size, 3)).astype(np.uint8) for i in range(count)]


@pytest.mark.parametrize("size", [(48, 64), (47, 65)])
def test_read_video_returns_the_written_frames(tmp_path: Path, size: tuple[int, int]) -> None:
    pytest.importorskip("av")
    path, images = tmp_path / "new" / "film.mp4", make_frames(10, size)
    with VideoWriter(path, rate=10) as writer:
        for image in images:
            writer.write(image)
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["film.mp4"]
    info = video_info(path)
    assert info.rate == pytest.approx(10)
    assert info.frames == 10
    frames = list(read_video(path))
    assert [index for index, _, _ in frames] == list(range(10))
    np.testing.assert_allclose([seconds for _, seconds, _ in frames], np.arange(10) / 10, atol=1e-3)
    for (_, _, image), expected in zip(frames, images, strict=True):
        assert image.dtype == np.uint8
        assert image.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
        assert np.abs(image[: size[0], : size[1]].astype(int) - expected).mean() < 4
    strided = list(read_video(path, frame_stride=4))
    assert [index for index, _, _ in strided] == [0, 4, 8]
    np.testing.assert_array_equal(strided[1][2], frames[4][2])


def test_video_writer_leaves_no_file_after_an_error(tmp_path: Path) -> None:
    pytest.importorskip("av")

    def fail() -> None:
        with VideoWriter(tmp_path / "film.mp4") as writer:
            writer.write(make_frames(1, (32, 32))[0])
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        fail()
    with VideoWriter(tmp_path / "empty.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        VideoWriter(tmp_path / "file" / "film.mp4")


def test_read_video_names_corrupt_and_missing_files(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with VideoWriter(path) as writer:
        for image in make_frames(30, (64, 64)):
            writer.write(np.random.default_rng(len(image)).integers(0, 255, image.shape).astype(np.uint8))
    valid = path.read_bytes()
    path.write_bytes(b"not a video at all" * 50)
    with pytest.raises(InputError, match=r"film\.mp4"):
        read_video(path)
    path.write_bytes(valid[: len(valid) * 9 // 10])
    with pytest.raises(InputError, match=r"film\.mp4"):
        list(read_video(path))
    with pytest.raises(InputError, match="no such video"):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="frame_stride"):
        read_video(path, frame_stride=0)


@pytest.mark.parametrize("part", [0.4, 0.75, 0.98])
def test_truncated_video_yields_its_frames_and_an_error(tmp_path: Path, part: float) -> None:
    """FFmpeg ends a video whose last frames are missing without an error: 15 of 40 frames looked like a whole video."""
    av = pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    with VideoWriter(path) as writer:
        for shift in range(40):
            writer.write(np.roll(noise, 3 * shift, axis=1))
    with av.open(str(path)) as container:
        if not hasattr(container.streams.video[0], "index_entries"):
            pytest.skip("this PyAV cannot read the index of a video")
    assert len(list(read_video(path))) == 40
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    seen: list[int] = []
    with pytest.raises(InputError, match=r"film\.mp4: (truncated after frame \d+ of 39|decoding fails after frame)"):
        seen.extend(index for index, _, _ in read_video(path))
    assert 5 < len(seen) < 40


@pytest.mark.parametrize(("name", "other", "readable"), [(b"Lavf", b"\xff\xffvf", True), (b"avc1", b"zzzz", False)])
def test_titles_in_any_encoding_and_unknown_codecs(tmp_path: Path, name: bytes, other: bytes, readable: bool) -> None:
    pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with VideoWriter(path) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    content = path.read_bytes()
    assert name in content
    path.write_bytes(content.replace(name, other))
    with contextlib.nullcontext() if readable else pytest.raises(InputError, match=r"film\.mp4"):
        video_info(path)
        assert len(list(read_video(path))) == 1


@pytest.mark.parametrize(
    ("version", "names"), [("14.2.0", {"metadata_errors"}), ("18.1.0rc1", {"metadata_errors"}), ("19.0.2", set())]
)
def test_pyav_19_has_no_option_for_the_encoding_of_titles(version: str, names: set[str]) -> None:
    assert set(metadata_options(SimpleNamespace(__version__=version))) == names


def test_video_without_pyav_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (lambda: read_video(tmp_path / "film.mp4"), lambda: VideoWriter(tmp_path / "film.mp4")):
        with pytest.raises(MissingDependencyError) as caught:
            call()
        assert (caught.value.package, caught.value.extra) == ("av", "video")


def test_video_writer_names_a_frame_that_cannot_be_encoded(tmp_path: Path) -> None:
    pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    with (
        pytest.raises(ResourceError, match=r"film\.mp4: cannot be written .*frame 0, 2 x 70000 pixels"),
        VideoWriter(path) as writer,
    ):
        writer.write(np.zeros((70_000, 2, 3), np.uint8))
    assert not path.exists()


def test_video_writer_resizes_frames_of_another_size(tmp_path: Path) -> None:
    """Two videos in one file; the frame raised ValueError."""
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "film.mp4") as writer:
        for size in ((32, 48), (80, 97)):
            writer.write(np.full((*size, 3), 200, np.uint8))
    frames = [frame for _, _, frame in read_video(tmp_path / "film.mp4")]
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 2
    assert abs(frames[1].astype(int) - 200).max() < 10


@pytest.mark.parametrize(("rate", "written"), [(0.0, 0.001), (25 / 10**9, 0.001), (1e9, 1000.0), (29.97, 29.97)])
def test_video_writer_limits_the_frame_rate(tmp_path: Path, rate: float, written: float) -> None:
    """A step between frames beyond the end of the video gave a rate of 0 and ZeroDivisionError."""
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "film.mp4", rate) as writer:
        for frame in make_frames(3, (32, 32)):
            writer.write(frame)
    assert video_info(tmp_path / "film.mp4").rate == pytest.approx(written)


def test_video_refuses_frames_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "film.mp4") as writer:
        writer.write(make_frames(1, (64, 96))[0])
    monkeypatch.setattr(input_limits, "MAX_FRAME_PIXELS", 64 * 96 - 1)
    with pytest.raises(ResourceError, match=r"film.mp4: frames of 96 x 64, above the limit"):
        list(read_video(tmp_path / "film.mp4"))


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile film.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfilm.mp4\n#EXT-X-ENDLIST\n",
    ],
    ids=["concat", "playlist"],
)
def test_video_does_not_follow_lists_of_files(tmp_path: Path, text: str) -> None:
    """FFmpeg recognizes lists by content and opens the files and addresses in them."""
    pytest.importorskip("av")
    with VideoWriter(tmp_path / "film.mp4") as writer:
        writer.write(make_frames(1, (32, 32))[0])
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(InputError, match=r"list.mp4: not a readable video"):
        list(read_video(tmp_path / "list.mp4"))
