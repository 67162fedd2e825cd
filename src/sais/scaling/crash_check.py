"""Search for images that crash their decoder: each is read in another process, which may end without loss.

A native crash, such as a segmentation fault in a codec, cannot be caught: it ends the process, and with it a shard.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from sais.errors import InputError, ResourceError
from sais.scaling.item_reader import ItemReader
from sais.scaling.items import ImageItem

MAX_CRASHES = 20
"""Number of crashing images of a shard with which the search ends: the cause is then probably not in the images."""
_READY, _READ = b"+", b"."


def find_crashing(
    items: Sequence[ImageItem], column: str | None, max_pixels: int | None, white_level: int | None
) -> dict[int, InputError]:
    """Read images in another process; return the positions of those that end it -> what is wrong.

    Args:
        items: the images.
        column: as for `ItemReader`.
        max_pixels: as for `ItemReader`.
        white_level: as for `ItemReader`.

    Raises:
        ResourceError: the process cannot be started, or more than `MAX_CRASHES` images end it.
    """
    crashing: dict[int, InputError] = {}
    first = 0
    while first < len(items):
        fields = [[item.name, item.location, item.start, item.size] for item in items[first:]]
        number, status = _read_elsewhere([column, max_pixels, white_level, fields])
        first += number
        if first < len(items):
            label = items[first].label
            message = f"{label}: ends the process that decodes it ({_reason(status)}). Save the image again."
            crashing[first] = InputError(message, "crash of the decoder")
            first += 1
        if len(crashing) > MAX_CRASHES:
            raise ResourceError(
                f"{label}: the last of {len(crashing)} images that end the process that decodes them. Check the memory "
                "and the installation, then repeat the command."
            )
    return crashing


def _read_elsewhere(request: list[object]) -> tuple[int, int]:
    """Read images in a new process; return the number that were read before it ended, and its exit status."""
    code = "from sais.scaling.crash_check import main; main()"
    paths = [os.environ.get("PYTHONPATH", ""), *(path or os.getcwd() for path in sys.path)]
    process = subprocess.run(
        [sys.executable, "-c", code, str(os.getpid())],
        input=json.dumps(request).encode("ascii"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        check=False,
    )
    if not process.stdout.startswith(_READY):
        raise ResourceError(
            f"{sys.executable}: cannot check images in another process ({_reason(process.returncode)}). Check the "
            "memory, then repeat the command."
        )
    return process.stdout.count(_READ), process.returncode


def _reason(status: int) -> str:
    """Return how a process ended, in words."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-status).name
    return f"exit status {status}"


def main() -> None:
    """Read the images that standard input lists, and write a byte to standard output after each."""
    from sais.parent_process import end_with_parent

    end_with_parent(int(sys.argv[1]))
    column, max_pixels, white_level, fields = json.load(sys.stdin)
    reader = ItemReader(column, max_pixels, white_level)
    progress = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # decoders may print
    os.write(progress, _READY)
    for values in fields:
        with contextlib.suppress(Exception):  # the worker reports what it can catch
            reader.decode(reader.fetch(ImageItem(*values)))
        os.write(progress, _READ)
