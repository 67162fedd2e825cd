"""Tables of text for HTML pages: numbers are right-aligned, columns of a group share a heading and a color.

A `Table` holds the text; the macro `table` of templates/macros.html.jinja renders it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

GROUPS = ("paper", "measured")
"""Prefixes of column names, before a colon, that put a column into a group."""
NUMBER = re.compile(r"[-+]?\d[\d.,]*( (s|min|h))?")
MAX_UNWRAPPED = 14
"""Maximum length of a text that is never wrapped, in characters."""
SPREAD = re.compile(r"([-+]?\d[\d.]*) (\([^()]*\))")


@dataclass(frozen=True)
class Cell:
    """One cell as it is rendered."""

    text: str
    css_class: str = ""
    detail: str = ""
    """Small text on a line of its own."""
    wrap: bool = True


@dataclass(frozen=True)
class ColumnGroup:
    """Adjacent columns with a common heading."""

    name: str
    """One of `GROUPS`; empty for columns of no group."""
    span: int
    heading: str
    detail: str


@dataclass(frozen=True)
class Table:
    """A table of any text.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """

    columns: Sequence[str]
    """Names; "paper: AP" and "measured: AP" are columns named AP below a heading for the group."""
    rows: Sequence[Sequence[str]]
    """Cells in the order of the columns; the first cell names the row."""
    caption: str = ""
    headings: Mapping[str, str] = field(default_factory=dict)
    """Group -> its heading, by default the group's name; a second line is rendered small."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells for {len(self.columns)} columns: {row}")

    @property
    def groups(self) -> list[ColumnGroup]:
        """Runs of adjacent columns of the same group."""
        groups = []
        for name, members in groupby(_split(column)[0] for column in self.columns):
            heading, _, detail = self.headings.get(name, name).partition("\n")
            groups.append(ColumnGroup(name, len(list(members)), heading, detail))
        return groups

    @property
    def header(self) -> list[Cell]:
        """The cells with the names of the columns."""
        names = [_split(column)[1] for column in self.columns]
        return [
            Cell(name, css_class, wrap=len(name) > MAX_UNWRAPPED)
            for name, css_class in zip(names, self._css_classes, strict=True)
        ]

    @property
    def body(self) -> list[list[Cell]]:
        """The cells of each row."""
        return [
            [_cell(text, css_class) for text, css_class in zip(row, self._css_classes, strict=True)]
            for row in self.rows
        ]

    @property
    def _css_classes(self) -> list[str]:
        """The CSS classes of each column: its group, and whether all of its cells are numbers."""
        numeric = [bool(self.rows) and all(_is_number(row[i]) for row in self.rows) for i in range(len(self.columns))]
        return [
            " ".join([*filter(None, [_split(column)[0]]), *(["number"] if is_number else [])])
            for column, is_number in zip(self.columns, numeric, strict=True)
        ]


def _split(column: str) -> tuple[str, str]:
    """("paper", "AP") of "paper: AP"; ("", "AP") of "AP"."""
    group, colon, name = column.partition(": ")
    return (group, name) if colon and group in GROUPS else ("", column)


def _is_number(text: str) -> bool:
    return text == "-" or bool(NUMBER.fullmatch(text) or SPREAD.fullmatch(text))


def _cell(text: str, css_class: str) -> Cell:
    """A cell; the spread of a number is its detail."""
    if spread := SPREAD.fullmatch(text):
        return Cell(spread[1], css_class, spread[2])
    return Cell(text, css_class, wrap=len(text) > MAX_UNWRAPPED)
