"""Threads that read ahead and write behind: order, bounds, errors, dropped items, an early end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sais.io.pipeline import ReadAhead, WriteBehind


def test_read_ahead_yields_all_items_in_order_and_takes_a_bounded_number() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    with ReadAhead(items(), 4) as ahead:
        for position, item in enumerate(ahead):
            assert item == position
            assert len(taken) <= position + 6  # yielded, 4 waiting, one in the thread's hands
    assert ahead.dropped == 0


def test_read_ahead_raises_an_error_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    found = []
    with pytest.raises(ValueError, match="broken"), ReadAhead(items()) as ahead:
        found += [*ahead]
    with pytest.raises(ValueError, match="broken"), ReadAhead(items()) as ahead:
        for item in ahead:
            found.append(item)
    assert 1 in found


def test_read_ahead_drops_the_oldest_items_of_a_camera() -> None:
    ready = threading.Event()

    def items() -> Iterator[int]:
        yield from range(10)
        ready.set()

    with ReadAhead(items(), 2, newest=True) as ahead:
        ready.wait(10)
        assert [*ahead] == [8, 9]
    assert ahead.dropped == 8


def test_read_ahead_ends_its_thread_and_closes_the_iterator_when_the_block_is_left() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            i = 0
            while True:
                yield (i := i + 1)
        finally:
            closed.set()

    with ReadAhead(items(), 2) as ahead:
        assert next(iter(ahead)) == 1
    assert closed.is_set()


def test_write_behind_handles_all_items_in_order_also_after_an_error_of_the_caller() -> None:
    handled: list[int] = []
    with pytest.raises(KeyboardInterrupt), WriteBehind(handled.append, 2) as behind:
        for i in range(20):
            behind.put(i)
        raise KeyboardInterrupt
    assert handled == list(range(20))


def test_write_behind_raises_the_error_of_its_function() -> None:
    def fail(item: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), WriteBehind(fail, 1) as behind:
        for i in range(5):
            behind.put(i)
    with pytest.raises(OSError, match="disk full"), WriteBehind(fail, 1) as behind:
        behind.put(1)
