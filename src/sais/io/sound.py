"""The sound of a video, copied into the video that is written from its frames.

Sound that an mp4 file can hold is copied as it is; other sound, such as PCM, is encoded as AAC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sais.errors import SaisError

COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")
"""Codecs that are copied; players read them in an mp4 file."""


class SoundCopy:
    """Copies the first sound track of a video into a container, as far as its frames have been written.

    Args:
        open_source: Function that opens the video.
        container: PyAV's container to write to, before its first packet.
        start: Seconds in the source at which the written video starts.
    """

    def __init__(self, open_source: Callable[[], Any], container: Any, start: float) -> None:
        self.note = ""
        """What became of the sound, if it was not copied: "" if it was, or if there is none."""
        self._container, self._start = container, start
        self._source: Any = None
        self._packets: Any = None
        self._waiting: Any = None
        try:
            self._open(open_source)
        except Exception as error:  # the video is not lost with its sound
            self._stop(error)

    def copy_until(self, seconds: float) -> None:
        """Copy the sound up to a time in seconds after the start of the written video."""
        while self._packets is not None:
            try:
                packet = self._waiting or next(self._packets)
                self._waiting = None
                time = None if packet.pts is None else float(packet.pts * packet.time_base) - self._start
                if time is not None and time > seconds:
                    self._waiting = packet
                    return
                if time is None or time >= 0:
                    self._write(packet)
            except StopIteration:
                self._stop(None)
            except Exception as error:
                self._stop(error)

    def finish(self, seconds: float) -> None:
        """Copy the sound up to the end of the written video, in seconds, and close the source."""
        self.copy_until(seconds)
        self._stop(None)

    def _open(self, open_source: Callable[[], Any]) -> None:
        self._source = open_source()
        streams = self._source.streams.audio
        if not streams:
            self._stop(None)
            return
        self._copies = streams[0].codec.canonical_name in COPIED
        if self._copies:
            self._stream = self._container.add_stream_from_template(streams[0])
        else:
            self._stream = self._container.add_stream("aac", rate=streams[0].codec_context.sample_rate)
        self._packets = self._source.demux(streams[0])

    def _write(self, packet: Any) -> None:
        if not self._copies:
            for frame in packet.decode():  # the last packet, without data, gives what the decoder held back
                frame.pts -= round(self._start / frame.time_base)
                self._container.mux(self._stream.encode(frame))
            return
        if packet.dts is None:  # the last packet, without data
            return
        shift = round(self._start / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = self._stream
        self._container.mux(packet)

    def _stop(self, error: Exception | None) -> None:
        if error is not None:
            reason = str(error) if isinstance(error, SaisError) else getattr(error, "strerror", None) or repr(error)
            self.note = f"the sound is not copied ({reason:.200})"
        elif self._packets is not None and not self._copies:
            self._container.mux(self._stream.encode(None))
        self._packets = None
        if self._source is not None:
            self._source.close()
        self._source = None
