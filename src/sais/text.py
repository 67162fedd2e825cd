"""Text for people: names from files made safe for terminals, log files, pages and drawings.

A file name, a class name or a setting may contain anything: escape sequences that a terminal obeys, line breaks that
forge a line of a log, marks that reverse the order of letters. Everything printed goes through this module.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

MAX_NAME = 100
"""Maximum number of characters of a name in a sentence, a table or a drawing."""
MAX_MESSAGE = 6_000
"""Maximum number of characters of an error message; the longest path of Linux has 4,096."""
ELLIPSIS = "..."

_documents: TextIO | None = None
"""Stream of `print_document` while other text is redirected; None: standard output."""
_is_quiet = False

_JOINER = r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])"
"""Zero-width joiners between letters of Persian and Indic scripts, and between the parts of an emoji."""
_FLAG = r"\U0001f3f4[\U000e0061-\U000e007a]{2,6}\U000e007f"
"""Flags of England, Scotland and others, whose tag characters are invisible."""
_CONTROLS = (
    r"[\x00-\x1f\x7f-\x9f"  # C0 and C1: escape sequences, line breaks, tabs
    r"\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # zero-width, line breaks, reversed order
    r"\ufff0-\ufffb\ufffe\uffff\U0001d173-\U0001d17a\U000e0000-\U000e00ff"  # annotations, no characters, tags
    r"\ud800-\udfff]"  # bytes of a file name that are not UTF-8
)
_ALLOWED_OR_CONTROL = re.compile(f"({_JOINER}|{_FLAG})|{_CONTROLS}")
_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")
_LINE_BREAKS = re.compile(r"[ \t]*[\r\n]\s*")


def printable(text: object, max_length: int | None = None) -> str:
    r"""Return a text in one line, with escapes such as ``\x1b`` for control and invisible characters.

    Letters of every script, emoji and spaces of every width stay as they are.

    Args:
        text: text, or an object whose text is taken.
        max_length: maximum number of characters; the middle of a longer text is left out. None: no maximum.
    """
    text = shorten(str(text), max_length) if max_length is not None else str(text)
    if text.isprintable():
        return text
    return _ALLOWED_OR_CONTROL.sub(_escape, text)


def without_credentials(text: str) -> str:
    """Return a text whose addresses have no user name and password."""
    return _CREDENTIALS.sub("", text)


def short_name(name: object) -> str:
    """Return a name for a sentence, a table or a drawing: `printable` and at most `MAX_NAME` characters before it."""
    return printable(name, MAX_NAME)


def shorten(text: str, max_length: int) -> str:
    """Return a text of at most `max_length` characters, without its middle if it is longer. Takes constant time."""
    if len(text) <= max_length:
        return text
    room = max_length - len(ELLIPSIS)
    end = room // 3
    return text[: room - end] + ELLIPSIS + text[len(text) - end :]


def short_names(names: Iterable[object]) -> list[str]:
    """Return the `short_name` of each name."""
    return [short_name(name) for name in names]


def pad(text: str, width: int) -> str:
    """Return a text with spaces up to a width in columns of a terminal, where letters of East Asia have two."""
    return text + " " * max(0, width - text_width(text))


def text_width(text: str) -> int:
    """Return the number of columns of a text in a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def one_line(text: str) -> str:
    """Return a message in one line: line breaks become spaces, other control characters are escaped."""
    return printable(_LINE_BREAKS.sub(" ", text.strip()))


def error_message(message: object) -> str:
    """Return the message of an error as it may be printed: in one line, at most `MAX_MESSAGE` characters."""
    return one_line(shorten(str(message), MAX_MESSAGE))


def printable_lines(text: str) -> str:
    """Return a text whose line breaks are intended, with every line `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def print_text(
    *values: object, sep: str = " ", end: str = "\n", file: TextIO | None = None, flush: bool = False
) -> None:
    """Print like `print`, with escapes for control characters in each value, line breaks included."""
    line = sep.join(map(printable, values)) + end
    print(line, end="", file=sys.stdout if file is None else file, flush=flush)


def print_lines(text: str) -> None:
    """Print a text of several lines; names in it must be `printable`, or their line breaks act as those of the text."""
    print_text(*text.split("\n"), sep="\n")


def print_document(text: str) -> None:
    """Print a text that a program reads to the standard output, also inside of `quiet_output` and `text_to_stderr`."""
    print_text(*text.split("\n"), sep="\n", file=_documents)


@contextlib.contextmanager
def text_to_stderr() -> Iterator[None]:
    """Send what is printed inside the block to stderr, so that only documents are on the standard output."""
    with _redirect(sys.stderr, False):
        yield


@contextlib.contextmanager
def quiet_output() -> Iterator[None]:
    """Drop what is printed to the standard output inside the block, except documents; `is_quiet` is true."""
    with open(os.devnull, "w", encoding="utf-8") as nothing, _redirect(nothing, True):
        yield


@contextlib.contextmanager
def _redirect(stream: TextIO, quiet: bool) -> Iterator[None]:
    global _documents, _is_quiet
    previous = (_documents, _is_quiet)
    _documents, _is_quiet = _documents or sys.stdout, quiet
    try:
        with contextlib.redirect_stdout(stream):
            yield
    finally:
        _documents, _is_quiet = previous


def is_quiet() -> bool:
    """Return whether only errors and documents are shown: no progress either."""
    return _is_quiet


def print_json(content: Any) -> None:
    """Print a JSON document (`print_document`), in ASCII. NaN and infinite numbers become null."""
    try:
        text = json.dumps(content, indent=2, allow_nan=False)
    except ValueError:
        text = json.dumps(_without_nan(json.loads(json.dumps(content))), indent=2)
    print_document(text.replace("\x7f", "\\u007f"))


def _without_nan(content: Any) -> Any:
    """Return JSON content with None for NaN and infinite numbers, which JSON does not have."""
    if isinstance(content, dict):
        return {name: _without_nan(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _escape(match: re.Match[str]) -> str:
    return match[0] if match[1] else match[0].encode("unicode_escape").decode()
