"""Shards one after another in this process, where Ray is not installed or not wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sais.errors import SaisError
from sais.scaling.items import Shard
from sais.scaling.shard_worker import ShardResult, ShardWorker


@dataclass(frozen=True)
class ShardFailure:
    """A shard that was given up after several attempts; its images are predicted when the command is repeated."""

    number: int
    message: str


def run_local(
    worker: ShardWorker, shards: Iterable[Shard], retries: int, advance: Callable[[int], None]
) -> Iterator[ShardResult | ShardFailure]:
    """Predict shards one after another.

    Args:
        worker: the worker.
        shards: the shards.
        retries: number of further attempts for a shard.
        advance: function called with numbers of images done.
    """
    for shard in shards:
        yield _predict(worker, shard, retries, advance)


def _predict(
    worker: ShardWorker, shard: Shard, retries: int, advance: Callable[[int], None]
) -> ShardResult | ShardFailure:
    done = 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        advance(images)

    for attempt in range(retries + 1):
        try:
            return worker.predict(shard, count)
        except SaisError as error:
            advance(-done)
            done = 0
            if attempt == retries:
                return ShardFailure(shard.number, str(error))
    raise AssertionError("unreachable")
