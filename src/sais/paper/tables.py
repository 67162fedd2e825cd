"""The rows of the paper's tables: how each changes a recipe, and the paper's figures for it.

A row is a change to a base recipe, so that the same row exists for COCO on ResNet-50 and for a laptop. With the base
`sais-r50-768` each row is the paper's own recipe (`TableRow.recipe`). The paper ran Tables I and II without fusion, and
FCOS with the ratio kept (docs/paper.md has the reasons). Tables that share a row share its runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sais.config import Experiment
from sais.errors import InputError
from sais.recipes.adjust import replace_settings
from sais.recipes.paper import RESNET50, RESNET101, RESNEXT101
from sais.resolve import suggest

Figures = dict[str, float]
"""Column -> the paper's figure, AP in percent."""


@dataclass(frozen=True)
class TableRow:
    """One model of a table."""

    key: str
    """Name in folders and on the command line."""
    title: str
    change: Callable[[Experiment], Experiment]
    """Function from the base recipe to the row's settings."""
    recipe: str | None = None
    """Recipe that `change` makes of sais-r50-768; None where the paper has no such row."""
    padding_bug: bool = False
    """Whether the row trains and predicts with the padding bug (`paper.padding_bug`)."""


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    key: str
    title: str
    columns: tuple[tuple[str, str], ...]
    """(kind, metric) of each column: ("box", "AP"), ("mask", "APs") ..."""
    rows: tuple[str, ...]
    """Keys of `ROWS`."""
    paper: dict[str, Figures]
    """Row -> "kind metric" -> the paper's figure in percent; rows that the paper does not have are missing."""
    claim: str
    """The paper's claim about the table."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Row -> "box" or "mask", where a table compares some rows by boxes and some by masks."""
    compares: tuple[tuple[str, str, str], ...] = ()
    """(row, baseline row, "kind metric") of the differences that the claim is about."""


def keep_ratio(experiment: Experiment) -> Experiment:
    """Keep the ratio at the size that relates to the base's as 1333x800 to 768x768, its short side a multiple of 32."""
    short = max(32, round(experiment.input.size[0] * 800 / 768 / 32) * 32)
    return replace_settings(experiment, "input", mode="keep_ratio", size=(short, round(short * 1333 / 800)))


def sais_row(assigner: str, fusion: bool, ratio_kept: bool = False) -> Callable[[Experiment], Experiment]:
    """Return the change of a row of SAIS. It sets everything that a table compares, whatever the base has.

    Args:
        assigner: target assigner, "center" or "area".
        fusion: whether the coefficients are computed from both towers.
        ratio_kept: whether the input keeps the ratio of the image.
    """

    def change(base: Experiment) -> Experiment:
        source = "both" if fusion else "classification"
        assigned = replace_settings(base, "criterion", assigner=assigner)
        experiment = replace_settings(assigned, "model", masks=True, coefficients_from=source)
        return keep_ratio(experiment) if ratio_kept else experiment

    return change


def fcos_row(assigner: str) -> Callable[[Experiment], Experiment]:
    """Return the change of a row of FCOS: the ratio kept, without ProtoNet and coefficients."""
    change = sais_row(assigner, fusion=True, ratio_kept=True)
    return lambda base: replace_settings(change(base), "model", masks=False)


def table4_row(backbone: str, side: int) -> Callable[[Experiment], Experiment]:
    """Return the change of a row of Table IV.

    Args:
        backbone: name of a timm model.
        side: side of the square input in pixels.
    """
    change = sais_row("center", fusion=True)
    return lambda base: replace_settings(
        replace_settings(change(base), "input", size=(side, side)), "model", backbone=backbone
    )


def _rows(*rows: TableRow) -> dict[str, TableRow]:
    return {row.key: row for row in rows}


ROWS = _rows(
    TableRow(
        "keep-ratio",
        "SAIS, ratio kept",
        sais_row("area", fusion=False, ratio_kept=True),
        "sais-r50-keep-ratio-area",
    ),
    TableRow(
        "keep-ratio-padding-bug",
        "SAIS, ratio kept, with the padding bug",
        sais_row("area", fusion=False, ratio_kept=True),
        padding_bug=True,
    ),
    TableRow("sais-area", "SAIS, fixed, area-aware", sais_row("area", fusion=False), "sais-r50-768-area"),
    TableRow("sais-center", "SAIS, fixed, center-aware", sais_row("center", fusion=False), "sais-r50-768-no-fusion"),
    TableRow("sais", "SAIS, fixed, center-aware, fusion", sais_row("center", fusion=True), "sais-r50-768"),
    TableRow("fcos-area", "FCOS, area-aware", fcos_row("area"), "fcos-r50-area"),
    TableRow("fcos-center", "FCOS, center-aware", fcos_row("center"), "fcos-r50"),
    TableRow("sais-640-r50", "SAIS-640, R50", table4_row(RESNET50, 640), "sais-r50-640"),
    TableRow("sais-768-r50", "SAIS-768, R50", table4_row(RESNET50, 768), "sais-r50-768"),
    TableRow("sais-768-r101", "SAIS-768, R101", table4_row(RESNET101, 768), "sais-r101-768"),
    TableRow("sais-768-x101", "SAIS-768, X101", table4_row(RESNEXT101, 768), "sais-x101-768"),
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
        ("keep-ratio-padding-bug", "keep-ratio", "sais-area"),
        {
            # The paper has one row with the ratio kept; whether it has the padding bug is not known.
            "keep-ratio": {"box AP": 36.7, "mask AP": 21.2},
            "sais-area": {"box AP": 35.9, "mask AP": 28.2},
        },
        "A fixed input brings 7.0 mask AP over a kept ratio.",
        compares=(
            ("sais-area", "keep-ratio-padding-bug", "mask AP"),
            ("sais-area", "keep-ratio", "mask AP"),
            ("keep-ratio", "keep-ratio-padding-bug", "mask AP"),
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
    """Return the row with this key. Raises InputError if there is none."""
    if key not in ROWS:
        raise InputError(f"row '{key}': unknown{suggest(key, ROWS)}")
    return ROWS[key]
