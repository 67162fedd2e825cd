"""HTML pages from the Jinja templates in `templates/`: one file each, without scripts and without a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from sais._version import __version__
from sais.errors import MissingDependencyError
from sais.reports.charts import CHART_COLORS
from sais.text import printable_lines, short_name

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = "templates"
"""Folder of templates and style sheets in this package."""


def render_page(template: str, style_sheets: Sequence[str] = (), **context: Any) -> str:
    """Render a page.

    Args:
        template: file name of a template that extends base.html.jinja.
        style_sheets: file names of style sheets in addition to style.css.
        context: values for the template; text is escaped.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    folder = resources.files("sais.reports") / TEMPLATES
    style = "".join((folder / name).read_text(encoding="utf-8") for name in ("style.css", *style_sheets))
    page = _environment().get_template(template)
    return page.render(style=style, chart_colors=CHART_COLORS, version=__version__, **context)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(
            'HTML reports: jinja2 is not installed. Run pip install "sais-seg[train]".', "jinja2", "train"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sais.reports", TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["short"] = short_name
    return environment


def _finalize(value: Any) -> Any:
    """Return a value of a template as it is written: control characters of a text are escaped, not those of markup."""
    return printable_lines(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
