"""Connections: uvicorn's protocol with limits of time, errors as JSON, and a shutdown that loses no request."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from sais.serving.limits import BEYOND_LIMIT

HEAD_SECONDS = 10.0
"""Time in seconds in which a client must send the head of a request, or the body after an early answer."""
WRITE_SECONDS = 30.0
"""Time in seconds for which a client may read nothing of a response."""
DRAIN_SECONDS = 1.0
"""Time in seconds for which idle connections are still served after the service was asked to end: a request may be on
its way. Its response asks the client to close the connection."""


class Connection(H11Protocol):
    """A connection of uvicorn that a slow client cannot hold."""

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # uvicorn would answer in plain text, and log nothing.
        self._max_connections, self.limit_concurrency = self.limit_concurrency, None
        self._beyond_limit = False
        self._application, self.app = self.app, self._answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for the head of the first request."""
        super().connection_made(transport)
        self._beyond_limit = self._max_connections is not None and len(self.connections) > self._max_connections
        self._watch_head()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on; one of a connection beyond the limit is marked for the gateway, which refuses it."""
        scope["state"][BEYOND_LIMIT] = self._beyond_limit
        await self._application(scope, receive, send)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._stop("_head_timer")
        self._stop("_write_timer")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Start the time for the head of the next request, or stop it when the head is complete."""
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        """Start the time in which the client must read."""
        super().pause_writing()
        self._stop("_write_timer")
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time in which the client must read, unless this was the last response."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop("_write_timer")

    def on_response_complete(self) -> None:
        """Start the time in which the client must read the end of the last response: a closing connection has none."""
        super().on_response_complete()
        if self.transport.is_closing() and self._write_timer is None and self.transport.get_write_buffer_size():
            self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also if the client has not read its response."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Close the connection after the next response, or after `DRAIN_SECONDS` without a request."""
        state = self.server_state
        if CLOSE_HEADER not in state.default_headers:
            state.default_headers = [*state.default_headers, CLOSE_HEADER]
        if self._is_idle():
            self.loop.call_later(DRAIN_SECONDS, self._close_idle)
        elif not self.cycle.response_started:
            self.cycle.default_headers = state.default_headers
        else:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Answer a request that is not HTTP, and close the connection."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        content = {"code": "bad_request", "message": "the request is not valid HTTP/1.1. Correct its head."}
        body = json.dumps({"error": content}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), CLOSE_HEADER]
        events: list[Any] = [
            h11.Response(status_code=400, headers=headers, reason=STATUS_PHRASES[400]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch_head(self) -> None:
        if not self._is_idle():
            self._stop("_head_timer")
        elif self._head_timer is None and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close_slow)

    def _close_slow(self) -> None:
        self._head_timer = None
        if self._is_idle():
            self.transport.abort()

    def _close_idle(self) -> None:
        if self._is_idle() and not self.transport.is_closing():
            super().shutdown()
        elif not self._is_idle():
            self.cycle.keep_alive = False

    def _stop(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)
