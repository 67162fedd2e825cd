"""The plan of a prediction over many images: which images there are, and which shard each belongs to.

The plan is made once and stored in the output folder, so that a killed run resumes with the same shards.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sais.errors import InputError

WRITER = "sais predict-many"
"""Value of `written_by` in the files of the output folder, by which those of an earlier run are recognized."""
MAX_SHARD_SIZE, MIN_SHARD_SIZE, USUAL_SHARDS = 1_000, 16, 64
"""Limits of the number of images of a shard, and the number of shards between them."""


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One image: where it is, and its name in results."""

    name: str
    """Unique name for results, as in `sais predict`: relative to the input, with forward slashes."""
    location: str
    """Absolute path or address of the image, or of the tar or Parquet file that contains it."""
    start: int | None = None
    """Tar file: position of its first byte; Parquet file: number of its row."""
    size: int | None = None
    """Tar file: number of its bytes."""

    @property
    def label(self) -> str:
        """Its location, with its name or row in the file that contains it."""
        if self.start is None:
            return self.location
        return f"{self.location}#{self.start if self.size is None else self.name}"


@dataclass(frozen=True)
class Shard:
    """Consecutive images of the plan, whose results are one file."""

    number: int
    """Position of the shard in the plan, from 0."""
    count: int
    """Number of shards in the plan."""
    first: int
    """Position of its first image in the plan, from 0."""
    items: tuple[ImageItem, ...]

    @property
    def name(self) -> str:
        """Name of its files without suffix, such as ``shard-00003-of-00064``."""
        return shard_name(self.number, self.count)


def shard_name(number: int, count: int) -> str:
    """Return the name of a shard's files without suffix."""
    return f"shard-{number:05d}-of-{count:05d}"


def attempt_name(name: str) -> str:
    """Return the name of the mark of an attempt at a shard; readers of Parquet folders ignore names with a dot."""
    return f".{name}.attempt"


def choose_shard_size(images: int, batch_size: int) -> int:
    """Return the number of images of a shard: whole batches, so that the same batches form as in `sais predict`.

    Args:
        images: number of images of the plan.
        batch_size: number of images in a forward pass.
    """
    size = min(MAX_SHARD_SIZE, max(MIN_SHARD_SIZE, -(-images // USUAL_SHARDS)))
    return -(-size // batch_size) * batch_size


def write_plan(path: Path, items: Iterable[ImageItem]) -> None:
    """Write the plan: a line of JSON for each image, after a line that states the writer."""
    with path.open("w", encoding="ascii") as file:
        file.write(json.dumps({"written_by": WRITER}) + "\n")
        for item in items:
            fields = [item.name, item.location, item.start, item.size]
            file.write(json.dumps(fields[:2] if item.start is None else fields) + "\n")


def read_shards(lines: Iterable[str], images: int, shard_size: int, done: Collection[int]) -> Iterator[Shard]:
    """Yield the shards of a stored plan that are missing, one at a time in memory.

    Args:
        lines: lines of the plan.
        images: number of images that the manifest states.
        shard_size: number of images of a shard.
        done: numbers of the shards whose results exist.

    Raises:
        InputError: the plan is damaged.
    """
    iterator = iter(lines)
    next(iterator, None)
    count = -(-images // shard_size)
    for number in range(count):
        first = number * shard_size
        part = list(islice(iterator, min(shard_size, images - first)))
        if number in done:
            continue
        try:
            items = tuple(ImageItem(*json.loads(line)) for line in part)
        except (ValueError, TypeError):
            items = ()
        if len(items) != min(shard_size, images - first):
            raise InputError(f"plan: damaged at shard {number}. Start again in another output folder.")
        yield Shard(number, count, first, items)
