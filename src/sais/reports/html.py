"""The frame of every page: one HTML file that needs no network and no script, in the style that all pages share."""

from __future__ import annotations

from html import escape

from sais._version import __version__
from sais.reports.style import STYLE


def document(title: str, head: str, body: str, style: str = "") -> str:
    """A whole page.

    Args:
        title: of the window, any text.
        head: HTML of what opens the page.
        body: HTML of its sections.
        style: CSS beside what all pages share.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<header>
{head}
</header>
<main>
{body}
</main>
<footer>Written by sais {escape(__version__)}.</footer>
</body>
</html>
"""
