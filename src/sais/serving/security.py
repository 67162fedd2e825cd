"""API keys and security headers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from sais.serving.request_error import RequestError

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
}
"""Headers of every response."""
PROTECTED = ("/v1/models", "/v1/predict", "/metrics")
"""Paths that need an API key, if the service has one."""


class ApiKeys:
    """The API keys of the service.

    Args:
        keys: keys; without any, every request is allowed.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raise RequestError (401) if a path needs a key that the headers do not have.

        The time does not depend on the key: digests of equal length are compared, with all keys.
        """
        if not self._digests or not path.rstrip("/").startswith(PROTECTED):
            return
        key = headers.get("x-api-key", "")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not key and scheme.lower() == "bearer":
            key = token.strip()
        digest = _digest(key.encode("latin-1", "replace"))  # the bytes of the header
        if sum(hmac.compare_digest(digest, valid) for valid in self._digests) == 0:
            problem = "the API key is wrong" if key else "an API key is needed"
            message = f"{problem}. Send it in the header X-API-Key."
            raise RequestError(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
