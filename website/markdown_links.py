"""Links and headings of Markdown text, as GitHub understands them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def prose_lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each line with its line end, and whether it is outside of code blocks."""
    fence = ""
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if fence:
            yield line, False
            if match is not None and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif match is not None:
            fence = match[1]
            yield line, False
        else:
            yield line, True


def replace_links(text: str, replace: Callable[[str], str]) -> str:
    """Return `text` with the target of each link and image outside of code blocks replaced by `replace(target)`."""

    def line_with(line: str) -> str:
        return _LINK.sub(lambda match: match[1] + replace(match[2]) + match[3], line)

    return "".join(line_with(line) if is_prose else line for line, is_prose in prose_lines(text))


def link_targets(text: str) -> list[str]:
    """Return the targets of all links and images outside of code blocks."""
    targets: list[str] = []
    replace_links(text, lambda target: targets.append(target) or target)  # type: ignore[func-returns-value]
    return targets


def anchors(text: str) -> set[str]:
    """Return the anchors of all headings: a repeated one gets -1, -2."""
    found: set[str] = set()
    for line, is_prose in prose_lines(text):
        match = re.match(r"#{1,6} +(.*)", line) if is_prose else None
        if match is None:
            continue
        slug = base = github_slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]))
        number = 0
        while slug in found:
            number += 1
            slug = f"{base}-{number}"
        found.add(slug)
    return found


def github_slug(heading: str, separator: str = "-") -> str:
    """Return the anchor that GitHub gives to a heading.

    Args:
        heading: the text of the heading.
        separator: the character in place of a space; the second argument that Python-Markdown gives.
    """
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)
