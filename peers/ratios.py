"""The ratios that stand in `docs/performance.md`: each a quotient of two medians of one interleaved run.

Everything twice: as shipped, and with the allocator keeping big blocks on both sides. A bar is what the project set
itself; a ratio above it stands in the table like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from peers import postprocessing
from peers.exported_graphs import LETTERBOXED, ONNX, STRETCHED, YOLO
from sais.benchmark.candidates import Candidate, recipe_candidate
from sais.benchmark.memory import in_fresh_process
from sais.benchmark.timing import OWN, Conditions, Timing, measure_times
from sais.engine.allocator import can_keep_big_blocks
from sais.recipes import recipe

SLIM = "SAIS-640, R50, 128 channels"
YOLACT, MASK_RCNN = "YOLACT-550, R50", "Mask R-CNN 768, R50, torchvision's own"
FAIR_MASK_RCNN = "Mask R-CNN 768, R50"
SOURCES = (
    OWN,
    "peers.ratios:slim",
    "peers.candidates:paper",
    "peers.exported_graphs:candidates",
    "peers.installed:candidates",
)
NAMES = (
    "SAIS-640, R50",
    "SAIS-768, R50",
    SLIM,
    YOLACT,
    MASK_RCNN,
    FAIR_MASK_RCNN,
    *(name + runtime for name in (STRETCHED, LETTERBOXED, YOLO) for runtime in ("", ONNX)),
)


@dataclass(frozen=True)
class Goal:
    """A quotient of two systems' times, and the bars it was set."""

    top: str
    bottom: str
    """The same system twice means its end to end against its network alone."""
    shipped: float | None
    kept: float | None
    """Bars; None where there is none."""


GOALS = (
    Goal("SAIS-640, R50", "SAIS-640, R50", 1.05, None),
    Goal("SAIS-768, R50", "SAIS-768, R50", 1.05, None),
    Goal(STRETCHED, STRETCHED, 1.40, None),
    Goal(LETTERBOXED, LETTERBOXED, 1.40, None),
    Goal(STRETCHED, YOLO, 0.20, 0.50),
    Goal(LETTERBOXED, YOLO, 0.20, 0.50),
    Goal(STRETCHED + ONNX, YOLO + ONNX, 0.20, 0.50),
    Goal(LETTERBOXED + ONNX, YOLO + ONNX, 0.20, 0.50),
    Goal("SAIS-768, R50", MASK_RCNN, 0.45, 0.52),
    Goal("SAIS-768, R50", FAIR_MASK_RCNN, None, None),
    Goal("SAIS-640, R50", YOLACT, None, None),
    Goal(SLIM, YOLACT, None, 1.00),
)

Rows = list[list[str]]


def slim() -> list[Candidate]:
    """SAIS-R50-640 with 128 channels."""
    return [recipe_candidate(SLIM, recipe("sais-r50-640-slim"))]


def systems(conditions: Conditions, repeats: int) -> tuple[Rows, Rows]:
    """Measure: rows of times in milliseconds, rows of ratios."""
    conditions = replace(conditions, repeats=repeats)
    shipped = {one.name: one for one in measure_times(SOURCES, NAMES, conditions)}
    kept: dict[str, Timing] = {}
    if can_keep_big_blocks():
        kept = {one.name: one for one in measure_times(SOURCES, NAMES, replace(conditions, keep_blocks=True))}
    times = []
    for name, one in shipped.items():
        values = [one.fit, one.network, one.finish, one.dense, one.end_to_end]
        values += [kept[name].network, kept[name].finish, kept[name].end_to_end] if kept else []
        times.append([name, *(f"{value:.1f}" for value in values)])
    ratios = []
    for goal in GOALS:
        if goal.top in shipped and goal.bottom in shipped:
            pair = [_quotient(goal, each) if each else None for each in (shipped, kept)]
            what = "its network alone" if goal.top == goal.bottom else goal.bottom
            ratios.append([goal.top, what, *_cells(pair, (goal.shipped, goal.kept))])
    return times, ratios


ASSEMBLY = (
    (postprocessing.DEFAULT, postprocessing.ULTRALYTICS, 0.06, 0.18, 0.10),
    (postprocessing.DEFAULT, postprocessing.TORCHVISION, 0.10, 0.40, None),
    (postprocessing.LARGE, postprocessing.ULTRALYTICS, 0.05, None, None),
    (postprocessing.LARGE, postprocessing.CHUNKS, 0.05, None, None),
)
"""Case, way that ours is held against, and bars: time as shipped, time with blocks kept, memory."""


def assembly(repeats: int) -> tuple[Rows, Rows]:
    """Post-processing alone: rows of times and memory, rows of ratios."""
    times, ratios = [], []
    for case in (postprocessing.DEFAULT, postprocessing.LARGE):
        found = {
            one.way: one
            for one in postprocessing.measure(case, repeats if case is postprocessing.DEFAULT else min(repeats, 3))
        }
        what = f"{case.objects} objects, {case.size[1]} x {case.size[0]}"
        for way, one in found.items():
            times.append([what, way, f"{one.shipped:.1f}", _cell(one.kept, ".1f"), _cell(one.mebibytes, ".1f")])
        ours = found[postprocessing.OURS]
        for where, way, shipped, kept, memory in ASSEMBLY:
            if where is not case or way not in found:
                continue
            other = found[way]
            pair = [ours.shipped / other.shipped, ours.kept / other.kept if ours.kept and other.kept else None]
            space = ours.mebibytes / other.mebibytes if ours.mebibytes and other.mebibytes else None
            ratios.append([what, way, *_cells(pair, (shipped, kept)), *_cells([space], (memory,))])
    added = in_fresh_process("peers.postprocessing:memory", asdict(postprocessing.CROWDED), postprocessing.OURS)
    crowd = f"{postprocessing.CROWDED.objects} objects of 1-50 % of the side, 4000 x 3000"
    times.append([crowd, postprocessing.OURS, "-", "-", _cell(added, ".1f")])
    return times, ratios


def _quotient(goal: Goal, timings: dict[str, Timing]) -> float:
    top = timings[goal.top]
    bottom = timings[goal.bottom]
    return top.end_to_end / (bottom.network if goal.top == goal.bottom else bottom.end_to_end)


def _cells(values: Sequence[float | None], bars: Sequence[float | None]) -> list[str]:
    """Value and bar, in turn."""
    pairs = zip(values, bars, strict=True)
    return [cell for value, bar in pairs for cell in (_cell(value, ".3f"), "-" if bar is None else f"<= {bar:.2f}")]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
