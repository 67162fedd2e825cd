"""Draw the output of a command as a terminal: lines are wrapped, and the words before a colon are colored.

head -n 6 train.txt | python -m website.terminal_figure "sais train ..." docs/images/walkthrough-train.svg
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from website.svg import MONO, text, write_figure

COLUMNS = 60
"""Longest line in characters: few enough to be read on a phone."""
FONT_SIZE, LINE, MARGIN, COLUMN = 14, 20, 16, 8.5
"""Size of the font, distance of lines, margin, and width of a character in pixels."""
INDENT = 2
"""Indentation of the further lines that a line becomes, in characters."""
STYLE = f"""
.page {{ fill: #14212a }} text {{ font: {FONT_SIZE}px {MONO} }}
.output {{ fill: #d5dee4 }} .command {{ fill: #ffffff; font-weight: 650 }} .prompt {{ fill: #7fd6a3 }}
.name {{ fill: #ffb454 }}
"""


def main(command: str, out: Path) -> None:
    """Draw a command and the lines of the standard input.

    Args:
        command: command that is shown behind the prompt.
        out: path of the SVG file.
    """
    elements = []
    y = MARGIN
    for line in (f"$ {command}", *sys.stdin.read().splitlines()):
        for row, part in enumerate(_wrap(line)):
            y += LINE
            left = MARGIN + (INDENT * COLUMN if row else 0)
            element = text(left, y - 5, part, "command" if line.startswith("$ ") else "output")
            elements.append(element if row else _with_color(element))
    size = round(MARGIN * 2 + COLUMNS * COLUMN), y + MARGIN
    write_figure(out, size, f"Terminal with the output of {command}", STYLE, elements)


def _wrap(line: str) -> list[str]:
    """Return the lines that a line becomes, of at most `COLUMNS` characters with their indentation."""
    return textwrap.wrap(line, COLUMNS - INDENT, break_on_hyphens=False) or [""]


def _with_color(element: str) -> str:
    """Color the prompt, or the words before the first colon, such as `from the data`."""
    element = element.replace(">$ ", '><tspan class="prompt">$ </tspan>', 1)
    return re.sub(r">((?:[a-zA-Z]+ ){0,3}[a-zA-Z]+:) ", r'><tspan class="name">\1</tspan> ', element, count=1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
