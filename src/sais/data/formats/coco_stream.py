"""A large COCO file, parsed in pieces: its annotations become arrays at once, so that they never are in memory as text
and as Python objects.

Only a file in the usual form is read here. Whatever else it contains (an error, another encoding, a key twice) is left
to `coco_document.read_document`, which reads the file whole and reports errors with their position.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sais import input_limits
from sais.data.formats.coco_document import check_document, read_document
from sais.data.formats.coco_entries import Entries, EntryCollector, collect
from sais.errors import InputError, ResourceError
from sais.io.regular_file import is_regular_file

MIN_STREAMED_BYTES = 2**24
"""Size of a file from which it is parsed in pieces."""
_PIECE_BYTES = 2**22
_GZIP = b"\x1f\x8b"
_BATCH = 4096
"""Number of annotations that are converted together."""
_IMAGE_KEYS = ("id", "file_name", "height", "width")
_BLANKS = re.compile(r"[ \t\n\r]*")


class _OtherFormError(Exception):
    """The file is not in the form that is parsed in pieces."""


def read_entries(path: Path) -> tuple[dict[str, Any], Entries]:
    """Return the JSON of a COCO file, whose keys are checked, without its annotations, and these as arrays.

    Raises:
        InputError: As for `read_document`.
        ResourceError: As for `read_document`.
    """
    try:
        streamed = stream_document(path)
    except MemoryError as error:
        raise ResourceError(f"{path}: not enough memory to read it. Free memory, or split it.") from error
    if streamed is None:
        document = read_document(path)
        try:
            return document, collect(document.pop("annotations", []))
        except RecursionError as error:  # a value is just too deep to be stored
            raise InputError(f"{path}: an annotation is nested too deeply. Export it again.") from error
    check_document(path, streamed[0])
    return streamed


def stream_document(path: Path) -> tuple[dict[str, Any], Entries] | None:
    """Return the JSON of a COCO file without its annotations, and these as arrays; None if it has to be read whole.

    Args:
        path: The file.

    Raises:
        MemoryError: Memory does not suffice.
    """
    collector = EntryCollector()
    try:
        if not is_regular_file(path) or not MIN_STREAMED_BYTES <= path.stat().st_size <= input_limits.MAX_JSON_BYTES:
            return None
        document = _Parser(_read_text(path)).document(collector)
    except (OSError, ValueError, RecursionError, zlib.error, _OtherFormError):
        return None
    return document, collector.finish()


def _read_text(path: Path) -> Iterator[str]:
    """Yield the text of a file in UTF-8, which may be compressed, in pieces."""
    decoder = None
    for piece in _read_bytes(path):
        if decoder is None:
            encoding = json.detect_encoding(piece)
            if encoding not in ("utf-8", "utf-8-sig"):
                raise _OtherFormError
            decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        yield decoder.decode(piece)
    yield decoder.decode(b"", True) if decoder else ""


def _read_bytes(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        piece = file.read(_PIECE_BYTES)
        if not piece.startswith(_GZIP):
            while piece:
                yield piece
                piece = file.read(_PIECE_BYTES)
            return
        decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
        total = 0
        while piece and not decompressor.eof:
            text = decompressor.decompress(piece, _PIECE_BYTES)
            piece = decompressor.unconsumed_tail or file.read(_PIECE_BYTES)
            total += len(text)
            if total > input_limits.MAX_JSON_BYTES:
                raise _OtherFormError
            if text:
                yield text
        if not decompressor.eof:
            raise _OtherFormError


def _select_keys(image: Any) -> Any:
    """Return the part of an image entry that is read: addresses and dates take most of its memory."""
    return {key: image[key] for key in _IMAGE_KEYS if key in image} if isinstance(image, dict) else image


def _unchanged(value: Any) -> Any:
    return value


class _Parser:
    """Parses values at a position of a text of which only a part is in memory.

    Args:
        pieces: The text.
    """

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._text = ""
        self._position = 0
        self._complete = False
        self._refused = ""
        self._scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]

    def document(self, annotations: EntryCollector) -> dict[str, Any]:
        """Return the object that is the whole text; the list 'annotations' is passed to a collector instead."""
        document: dict[str, Any] = {}
        self._expect("{")
        while True:
            key = self._value()
            if not isinstance(key, str) or key in document:
                raise _OtherFormError
            self._expect(":")
            if self._next() != "[":
                document[key] = self._value()
            elif key == "annotations":
                document[key] = []
                for batch in self._elements():
                    annotations.extend(batch)
            else:
                select = _select_keys if key == "images" else _unchanged
                document[key] = [select(value) for batch in self._elements() for value in batch]
            if self._next() == "}":
                break
            self._expect(",")
        self._position += 1
        if self._next():
            raise _OtherFormError
        return document

    def _elements(self) -> Iterator[list[Any]]:
        """Yield the elements of a list in batches."""
        self._expect("[")
        if self._next() == "]":
            self._position += 1
            return
        batch: list[Any] = []
        while True:
            batch.append(self._value())
            text, start = self._text, self._position  # `_value` ends before a character
            self._position += 1
            if text[start] == "]":
                yield batch
                return
            if text[start] != ",":
                raise _OtherFormError
            is_object = self._next() == "{" and text is self._text and text[start - 1 : start] == "}"
            elements = self._whole_elements(text[start - 1 : self._position + 1]) if is_object else []
            if elements or len(batch) == _BATCH:
                yield batch
                yield elements
                batch = []

    def _whole_elements(self, separator: str) -> list[Any]:
        """Return the elements up to the last separator in memory; none if that is inside of an element.

        Many elements together are parsed in two thirds of the time.
        """
        end = self._text.rfind(separator, self._position)
        if end < 0 or self._text is self._refused:
            return []
        try:
            elements: list[Any] = json.loads(f"[{self._text[self._position : end + 1]}]")
        except ValueError:  # the last separator may be one of another list
            self._refused = self._text
            return []
        self._position = end + len(separator) - 1
        return elements

    def _value(self) -> Any:
        """Return the value at the position, and advance to the character that follows it."""
        self._next()
        while True:
            try:
                value, end = self._scan(self._text, self._position)
                end = _BLANKS.match(self._text, end).end()  # type: ignore[union-attr]
                if end < len(self._text):  # otherwise a number may go on in the next piece
                    self._position = end
                    return value
            except (StopIteration, ValueError):
                pass  # an error, or the value goes on in the next piece
            if self._complete:
                raise _OtherFormError
            self._extend()

    def _next(self) -> str:
        """Advance to the next character that is not blank, and return it; empty at the end of the text."""
        while True:
            self._position = _BLANKS.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text):
                return self._text[self._position]
            if self._complete:
                return ""
            self._extend()

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise _OtherFormError
        self._position += 1

    def _extend(self) -> None:
        """Drop what was parsed, and append the next piece; a value that needs many takes as many more each time."""
        remainder = self._text[self._position :]
        parts, length = [remainder], 0
        while not self._complete and length <= len(remainder):
            piece = next(self._pieces, None)
            self._complete = piece is None
            parts.append(piece or "")
            length += len(piece or "")
        self._text, self._position = "".join(parts), 0
