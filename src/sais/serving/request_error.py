"""The error of a request: what a client receives instead of an answer."""

from __future__ import annotations

from sais.errors import SaisError


class RequestError(SaisError):
    """A request cannot be answered.

    The message is sent to the client: it never contains a path, a version or other internals of the server.

    Args:
        status: HTTP status, 400 to 599.
        code: name of the error for programs, such as "image_too_large".
        message: WHAT. FIX.
        retry_after: seconds after which the client should try again; None: the request would fail again.
        headers: further headers of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def content(self) -> dict[str, dict[str, str]]:
        """Return the body of the response."""
        return {"error": {"code": self.code, "message": str(self)}}
