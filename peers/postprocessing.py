"""Mask assembly alone: the same prototypes, coefficients and boxes to masks of the image's size, by SAIS and others.

The others are the functions that the packages call: ultralytics' `process_mask_native` (full-resolution masks) and
torchvision's `paste_masks_in_image` (Mask R-CNN, from maps of 28 x 28 instead of prototypes). SAIS ends with the
cropped masks of `Detections`; converting them to a dense stack (D, H, W) is measured separately.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from sais.benchmark.masks import MaskCase, MaskInputs, box_local, full_frame_chunked, make_inputs, measured_times
from sais.benchmark.memory import in_fresh_process, peak_resident
from sais.engine.allocator import can_keep_big_blocks, keep_big_blocks
from sais.results.detections import Detections

SAIS, DENSE = "sais, box-local masks", "sais, dense stack"
ULTRALYTICS, TORCHVISION = "ultralytics, full resolution", "torchvision, Mask R-CNN mask pasting"
CHUNKED = "full-frame, in chunks of ten"
GRID = (120, 160)
"""Height and width of the prototypes: an image of 4:3 at 640, without the padding that ultralytics would remove."""
DEFAULT = MaskCase(100, (960, 1280), GRID)
LARGE = MaskCase(300, (3000, 4000), GRID)
CROWDED = MaskCase(1000, (3000, 4000), GRID, sides=(0.01, 0.5))
"""A thousand objects on 12 megapixels, for the memory of box-local masks only."""
MAX_PIXELS = 1e9
"""Maximum number of objects times pixels for torchvision, which allocates several bytes for each."""


@dataclass(frozen=True)
class AssemblyMeasurement:
    """The time and memory of one method."""

    method: str
    default_allocator: float
    """Median milliseconds with the system's default allocator."""
    retaining_allocator: float | None
    """Median milliseconds with an allocator that retains freed memory."""
    mebibytes: float | None
    """MiB added to the peak of a fresh process."""


def dense_masks(case: MaskCase, inputs: MaskInputs) -> np.ndarray:
    """Assemble masks inside their boxes and convert them to a dense stack (D, H, W) bool."""
    count = len(inputs.boxes)
    scores, labels = np.ones(count, np.float32), np.zeros(count, np.int64)
    return Detections(case.size, inputs.boxes, scores, labels, ("object",), box_local(case, inputs)).masks()


def ultralytics_masks(case: MaskCase, inputs: MaskInputs) -> Any:
    """Assemble masks by ultralytics: (D, H, W) uint8."""
    from ultralytics.utils import ops

    tensors = [torch.from_numpy(array) for array in (inputs.prototypes, inputs.coefficients, inputs.boxes)]
    return ops.process_mask_native(*tensors, case.size)


def torchvision_masks(case: MaskCase, inputs: MaskInputs) -> Any:
    """Paste random maps of 28 x 28 by torchvision: (D, H, W) bool."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    maps = torch.rand(case.num_objects, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return paste_masks_in_image(maps, torch.from_numpy(inputs.boxes), case.size)[:, 0] > 0.5


def available_methods(case: MaskCase = DEFAULT) -> dict[str, Callable[[MaskCase, MaskInputs], Any]]:
    """Return the methods whose package is installed and whose memory suffices for the case, by name."""
    methods: dict[str, Callable[[MaskCase, MaskInputs], Any]] = {
        SAIS: box_local,
        DENSE: dense_masks,
        CHUNKED: full_frame_chunked,
    }
    if case.num_objects * case.size[0] * case.size[1] < MAX_PIXELS:
        methods[TORCHVISION] = torchvision_masks
    if importlib.util.find_spec("ultralytics"):
        from peers.installed import restored_process_settings

        with restored_process_settings():
            import ultralytics.utils.ops  # noqa: F401  (the import changes the number of threads)
        methods[ULTRALYTICS] = ultralytics_masks
    return methods


def measure(case: MaskCase = DEFAULT, repeats: int = 11) -> list[AssemblyMeasurement]:
    """Measure all methods in fresh processes: median times of interleaved runs with both allocators, and memory."""
    settings = asdict(case)
    default = in_fresh_process("peers.postprocessing:times", settings, repeats, False)
    retaining = in_fresh_process("peers.postprocessing:times", settings, repeats, True) if can_keep_big_blocks() else {}
    return [
        AssemblyMeasurement(
            method,
            milliseconds,
            retaining.get(method),
            in_fresh_process("peers.postprocessing:memory", settings, method),
        )
        for method, milliseconds in default.items()
    ]


def times(settings: dict[str, Any], repeats: int, retain_memory: bool) -> dict[str, float]:
    """Return the median milliseconds of each method in this process.

    Args:
        settings: the fields of a `MaskCase`.
        repeats: the number of interleaved runs.
        retain_memory: whether the allocator retains freed memory.
    """
    if retain_memory:
        keep_big_blocks()
    case = MaskCase(**settings)
    with torch.inference_mode():
        return measured_times(case, make_inputs(case), repeats, available_methods(case))


def memory(settings: dict[str, Any], method: str) -> float | None:
    """Return the MiB that one run of a method adds to the peak of this process; `settings` are those of `times`."""
    case = MaskCase(**settings)
    assemble = available_methods(case)[method]
    inputs, tiny = make_inputs(case), MaskCase(2, (32, 32), (8, 8))
    with torch.inference_mode():
        assemble(tiny, make_inputs(tiny))  # excludes what libraries allocate once
        before = peak_resident(reset=True)
        masks = assemble(case, inputs)
        after = peak_resident()
    del masks
    return None if before is None or after is None else (after - before) / 2**20
