"""Tables in HTML: numbers to the right, long texts wrapped, columns of a group below a heading and in a color."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

GROUPS = ("paper", "measured")
"""Words before the colon of a column's name that set it apart."""
NUMBER = re.compile(r"[-+]?\d[\d.,]*( (s|min|h))?")
SHORT = 14
"""Letters that are kept in one line."""
SPREAD = re.compile(r"([-+]?\d[\d.]*) (\([^()]*\))")


def plain_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    caption: str = "",
    groups: Mapping[str, str] | None = None,
) -> str:
    """An HTML table of any text.

    Args:
        columns: names; "paper: AP" and "measured: AP" go below a heading for all neighbors of their group.
        rows: cells in the columns' order, the row's name first.
        caption: said above the table.
        groups: what to write above the columns of a group, by its word; the word itself by default. A second line is
            set small.

    Raises:
        ValueError: a row with fewer or more cells than columns.
    """
    if wrong := [row for row in rows if len(row) != len(columns)]:
        raise ValueError(f"{len(wrong[0])} cells for {len(columns)} columns: {wrong[0]}")
    split = [_group(name) for name in columns]
    spans = [(group, len(list(members))) for group, members in groupby(group for group, _ in split)]
    parts = [f"<caption>{escape(caption)}</caption>"] if caption else []
    parts += [f'<colgroup span="{count}"{_class(group)}></colgroup>' for group, count in spans]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    head = [
        f'<th scope="col"{_class(group, number)}>{_short(name)}</th>'
        for (group, name), number in zip(split, numeric, strict=True)
    ]
    if any(group for group, _ in spans):
        above = "".join(
            f'<th scope="colgroup" colspan="{count}"{_class(group)}>{_two_lines((groups or {}).get(group, group))}</th>'
            if group
            else f'<td colspan="{count}"></td>'
            for group, count in spans
        )
        parts.append(f'<thead><tr class="groups">{above}</tr><tr>{"".join(head)}</tr></thead>')
    else:
        parts.append(f"<thead><tr>{''.join(head)}</tr></thead>")
    body = []
    for row in rows:
        cells = [f'<th scope="row">{escape(row[0])}</th>']
        marks = [_class(group, number) for (group, _), number in zip(split, numeric, strict=True)]
        cells += [f"<td{mark}>{_cell(cell)}</td>" for cell, mark in zip(row[1:], marks[1:], strict=True)]
        body.append(f"<tr>{''.join(cells)}</tr>")
    lines = "\n".join([*parts, "<tbody>", *body, "</tbody>"])
    return f'<div class="scroll" tabindex="0"><table>\n{lines}\n</table></div>'


def _group(name: str) -> tuple[str, str]:
    """("paper", "AP") of "paper: AP"; ("", "AP") of "AP"."""
    group, colon, rest = name.partition(": ")
    return (group, rest) if colon and group in GROUPS else ("", name)


def _class(group: str, number: bool = False) -> str:
    words = [*([group] if group else []), *(["number"] if number else [])]
    return f' class="{" ".join(words)}"' if words else ""


def _is_number(text: str) -> bool:
    return text == "-" or bool(NUMBER.fullmatch(text) or SPREAD.fullmatch(text))


def _cell(text: str) -> str:
    """What stands in a cell; the spread of a number small below it, and a short text in one line."""
    if spread := SPREAD.fullmatch(text):
        return f"{escape(spread[1])}<small>{escape(spread[2])}</small>"
    return _short(text)


def _short(text: str) -> str:
    return f'<span class="short">{escape(text)}</span>' if len(text) <= SHORT else escape(text)


def _two_lines(text: str) -> str:
    first, _, second = text.partition("\n")
    return escape(first) + (f"<small>{escape(second)}</small>" if second else "")
