"""Download of an image from an http or https address."""

from __future__ import annotations

import http.client
import time
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sais.errors import InputError, ResourceError
from sais.io.decoding import SIGNATURE_BYTES, content_kind, one_line

URL_SCHEMES = ("http://", "https://")
"""Beginnings of the addresses that are downloaded."""
TIMEOUT_SECONDS = 30.0
"""Time that a server may take to answer, and between two parts of its answer."""
MAX_SECONDS = 600.0
"""Time of a whole download: a server may send a byte now and then for ever."""
MAX_BYTES = 200 * 2**20
"""Size of the largest file that is downloaded."""
_CHUNK_BYTES = 2**20
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"
"""Characters of an address that are not escaped; % starts an existing escape."""


def download_image(
    url: str, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT_SECONDS, max_seconds: float = MAX_SECONDS
) -> bytes:
    """Download the content of an image file.

    Args:
        url: Address that starts with http:// or https://; redirects to other schemes are not followed.
        max_bytes: Size in bytes above which the download ends with an error.
        timeout: Seconds that the server may take to answer, and between two parts of its answer.
        max_seconds: Seconds after which the download ends with an error.

    Raises:
        InputError: The address cannot be reached, does not exist, or is a web page.
        ResourceError: The file is too large, or takes too long.
    """
    if not url.lower().startswith(URL_SCHEMES):
        raise InputError(f"{url}: not an http or https address. Use one, or the path of a file.")
    content, end = bytearray(), time.monotonic() + max_seconds
    try:
        address = quote(url, safe=_URL_CHARACTERS)  # non-ASCII letters and spaces, as browsers accept
        request = Request(address, headers={"User-Agent": "sais", "Accept": "image/*,*/*;q=0.5"})
        with build_opener(_HttpRedirects).open(request, timeout=timeout) as answer:
            while chunk := answer.read1(_CHUNK_BYTES):  # `read` would wait for the whole chunk
                content += chunk
                if time.monotonic() > end:
                    raise ResourceError(f"{url}: takes more than {max_seconds:.0f} s. Download it and use the file.")
                if len(content) > max_bytes:
                    raise ResourceError(f"{url}: larger than {max_bytes / 2**20:.0f} MB. Download it and use the file.")
            length = answer.headers.get("Content-Length", "")
            if length.isdecimal() and len(content) < int(length):
                raise http.client.IncompleteRead(b"", int(length) - len(content))
    except HTTPError as error:
        raise InputError(f"{url}: HTTP error {error.code} {error.reason}. Check the address.", "HTTP error") from error
    except (URLError, OSError, http.client.HTTPException, ValueError) as error:
        text = one_line(getattr(error, "reason", None) or error)
        raise InputError(
            f"{url}: cannot be downloaded ({text}). Check the address and the network connection.", "not downloaded"
        ) from error
    if content_kind(bytes(content[:SIGNATURE_BYTES])) == "web page":
        raise InputError(f"{url}: a web page, not an image. Give the address of the image itself.", "web page")
    return bytes(content)


class _HttpRedirects(HTTPRedirectHandler):
    """Redirects to http and https only; the standard handler follows ftp too."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if not newurl.lower().startswith(URL_SCHEMES):
            raise URLError(f"redirect to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
