"""Time and memory of mask assembly: box-local masks against full-frame masks.

Three methods create the masks of one image from the same prototypes, coefficients and boxes:

- *box-local*: `sais.ops.masks.box_masks`, one small bitmap for each object;
- *full-frame*: sigmoid(P C) of all objects, cropped to the boxes on the prototype grid, resized to the image and
  thresholded: (D, H, W) bool, as most libraries do;
- *full-frame, in chunks*: the same, a few objects at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sais.benchmark.memory import in_fresh_process, peak_resident
from sais.errors import InputError
from sais.ops.masks import box_masks
from sais.results.cropped_mask import CroppedMask

BOX_LOCAL, FULL_FRAME, CHUNKED = "box-local", "full-frame", "full-frame, in chunks"
CHUNK = 10
"""Number of objects in a chunk of the third method."""
BOX_SIDES = (0.025, 0.6)
"""Minimum and maximum box side as a fraction of the image side; log-uniformly distributed."""


@dataclass(frozen=True)
class MaskCase:
    """The size of a mask assembly."""

    num_objects: int = 100
    size: tuple[int, int] = (960, 1280)
    """Height and width of the image in pixels."""
    grid: tuple[int, int] = (192, 192)
    """Height and width of the prototypes: a quarter of the canvas."""
    num_prototypes: int = 32
    seed: int = 0
    sides: tuple[float, float] = BOX_SIDES
    """Minimum and maximum box side as a fraction of the image side."""


@dataclass(frozen=True)
class MaskInputs:
    """The arrays of a case."""

    prototypes: np.ndarray
    """(K, h, w) float32, smooth and not negative."""
    coefficients: np.ndarray
    """(D, K) float32."""
    boxes: np.ndarray
    """(D, 4) float32, image pixels."""


@dataclass(frozen=True)
class MaskMeasurement:
    """The time and memory of one method."""

    method: str
    milliseconds: float
    """Median time."""
    mebibytes: float | None
    """Peak memory above that before the run; None if not measured."""


def measure_masks(case: MaskCase, repeats: int = 7, memory: bool = True) -> list[MaskMeasurement]:
    """Measure the three methods on a case.

    Args:
        case: the number of objects, and the sizes of image and prototypes.
        repeats: the number of interleaved runs after a warm-up run; the median counts.
        memory: whether to measure memory, each method in a fresh process, as well.

    Raises:
        InputError: a number is not positive.
        ResourceError: a measuring process failed.
    """
    if min(case.num_objects, repeats, *case.size) < 1:
        raise InputError("masks: number of objects, repeats or image size below 1. Give positive numbers.")
    times = measured_times(case, make_inputs(case), repeats)
    return [
        MaskMeasurement(method, times[method], measured_memory(case, method) if memory else None) for method in METHODS
    ]


def make_inputs(case: MaskCase) -> MaskInputs:
    """Create random prototypes (smooth, as those of networks are), coefficients and boxes; deterministic per case."""
    import torch
    from torch.nn import functional

    random = np.random.default_rng(case.seed)
    coarse = random.normal(0, 3, (1, case.num_prototypes, 14, 14)).astype(np.float32)
    smooth = functional.interpolate(torch.from_numpy(coarse), size=case.grid, mode="bicubic", align_corners=False)
    fractions = np.exp(random.uniform(np.log(case.sides[0]), np.log(case.sides[1]), (case.num_objects, 2)))
    sides = fractions * case.size[::-1]
    corners = random.uniform(0, 1, (case.num_objects, 2)) * (np.array(case.size[::-1]) - sides)
    return MaskInputs(
        prototypes=smooth[0].relu().numpy(),
        coefficients=np.tanh(random.normal(0.1, 1, (case.num_objects, case.num_prototypes))).astype(np.float32),
        boxes=np.concatenate([corners, corners + sides], 1).astype(np.float32),
    )


def box_local(case: MaskCase, inputs: MaskInputs) -> list[CroppedMask]:
    """Assemble the masks inside their boxes: D cropped masks."""
    scale = (case.grid[0] / case.size[0], case.grid[1] / case.size[1])
    masks = box_masks(inputs.prototypes, inputs.coefficients, inputs.boxes, case.size, scale)
    return [CroppedMask(x, y, bits) for x, y, bits, _ in masks]


def full_frame(case: MaskCase, inputs: MaskInputs) -> Any:
    """Assemble full-frame masks (D, H, W) bool, all objects at once."""
    return _assemble_frames(case, inputs, slice(None))


def full_frame_chunked(case: MaskCase, inputs: MaskInputs) -> Any:
    """Assemble full-frame masks (D, H, W) bool, `CHUNK` objects at a time."""
    import torch

    masks = torch.empty(case.num_objects, *case.size, dtype=torch.bool)
    for first in range(0, case.num_objects, CHUNK):
        chunk = slice(first, first + CHUNK)
        masks[chunk] = _assemble_frames(case, inputs, chunk)
    return masks


METHODS: dict[str, Callable[[MaskCase, MaskInputs], Any]] = {
    BOX_LOCAL: box_local,
    FULL_FRAME: full_frame,
    CHUNKED: full_frame_chunked,
}


def _assemble_frames(case: MaskCase, inputs: MaskInputs, objects: slice) -> Any:
    """Assemble the full-frame masks (D, H, W) bool of a slice of the objects."""
    import torch
    from torch.nn import functional

    prototypes, coefficients = torch.from_numpy(inputs.prototypes), torch.from_numpy(inputs.coefficients[objects])
    probabilities = torch.sigmoid((coefficients @ prototypes.flatten(1)).view(-1, *case.grid))
    ratio = [case.grid[1] / case.size[1], case.grid[0] / case.size[0]] * 2
    boxes = torch.from_numpy(inputs.boxes[objects]) * torch.tensor(ratio)
    x, y = torch.arange(case.grid[1]), torch.arange(case.grid[0])[:, None]
    x1, y1, x2, y2 = (edge[:, None, None] for edge in boxes.unbind(1))
    probabilities *= (x >= x1.floor()) & (x < x2.ceil()) & (y >= y1.floor()) & (y < y2.ceil())
    resized = functional.interpolate(probabilities[None], size=case.size, mode="bilinear", align_corners=False)[0]
    return resized > 0.5


def count_differences(case: MaskCase, inputs: MaskInputs) -> tuple[int, int, int]:
    """Count the pixels in which box-local and full-frame masks differ.

    Within one prototype cell of the box's border they differ because full-frame masks are cropped on the grid before
    they are resized; elsewhere because full-frame masks interpolate probabilities, box-local masks logits.

    Returns:
        The differing pixels near the box's border, those elsewhere, and all pixels of the box-local masks.
    """
    border = elsewhere = total = 0
    cell = (case.size[0] / case.grid[0], case.size[1] / case.grid[1])
    y, x = np.arange(case.size[0])[:, None] + 0.5, np.arange(case.size[1]) + 0.5
    for i, mask in enumerate(box_local(case, inputs)):
        bits = mask.bits
        difference = _assemble_frames(case, inputs, slice(i, i + 1))[0].numpy().copy()
        difference[mask.y : mask.y + bits.shape[0], mask.x : mask.x + bits.shape[1]] ^= bits
        x1, y1, x2, y2 = inputs.boxes[i]
        interior = (x > x1 + cell[1]) & (x < x2 - cell[1]) & (y > y1 + cell[0]) & (y < y2 - cell[0])
        elsewhere += int((difference & interior).sum())
        border += int((difference & ~interior).sum())
        total += int(bits.sum())
    return border, elsewhere, total


def measured_times(
    case: MaskCase,
    inputs: MaskInputs,
    repeats: int,
    methods: dict[str, Callable[[MaskCase, MaskInputs], Any]] = METHODS,
) -> dict[str, float]:
    """Return the median milliseconds of each method; methods run in turns, so that other load slows all of them."""
    runs: dict[str, list[float]] = {method: [] for method in methods}
    for turn in range(repeats + 1):
        for method, assemble in methods.items():
            start = time.perf_counter()
            masks = assemble(case, inputs)
            elapsed = time.perf_counter() - start
            del masks  # freed outside the timed section, before the next method starts
            if turn:  # the first turn is a warm-up
                runs[method].append(1000 * elapsed)
    return {method: float(np.median(times)) for method, times in runs.items()}


def measured_memory(case: MaskCase, method: str) -> float | None:
    """Return the MiB that one run adds to the peak memory of a fresh process; None where it is not reported."""
    mebibytes: float | None = in_fresh_process("sais.benchmark.masks:measure_memory", asdict(case), method)
    return mebibytes


def measure_memory(settings: dict[str, Any], method: str) -> float | None:
    """Return the MiB that one run of a method adds to the peak memory of this process.

    Args:
        settings: the fields of a `MaskCase`.
        method: a key of `METHODS`.
    """
    case = MaskCase(**settings)
    inputs = make_inputs(case)
    tiny = MaskCase(2, (32, 32), (8, 8), case.num_prototypes)
    METHODS[method](tiny, make_inputs(tiny))  # excludes what libraries allocate once
    before = peak_resident(reset=True)
    masks = METHODS[method](case, inputs)
    after = peak_resident()
    del masks
    return None if before is None or after is None else (after - before) / 2**20
