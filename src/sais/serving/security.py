"""Host names, API keys and security headers."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping, Sequence

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


LOOPBACK_NAMES = ("localhost", "*.localhost")
"""Names that browsers resolve to this machine without asking a name server."""


class AllowedHosts:
    """The host names that requests may address, against DNS rebinding.

    A page elsewhere can have its own name resolve to an address of this machine, and then read what the service
    answers to it. IP addresses are always allowed: a page at an address is the service itself.

    Args:
        names: names; ``*.example.com`` allows all names below example.com, ``*`` any name, as does an empty sequence.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        lower = [name.lower().rstrip(".") for name in names]
        self._names = frozenset(name for name in lower if not name.startswith("*"))
        self._endings = tuple(name[1:] for name in lower if name.startswith("*."))
        self._allows_any = not names or "*" in names

    def check(self, host: str | None) -> None:
        """Raise RequestError (421) unless a header Host, with or without a port, has an allowed name.

        Requests without the header (HTTP/1.0) do not come from browsers.
        """
        if self._allows_any or host is None:
            return
        name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
        name = name.lower().rstrip(".")
        if not (name in self._names or name.endswith(self._endings) or _is_address(name)):
            message = "the service does not answer for this host name. Use its IP address, or have the name allowed."
            raise RequestError(421, "unknown_host", message)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


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
