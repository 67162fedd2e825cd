"""The ratios of `docs/performance.md`: quotients of two medians of one interleaved run.

Everything is measured twice: with the system's default memory allocator, and with one that retains freed memory.
Targets are those that the project set for itself; ratios above their target are reported like all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from peers import postprocessing
from peers.exported_graphs import LETTERBOXED, ONNX, STRETCHED, YOLO
from sais.benchmark.candidates import Candidate
from sais.benchmark.masks import MaskCase
from sais.benchmark.memory import in_fresh_process
from sais.benchmark.recipe_candidates import recipe_candidate
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
class RatioTarget:
    """A quotient of the latencies of two systems, and its targets."""

    numerator: str
    denominator: str
    """Name of the other system; the same name means end to end relative to the network alone."""
    default_allocator: float | None
    retaining_allocator: float | None
    """Maximum ratio with each allocator; None if there is no target."""


TARGETS = (
    RatioTarget("SAIS-640, R50", "SAIS-640, R50", 1.05, None),
    RatioTarget("SAIS-768, R50", "SAIS-768, R50", 1.05, None),
    RatioTarget(STRETCHED, STRETCHED, 1.40, None),
    RatioTarget(LETTERBOXED, LETTERBOXED, 1.40, None),
    RatioTarget(STRETCHED, YOLO, 0.20, 0.50),
    RatioTarget(LETTERBOXED, YOLO, 0.20, 0.50),
    RatioTarget(STRETCHED + ONNX, YOLO + ONNX, 0.20, 0.50),
    RatioTarget(LETTERBOXED + ONNX, YOLO + ONNX, 0.20, 0.50),
    RatioTarget("SAIS-768, R50", MASK_RCNN, 0.45, 0.52),
    RatioTarget("SAIS-768, R50", FAIR_MASK_RCNN, None, None),
    RatioTarget("SAIS-640, R50", YOLACT, None, None),
    RatioTarget(SLIM, YOLACT, None, 1.00),
)


@dataclass(frozen=True)
class AssemblyTarget:
    """Mask assembly of SAIS relative to another method, and its targets; None if there is no target."""

    case: MaskCase
    method: str
    default_allocator: float
    retaining_allocator: float | None
    memory: float | None


ASSEMBLY_TARGETS = (
    AssemblyTarget(postprocessing.DEFAULT, postprocessing.ULTRALYTICS, 0.06, 0.18, 0.10),
    AssemblyTarget(postprocessing.DEFAULT, postprocessing.TORCHVISION, 0.10, 0.40, None),
    AssemblyTarget(postprocessing.LARGE, postprocessing.ULTRALYTICS, 0.05, None, None),
    AssemblyTarget(postprocessing.LARGE, postprocessing.CHUNKED, 0.05, None, None),
)

Rows = list[list[str]]


def slim() -> list[Candidate]:
    """Return SAIS-R50-640 with 128 channels."""
    return [recipe_candidate(SLIM, recipe("sais-r50-640-slim"))]


def measure_systems(conditions: Conditions, repeats: int) -> tuple[Rows, Rows]:
    """Measure whole systems: table rows of latencies in milliseconds, and of ratios."""
    conditions = replace(conditions, repeats=repeats)
    default = {timing.name: timing for timing in measure_times(SOURCES, NAMES, conditions)}
    retaining: dict[str, Timing] = {}
    if can_keep_big_blocks():
        timings = measure_times(SOURCES, NAMES, replace(conditions, retain_memory=True))
        retaining = {timing.name: timing for timing in timings}
    latency_rows = []
    for name, timing in default.items():
        values = [timing.preprocess, timing.network, timing.postprocess, timing.dense_masks, timing.end_to_end]
        if retaining:
            values += [retaining[name].network, retaining[name].postprocess, retaining[name].end_to_end]
        latency_rows.append([name, *(f"{value:.1f}" for value in values)])
    ratio_rows = []
    for target in TARGETS:
        if target.numerator in default and target.denominator in default:
            ratios = [_ratio(target, timings) if timings else None for timings in (default, retaining)]
            base = "its network alone" if target.numerator == target.denominator else target.denominator
            limits = (target.default_allocator, target.retaining_allocator)
            ratio_rows.append([target.numerator, base, *_cells(ratios, limits)])
    return latency_rows, ratio_rows


def measure_assembly(repeats: int) -> tuple[Rows, Rows]:
    """Measure mask assembly alone: table rows of times and memory, and of ratios."""
    time_rows, ratio_rows = [], []
    for case in (postprocessing.DEFAULT, postprocessing.LARGE):
        runs = repeats if case is postprocessing.DEFAULT else min(repeats, 3)
        measured = {measurement.method: measurement for measurement in postprocessing.measure(case, runs)}
        description = f"{case.num_objects} objects, {case.size[1]} x {case.size[0]}"
        for method, measurement in measured.items():
            times = (measurement.default_allocator, measurement.retaining_allocator, measurement.mebibytes)
            time_rows.append([description, method, *(_cell(value, ".1f") for value in times)])
        own = measured[postprocessing.SAIS]
        for target in ASSEMBLY_TARGETS:
            if target.case is not case or target.method not in measured:
                continue
            other = measured[target.method]
            ratios = (
                _quotient(own.default_allocator, other.default_allocator),
                _quotient(own.retaining_allocator, other.retaining_allocator),
                _quotient(own.mebibytes, other.mebibytes),
            )
            limits = (target.default_allocator, target.retaining_allocator, target.memory)
            ratio_rows.append([description, target.method, *_cells(ratios, limits)])
    crowded = postprocessing.CROWDED
    mebibytes = in_fresh_process("peers.postprocessing:memory", asdict(crowded), postprocessing.SAIS)
    description = f"{crowded.num_objects} objects of 1-50 % of the side, 4000 x 3000"
    time_rows.append([description, postprocessing.SAIS, "-", "-", _cell(mebibytes, ".1f")])
    return time_rows, ratio_rows


def _ratio(target: RatioTarget, timings: dict[str, Timing]) -> float:
    numerator, denominator = timings[target.numerator], timings[target.denominator]
    same = target.numerator == target.denominator
    return numerator.end_to_end / (denominator.network if same else denominator.end_to_end)


def _quotient(value: float | None, base: float | None) -> float | None:
    return value / base if value and base else None


def _cells(ratios: Sequence[float | None], limits: Sequence[float | None]) -> list[str]:
    """Format each ratio and its limit in turn."""
    pairs = zip(ratios, limits, strict=True)
    return [
        cell for ratio, limit in pairs for cell in (_cell(ratio, ".3f"), "-" if limit is None else f"<= {limit:.2f}")
    ]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
