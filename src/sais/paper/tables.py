"""The rows of the paper's tables: what each changes in a recipe, and the paper's own figures for it.

A row is a change to a base recipe, so that the same row exists for COCO on ResNet-50 and for a laptop. On the base
`sais-r50-768` each row is the paper's own recipe (`Row.recipe`). Tables I and II were run without fusion, and FCOS
with the ratio kept (docs/paper.md says why we think so). Two tables that share a row share its runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sais.config import Experiment
from sais.errors import SaisError
from sais.recipes.adjust import changed
from sais.recipes.paper import RESNET50, RESNET101, RESNEXT101

Figures = dict[str, float]
"""Column -> the paper's figure, AP in percent."""


@dataclass(frozen=True)
class TableRow:
    """One model of a table."""

    key: str
    """Its name in folders and on the command line."""
    title: str
    change: Callable[[Experiment], Experiment]
    """What makes it of the base recipe."""
    recipe: str | None = None
    """The paper's recipe, which is `change` of sais-r50-768; None where the paper has no such row."""
    slip: bool = False
    """Trained and tested with the padding slip (`reproduce.slip`)."""


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    key: str
    title: str
    columns: tuple[tuple[str, str], ...]
    """(kind, name) of what is compared: ("box", "AP"), ("mask", "APs") ..."""
    rows: tuple[str, ...]
    """Keys of `ROWS`."""
    paper: dict[str, Figures]
    """Row -> "kind name" -> the paper's figure in percent; rows of its own invention have none."""
    claim: str
    """What the paper says the table shows."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Row -> the kind judged, where a table judges some rows by boxes and some by masks."""
    compares: tuple[tuple[str, str, str], ...] = ()
    """(row, the row it is held against, "kind name"): the differences that the claim is about."""


def keep_ratio(experiment: Experiment) -> Experiment:
    """The ratio kept, at the size that is to the base's as 1333x800 is to 768x768; the short side a multiple of 32."""
    short = max(32, round(experiment.input.size[0] * 800 / 768 / 32) * 32)
    return changed(experiment, "input", mode="keep_ratio", size=(short, round(short * 1333 / 800)))


def sais(rule: str, fusion: bool, kept: bool = False) -> Callable[[Experiment], Experiment]:
    """SAIS with targets by `rule`, coefficients from both towers or from one, the input's ratio kept or not.

    Everything that a table is about is set, whatever the base says of it.
    """

    def change(base: Experiment) -> Experiment:
        source = "both" if fusion else "classification"
        made = changed(changed(base, "criterion", assigner=rule), "model", masks=True, coefficients_from=source)
        return keep_ratio(made) if kept else made

    return change


def fcos(rule: str) -> Callable[[Experiment], Experiment]:
    """FCOS, the ratio kept: no ProtoNet, no coefficients."""
    return lambda base: changed(sais(rule, fusion=True, kept=True)(base), "model", masks=False)


def on(backbone: str, side: int) -> Callable[[Experiment], Experiment]:
    """A backbone and a fixed square input of Table IV."""
    return lambda base: changed(
        changed(sais("center", fusion=True)(base), "input", size=(side, side)), "model", backbone=backbone
    )


def _rows(*rows: TableRow) -> dict[str, TableRow]:
    return {row.key: row for row in rows}


ROWS = _rows(
    TableRow(
        "keep-ratio",
        "SAIS, ratio kept",
        sais("area", fusion=False, kept=True),
        "sais-r50-keep-ratio-area",
    ),
    TableRow(
        "keep-ratio-slip",
        "SAIS, ratio kept, with the padding slip",
        sais("area", fusion=False, kept=True),
        slip=True,
    ),
    TableRow("sais-area", "SAIS, fixed, area-aware", sais("area", fusion=False), "sais-r50-768-area"),
    TableRow("sais-center", "SAIS, fixed, center-aware", sais("center", fusion=False), "sais-r50-768-no-fusion"),
    TableRow("sais", "SAIS, fixed, center-aware, fusion", sais("center", fusion=True), "sais-r50-768"),
    TableRow("fcos-area", "FCOS, area-aware", fcos("area"), "fcos-r50-area"),
    TableRow("fcos-center", "FCOS, center-aware", fcos("center"), "fcos-r50"),
    TableRow("sais-640-r50", "SAIS-640, R50", on(RESNET50, 640), "sais-r50-640"),
    TableRow("sais-768-r50", "SAIS-768, R50", on(RESNET50, 768), "sais-r50-768"),
    TableRow("sais-768-r101", "SAIS-768, R101", on(RESNET101, 768), "sais-r101-768"),
    TableRow("sais-768-x101", "SAIS-768, X101", on(RESNEXT101, 768), "sais-x101-768"),
)

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def _figures(kind: str, *values: float) -> Figures:
    return {f"{kind} {name}": value for name, value in zip(NAMES, values, strict=True)}


def _columns(*kinds: str) -> tuple[tuple[str, str], ...]:
    return tuple((kind, name) for kind in kinds for name in NAMES)


TABLES = {
    "table1": PaperTable(
        "table1",
        "Table I: ratio kept or fixed input",
        (("box", "AP"), ("mask", "AP"), ("mask", "AP50"), ("mask", "AP75")),
        ("keep-ratio-slip", "keep-ratio", "sais-area"),
        {
            # The paper has one row with the ratio kept. Whether it is the one with the slip is what we ask.
            "keep-ratio": {"box AP": 36.7, "mask AP": 21.2},
            "sais-area": {"box AP": 35.9, "mask AP": 28.2},
        },
        "A fixed input brings 7.0 mask AP over a kept ratio.",
        compares=(
            ("sais-area", "keep-ratio-slip", "mask AP"),
            ("sais-area", "keep-ratio", "mask AP"),
            ("keep-ratio", "keep-ratio-slip", "mask AP"),
        ),
    ),
    "table2": PaperTable(
        "table2",
        "Table II: area-aware or center-aware targets",
        _columns("box", "mask"),
        ("fcos-area", "fcos-center", "sais-area", "sais-center"),
        {
            "fcos-area": _figures("box", 36.7, 55.5, 39.3, 21.9, 40.5, 48.0),
            "fcos-center": _figures("box", 36.9, 55.7, 39.5, 21.5, 40.9, 47.3),
            "sais-area": _figures("mask", 28.2, 47.8, 29.0, 9.3, 30.6, 44.9),
            "sais-center": _figures("mask", 28.5, 48.4, 29.3, 10.2, 30.7, 45.1),
        },
        "Center-aware targets bring 0.2 box AP to FCOS and 0.3 mask AP to SAIS.",
        {"fcos-area": "box", "fcos-center": "box", "sais-area": "mask", "sais-center": "mask"},
        (("fcos-center", "fcos-area", "box AP"), ("sais-center", "sais-area", "mask AP")),
    ),
    "table3": PaperTable(
        "table3",
        "Table III: coefficients from one tower or from the sum of both",
        _columns("mask"),
        ("sais-center", "sais"),
        {
            "sais-center": _figures("mask", 28.5, 48.4, 29.3, 10.2, 30.7, 45.1),
            "sais": _figures("mask", 28.7, 49.2, 29.4, 10.4, 32.2, 44.5),
        },
        "Fusion brings 0.2 mask AP, most on small and medium objects.",
        compares=tuple(("sais", "sais-center", f"mask {name}") for name in ("AP", "APs", "APm", "APl")),
    ),
}


def find_row(key: str) -> TableRow:
    """The row of that key. Raises SaisError where there is none."""
    from sais.resolve import suggest

    if key not in ROWS:
        raise SaisError(f"unknown row '{key}'{suggest(key, ROWS)}")
    return ROWS[key]
