"""Webcams and streams with a fake PyAV, and a video at an address of a local server: reconnections, limits, names."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sais.errors import InputError, ResourceError
from sais.io.frame_source import live_source, open_frame_source
from sais.io.live_video import LiveVideo, is_live, live_name
from sais.io.video import VideoWriter
from sais.text import without_credentials

av = pytest.importorskip("av")


class FakeCamera:
    """Connections of a camera in their order: numbers of frames before a break, or None where opening fails."""

    def __init__(self, *connections: int | None, error: bool = True, width: int = 32) -> None:
        self.connections, self.error, self.width = list(connections), error, width
        self.opened: list[tuple[str, dict[str, Any]]] = []

    def open(self, name: str, **options: Any) -> Any:
        """Stand in for `av.open`."""
        self.opened.append((name, options))
        frames = self.connections.pop(0) if self.connections else None
        if frames is None:
            raise av.error.ConnectionRefusedError(111, "Connection refused")
        context = SimpleNamespace(options={})
        stream = SimpleNamespace(
            average_rate=10, guessed_rate=10, width=self.width, height=24, codec_context=context, thread_type=""
        )
        return FakeContainer(self, stream, frames)


class FakeContainer:
    """An open connection."""

    duration = None

    def __init__(self, camera: FakeCamera, stream: Any, frames: int) -> None:
        self.streams = SimpleNamespace(video=[stream])
        self._camera, self._frames = camera, frames

    def decode(self, stream: Any) -> Iterator[Any]:
        """Yield frames, then break."""
        for i in range(self._frames):
            image = np.full((24, self._camera.width, 3), i % 256, np.uint8)
            yield av.VideoFrame.from_ndarray(image, format="rgb24")
        if self._camera.error:
            raise av.error.TimeoutError(110, "Connection timed out")

    def __enter__(self) -> FakeContainer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close."""


def read(monkeypatch: pytest.MonkeyPatch, camera: FakeCamera, source: str = "0") -> tuple[int, list[str], list[float]]:
    """Read all frames of a fake camera; return their number, the notes and the waits."""
    notes: list[str] = []
    waits: list[float] = []
    monkeypatch.setattr(av, "open", camera.open)
    clock = iter(range(1000))
    video = LiveVideo(source, 3, notes.append, waits.append, lambda: float(next(clock)))
    frames = list(video.read())
    assert [index for index, _, _ in frames] == list(range(len(frames)))
    assert sorted(seconds for _, seconds, _ in frames) == [seconds for _, seconds, _ in frames]
    return len(frames), notes, waits


def test_webcam_is_opened_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(4)
    monkeypatch.setattr("sys.platform", "linux")
    count, notes, _ = read(monkeypatch, camera, "2")
    assert count == 4
    assert camera.opened[0][0] == "/dev/video2"
    assert camera.opened[0][1]["format"] == "v4l2"
    assert notes[0] == "webcam 2: Connection timed out; reconnection 1 of 3"


def test_broken_connections_are_opened_again_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(5, None, 3, None, None, 2, None, None, None, 100)
    count, notes, waits = read(monkeypatch, camera, "rtsp://user:secret@host/door")
    assert count == 10
    assert waits == [1, 2, 1, 2, 4, 1, 2, 4]  # frames start the count of attempts again
    assert notes[-1] == "rtsp://host/door: Connection timed out; gave up after 3 reconnections"
    assert not [note for note in notes if "secret" in note]
    assert camera.opened[0][0] == "rtsp://user:secret@host/door"
    assert "file" not in camera.opened[0][1]["options"]["protocol_whitelist"].split(",")


def test_stream_that_ends_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, FakeCamera(2, 2, error=False), "rtsp://host/a")[0] == 4


def test_first_connection_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(None, 5)
    with pytest.raises(InputError, match=r"webcam 0: cannot be opened \(Connection refused\)\. Check its number"):
        read(monkeypatch, camera)
    assert len(camera.opened) == 1


def test_frames_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sais.input_limits.MAX_FRAME_PIXELS", 500)
    with pytest.raises(ResourceError, match="frames of 32 x 24"):
        read(monkeypatch, FakeCamera(5))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Return the address of a server of `tmp_path`."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *words: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http_server.server_address[1]}"
        http_server.shutdown()


def test_video_at_an_address_is_read_to_its_end(tmp_path: Path, server: str) -> None:
    with VideoWriter(tmp_path / "film.mp4", 10) as writer:
        for i in range(7):
            writer.write(np.full((48, 64, 3), 30 * i, np.uint8))
    source = live_source(f"{server}/film.mp4", 2)
    assert (source.name, source.rate, source.total, source.is_live) == ("film", 5.0, 4, False)
    frames = list(source.read())
    assert [(frame.index, round(frame.seconds, 3)) for frame in frames] == [(0, 0.0), (2, 0.2), (4, 0.4), (6, 0.6)]
    assert frames[3].image.mean() == pytest.approx(180, abs=4)
    with pytest.raises(InputError, match=r"missing.mp4: cannot be opened"):
        open_frame_source(f"{server}/missing.mp4")


def test_playlist_at_an_address_does_not_read_files_of_this_machine(tmp_path: Path, server: str) -> None:
    with VideoWriter(tmp_path / "film.mp4", 10) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:1", "#EXTINF:1,", f"file://{tmp_path}/film.mp4", "#EXT-X-ENDLIST"]
    (tmp_path / "list.m3u8").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"list.m3u8"):
        list(live_source(f"{server}/list.m3u8").read())


def test_words_that_name_live_videos() -> None:
    for word in ("0", "12", "rtsp://a/b", "RTSP://a", "http://a/b.mp4", "https://a/b/live.m3u8?token=1", "srt://a:1"):
        assert is_live(word), word
    for word in ("film.mp4", "http://a/b.jpg", "https://a/b", "0001", "-", "a/0", "²", "http://[a/b.mp4"):
        assert not is_live(word), word
    assert live_name("0") == "webcam_0"
    assert live_name("rtsp://user:pw@10.0.0.7:554/Streaming/Channels/101") == "101"
    assert live_name("rtsp://user:pw@10.0.0.7:554") == "10.0.0.7"
    assert live_name("http://a/b/live.m3u8?token=../../1") == "live"
    assert without_credentials("rtsp://user:p@w@10.0.0.7/a@b") == "rtsp://10.0.0.7/a@b"
