"""Limits on what is held at once: images of a model that are accepted, and the memory of uploads and images."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections.abc import Iterator

from sais.serving.request_error import RequestError

MAX_RETRY_SECONDS = 60
"""Maximum number of seconds after which a refused client is asked to try again, before chance is added."""

BEYOND_LIMIT = "beyond_limit"
"""Key of the state of a request whose connection is beyond the limit of the server."""


def overloaded(retry_after: int = 1) -> RequestError:
    """Return the error for a request beyond the capacity.

    Args:
        retry_after: seconds after which there may be room; up to twice as many are stated, by chance, so that clients
            that were refused together do not return together.
    """
    message = "the service is at its capacity. Try again after the time in the header Retry-After."
    return RequestError(503, "overloaded", message, random.randint(retry_after, 2 * retry_after))


class Admission:
    """The images of a model that are accepted and not yet answered.

    Args:
        limit: maximum number of images.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self._lock = threading.Lock()
        self._seconds_per_image = 0.05

    @contextlib.contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Count images inside the block.

        Raises:
            RequestError: 503, too many images are waiting; 422, they are more than may ever wait.
        """
        if images > self.limit:
            message = f"{images} images in a request; at most {self.limit} may wait. Send several requests."
            raise RequestError(422, "too_many_images", message)
        with self._lock:
            if self.count + images > self.limit:
                raise overloaded(self.retry_after())
            self.count += images
        try:
            yield
        finally:
            with self._lock:
                self.count -= images

    def check(self) -> None:
        """Raise RequestError (503) if not even one image would be admitted, before an upload is read."""
        if self.count >= self.limit:
            raise overloaded(self.retry_after())

    def observe(self, images: int, seconds: float) -> None:
        """Note the time in seconds in which a batch of images was predicted."""
        self._seconds_per_image += 0.1 * (seconds / images - self._seconds_per_image)

    def retry_after(self) -> int:
        """Return the number of seconds in which about half of the images that wait will be answered."""
        return min(MAX_RETRY_SECONDS, max(1, math.ceil(self.count * self._seconds_per_image / 2)))


class RefusalPace:
    """The pace at which requests are refused: clients that return at once would take the processor from the others.

    Args:
        rate: refusals in a second that are answered at once.
        longest: maximum time in seconds for which a refusal is held back.
    """

    def __init__(self, rate: float = 50.0, longest: float = 1.0) -> None:
        self._rate = rate
        self._longest = longest
        self._next = 0.0

    def delay(self) -> float:
        """Return the time in seconds for which the next refusal is held back."""
        now = time.monotonic()
        delay = min(max(0.0, self._next - now), self._longest)
        self._next = now + delay + 1 / self._rate
        return delay


class MemoryBudget:
    """The memory of uploads and decoded images.

    Args:
        limit: maximum number of bytes; a single request may exceed it, so that no image is refused forever.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()

    def account(self) -> MemoryAccount:
        """Return an empty account of a request; use it as a context manager, which releases its memory."""
        return MemoryAccount(self)

    def _change(self, amount: int, own: int = 0) -> None:
        with self._lock:
            others = self.used - own
            if amount > 0 and others > 0 and self.used + amount > self.limit:
                raise overloaded()
            self.used += amount


class MemoryAccount:
    """The memory that one request holds.

    Args:
        budget: budget of all requests.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.used = 0

    def __enter__(self) -> MemoryAccount:
        return self

    def __exit__(self, *_: object) -> None:
        self.change(-self.used)

    def change(self, amount: int) -> None:
        """Hold `amount` bytes more, or fewer if it is negative.

        Raises:
            RequestError: 503, other requests hold the memory.
        """
        self._budget._change(amount, self.used)
        self.used += amount
