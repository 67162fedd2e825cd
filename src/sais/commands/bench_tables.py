"""The tables that `sais bench` prints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sais.text import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sais.benchmark.masks import MaskCase, MaskInputs, MaskMeasurement
    from sais.benchmark.models import ModelRow
    from sais.benchmark.scaling import ScalingPoint
    from sais.benchmark.timing import Conditions
    from sais.benchmark.training import TrainingRequest, TrainingRow

MEBIBYTE = 2**20
FILE_WIDTH = 180
"""Width of a table in columns if the output is not a terminal."""
ALLOCATOR_VARIABLES = ("LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


def environment(device: str) -> str:
    """Describe processor, device and versions in one line; the device may be auto."""
    from sais.device import choose_device
    from sais.engine.environment import describe_environment, format_environment, processor_name
    from sais.export.checks import is_installed

    if not is_installed("torch"):
        return f"{processor_name()}, {os.cpu_count()} cores, without torch"
    return format_environment(describe_environment(choose_device(device)))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """Print a table whose first column is text and whose other columns are numbers, and a note below it.

    On a terminal that is too narrow for it, rows and columns are exchanged.
    """
    console = _console()
    table = _make_table(title, columns, rows)
    unlimited = console.options.update(max_width=10_000)
    if console.is_terminal and console.measure(table, options=unlimited).maximum > console.width:
        columns, *rows = zip(columns, *rows, strict=True)
        table = _make_table(title, columns, rows)
    console.print(table)
    if note:
        console.print(printable_lines(note), soft_wrap=not console.is_terminal)


def _make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(title=printable(title), title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    return table


def _console() -> Console:
    from rich.console import Console

    # Brackets, as in the names of tests, are text.
    console = Console(markup=False, emoji=False, highlight=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, highlight=False, width=FILE_WIDTH)


def print_masks(case: MaskCase, inputs: MaskInputs, measurements: Sequence[MaskMeasurement], repeats: int) -> None:
    """Print the measurements of the mask assembly methods, and how many pixels their masks differ in."""
    import torch

    from sais.benchmark.masks import FULL_FRAME, count_differences

    base = next(measurement for measurement in measurements if measurement.method == FULL_FRAME)
    rows = []
    for measurement in measurements:
        memory = measurement.mebibytes
        rows.append(
            [
                measurement.method,
                f"{measurement.milliseconds:.1f} ms",
                f"{measurement.milliseconds / base.milliseconds:.3f}",
                "-" if memory is None else f"{memory:.1f} MiB",
                f"{memory / base.mebibytes:.3f}" if memory is not None and base.mebibytes else "-",
            ]
        )
    border, elsewhere, total = count_differences(case, inputs)
    percent = 100 * (border + elsewhere) / max(total, 1)
    allocator = [f"{name}={os.environ[name]}" for name in ALLOCATOR_VARIABLES if os.environ.get(name)]
    (height, width), grid = case.size, f"{case.num_prototypes} prototypes of {case.grid[0]} x {case.grid[1]}"
    print_table(
        f"{case.num_objects} masks, image {width} x {height}, {grid}",
        ("method", "time", "relative to full-frame", "additional memory", "relative to full-frame"),
        rows,
        f"Median of {repeats} interleaved runs; {torch.get_num_threads()} torch threads, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}; "
        f"allocator: {', '.join(allocator) or 'the system default'}; memory: peak of a fresh process each.\n"
        f"Box-local and full-frame masks differ in {border + elsewhere} pixels ({percent:.2f} %): {border} within one "
        f"prototype cell of a box's border (full-frame masks are cropped on the grid), {elsewhere} elsewhere "
        "(full-frame masks interpolate probabilities instead of logits).",
    )


def print_models(rows: Sequence[ModelRow], conditions: Conditions) -> None:
    """Print latencies and memory of models."""
    height, width = conditions.image_size
    tail = "p95" if conditions.repeats >= 20 else "maximum"
    cells = []
    for row in rows:
        timing, retaining = row.default_allocator, row.retaining_allocator
        stages = (timing.preprocess, timing.network, timing.postprocess, timing.end_to_end, timing.p95)
        cells.append(
            [
                timing.name,
                *(f"{value:.1f}" for value in stages),
                f"{1000 / timing.end_to_end:.2f}",
                f"{retaining.end_to_end:.1f}" if retaining else "-",
                f"{row.memory / MEBIBYTE:.0f} MiB" if row.memory is not None else "-",
            ]
        )
    columns = ("model", "preprocess", "network", "postprocess", "end to end", tail, "images/s")
    print_table(
        f"{conditions.num_objects} objects on an image of {width} x {height}; latency in ms per image",
        (*columns, "end to end, retaining allocator", "memory"),
        cells,
        f"{environment(conditions.device)}. Medians of {conditions.repeats} interleaved runs. Postprocess: from raw "
        "outputs to masks at the size of the image. Retaining allocator: freed memory stays with the process. Memory: "
        "what the first run adds to the peak above the loaded model. In exported graphs with built-in NMS, the network "
        "includes the selection of candidates and NMS.",
    )


def print_training(rows: Sequence[TrainingRow], request: TrainingRequest, repeats: int, device: str) -> None:
    """Print memory and, if `repeats` is not 0, times of training steps."""
    from sais.benchmark.training import training_table

    times = (
        f" Times: medians of {repeats} interleaved steps; retaining allocator: freed memory stays with the process, as "
        "in `sais train`; CPU s/step: CPU time of all threads with this allocator."
    )
    columns, cells = training_table(rows)
    print_table(
        f"MB of activations saved for backward per image of {request.num_objects} objects; steps of "
        f"{request.batch_size} images",
        columns,
        cells,
        f"{environment(device)}. Every storage is counted once, parameters are not. Per step: independent of the batch "
        "size. Peak: what the first step adds to the loaded model." + (times if repeats else ""),
    )


def print_scaling(curves: dict[str, list[ScalingPoint]]) -> None:
    """Print the measurements of both curves."""
    titles = {"objects": "1280 x 960, by number of objects", "image": "100 objects, by size of the image"}
    columns = ("method", "objects", "megapixels", "time", "additional memory")
    for name, points in curves.items():
        rows = []
        for point in points:
            memory = "-" if point.mebibytes is None else f"{point.mebibytes:.1f} MiB"
            size = (f"{point.num_objects:,}", f"{point.megapixels:.1f}")
            rows.append([point.method, *size, f"{point.milliseconds:.1f} ms", memory])
        print_table(titles[name], columns, rows)
    _console().print(environment("cpu"), soft_wrap=True)
