"""Table IV: speed and memory of the paper's models on this machine, next to the paper's figures and to other systems.

Speed and memory are measured with random weights and injected objects (`sais.benchmark`); AP is reported only for rows
that were trained. Systems that are not implemented here have the paper's figures only.
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
from sais.engine.environment import describe_environment, format_environment
from sais.paper.runs import RunResult
from sais.paper.wording import describe_conditions

MEBIBYTE = 2**20


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper's Table IV: speeds on a Titan X or Xp, AP on test-dev in percent."""

    name: str
    backbone: str
    epochs: int
    augmented: bool
    ap: tuple[float, float, float, float, float, float]
    """AP, AP50, AP75, small, medium, large."""
    fps: float
    gigabytes: float | None
    candidate: str | None = None
    """Name of the candidate that is measured for this row; None where there is none."""
    row: str | None = None
    """Key of the row that trains the model."""


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
    "measured: end to end ms, dense masks",
    "measured: end to end ms, retaining allocator",
    "measured: memory added, MiB",
    "measured: saved for backward per image, MiB",
    "measured: peak of a training step",
)


def measure(
    rows: Sequence[str], peers: Sequence[str], conditions: Conditions, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Measure time and memory of rows of SAIS and of other systems, interleaved.

    Args:
        rows: keys of the rows of SAIS.
        peers: "module:function" of functions that return candidates.
        conditions: conditions that all candidates share.
        log: function that receives one line of progress.

    Returns:
        A dictionary for JSON: "conditions", "machine", "notes" (on candidates), "timings" (the system's allocator),
        "timings_memory_retained" (an allocator that retains freed memory), "memory".
    """
    own = [row.candidate for row in PAPER if row.candidate and row.row in rows]
    sources = [OWN, *peers]
    candidates = [candidate for candidate in find_candidates(OWN) if candidate.name in own]
    candidates += [candidate for source in peers for candidate in find_candidates(source)]
    names = [candidate.name for candidate in candidates]
    log(f"timing {', '.join(names)}: {conditions.repeats + 1} runs each, with both allocator settings")
    timings = measure_times(sources, names, conditions)
    retained = measure_times(sources, names, replace(conditions, retain_memory=True)) if can_keep_big_blocks() else []
    log("measuring memory, each system in a process of its own")
    memory = measure_memory(sources, names, conditions)
    return {
        "conditions": asdict(conditions),
        "machine": describe_environment(torch.device(conditions.device)),
        "notes": candidate_notes(candidates),
        "timings": [asdict(timing) for timing in timings],
        "timings_memory_retained": [asdict(timing) for timing in retained],
        "memory": [asdict(usage) for usage in memory],
    }


def candidate_notes(candidates: Sequence[Candidate]) -> list[tuple[str, str]]:
    """Return (name, note) of the candidates that have a note."""
    return [(candidate.name, candidate.note) for candidate in candidates if candidate.note]


def table_rows(measured: dict[str, Any], results: Sequence[RunResult] = ()) -> list[list[str]]:
    """Format the rows of the table in the order of `COLUMNS`: the paper's rows, then further candidates.

    Args:
        measured: measurements by `measure`.
        results: results of trained rows, for AP.
    """
    figures = _Measurements(measured)
    rows = []
    for row in PAPER:
        gigabytes = f"{row.gigabytes:.1f}" if row.gigabytes is not None else "-"
        paper = [f"{row.ap[0]:.1f}", f"{row.fps:.1f}", gigabytes]
        name = f"{row.name}, {row.backbone}" + ("" if row.candidate else " (paper only)")
        rows.append([name, *paper, _mean_ap(row.row, results), *figures.cells(row.candidate)])
    in_paper = {row.candidate for row in PAPER}
    rows += [[name, "-", "-", "-", "-", *figures.cells(name)] for name in figures.timings if name not in in_paper]
    return rows


def measured_rows(measured: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Format the measured columns without the paper's and without AP: names of columns, and rows."""
    names = [timing["name"] for timing in measured["timings"]]
    indices = [i for i, column in enumerate(COLUMNS) if not column.startswith("paper") and not column.endswith("AP")]
    by_name = {row[0]: row for row in table_rows(measured)}
    columns = [COLUMNS[i].removeprefix("measured: ") for i in indices]
    return columns, [[by_name[name][i] for i in indices] for name in names]


def saved_memory_rows(measured: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Format the activations saved for backward, in MiB per image by part: names of columns, and rows."""
    trained = [memory for memory in measured["memory"] if memory["training"]]
    parts = list(dict.fromkeys(part for memory in trained for part in memory["training"]))
    rows = []
    for memory in trained:
        training = memory["training"]
        cells = [f"{training[part] / MEBIBYTE:.0f}" if part in training else "-" for part in parts]
        total = sum(training.values()) / MEBIBYTE
        rows.append([memory["name"], *cells, f"{total:.0f}", f"{memory['training_per_step'] / MEBIBYTE:.0f}"])
    return ["system", *parts, "per image, all parts", "per step"], rows


def describe_measurement(measured: dict[str, Any], results: Sequence[RunResult] = ()) -> str:
    """Describe the measurement: machine, image, threads, the meaning of each column, the conditions of AP.

    Args:
        measured: measurements by `measure`.
        results: results of trained rows.
    """
    described = describe_conditions(results) if results else {}
    trained = "; ".join(described[name] for name in ("data", "schedule", "input", "backbone", "seeds") if described)
    conditions = measured["conditions"]
    height, width = conditions["image_size"]
    return (
        f"{format_environment(measured['machine'])}. One image of {width}x{height} with {conditions['num_objects']} "
        f"objects of {conditions['num_classes']} classes, batch 1, fp32, random weights and injected objects; medians "
        f"of {conditions['repeats']} interleaved runs. Post: from raw outputs to the results that the system returns, "
        f"including masks at the size of the image (box-local masks for SAIS; dense masks {_dense_cost(measured)}, in "
        "the column 'dense masks'). End to end: from the image in memory to these results. 'Retaining "
        "allocator': the same with an allocator that retains freed memory, for every system. Memory added: "
        "peak above the loaded model, from image to masks. Saved for backward: activations of one additional "
        "training image with ten objects, without parameters. The paper's AP is of COCO test-dev, its speeds "
        "are of a Titan X or Xp: neither can be compared with the measured columns."
        + (f" AP measured: {trained}." if trained else "")
    )


class _Measurements:
    """The measurements by `measure`, by name of the candidate."""

    def __init__(self, measured: dict[str, Any]) -> None:
        self.timings = {values["name"]: Timing(**values) for values in measured["timings"]}
        self.retained = {values["name"]: Timing(**values) for values in measured["timings_memory_retained"]}
        self.memory = {values["name"]: Memory(**values) for values in measured["memory"]}

    def cells(self, name: str | None) -> list[str]:
        """Format the measured columns but AP; "-" for what was not measured."""
        timing, retained = self.timings.get(name or ""), self.retained.get(name or "")
        if timing is None:
            return ["-"] * 9
        total = timing.end_to_end
        return [
            f"{timing.network:.0f}",
            f"{timing.postprocess:.0f}",
            f"{total:.0f}",
            f"{1000 / total:.2f}",
            f"{total + timing.dense_masks:.0f}",
            f"{retained.end_to_end:.0f}" if retained is not None else "-",
            *_memory_cells(self.memory.get(name or "")),
        ]


def _memory_cells(memory: Memory | None) -> list[str]:
    if memory is None:
        return ["-"] * 3
    peak = "-"
    if memory.training_peak is not None:
        peak = f"{memory.training_peak / 2**30:.2f} GiB at {memory.batch_size} images"
    return [
        f"{memory.inference / MEBIBYTE:.0f}" if memory.inference is not None else "-",
        f"{sum(memory.training.values()) / MEBIBYTE:.0f}" if memory.training else "-",
        peak,
    ]


def _mean_ap(key: str | None, results: Sequence[RunResult]) -> str:
    scores = [result.metrics.get("mask") or {} for result in results if key and result.row == key]
    values = [100 * score["AP"] for score in scores if score.get("AP") is not None]
    return f"{sum(values) / len(values):.1f}" if values else "-"


def _dense_cost(measured: dict[str, Any]) -> str:
    costs = [timing["dense_masks"] for timing in measured["timings"] if timing["name"].startswith("SAIS")]
    return f"take {min(costs):.0f}-{max(costs):.0f} ms more" if costs else "take more"


def format_csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
