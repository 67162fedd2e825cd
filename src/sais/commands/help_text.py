"""Help texts without the line breaks of the source, and descriptions wrapped for the terminal.

tyro 1.0 joins the lines of a field's docstring before it removes their indentation. Indented lines count as paragraphs
there, so that help texts break off in mid-sentence. Here the indentation is removed first.
"""

from __future__ import annotations

import functools
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable

Parse = Callable[[object], dict[str, str]]
_WRAPPED = "\0"
"""Start of a description whose line breaks are intended."""
_ITEM = re.compile(r"[\w-]+: ")
"""Start of a line that begins an item of a list: "models: recipes ..."."""


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


@functools.cache
def keep_lines_of_descriptions() -> bool:
    """Let tyro print descriptions that start with `_WRAPPED` as they are; return False where it has other internals."""
    from tyro import _strings

    join: Callable[[str], str] | None = getattr(_strings, "remove_single_line_breaks", None)
    if join is None:
        return False

    @functools.wraps(join)
    def join_unless_wrapped(text: str) -> str:
        return text.removeprefix(_WRAPPED) if text.startswith(_WRAPPED) else join(text)

    setattr(_strings, "remove_single_line_breaks", join_unless_wrapped)  # noqa: B010
    return True


def description_of(kind: type, width: int | None = None) -> str:
    """Return the docstring of a dataclass of arguments for tyro, which neither wraps it nor keeps the items of a list
    apart.

    Args:
        kind: the dataclass.
        width: width in columns; None for that of the terminal.
    """
    width = shutil.get_terminal_size().columns if width is None else width
    paragraphs = []
    for paragraph in (inspect.getdoc(kind) or "").split("\n\n"):
        items: list[str] = []
        for line in paragraph.splitlines():
            if items and not _ITEM.match(line):
                items[-1] += " " + line.strip()
            else:
                items.append(line.strip())
        paragraphs.append("\n".join(textwrap.fill(item, width, break_on_hyphens=False) for item in items))
    return (_WRAPPED if keep_lines_of_descriptions() else "") + "\n\n".join(paragraphs)
