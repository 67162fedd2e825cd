"""Threads with bounded queues: read ahead of the work, and write behind it.

Decoding, encoding and most of drawing release Python's global lock, so that they run while the network computes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Iterates over items that a thread takes from an iterable, at most `size` ahead of the caller.

    Use it as a context manager: the thread ends with the block. An error of the iterable is raised after the items
    before it.

    Args:
        items: Iterable that the thread iterates over.
        size: Maximum number of items that wait.
        newest: Whether the oldest waiting item is dropped for a new one, instead of the thread waiting: for a camera,
            which does not wait either.
    """

    def __init__(self, items: Iterable[Item], size: int = 16, newest: bool = False) -> None:
        self.dropped = 0
        """Number of items that were dropped."""
        self._items, self._size, self._newest = items, size, newest
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._is_done = self._is_closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ReadAhead[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if not self._newest:  # a camera may be silent for its whole timeout
            self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_done)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        iterator = iter(self._items)
        try:
            for item in iterator:
                if not self._put(item):
                    break
        except BaseException as error:
            self._error = error
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()  # in the thread that uses the file
            with self._changed:
                self._is_done = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Add an item; return False when the caller has left the block."""
        with self._changed:
            if self._newest:
                while len(self._waiting) >= self._size:
                    self._waiting.popleft()
                    self.dropped += 1
            else:
                self._changed.wait_for(lambda: len(self._waiting) < self._size or self._is_closed)
            self._waiting.append(item)
            self._changed.notify_all()
            return not self._is_closed


class WriteBehind(Generic[Item]):
    """Calls a function with items in their order, in a thread, while the caller makes the next ones.

    Use it as a context manager; at the end of the block, also after an error, all items have been handled. An error of
    the function is raised by the next `put`, else at the end of the block.

    Args:
        handle: Function that is called with each item.
        size: Maximum number of items that wait; `put` waits for room.
    """

    def __init__(self, handle: Callable[[Item], None], size: int = 8) -> None:
        self._handle, self._size = handle, size
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> WriteBehind[Item]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def put(self, item: Item) -> None:
        """Hand over an item; waits while `size` items wait."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < self._size or self._error is not None)
            if self._error is not None:
                raise self._error
            self._waiting.append(item)
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                item = self._waiting.popleft()
                self._changed.notify_all()
            try:
                self._handle(item)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
