"""Help texts without the line breaks of the source.

tyro 1.0 joins the lines of a field's docstring before it removes their indentation. Indented lines count as paragraphs
there, so that help texts break off in mid-sentence. Here the indentation is removed first.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

Parse = Callable[[object], dict[str, str]]


@functools.cache
def join_lines_of_help() -> None:
    """Let tyro read docstrings without indentation; without effect on versions of tyro with other internals."""
    from tyro import _docstrings

    parse: Parse | None = getattr(_docstrings, "parse_docstring_from_object", None)
    if parse is None:
        return

    @functools.wraps(parse)
    def parse_without_indentation(documented: object) -> dict[str, str]:
        return {name: inspect.cleandoc(text) for name, text in parse(documented).items()}

    setattr(_docstrings, "parse_docstring_from_object", parse_without_indentation)  # noqa: B010
