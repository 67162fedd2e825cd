"""The frame of figures that are written as SVG: colors for light and dark pages, title, text.

A browser shows such a file as an image, with the theme of the reader's system and not that of the page's switch. The
figures therefore have a background of their own.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"
THEMES = """
.page { fill: #ffffff } .ink { fill: #1b2126 } .soft { fill: #56616a }
@media (prefers-color-scheme: dark) {
  .page { fill: #1a2329 } .ink { fill: #e8edf0 } .soft { fill: #a9b6be }
}
"""
"""Colors of the background, of text and of less important text."""


def text(x: float, y: float, content: str, kind: str = "ink", attributes: str = "") -> str:
    """Return a line of text.

    Args:
        x: left end in pixels, or what `text-anchor` in `attributes` makes of it.
        y: baseline in pixels.
        content: text, without markup.
        kind: classes of the style.
        attributes: further attributes as they are written in the file.
    """
    return f'<text class="{kind}" x="{x:g}" y="{y:g}"{attributes and " " + attributes}>{escape(content)}</text>'


def write_figure(path: Path, size: tuple[float, float], title: str, style: str, elements: list[str]) -> None:
    """Write a figure.

    Args:
        path: path of the SVG file.
        size: (width, height) in pixels; a narrower page shows the figure smaller.
        title: description of the figure for screen readers.
        style: CSS of the elements.
        elements: elements in drawing order.
    """
    width, height = (f"{length:g}" for length in size)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    lines = [
        f'{head} viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{style.strip()}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        *elements,
        "</svg>",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
