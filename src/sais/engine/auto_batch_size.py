"""How many images fit into memory, and what to say where they did not.

Memory grows with the images of a step along a straight line. On a GPU its two ends are measured: the peak of a whole
step, optimizer and all, on one image and on two. On a CPU, where a peak cannot be told from what was there before, it
is counted: what autograd keeps for backward, and a share for what backward itself needs.
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sais.config import Experiment
from sais.data.transforms.augment import max_input_size
from sais.engine.activation_memory import peak_bytes
from sais.engine.architecture import SAIS_ARCHITECTURE, Architecture
from sais.engine.optim import build_optimizer
from sais.errors import SaisError
from sais.ops.letterbox import CANVAS_MULTIPLE
from sais.structures import MASK_STRIDE, Batch, CanvasMap, GroundTruth

OBJECTS = 20
"""On the image that is measured; each costs next to nothing."""
SHARE = 0.85
"""Of the free memory that may be used: what libraries need for a moment is not measured."""
UNCOUNTED = 1.4
"""Resident bytes for one that is counted: libraries' working memory, and what the allocator wastes. Measured on a CPU
with paper-lite0 at 256x256: 1.14 for each image, 1.56 with everything computed again."""

_SIGNS = (
    "out of memory",  # CUDA, MPS, XPU
    "can't allocate memory",  # a CPU
    "not enough memory",  # a CPU on Windows
    "alloc_failed",  # cuBLAS and cuDNN
    "could not create a memory object",  # oneDNN
)


@dataclass(frozen=True)
class BatchSizeEstimate:
    """The answer of `batch_that_fits`; sizes in bytes."""

    batch: int
    """Images in one step."""
    per_image: int
    """What each takes."""
    fixed: int
    """What a step takes besides: weights, gradients, the optimizer's state."""
    free: int
    """What there is."""

    def __str__(self) -> str:
        free, fixed = (f"{value / 2**30:.1f} GiB" for value in (self.free, self.fixed))
        return (
            f"batch {self.batch}: {self.per_image / 2**20:.0f} MiB an image and {fixed} besides, of {free} that "
            "are free"
        )


def find_batch_size(
    experiment: Experiment,
    num_classes: int,
    device: torch.device,
    share: float = SHARE,
    most: int = 1024,
    free: int | None = None,
    system: Architecture = SAIS_ARCHITECTURE,
) -> BatchSizeEstimate:
    """The greatest batch whose training step fits into a share of the free memory of the device.

    Args:
        experiment: with its size, precision, optimizer and recomputation.
        num_classes: C.
        share: of the free memory.
        most: the greatest answer.
        free: bytes, where they are known; else asked for.

    Raises:
        SaisError: not one image fits, or the system does not tell how much memory is free.
    """
    free = free_memory(device) if free is None else free
    measure = _measured if device.type == "cuda" else _counted
    try:
        fixed, per_image = measure(experiment, num_classes, device, system)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_error(experiment, device, images=2) from error
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    batch = min(most, int((share * free - fixed) // per_image))
    if batch < 1:
        needed, there = ((value / 2**30) for value in (fixed + per_image, share * free))
        raise SaisError(
            f"a step on one image takes {needed:.2f} GiB, and {there:.2f} GiB may be used on {device}; "
            + _remedies(experiment, device, 1)
        )
    return BatchSizeEstimate(batch, per_image, fixed, free)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: torch has a class for GPUs alone, libraries have words."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def out_of_memory_error(experiment: Experiment, device: torch.device, images: int | None = None) -> SaisError:
    """What to raise where memory ran out in training: what was tried, and what to lower.

    Args:
        images: in the step; `optim.batch_size` unless given.
    """
    images = experiment.optim.batch_size if images is None else images
    size = " x ".join(map(str, experiment.input.size))
    return SaisError(
        f"out of memory on {device} with {images} image{'s' * (images > 1)} of {size} in a step; "
        + _remedies(experiment, device, images)
    )


def _remedies(experiment: Experiment, device: torch.device, images: int) -> str:
    """What can still be lowered, in the order in which it costs least."""
    tries = []
    if images > 1:
        tries.append(f"--optim.micro-batch {images // 2} (with the same result)")
    if experiment.run.activation_checkpointing != "all":
        tries.append("--run.activation-checkpointing all")
    if experiment.run.precision == "fp32" and _computes_in_bf16(device):
        tries.append("--run.precision bf16")
    return "try " + ", ".join([*tries, "a smaller --size"])


def _computes_in_bf16(device: torch.device) -> bool:
    """Elsewhere it is emulated, ten times slower."""
    return device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())


def free_memory(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that this process could still take, as the device, the system and its containers tell.

    Args:
        root: of the file system in which the system tells about itself.

    Raises:
        SaisError: it does not.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    limits = [*_containers(root), *_system(root)]
    if not limits:
        raise SaisError("this system does not tell how much memory is free; set --batch")
    return max(0, min(limits))


def _system(root: Path) -> list[int]:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    try:  # macOS tells how much there is in all; half of it is a guess
        return [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2]
    except (AttributeError, ValueError, OSError):  # Windows
        return []


def _containers(root: Path) -> list[int]:
    """What is left in each control group that this process is in, of version 2 or 1, outermost ones too."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = mount / path.lstrip("/")
        for folder in (inner, *inner.parents):
            left = _left(folder, *names)
            if left is not None:
                found.append(left)
            if folder == mount:
                break
    return found


def _left(folder: Path, limit: str, used: str, cache: str) -> int | None:
    """Bytes below the limit of one group; what it has of files in memory, long unused, counts as free."""
    try:
        most = int((folder / limit).read_text())
        current = int((folder / used).read_text())
    except (OSError, ValueError):  # no such group here, or "max"
        return None
    try:
        numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return most - current + int(numbers.get(cache, 0))
    except (OSError, ValueError):
        return most - current


def _measured(experiment: Experiment, num_classes: int, device: torch.device, system: Architecture) -> tuple[int, int]:
    """Bytes of a step besides its images, and of each of them: peaks of a CUDA device."""
    before = torch.cuda.memory_allocated(device)
    model = system.build(experiment, num_classes).to(device).train()
    optimizer = build_optimizer(model, experiment.optim)
    peaks = []
    for images in (1, 1, 2):  # the first makes the optimizer's state and what libraries set up once
        torch.cuda.reset_peak_memory_stats(device)
        batch = _batch(experiment, num_classes, images).to(device)
        optimizer.zero_grad(set_to_none=True)
        _total(system.losses(model, batch, experiment, 0)).backward()
        optimizer.step()
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    per_image = max(1, peaks[2] - peaks[1])
    average = _bytes(model) if experiment.run.ema else 0
    return max(0, peaks[1] - per_image) + average, per_image


def _counted(experiment: Experiment, num_classes: int, device: torch.device, system: Architecture) -> tuple[int, int]:
    """The same, counted."""
    model = system.build(experiment, num_classes).to(device).train()

    def step(images: int) -> None:
        _total(system.losses(model, _batch(experiment, num_classes, images).to(device), experiment, 0)).backward()

    peaks = []
    for images in (1, 2):
        model.zero_grad(set_to_none=True)
        peaks.append(peak_bytes(partial(step, images)))
    per_image = max(1, peaks[1] - peaks[0])
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    states = 2 if experiment.optim.name == "adamw" else 1
    fixed = _bytes(model) * (2 if experiment.run.ema else 1) + trained * states
    return fixed + int(UNCOUNTED * max(0, peaks[0] - per_image)), int(UNCOUNTED * per_image)


def _total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _bytes(model: nn.Module) -> int:
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def _batch(experiment: Experiment, num_classes: int, images: int) -> Batch:
    """Noise with boxes of all sizes, the same on each image, on the greatest canvas that the settings allow."""
    random = np.random.default_rng(0)
    greatest = max_input_size(experiment.input, experiment.augment)
    if experiment.input.mode == "keep_ratio":  # an epoch's last batch may mix upright images with lying ones
        greatest = (max(greatest), max(greatest))
    height, width = (-(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE for side in greatest)
    sides = np.exp(random.uniform(np.log(0.05), np.log(0.8), (OBJECTS, 2))) * (width, height)
    corners = random.uniform(0, 1, (OBJECTS, 2)) * (np.array([width, height]) - sides)
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    low, high = np.floor(boxes[:, :2] / MASK_STRIDE), np.ceil(boxes[:, 2:] / MASK_STRIDE)
    windows = np.concatenate([low, high], 1).astype(np.int64)
    cells = int((windows[:, 2:] - windows[:, :2]).prod(1).sum())
    canvas = torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(0, num_classes, OBJECTS))
    values = torch.full((cells,), 255, dtype=torch.uint8)
    objects = GroundTruth(torch.from_numpy(boxes), labels, torch.from_numpy(windows), values)
    canvas_map = CanvasMap((height, width), (height, width), (1.0, 1.0))
    return Batch(
        canvas.expand(images, -1, -1, -1).contiguous(),
        [objects] * images,
        list(range(images)),
        [canvas_map] * images,
    )
