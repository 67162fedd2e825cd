"""The sound of a video in the video that is written from its frames: copied, encoded, shifted, cut; never an error."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sais.io.video import VideoWriter, read_video

av = pytest.importorskip("av")


def write_film(path: Path, codec: str, seconds: float = 2.0, beep: tuple[float, float] = (1.0, 1.5)) -> Path:
    """Write a video of 10 frames a second with a tone between two times, and silence elsewhere."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        sound = container.add_stream(codec, rate=44_100)
        for i in range(round(10 * seconds)):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 10 * i % 255, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        times = np.arange(round(44_100 * seconds)) / 44_100
        tone = 0.5 * np.sin(2 * np.pi * 440 * times) * ((times >= beep[0]) & (times < beep[1]))
        for first in range(0, len(tone), 1024):
            samples = np.ascontiguousarray(np.stack([tone[first : first + 1024]] * 2).astype(np.float32))
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44_100, first, Fraction(1, 44_100)
            container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return path


def beep_times(path: Path) -> tuple[str, float, float, float]:
    """Return the codec of the sound, the start and end of its tone, and the end of the sound, in seconds."""
    levels: list[tuple[float, float]] = []
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        for frame in container.decode(stream):
            samples = np.atleast_2d(frame.to_ndarray().astype(np.float64))[0]
            for k, part in enumerate(np.array_split(samples, 4)):
                levels.append((frame.time + k / 4 * frame.samples / frame.sample_rate, part.std()))
        loud = [time for time, level in levels if level > 0.1 * max(value for _, value in levels)]
        return stream.codec.canonical_name, loud[0], loud[-1], levels[-1][0]


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [("a.mp4", "aac", "aac"), ("a.avi", "pcm_s16le", "aac"), ("a.mkv", "mp3", "mp3")],
)
def test_sound_stays_at_its_time(name: str, codec: str, expected: str, tmp_path: Path) -> None:
    film = write_film(tmp_path / name, codec)
    with VideoWriter(tmp_path / "out.mp4", 10, film) as writer:
        for _, seconds, image in read_video(film):
            writer.write(image, seconds)
    assert writer.sound is not None
    assert writer.sound.note == ""
    found, start, end, total = beep_times(tmp_path / "out.mp4")
    assert found == expected
    assert start == pytest.approx(1.0, abs=0.1)
    assert end == pytest.approx(1.5, abs=0.1)
    assert total == pytest.approx(2.0, abs=0.15)


def test_sound_follows_the_frames_written(tmp_path: Path) -> None:
    """The part from 0.5 s to 1.6 s, every second frame: the sound starts and ends with it."""
    film = write_film(tmp_path / "a.mp4", "aac", 3.0)
    with VideoWriter(tmp_path / "out.mp4", 5, film) as writer:
        for index, seconds, image in read_video(film):
            if index % 2 and 0.4 < seconds < 1.7:
                writer.write(image, seconds)
    _, start, end, total = beep_times(tmp_path / "out.mp4")
    assert start == pytest.approx(0.5, abs=0.1)
    assert end == pytest.approx(1.0, abs=0.1)
    assert total == pytest.approx(1.2, abs=0.15)
    times = [seconds for _, seconds, _ in read_video(tmp_path / "out.mp4")]
    np.testing.assert_allclose(times, [0, 0.2, 0.4, 0.6, 0.8, 1.0], atol=1e-3)


def test_frames_keep_their_times(tmp_path: Path) -> None:
    """A video with a variable rate, as phones record it, was written at a constant one."""
    times = [3.0, 3.1, 3.5, 3.5, 4.0]
    with VideoWriter(tmp_path / "out.mp4", 10) as writer:
        for seconds in times:
            writer.write(np.zeros((64, 64, 3), np.uint8), seconds)
    found = [seconds for _, seconds, _ in read_video(tmp_path / "out.mp4")]
    np.testing.assert_allclose(found, [0, 0.1, 0.5, 0.5, 1.0], atol=1e-3)


def test_broken_sound_is_noted_and_the_video_written(tmp_path: Path) -> None:
    film = write_film(tmp_path / "a.mp4", "aac")
    frames = list(read_video(film))
    film.write_bytes(b"no video")
    with VideoWriter(tmp_path / "out.mp4", 10, film) as writer:
        for _, seconds, image in frames:
            writer.write(image, seconds)
    assert writer.sound is not None
    assert "the sound is not copied" in writer.sound.note
    assert len(list(read_video(tmp_path / "out.mp4"))) == 20
