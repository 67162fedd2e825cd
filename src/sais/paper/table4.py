"""Table IV: speed and memory of the paper's models on this machine, beside the paper's and the peers'.

Speed and memory are measured with random weights and injected objects (`sais.benchmark`); AP stands only where a row was
trained. Rows of systems that nobody here has implemented keep the paper's figures, marked so.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sais.benchmark.candidates import Candidate, find_candidates
from sais.benchmark.timing import OWN, Conditions, Memory, Timing, measure_memory, measure_times
from sais.engine.allocator import can_keep_big_blocks
from sais.engine.environment import describe_environment
from sais.engine.environment import format_environment as machine_in_words
from sais.paper.runs import RunResult
from sais.paper.wording import conditions

MEBIBYTE = 2**20


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper's Table IV; speeds are of a Titan X or Xp, AP of test-dev in percent."""

    name: str
    backbone: str
    epochs: int
    augmented: bool
    ap: tuple[float, float, float, float, float, float]
    """AP, AP50, AP75, small, medium, large."""
    fps: float
    gigabytes: float | None
    candidate: str | None = None
    """Name of what we measure beside it; None where there is nothing."""
    row: str | None = None
    """Key of the row that trains it."""


PAPER = (
    PaperRow("FCIS", "R101-C5", 12, False, (29.5, 51.5, 30.2, 8.0, 31.0, 49.7), 6.6, None),
    PaperRow(
        "Mask R-CNN", "R101-FPN", 12, False, (37.5, 60.2, 40.0, 19.8, 41.2, 51.4), 8.6, 5.7, "Mask R-CNN 768, R101"
    ),
    PaperRow("ExtremeNet", "Hourglass-104", 100, True, (18.9, 44.5, 13.7, 10.4, 20.4, 28.3), 4.1, None),
    PaperRow("YOLACT-550", "R50", 48, True, (28.2, 46.6, 29.2, 9.2, 29.3, 44.8), 42.5, 3.8, "YOLACT-550, R50"),
    PaperRow(
        "SAIS-640", "R50", 12, False, (27.6, 47.2, 28.3, 9.4, 30.5, 44.0), 29.2, 1.8, "SAIS-640, R50", "sais-640-r50"
    ),
    PaperRow(
        "SAIS-768", "R50", 12, False, (28.7, 49.2, 29.4, 10.4, 32.2, 44.5), 26.9, 2.5, "SAIS-768, R50", "sais-768-r50"
    ),
    PaperRow("YOLACT-700", "R101", 48, True, (31.2, 50.6, 32.8, 12.1, 33.3, 47.1), 23.6, None, "YOLACT-700, R101"),
    PaperRow(
        "SAIS-768",
        "R101",
        12,
        False,
        (30.7, 51.6, 31.7, 11.3, 34.3, 46.8),
        25.4,
        3.6,
        "SAIS-768, R101",
        "sais-768-r101",
    ),
    PaperRow(
        "SAIS-768",
        "X101",
        12,
        False,
        (32.5, 55.8, 33.6, 13.8, 35.5, 50.3),
        18.2,
        6.6,
        "SAIS-768, X101",
        "sais-768-x101",
    ),
)

COLUMNS = (
    "system",
    "paper: mask AP",
    "paper: FPS",
    "paper: GB",
    "measured: mask AP",
    "measured: network ms",
    "measured: post ms",
    "measured: end to end ms",
    "measured: FPS",
    "measured: end to end ms, full stack",
    "measured: end to end ms, blocks kept",
    "measured: memory added, MiB",
    "measured: kept for backward an image, MiB",
    "measured: peak of a training step",
)


def measure(
    rows: Sequence[str], peers: Sequence[str], conditions: Conditions, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Time and memory of SAIS' rows and of the candidates of `peers` ("module:function"), in one go.

    Args:
        rows: keys of the SAIS rows to measure.

    Returns:
        Ready for JSON: conditions, "notes" (what is to be known of a system), "timings" (system's allocator), "kept"
        (blocks kept), "memory".
    """
    own = [r.candidate for r in PAPER if r.candidate and r.row in rows]
    sources = [OWN, *peers]
    candidates = [one for one in find_candidates(OWN) if one.name in own]
    candidates += [one for source in peers for one in find_candidates(source)]
    names = [one.name for one in candidates]
    say(f"timing {', '.join(names)}: {conditions.repeats + 1} turns each, twice")
    timings = measure_times(sources, names, conditions)
    kept = measure_times(sources, names, replace(conditions, retain_memory=True)) if can_keep_big_blocks() else []
    say("measuring memory, each system in a process of its own")
    memory = measure_memory(sources, names, conditions)
    return {
        "conditions": asdict(conditions),
        "machine": describe_environment(torch.device(conditions.device)),
        "notes": notes_of(candidates),
        "timings": [asdict(one) for one in timings],
        "kept": [asdict(one) for one in kept],
        "memory": [asdict(one) for one in memory],
    }


def notes_of(candidates: Sequence[Candidate]) -> list[tuple[str, str]]:
    """(system, what is to be known of it): how its masks are made, in what it differs; below the tables."""
    return [(one.name, one.note) for one in candidates if one.note]


def lines(measured: dict[str, Any], results: Sequence[RunResult] = ()) -> list[list[str]]:
    """The rows of the table as strings, in the order of `COLUMNS`: the paper's, then candidates the paper has not."""
    timings = {one["name"]: Timing(**one) for one in measured["timings"]}
    kept = {one["name"]: Timing(**one) for one in measured["kept"]}
    memory = {one["name"]: Memory(**one) for one in measured["memory"]}
    table = []
    for row in PAPER:
        gigabytes = f"{row.gigabytes:.1f}" if row.gigabytes is not None else "-"
        paper = [f"{row.ap[0]:.1f}", f"{row.fps:.1f}", gigabytes]
        values = _measured(row.candidate, timings, kept, memory, _ap(row.row, results))
        table.append([f"{row.name}, {row.backbone}" + ("" if row.candidate else " (paper only)"), *paper, *values])
    known = {row.candidate for row in PAPER}
    for name in timings:
        if name not in known:
            table.append([name, "-", "-", "-", *_measured(name, timings, kept, memory, "-")])
    return table


def measured_lines(measured: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of what was measured alone, without the paper's."""
    names = [one["name"] for one in measured["timings"]]
    wanted = [i for i, column in enumerate(COLUMNS) if not column.startswith("paper") and not column.endswith("AP")]
    by_name = {line[0]: line for line in lines(measured)}
    return [COLUMNS[i].removeprefix("measured: ") for i in wanted], [[by_name[n][i] for i in wanted] for n in names]


def _ap(key: str | None, results: Sequence[RunResult]) -> str:
    scores = [r.metrics.get("mask") or {} for r in results if key and r.row == key]
    values = [100 * one["AP"] for one in scores if one.get("AP") is not None]
    return f"{sum(values) / len(values):.1f}" if values else "-"


def _measured(
    name: str | None, timings: dict[str, Timing], kept: dict[str, Timing], memory: dict[str, Memory], ap: str
) -> list[str]:
    timing, quiet, space = (places.get(name or "") for places in (timings, kept, memory))
    if not isinstance(timing, Timing):
        return [ap, *["-"] * 9]
    whole = timing.end_to_end
    peak = step = inference = "-"
    if isinstance(space, Memory):
        inference = f"{space.inference / MEBIBYTE:.0f}" if space.inference is not None else "-"
        step = f"{sum(space.training.values()) / MEBIBYTE:.0f}" if space.training else "-"
        if space.training_peak is not None:
            peak = f"{space.training_peak / 2**30:.2f} GiB at {space.batch_size} images"
    return [
        ap,
        f"{timing.network:.0f}",
        f"{timing.postprocess:.0f}",
        f"{whole:.0f}",
        f"{1000 / whole:.2f}",
        f"{whole + timing.dense_masks:.0f}",
        f"{quiet.end_to_end:.0f}" if isinstance(quiet, Timing) else "-",
        inference,
        step,
        peak,
    ]


def parts_lines(measured: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Bytes kept for backward, part by part, in MiB an image: column names and rows."""
    names: list[str] = []
    for one in measured["memory"]:
        names += [part for part in one["training"] or {} if part not in names]
    rows = []
    for one in measured["memory"]:
        if one["training"]:
            each = [f"{one['training'][part] / MEBIBYTE:.0f}" if part in one["training"] else "-" for part in names]
            total = sum(one["training"].values()) / MEBIBYTE
            rows.append([one["name"], *each, f"{total:.0f}", f"{one['training_per_step'] / MEBIBYTE:.0f}"])
    return ["system", *names, "an image, all parts", "once a step"], rows


def in_words(measured: dict[str, Any], results: Sequence[RunResult] = ()) -> str:
    """What the figures are of: machine, image, threads, what each column means, and what AP was measured on."""
    said = conditions(results) if results else {}
    trained = "; ".join(said[name] for name in ("data", "schedule", "input", "backbone", "seeds") if said)
    shared = measured["conditions"]
    height, width = shared["image_size"]
    return (
        f"{machine_in_words(measured['machine'])}. One image of {width}x{height} with {shared['num_objects']} objects of "
        f"{shared['num_classes']} classes, batch 1, fp32, random weights and injected objects; medians of "
        f"{shared['repeats']} turns that the systems take one after the other. Post: from raw outputs to what a user "
        "of the system holds, its masks at the image's size among it (for SAIS patches in their boxes; a full stack "
        f"{_dense(measured)}, the column 'full stack'). End to end: from the image in memory to there. "
        "'Blocks kept': the same with an allocator that keeps big blocks, for everybody. Memory added: peak over the "
        "loaded model, image to masks. "
        "Kept for backward: activations of one more training image with ten objects, parameters left out. "
        "AP of the paper is of COCO test-dev, its speeds of a Titan X or Xp: not to be compared with ours."
        + (f" AP measured: {trained}." if trained else "")
    )


def _dense(measured: dict[str, Any]) -> str:
    extra = [one["dense_masks"] for one in measured["timings"] if one["name"].startswith("SAIS")]
    return f"takes {min(extra):.0f}-{max(extra):.0f} ms more" if extra else "is extra"


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
