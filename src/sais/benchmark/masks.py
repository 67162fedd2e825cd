"""`sais bench masks`: box-local masks against whole frames, time and memory, on this machine.

Three ways to the masks of one image, from the same prototypes, coefficients and boxes:

- *ours*: `geometry.masks.box_masks`, a patch for each object;
- *usual*: sigmoid(P C) for all objects, cut to the boxes on the prototype grid, enlarged to the image, thresholded:
  (D, H, W) bool, as the known libraries do;
- *usual, in chunks*: the same, a few objects at a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sais.benchmark.memory import in_fresh_process, peak_resident
from sais.errors import SaisError
from sais.ops.masks import box_masks
from sais.results.cropped_mask import CroppedMask

CHUNK = 10
"""Objects at a time of the third way."""
SIDES = (0.025, 0.6)
"""Sides of the boxes as shares of the image's, evenly spread in their logarithm."""
ALLOCATOR_VARIABLES = ("LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


@dataclass(frozen=True)
class MaskCase:
    """What is assembled."""

    objects: int = 100
    size: tuple[int, int] = (960, 1280)
    """(H, W) of the image."""
    grid: tuple[int, int] = (192, 192)
    """(h, w) of the prototypes: a quarter of the canvas."""
    prototypes: int = 32
    seed: int = 0
    sides: tuple[float, float] = SIDES
    """Of the boxes, as shares of the image's."""


@dataclass(frozen=True)
class MaskInputs:
    """Arrays of a case."""

    prototypes: np.ndarray
    """(K, h, w) float32, smooth and not negative."""
    coefficients: np.ndarray
    """(D, K) float32."""
    boxes: np.ndarray
    """(D, 4) float32, image pixels."""


@dataclass(frozen=True)
class MaskMeasurement:
    """One way, measured."""

    way: str
    milliseconds: float
    """Median."""
    mebibytes: float | None
    """Peak of memory beyond what there was before; None where it was not measured."""


def bench_masks(
    objects: int = 100,
    size: tuple[int, int] = (960, 1280),
    grids: tuple[tuple[int, int], ...] = ((192, 192), (160, 160)),
    repeats: int = 7,
    memory: bool = True,
) -> dict[tuple[int, int], list[MaskMeasurement]]:
    """Measure the three ways on each prototype grid, print a table for each and how far the masks differ.

    Times are medians of `repeats` interleaved runs after one that does not count; memory is measured in a fresh
    process for each way.

    Returns:
        For each grid the results: ours, usual, usual in chunks.

    Raises:
        SaisError: not one object or repeat, or a measuring process failed.
    """
    if min(objects, repeats, *size) < 1:
        raise SaisError("sais bench masks: objects, repeats and size must be positive")
    found = {}
    for grid in grids:
        case = MaskCase(objects, size, grid)
        inputs = make_inputs(case)
        times = measured_times(case, inputs, repeats)
        results = [MaskMeasurement(way, times[way], measured_memory(case, way) if memory else None) for way in METHODS]
        found[grid] = results
        _print_table(case, inputs, results, repeats)
    return found


def make_inputs(case: MaskCase) -> MaskInputs:
    """Random prototypes (smooth, as networks make them), coefficients and boxes; the same for the same case."""
    import torch
    from torch.nn import functional

    random = np.random.default_rng(case.seed)
    coarse = random.normal(0, 3, (1, case.prototypes, 14, 14)).astype(np.float32)
    smooth = functional.interpolate(torch.from_numpy(coarse), size=case.grid, mode="bicubic", align_corners=False)
    sides = np.exp(random.uniform(np.log(case.sides[0]), np.log(case.sides[1]), (case.objects, 2))) * case.size[::-1]
    corners = random.uniform(0, 1, (case.objects, 2)) * (np.array(case.size[::-1]) - sides)
    return MaskInputs(
        prototypes=smooth[0].relu().numpy(),
        coefficients=np.tanh(random.normal(0.1, 1, (case.objects, case.prototypes))).astype(np.float32),
        boxes=np.concatenate([corners, corners + sides], 1).astype(np.float32),
    )


def box_local(case: MaskCase, inputs: MaskInputs) -> list[CroppedMask]:
    """D patches."""
    scale = (case.grid[0] / case.size[0], case.grid[1] / case.size[1])
    masks = box_masks(inputs.prototypes, inputs.coefficients, inputs.boxes, case.size, scale)
    return [CroppedMask(x, y, bits) for x, y, bits in masks]


def full_frame(case: MaskCase, inputs: MaskInputs) -> Any:
    """(D, H, W) bool tensor, all objects at once."""
    return _whole_frames(case, inputs, slice(None))


def full_frame_chunked(case: MaskCase, inputs: MaskInputs) -> Any:
    """(D, H, W) bool tensor, a few objects at a time."""
    import torch

    masks = torch.empty(case.objects, *case.size, dtype=torch.bool)
    for first in range(0, case.objects, CHUNK):
        part = slice(first, first + CHUNK)
        masks[part] = _whole_frames(case, inputs, part)
    return masks


METHODS: dict[str, Callable[[MaskCase, MaskInputs], Any]] = {
    "ours": box_local,
    "usual": full_frame,
    "usual, in chunks": full_frame_chunked,
}


def _whole_frames(case: MaskCase, inputs: MaskInputs, part: slice) -> Any:
    import torch
    from torch.nn import functional

    prototypes, coefficients = torch.from_numpy(inputs.prototypes), torch.from_numpy(inputs.coefficients[part])
    probabilities = torch.sigmoid((coefficients @ prototypes.flatten(1)).view(-1, *case.grid))
    ratio = [case.grid[1] / case.size[1], case.grid[0] / case.size[0]] * 2
    boxes = torch.from_numpy(inputs.boxes[part]) * torch.tensor(ratio)
    x, y = torch.arange(case.grid[1]), torch.arange(case.grid[0])[:, None]
    x1, y1, x2, y2 = (edge[:, None, None] for edge in boxes.unbind(1))
    probabilities *= (x >= x1.floor()) & (x < x2.ceil()) & (y >= y1.floor()) & (y < y2.ceil())
    enlarged = functional.interpolate(probabilities[None], size=case.size, mode="bilinear", align_corners=False)[0]
    return enlarged > 0.5


def differences(case: MaskCase, inputs: MaskInputs) -> tuple[int, int, int]:
    """Pixels that are the object's in one way and not in the other: (at the box's edge, elsewhere, of all of ours).

    At the edge (within one cell of it) the usual way differs because it cuts on the grid, before it enlarges;
    elsewhere because it enlarges probabilities where ours enlarges logits.
    """
    edge = elsewhere = total = 0
    cell = (case.size[0] / case.grid[0], case.size[1] / case.grid[1])
    y, x = np.arange(case.size[0])[:, None] + 0.5, np.arange(case.size[1]) + 0.5
    for i, patch in enumerate(box_local(case, inputs)):
        bits = patch.bits
        other = _whole_frames(case, inputs, slice(i, i + 1))[0].numpy()
        differ = other.copy()
        differ[patch.y : patch.y + bits.shape[0], patch.x : patch.x + bits.shape[1]] ^= bits
        x1, y1, x2, y2 = inputs.boxes[i]
        within = (x > x1 + cell[1]) & (x < x2 - cell[1]) & (y > y1 + cell[0]) & (y < y2 - cell[0])
        elsewhere += int((differ & within).sum())
        edge += int((differ & ~within).sum())
        total += int(bits.sum())
    return edge, elsewhere, total


def measured_times(
    case: MaskCase, inputs: MaskInputs, repeats: int, ways: dict[str, Callable[[MaskCase, MaskInputs], Any]] = METHODS
) -> dict[str, float]:
    """Median milliseconds of each way; the ways take turns, so that a busy machine slows all of them."""
    each: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, run in ways.items():
            start = time.perf_counter()
            made = run(case, inputs)
            took = time.perf_counter() - start
            del made  # outside the clock, before the next way begins
            if turn:
                each[way].append(1000 * took)
    return {way: float(np.median(values)) for way, values in each.items()}


def measured_memory(case: MaskCase, way: str) -> float | None:
    """MiB that one run adds to the peak of a fresh process; None where the system does not tell."""
    found: float | None = in_fresh_process("sais.benchmark.masks:measure_memory", asdict(case), way)
    return found


def measure_memory(settings: dict[str, Any], way: str) -> float | None:
    """Run one way once in this process: the MiB that its peak lies above what there was before."""
    case = MaskCase(**settings)
    inputs = make_inputs(case)
    small = MaskCase(2, (32, 32), (8, 8), case.prototypes)
    METHODS[way](small, make_inputs(small))  # what libraries set up once is not the masks'
    before = peak_resident(reset=True)
    made = METHODS[way](case, inputs)
    after = peak_resident()
    del made
    return None if before is None or after is None else (after - before) / 2**20


def _print_table(case: MaskCase, inputs: MaskInputs, results: list[MaskMeasurement], repeats: int) -> None:
    import torch
    from rich.console import Console
    from rich.table import Table

    height, width = case.size
    grid = f"{case.prototypes} prototypes {case.grid[0]} x {case.grid[1]}"
    title = f"{case.objects} masks, image {width} x {height}, {grid}"
    table = Table(title=title, title_justify="left")
    table.add_column("way")
    for heading in ("time", "of usual", "added memory", "of usual"):
        table.add_column(heading, justify="right")
    base = next(r for r in results if r.way == "usual")
    for one in results:
        known = one.mebibytes is not None and base.mebibytes
        table.add_row(
            one.way,
            f"{one.milliseconds:.1f} ms",
            f"{one.milliseconds / base.milliseconds:.3f}",
            f"{one.mebibytes:.1f} MiB" if one.mebibytes is not None else "-",
            f"{(one.mebibytes or 0) / (base.mebibytes or 1):.3f}" if known else "-",
        )
    edge, elsewhere, total = differences(case, inputs)
    share = 100 / max(total, 1)
    settings = [f"{name}={os.environ[name]}" for name in ALLOCATOR_VARIABLES if os.environ.get(name)]
    console = Console()
    console.print(table)
    console.print(
        f"median of {repeats} interleaved runs; {torch.get_num_threads()} torch threads, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}; "
        f"allocator: {', '.join(settings) or 'the system default'}; memory: peak of a fresh process each\n"
        f"masks differ in {edge + elsewhere} pixels ({share * (edge + elsewhere):.2f} % of ours): {edge} within a cell "
        "of a box's edge (the usual way cuts on the grid, then enlarges), "
        f"{elsewhere} elsewhere (it enlarges probabilities)",
        soft_wrap=True,
    )
