"""The body of a request: the image itself, or parts of a form; read with limits on bytes, images and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from sais.serving.limits import MemoryAccount
from sais.serving.options import ServingOptions
from sais.serving.request_error import RequestError
from sais.text import shorten

FIELD = "images"
"""Name of the form's parts that are images."""
MAX_NAME = 255
"""Maximum number of characters of a file name that is returned."""
NO_IMAGE = "the request has no image. Send the bytes of an image, or a form with parts named images."


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Args:
        name: name of the file, as the client gives it; None without one. It is never used as a path.
        data: content of the file.
    """

    name: str | None
    data: bytes


async def read_uploads(request: Request, options: ServingOptions, account: MemoryAccount) -> list[Upload]:
    """Read the images of a request.

    Args:
        request: request whose body has not been read.
        options: limits.
        account: account of the memory that the request holds.

    Raises:
        ClientDisconnect: the client has gone.
        RequestError: 400, 408, 413, 415 or 422; 503 if other requests hold the memory.
    """
    content_type, parameters = parse_options_header(request.headers.get("content-type"))
    form = None
    if content_type == b"multipart/form-data":
        form = _Form(parameters.get(b"boundary", b""), options.max_images)
    elif content_type and not content_type.startswith(b"image/") and content_type != b"application/octet-stream":
        message = "the body is of an unsupported type. Send Content-Type image/jpeg (or of the image), or a form."
        raise RequestError(415, "unsupported_media_type", message)
    body = bytearray()
    try:
        async with asyncio.timeout(options.timeout):
            async for chunk in _chunks(request, options.max_bytes, account):
                if form is None:
                    body += chunk
                else:
                    form.write(chunk)
    except TimeoutError:
        message = f"the upload took longer than {options.timeout:g} seconds. Send a smaller image."
        raise RequestError(408, "upload_timeout", message, headers={"Connection": "close"}) from None
    if form is not None:
        return form.finish()
    if not body:
        raise RequestError(400, "no_image", NO_IMAGE)
    return [Upload(None, bytes(body))]


async def _chunks(request: Request, limit: int, account: MemoryAccount) -> AsyncIterator[bytes]:
    """Yield the parts of a body; raise RequestError (413) above `limit` bytes, where stated before reading any."""
    too_large = RequestError(
        413, "request_too_large", f"the request is larger than {limit / 1e6:g} MB. Send fewer or smaller images."
    )
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated[:20]) > limit:
        raise too_large
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large
        account.change(len(chunk))
        if chunk:
            yield chunk


class _Form:
    """A form (multipart/form-data) whose parts are images; its files stay in memory.

    Args:
        boundary: boundary between the parts.
        max_images: maximum number of parts.
    """

    def __init__(self, boundary: bytes, max_images: int) -> None:
        if not boundary:
            raise _malformed("no boundary")
        self._max_images = max_images
        self._uploads: list[Upload] = []
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._data = bytearray()
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
            )
        except FormParserError as error:
            raise _malformed("the boundary is too long") from error

    def write(self, chunk: bytes) -> None:
        """Parse the next bytes."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed("it does not follow RFC 7578") from error

    def finish(self) -> list[Upload]:
        """Return the files."""
        if not self._ended:
            raise _malformed("its end is missing")
        if not self._uploads:
            raise RequestError(400, "no_image", NO_IMAGE)
        return self._uploads

    def _begin(self) -> None:
        if len(self._uploads) == self._max_images:
            message = f"more than {self._max_images} images in a request. Send several requests."
            raise RequestError(422, "too_many_images", message)
        self._disposition = b""
        self._data = bytearray()

    def _end_header(self) -> None:
        name, value = self._header
        if name.strip().lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _end(self) -> None:
        kind, parameters = parse_options_header(self._disposition)
        field = parameters.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or field != FIELD:
            message = f"the form has a part {shorten(field, 60)!r}. Name all parts images; options are in the address."
            raise RequestError(422, "unknown_part", message)
        name = parameters.get(b"filename")
        text = None if name is None else shorten(name.decode("utf-8", "replace"), MAX_NAME)
        self._uploads.append(Upload(text, bytes(self._data)))

    def _finish(self) -> None:
        self._ended = True


def _malformed(reason: str) -> RequestError:
    return RequestError(400, "malformed_form", f"the form is malformed: {reason}. Send a form with parts named images.")


__all__ = ["FIELD", "ClientDisconnect", "Upload", "read_uploads"]
