"""Post-processing alone: the same prototypes, coefficients and boxes to masks at the image's size, ours and theirs.

Theirs are the functions that the packages call: ultralytics' `process_mask_native` (its full-resolution masks) and
torchvision's `paste_masks_in_image` (Mask R-CNN's, from maps of 28 x 28 instead of prototypes). Ours ends with the
patches of `Detections`; what a dense (D, H, W) stack takes besides is measured apart.
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

OURS, DENSE = "sais, patches", "sais, dense stack"
ULTRALYTICS, TORCHVISION = "ultralytics, full resolution", "torchvision, Mask R-CNN's pasting"
CHUNKS = "whole frames, ten at a time"
GRID = (120, 160)
"""Of the prototypes: an image of 4:3 at 640, without the padding that ultralytics would take off."""
DEFAULT = MaskCase(100, (960, 1280), GRID)
LARGE = MaskCase(300, (3000, 4000), GRID)
CROWDED = MaskCase(1000, (3000, 4000), GRID, sides=(0.01, 0.5))
"""A thousand objects on 12 megapixels: only ours is measured, and its memory."""
MOST_PIXELS = 1e9
"""Objects times pixels that torchvision is given: it makes several bytes of each."""


@dataclass(frozen=True)
class Post:
    """One way's figures."""

    way: str
    shipped: float
    """Milliseconds, the allocator as the system has it."""
    kept: float | None
    """Milliseconds, blocks kept."""
    mebibytes: float | None
    """Added to the peak of a fresh process."""


def dense(case: MaskCase, inputs: MaskInputs) -> np.ndarray:
    """(D, H, W) bool by way of the patches."""
    count = len(inputs.boxes)
    scores, labels = np.ones(count, np.float32), np.zeros(count, np.int64)
    return Detections(case.size, inputs.boxes, scores, labels, ("a",), box_local(case, inputs)).masks()


def ultralytics_masks(case: MaskCase, inputs: MaskInputs) -> Any:
    """(D, H, W) uint8."""
    from ultralytics.utils import ops

    tensors = [torch.from_numpy(one) for one in (inputs.prototypes, inputs.coefficients, inputs.boxes)]
    return ops.process_mask_native(*tensors, case.size)


def torchvision_masks(case: MaskCase, inputs: MaskInputs) -> Any:
    """(D, H, W) bool, from maps of 28 x 28."""
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    maps = torch.rand(case.objects, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return paste_masks_in_image(maps, torch.from_numpy(inputs.boxes), case.size)[:, 0] > 0.5


def ways(case: MaskCase = DEFAULT) -> dict[str, Callable[[MaskCase, MaskInputs], Any]]:
    """Those whose packages are installed, and whose memory does for the case: torchvision makes all objects' frames of
    floats at once."""
    found: dict[str, Callable[[MaskCase, MaskInputs], Any]] = {
        OURS: box_local,
        DENSE: dense,
        CHUNKS: full_frame_chunked,
    }
    if case.objects * case.size[0] * case.size[1] < MOST_PIXELS:
        found[TORCHVISION] = torchvision_masks
    if importlib.util.find_spec("ultralytics"):
        from peers.installed import process_kept

        with process_kept():
            import ultralytics.utils.ops  # noqa: F401  (its import changes the number of threads)
        found[ULTRALYTICS] = ultralytics_masks
    return found


def measure(case: MaskCase = DEFAULT, repeats: int = 11) -> list[Post]:
    """Medians of interleaved runs, twice, and the memory of each way, in fresh processes."""
    settings = asdict(case)
    shipped = in_fresh_process("peers.postprocessing:times", settings, repeats, False)
    kept = in_fresh_process("peers.postprocessing:times", settings, repeats, True) if can_keep_big_blocks() else {}
    return [
        Post(way, shipped[way], kept.get(way), in_fresh_process("peers.postprocessing:memory", settings, way))
        for way in shipped
    ]


def times(settings: dict[str, Any], repeats: int, keep: bool) -> dict[str, float]:
    """Median milliseconds of each way, in this process."""
    if keep:
        keep_big_blocks()
    case = MaskCase(**settings)
    with torch.inference_mode():
        return measured_times(case, make_inputs(case), repeats, ways(case))


def memory(settings: dict[str, Any], way: str) -> float | None:
    """MiB that one run adds to the peak of this process."""
    case = MaskCase(**settings)
    run = ways(case)[way]
    inputs, small = make_inputs(case), MaskCase(2, (32, 32), (8, 8))
    with torch.inference_mode():
        run(small, make_inputs(small))  # what libraries set up once is not the masks'
        before = peak_resident(reset=True)
        made = run(case, inputs)
        after = peak_resident()
    del made
    return None if before is None or after is None else (after - before) / 2**20
