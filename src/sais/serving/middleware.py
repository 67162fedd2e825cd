"""What every request passes: host name, API key, errors as JSON, security headers, metrics and the access log."""

from __future__ import annotations

import sys
import time
import traceback
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sais.serving.access_log import AccessLog
from sais.serving.limits import BEYOND_LIMIT, overloaded
from sais.serving.metrics import Metrics
from sais.serving.request_error import RequestError
from sais.serving.security import SECURITY_HEADERS, AllowedHosts, ApiKeys

MAX_HEAD_BYTES = 2**16
"""Maximum size of the head of a request."""
CLIENT_LEFT = 499
"""Status in the log of a request whose client has gone."""


class Gateway:
    """An ASGI middleware around the whole application.

    Args:
        app: application.
        hosts: host names that requests may address.
        api_keys: keys of which a request must have one.
        metrics: metrics of the application.
        log: access log.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, api_keys: ApiKeys, metrics: Metrics, log: AccessLog) -> None:
        self._app = app
        self._hosts = hosts
        self._api_keys = api_keys
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and complete its response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        details: dict[str, Any] = scope.setdefault("state", {}).setdefault("details", {})
        status = 0
        # The server sends the head of the response only; routes know GET.
        routed = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store" if scope["path"].startswith("/v1/") else "no-cache")
            await send(message)

        self._metrics.in_progress.inc()
        try:
            _check_connections(scope)
            _check_head(scope)
            headers = Headers(scope=scope)
            self._hosts.check(headers.get("host"))
            self._api_keys.check(scope["path"], headers)
            await self._app(routed, receive, send_with_headers)
        except ClientDisconnect:
            status = CLIENT_LEFT
        except Exception as error:
            response = error_response(error)
            if not isinstance(error, RequestError):
                traceback.print_exc(file=sys.stderr)
            details["error"] = getattr(error, "code", "internal")
            if status:  # a part of the response has been sent: only the end of the connection shows the error
                raise
            await response(scope, receive, send_with_headers)
        finally:
            self._metrics.in_progress.dec()
            route = getattr(routed.get("route"), "path", "other")
            self._finish(scope, route, status or CLIENT_LEFT, time.monotonic() - started, details)

    def _finish(self, scope: Scope, route: str, status: int, seconds: float, details: dict[str, Any]) -> None:
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        if details.get("error"):
            self._metrics.errors.labels(details["error"]).inc()
        client = scope.get("client") or ("", 0)
        self._log.write(scope["method"], scope["path"], status, seconds, client[0], **details)


def _check_connections(scope: Scope) -> None:
    """Raise RequestError (503) for a request on a connection beyond the limit, which is closed then."""
    if scope["state"].get(BEYOND_LIMIT):
        error = overloaded()
        error.headers["Connection"] = "close"
        raise error


def _check_head(scope: Scope) -> None:
    """Raise RequestError (431) for a large head: the server limits only those that arrive in several parts."""
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    size += sum(len(name) + len(value) for name, value in scope["headers"])
    if size > MAX_HEAD_BYTES:
        message = f"the address and the headers are larger than {MAX_HEAD_BYTES} bytes. Shorten them."
        raise RequestError(431, "head_too_large", message, headers={"Connection": "close"})


def error_response(error: Exception) -> JSONResponse:
    """Return the response to an exception; for an unexpected one, without anything about it."""
    if not isinstance(error, RequestError):
        error = RequestError(500, "internal", "the server failed to answer. Report it to whom operates the server.")
    return JSONResponse(error.content(), error.status, error.headers)
