"""The report of `sais reproduce`: means, spreads and differences by value; Markdown, CSV, HTML and SVG parsed."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("torch")

from sais.config import to_dict
from sais.paper import page, plots, wording
from sais.paper.comparison import (
    PAPER_DATA,
    Comparison,
    compare_rows,
    csv_report,
    markdown_report,
    markdown_table,
    summarize_rows,
    table_cells,
)
from sais.paper.runs import RunResult
from sais.paper.tables import ROWS, TABLES, PaperTable
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings
from sais.reports import html
from sais.reports.charts import CHART_COLORS
from sais.reports.html_tables import Table
from sais.reports.run_record import format_duration

NASTY = "<b>&\"'|*`$x_1$"
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
DATA = {
    "name": "animals",
    "classes": ["bear", "deer"],
    "train": {"images": 80, "objects": 120},
    "valid": {"images": 20, "objects": 33},
}
MACHINE = {"device": "cpu", "name": "Some CPU", "cores": 2, "threads": 1, "torch": "2.12", "python": "3", "system": "L"}


def result(row: str, seed: int, ap: float | None, **more: object) -> RunResult:
    """A run whose mask AP is `ap` percent and whose box AP is 10 more; the other numbers follow it."""
    base = recipe("paper-lite0")
    experiment = replace_settings(ROWS[row].change(base) if row in ROWS else base, "run", seed=seed)
    masks = {name: None if ap is None else (ap - i) / 100 for i, name in enumerate(NAMES)}
    boxes = {name: None if ap is None else (ap + 10 - i) / 100 for i, name in enumerate(NAMES)}
    made = RunResult(
        row=row,
        seed=seed,
        architecture="sais",
        experiment=to_dict(replace(experiment, name=f"paper-lite0-{row}")),
        data=DATA,
        iterations=150,
        metrics={
            "box": boxes | {"per_class": {"bear": 0.5}},
            "mask": None if row.startswith("fcos") else masks | {"per_class": {"bear": 0.5}},
            "images": 20,
        },
        seconds=600 + 60 * seed,
        machine=MACHINE,
        digest=f"{row}{seed}",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def nasty_table() -> PaperTable:
    """A table of one row that no format likes."""
    paper = {NASTY: {"mask AP": 1.0}}
    return PaperTable("nasty", f"Table {NASTY}", (("mask", "AP"),), (NASTY,), paper, f"Claim {NASTY}")


SAIS = [result("sais-area", seed, ap) for seed, ap in ((2, 30.0), (0, 28.0), (1, 29.0))]
CENTER = [result("sais-center", seed, ap) for seed, ap in ((0, 28.5), (1, 29.9), (3, 40.0))]


class Reader(HTMLParser):
    """Reads a page and fails where a tag is closed that is not the one open."""

    VOID = ("meta", "img", "col", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[tuple[str, str, str]] = []
        """(tag, class, text) of each cell of each table."""
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append((tag, dict(attrs).get("class") or "", ""))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            tag, kind, text = self.cells[-1]
            self.cells[-1] = (tag, kind, text + data)


def render_table(table: Table) -> str:
    """Render a table as HTML."""
    return str(html._environment().get_template("macros.html.jinja").module.table(table))


def cells_of(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def log(path: Path, evaluations: Sequence[float] = (), masks: bool = True) -> Path:
    """A log of 300 iterations, the last line cut short."""
    lines = [{"kind": "start", "iteration": 0}]
    for i in range(1, 301):
        terms = {"total": 3 / i + 1, "classification": 1 / i, "box": 1 / i, "centerness": 0.6}
        lines.append(
            {"kind": "iteration", "iteration": i, "epoch": i // 100, **terms} | ({"mask": 0.3} if masks else {})
        )
    for epoch, ap in enumerate(evaluations):
        metrics = {"box": {"AP": ap + 0.1}, "mask": {"AP": ap} if masks else None}
        lines.append({"kind": "evaluation", "iteration": 300, "epoch": epoch, "metrics": metrics})
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "iter', encoding="utf-8")
    return path


def test_summarize_rows_collects_values_by_row_and_seed() -> None:
    lines = summarize_rows(TABLES["table2"], [*SAIS, result("fcos-area", 0, 20.0), result("sais", 0, 1.0)])
    assert [line.row for line in lines] == list(TABLES["table2"].rows)
    fcos, center, sais, _ = lines
    assert sais.seeds == (0, 1, 2)
    assert sais.measured["mask AP"] == pytest.approx((28, 29, 30))
    assert (sais.mean("mask AP"), sais.lowest("mask AP"), sais.highest("mask AP")) == pytest.approx((29, 28, 30))
    assert sais.measured["box APl"] == pytest.approx((33, 34, 35))
    assert sais.seconds == 660
    assert (sais.kind, sais.title, sais.paper["mask AP"]) == ("mask", "SAIS, fixed, area-aware", 28.2)
    assert fcos.measured["mask AP"] == (None,)
    assert fcos.mean("mask AP") is fcos.lowest("mask AP") is None
    assert (center.seeds, center.measured["box AP"], center.mean("box AP"), center.seconds) == ((), (), None, None)


def test_summarize_rows_refuses_two_runs_with_one_seed() -> None:
    measured = result("sais", 0, 30.0)
    (_, line) = summarize_rows(TABLES["table3"], [measured, measured])
    assert line.seeds == (0,)
    with pytest.raises(ValueError, match="two different runs of row sais with seed 0"):
        summarize_rows(TABLES["table3"], [measured, replace(measured, digest="other")])


def test_compare_rows_by_means_and_by_seed() -> None:
    table = TABLES["table2"]
    boxes, masks = compare_rows(table, summarize_rows(table, SAIS + CENTER))
    assert (boxes.difference, boxes.spread, boxes.paired, boxes.verdict()) == (None, None, {}, "not measured")
    assert boxes.paper == pytest.approx(0.2)
    assert masks.paper == pytest.approx(0.3)
    assert masks.difference == pytest.approx((28.5 + 29.9 + 40) / 3 - 29)
    assert masks.spread == pytest.approx(11.5)
    assert masks.paired == pytest.approx({0: 0.5, 1: 0.9})
    assert masks.verdict() == "+3.8, seeds differ by 11.5: not decided"
    assert masks.describe_pairs() == "mean +0.7, from +0.5 to +0.9"


@pytest.mark.parametrize(
    ("difference", "spread", "paper", "verdict"),
    [
        (2.0, 0.5, 0.3, "+2.0, seeds differ by 0.5: higher, as in the paper"),
        (-2.0, 0.5, 0.3, "-2.0, seeds differ by 0.5: lower, unlike the paper"),
        (2.0, 0.5, None, "+2.0, seeds differ by 0.5: higher"),
        (0.4, 1.2, 0.3, "+0.4, seeds differ by 1.2: not decided"),
        (0.54, 0.46, 0.3, "+0.5, seeds differ by 0.5: not decided"),  # as it reads, they are equal
        (-0.04, 0.0, 0.3, "0.0, seeds differ by 0.0: not decided"),
        (5.0, None, 0.3, "+5.0, spread unknown with one seed: not decided"),
        (None, None, 0.3, "not measured"),
    ],
)
def test_verdict_compares_difference_and_spread(
    difference: float | None, spread: float | None, paper: float | None, verdict: str
) -> None:
    assert Comparison("a", "b", "mask AP", paper, difference, spread, {}).verdict() == verdict


def test_comparison_is_undecided_with_one_seed() -> None:
    table = TABLES["table3"]
    comparison = compare_rows(table, summarize_rows(table, [*CENTER, result("sais", 0, 80.0)]))[0]
    assert comparison.spread is None
    assert not comparison.decided
    assert comparison.describe_pairs() == "+51.5 (seed 0)"


@pytest.mark.parametrize("key", TABLES)
def test_tables_contain_the_rows_they_compare(key: str) -> None:
    table = TABLES[key]
    assert table.compares
    for row, baseline, column in table.compares:
        assert {row, baseline} <= set(table.rows)
        assert tuple(column.split(" ")) in table.columns
        assert table.kinds.get(row, column.split(" ")[0]) == column.split(" ")[0]


def test_markdown_report_separates_paper_and_measured_columns() -> None:
    text = markdown_report(TABLES["table1"], SAIS)
    lines = text.splitlines()
    assert lines[0] == "## Table I: ratio kept or fixed input"
    assert TABLES["table1"].claim in lines[2]
    columns = ["row", "paper: box AP", "paper: mask AP", "measured: box AP", "measured: mask AP"]
    columns += ["measured: mask AP50", "measured: mask AP75", "measured: seeds", "measured: training"]
    assert cells_of(lines[4]) == columns
    bug, keep_ratio, fixed = (cells_of(line) for line in lines[6:9])
    assert bug == ["SAIS, ratio kept, with the padding bug", *["-"] * 6, "not run", "-"]
    assert keep_ratio[1:4] == ["36.7", "21.2", "-"]
    assert fixed[1:3] == ["35.9", "28.2"]
    assert fixed[3:] == ["39.0 (38.0-40.0)", "29.0 (28.0-30.0)", "28.0", "27.0", "0, 1, 2", "11 min"]
    for text_part in (
        PAPER_DATA,
        "animals (training: 80 images with 120 objects; validation: 20 images with 33 objects; 2 classes)",
        "recipe paper-lite0, 15 epochs, 150 iterations of 8 images, adamw with lr 0.001",
        "input 256x256 fixed; backbone tf_efficientnet_lite0.in1k from ImageNet weights",
        "seeds 0, 1, 2; on Some CPU, 1 thread of 2 cores, no GPU, torch 2.12",
        "SAIS, fixed, area-aware against SAIS, ratio kept: mask AP **not measured**. The paper: +7.0 on COCO.",
    ):
        assert text_part in text


def test_table_cells_share_columns_of_boxes_and_masks() -> None:
    table = TABLES["table2"]
    columns, rows = table_cells(table, summarize_rows(table, [*SAIS, result("fcos-area", 0, 20.0)]))
    assert columns[:3] == ["row", "compared by", "paper: AP"]
    assert columns[8] == "measured: AP"
    assert rows[0][1:4] == ["box AP", "36.7", "55.5"]
    assert rows[0][8] == "30.0"  # one seed has no spread
    assert rows[2][1:3] == ["mask AP", "28.2"]
    assert rows[2][8:10] == ["29.0 (28.0-30.0)", "28.0"]


def test_markdown_report_without_results() -> None:
    text = markdown_report(TABLES["table3"], [])
    assert "nothing yet" in text
    assert text.count("not run") == 2
    assert text.count("not measured") == 4


def test_markdown_table_escapes_cells() -> None:
    columns, _, cells = markdown_table(["a", NASTY], [["x\ny", "\\"]]).splitlines()
    assert cells_of(columns) == ["a", "&lt;b&gt;&amp;\"'\\|\\*\\`$x_1$"]
    assert cells_of(cells) == ["x y", "\\\\"]


def test_describe_conditions_names_rows_that_differ() -> None:
    other = MACHINE | {"name": "Other CPU"}
    conditions = wording.describe_conditions(
        [*SAIS, result("keep-ratio", 0, 1.0), result("keep-ratio", 1, 1.0, machine=other)]
    )
    assert (
        conditions["input"]
        == "256x256 fixed [SAIS, fixed, area-aware] and 427x256 with the ratio kept [SAIS, ratio kept]"
    )
    assert conditions["machine"].endswith(
        "Other CPU, 1 thread of 2 cores, no GPU, torch 2.12 [SAIS, ratio kept, seed 1]"
    )
    assert conditions["seeds"] == "0, 1, 2"
    assert "stopped early" in wording.describe_conditions([result("sais", 0, 1.0, iterations=5)])["schedule"]
    assert "3 unreadable" in wording.describe_conditions([result("sais", 0, 1.0, unreadable_images=3)])["data"]


@pytest.mark.parametrize(
    ("seconds", "duration"), [(None, "-"), (0.4, "0 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h")]
)
def test_format_duration(seconds: float | None, duration: str) -> None:
    assert format_duration(seconds) == duration


def test_csv_report_has_every_number_once() -> None:
    named = result(NASTY, 0, None, data=DATA | {"name": 'a,"b"'})
    table = replace(TABLES["table2"], rows=(*TABLES["table2"].rows, NASTY))
    rows = list(csv.DictReader(io.StringIO(csv_report(table, [*SAIS, SAIS[0], result("fcos-area", 0, 20.0), named]))))
    paper = [row for row in rows if row["source"] == "paper"]
    assert len(paper) == 24
    assert {row["data"] for row in paper} == {PAPER_DATA}
    measured = {(r["row"], r["seed"], r["kind"], r["metric"]): r for r in rows if r["source"] == "measured"}
    assert len(measured) + len(paper) == len(rows)
    assert float(measured["sais-area", "1", "mask", "AP"]["value"]) == 29.0
    assert measured["sais-area", "1", "mask", "AP"]["digest"] == "sais-area1"
    assert float(measured["sais-area", "2", "training", "seconds"]["value"]) == 720
    assert ("fcos-area", "0", "mask", "AP") not in measured
    assert measured[NASTY, "0", "mask", "AP"]["value"] == ""
    assert measured[NASTY, "0", "mask", "AP"]["data"] == 'a,"b"'


def test_plots_are_deterministic_xml_with_unique_ids(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table, results = TABLES["table2"], [*SAIS[:2], result("fcos-area", 0, 20.0)]
    logs = {r.digest: log(tmp_path / f"{r.digest}.jsonl", (0.1, 0.2), not r.row.startswith("fcos")) for r in results}
    made = [
        lambda: plots.plot_ap(table, results),
        lambda: plots.plot_losses(table, results, logs),
        lambda: plots.plot_ap_over_epochs(table, results, logs),
    ]
    ids: list[str] = []
    for draw in made:
        svg = draw()
        assert svg is not None
        assert svg == draw()
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert root.get("role") == "img"
        assert table.title in str(root.get("aria-label"))
        colors = set(re.findall(r"(?:stroke|fill): (#\w+)", svg))
        assert colors <= set(CHART_COLORS.values())  # the others would not follow a page's color scheme
        assert "metadata" not in svg
        ids += [str(element.get("id")) for element in root.iter() if element.get("id")]
        for link in re.findall(r'(?:url\(#|href="#)([^)"]+)', svg):
            assert f'id="{link}"' in svg
    assert len(ids) == len(set(ids))  # they share a page


def test_plot_ap_names_data_and_missing_runs() -> None:
    pytest.importorskip("matplotlib")
    svg = plots.plot_ap(TABLES["table3"], CENTER[:1])
    texts = [
        "".join(element.itertext()).strip()
        for element in ElementTree.fromstring(svg).iter()
        if element.tag.endswith("text")
    ]
    assert {"not run", "28.5", "28.7", "mask AP, paper (COCO)", "mask AP, measured (animals)"} <= set(texts)
    assert "mask AP, measured (not run)" in plots.plot_ap(TABLES["table3"], [])


def test_plot_losses_needs_logs(tmp_path: Path) -> None:
    table = TABLES["table3"]
    assert plots.plot_losses(table, CENTER, {}) is None
    assert plots.plot_losses(table, CENTER, {CENTER[0].digest: tmp_path / "absent.jsonl"}) is None
    assert plots.plot_ap_over_epochs(table, CENTER, {CENTER[0].digest: log(tmp_path / "log.jsonl")}) is None
    assert len(plots.read_log(tmp_path)) == 300  # without the incomplete start


def test_write_page_is_complete_and_self_contained(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "deep").mkdir()
    logs = {SAIS[0].digest: log(tmp_path / "log.jsonl")}
    table = page.table_section(TABLES["table2"], SAIS + CENTER, logs, commands=("sais reproduce table2 --data x",))
    images = page.Section("Figure", "Text.", images=((tmp_path / 'a "b"&.png', 'Cap"tion'),), commands=("",))
    path = page.write_page(tmp_path / "deep", [table, images, images])
    assert path == tmp_path / "deep/index.html"
    text = path.read_text(encoding="utf-8")
    reader = Reader(text)
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "link", "iframe"}
    addresses = [a[name] for _, a in reader.seen for name in ("href", "src", "xlink:href") if a.get(name)]
    assert not [address for address in addresses if address and address.startswith(("http", "//", "/"))]
    assert "../a%20%22b%22%26.png" in addresses
    names = [a["id"] for tag, a in reader.seen if tag == "section"]
    assert names == ["table-ii-area-aware-or-center-aware-targets", "figure", "figure-3"]
    assert {f"#{name}" for name in names} <= set(addresses)
    assert text.count("<svg") == 2  # no evaluations in the log
    assert "sais reproduce table2 --data x" in reader.text
    assert "mask AP +3.8, seeds differ by 11.5: not decided" in reader.text
    assert "Some CPU, 1 thread of 2 cores" in reader.text


def test_table_section_separates_paper_and_measured_columns() -> None:
    pytest.importorskip("matplotlib")
    section = page.table_section(TABLES["table1"], SAIS)
    reader = Reader(render_table(section.tables[0]))
    kinds = {kind.replace(" number", "") for _, kind, _ in reader.cells}
    assert kinds == {"", "paper", "measured"}
    paper_cells = {text for _, kind, text in reader.cells if kind.startswith("paper")}
    assert paper_cells == {f"paper{PAPER_DATA}", "box AP", "mask AP", "-", "36.7", "21.2", "35.9", "28.2"}
    (heading,) = [text for _, kind, text in reader.cells if kind == "measured" and text.startswith("measured")]
    assert heading == "measuredanimals · 15 epochs · seeds 0, 1, 2 · Some CPU, 1 thread of 2 cores, no GPU, torch 2.12"
    assert ("td", "measured number", "29.0(28.0-30.0)") in reader.cells
    spans = [int(a["span"] or 0) for tag, a in reader.seen if tag == "colgroup"]
    assert spans == [1, 2, 6]


def test_write_page_escapes_all_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    nasty = result(NASTY, 0, 30.0, data=DATA | {"name": NASTY}, machine=MACHINE | {"name": NASTY})
    logs = {nasty.digest: log(tmp_path / "log.jsonl", (0.1,))}
    sections = [
        page.table_section(nasty_table(), [nasty], logs, commands=(NASTY,)),
        page.Section(NASTY, NASTY, images=((tmp_path / "x.png", NASTY),)),
        page.Section(NASTY, NASTY, tables=(Table([NASTY, f"paper: {NASTY}"], [[NASTY, NASTY]], NASTY),)),
    ]
    text = page.write_page(tmp_path, sections, title=NASTY, intro=NASTY).read_text(encoding="utf-8")
    reader = Reader(text)
    assert "b" not in {tag for tag, _ in reader.seen}
    assert NASTY not in text
    assert reader.text.count(NASTY) > 20
    for svg, _ in sections[0].plots:
        texts = ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter()]
        assert any(NASTY in part for part in texts)
    assert "<b>" not in markdown_report(nasty_table(), [nasty])


def test_table_aligns_numbers_and_checks_cells() -> None:
    table = Table(["system", "ms", "what"], [["SAIS", "12.5", "a long text of many words"], ["b", "-", "-"]])
    reader = Reader(render_table(table))
    texts = [text for _, _, text in reader.cells]
    assert texts == ["system", "ms", "what", "SAIS", "12.5", "a long text of many words", "b", "-", "-"]
    assert reader.cells[4] == ("td", "number", "12.5")
    assert reader.cells[8] == ("td", "", "-")
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table(["a", "b"], [["only one"]])


def test_write_page_without_sections(tmp_path: Path) -> None:
    assert "No experiment has been run yet" in Reader(page.write_page(tmp_path, []).read_text(encoding="utf-8")).text
