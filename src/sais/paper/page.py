"""The page of `sais reproduce`: one HTML file with its plots inside and its images beside it, no scripts, no network.

A page is made of sections, and a section of tables, plots and images, whatever they are about. Columns named
"paper: ..." and "measured: ..." are set apart from each other by a heading and a color of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING
from urllib.parse import quote

from sais.io.atomic import write_text
from sais.paper import plots
from sais.paper.comparison import MAIN, PAPER_DATA, RULE, Comparison, comparisons, grid, rows_of
from sais.paper.tables import PaperTable
from sais.paper.wording import conditions, epochs_in_words, signed
from sais.reports.html import document
from sais.reports.html_tables import plain_table

if TYPE_CHECKING:
    from sais.paper.runs import RunResult

DOTS = (
    "A dot for each seed, an upright bar for their mean; open diamonds are the paper's figures, of another data set. A "
    "difference is as wide on the left as on the right."
)
LOSSES = "Losses, smoothed; a line for each seed. The first steps may lie above the frame."
EPOCHS = "AP over the course of training; a line for each seed."
FIGURES = "AP in percent, the mean over seeds, in brackets the worst and the best of them"


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    title: str
    intro: str
    """A paragraph before everything else."""
    tables: tuple[str, ...] = ()
    """HTML, as `plain_table` makes it; the only field that is not escaped but `plots`."""
    plots: tuple[tuple[str, str], ...] = ()
    """(an <svg> element, caption)."""
    images: tuple[tuple[Path, str], ...] = ()
    """(file, caption); the page links to the file where it lies."""
    notes: tuple[tuple[str, str], ...] = ()
    """(word, what it means here): what was measured, on what, with what."""
    commands: tuple[str, ...] = ()
    """What was typed to make it."""
    findings: tuple[str, ...] = ()
    """What it shows, a line each, repeated below its title in the contents."""


def table_section(
    table: PaperTable,
    results: Sequence[RunResult],
    logs: Mapping[str, Path] | None = None,
    commands: Sequence[str] = (),
) -> Section:
    """A table of the paper with what was measured of it.

    Args:
        logs: digest of a run (or name of its folder) -> its log.jsonl or folder, for the curves; missing ones are left
            out.
        commands: what was typed to make it.
    """
    results, logs = [result for result in results if result.row in table.rows], logs or {}
    lines = rows_of(table, results)
    compared = comparisons(table, lines)
    said = conditions(results) if results else {}
    tables = [plain_table(*grid(table, lines), groups=_headings(results, said))]
    if compared:
        tables.append(plain_table(*_compared(compared), caption="What the claim compares"))
    drawn = (
        (plots.ap_per_row(table, results), DOTS),
        (plots.loss_curves(table, results, logs), LOSSES),
        (plots.evaluation_curves(table, results, logs), EPOCHS),
    )
    notes = [("paper", f"{PAPER_DATA}, as printed in the paper"), *said.items(), ("figures", FIGURES)]
    main = [one for one in compared if one.column.endswith(f" {MAIN}")]
    return Section(
        title=table.title,
        intro=f"The paper's claim: {table.claim}",
        tables=tuple(tables),
        plots=tuple((svg, caption) for svg, caption in drawn if svg),
        notes=(*notes, *([("verdict", RULE)] if compared else [])),
        commands=tuple(commands),
        findings=tuple(f"{one.title} against {one.baseline}: {one.column} {one.verdict()}" for one in main),
    )


def _headings(results: Sequence[RunResult], said: Mapping[str, str]) -> dict[str, str]:
    """What stands above the columns of a table; a second line says where the figures come from."""
    if not results:
        return {"paper": f"paper\n{PAPER_DATA}", "measured": "measured\nnothing yet"}
    names = ", ".join(dict.fromkeys(str(result.data["name"]) for result in results))
    seeds = f"seed{'s' if ',' in said['seeds'] else ''} {said['seeds']}"
    parts = (names, epochs_in_words(results), seeds, said["machine"])
    return {"paper": f"paper\n{PAPER_DATA}", "measured": "measured\n" + " · ".join(parts)}


def image_section(title: str, text: str, images: Sequence[tuple[Path, str]], commands: Sequence[str] = ()) -> Section:
    """Images with captions."""
    return Section(title, text, images=tuple(images), commands=tuple(commands))


def write_page(
    out: Path,
    sections: Sequence[Section],
    title: str = "SAIS, reproduced",
    intro: str = "The tables and figures of “SAIS: Single-stage Anchor-free Instance Segmentation” (Xiang, Tian, Zou, "
    "Xu), measured again. What the paper says and what was measured here stand apart: they are of different data sets, "
    "schedules and machines, and only differences between rows can be held against each other.",
) -> Path:
    """Write `out`/index.html, whole or not at all, and return its path.

    Args:
        out: folder of the page; images may lie anywhere, it links to them relative to here.
        sections: in order.
        title: of the page.
        intro: a paragraph below it.
    """
    names = _names(sections)
    contents = "".join(
        f'<li><a href="#{name}">{escape(one.title)}</a>{_list(one.findings)}</li>'
        for name, one in zip(names, sections, strict=True)
    )
    body = "\n".join(_section(one, name, out) for name, one in zip(names, sections, strict=True))
    head = f"""<h1>{escape(title)}</h1>
<p class="intro">{escape(intro)}</p>
<nav aria-label="Contents"><ol>{contents or "<li>Nothing was run yet.</li>"}</ol></nav>"""
    page = document(title, head, body)
    path = out / "index.html"
    write_text(path, page)
    return path


def _section(section: Section, name: str, out: Path) -> str:
    """A section as HTML."""
    parts = [f'<h2><a href="#{name}">{escape(section.title)}</a></h2>', f'<p class="intro">{escape(section.intro)}</p>']
    parts += [*section.tables]
    parts += [f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in section.plots]
    for path, caption in section.images:
        link = escape(quote(Path(os.path.relpath(path, out)).as_posix()))
        image = f'<a href="{link}"><img src="{link}" alt="{escape(caption)}" loading="lazy"></a>'
        parts.append(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
    if section.notes:
        pairs = "".join(f"<div><dt>{escape(word)}</dt><dd>{escape(text)}</dd></div>" for word, text in section.notes)
        parts.append(f'<dl class="notes">{pairs}</dl>')
    commands = [command for command in section.commands if command]
    if commands:
        parts.append(
            f'<div class="made"><span>made by</span><pre><code>{escape(chr(10).join(commands))}</code></pre></div>'
        )
    inside = "\n".join(parts)
    return f'<section id="{name}">\n{inside}\n</section>'


def _compared(compared: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of comparisons."""
    columns = ["row", "against", "of", "paper: difference", "measured: means", "measured: seeds differ by"]
    columns += ["measured: seed by seed", "measured: verdict"]
    rows = []
    for one in compared:
        paper, means = (signed(value) if value is not None else "-" for value in (one.paper, one.difference))
        spread = f"{one.spread:.1f}" if one.spread is not None else "-"
        verdict = one.verdict().rpartition(": ")[2]
        rows.append([one.title, one.baseline, one.column, paper, means, spread, _paired(one), verdict])
    return columns, rows


def _paired(one: Comparison) -> str:
    values = list(one.paired.values())
    if not values:
        return "-"
    spread = f"{signed(min(values))} to {signed(max(values))}" if len(values) > 1 else f"seed {next(iter(one.paired))}"
    return f"{signed(fmean(values))} ({spread})"


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def _names(sections: Sequence[Section]) -> list[str]:
    """An id for each section, made of its title."""
    names: list[str] = []
    for section in sections:
        slug = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        names.append(slug if slug not in names else f"{slug}-{len(names) + 1}")
    return names
