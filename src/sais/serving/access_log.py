"""Access log: one JSON object in a line for each response."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from sais.text import print_text, shorten

MAX_PATH = 200
"""Maximum number of characters of a path in the log."""


class AccessLog:
    """The access log.

    Args:
        stream: open text file; None for the standard output, False for no log.
    """

    def __init__(self, stream: TextIO | bool | None = None) -> None:
        self._stream = sys.stdout if stream is None or stream is True else stream
        self._failed = False

    def write(self, method: str, path: str, status: int, seconds: float, client: str, **details: Any) -> None:
        """Write the entry of a response.

        Args:
            method: HTTP method.
            path: path of the request, without its query.
            status: HTTP status; 499 if the client left before the response.
            seconds: time from the first line of the request to the end of the response.
            client: network address.
            details: further entries that are not None.
        """
        if not self._stream:
            return
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "method": shorten(method, 20),
            "path": shorten(path, MAX_PATH),
            "status": status,
            "ms": round(seconds * 1000, 2),
            "client": client,
        }
        entry |= {name: value for name, value in details.items() if value is not None}
        try:
            self._stream.write(json.dumps(entry) + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:  # a full disk, a closed pipe: no reason to fail the request
            if not self._failed:
                reason = getattr(error, "strerror", None) or "the stream is closed"
                print_text(f"note: the access log cannot be written ({reason})", file=sys.stderr)
            self._failed = True
