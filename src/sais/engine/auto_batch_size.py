"""The largest batch size that fits into memory.

The memory of a step grows linearly with its number of images. On a GPU two points of the line are measured: the peak
of a complete step, optimizer included, on one image and on two. On a CPU, where the peak of a step cannot be measured
separately from earlier peaks, the tensors alive at the same time are counted, and scaled for what cannot be counted.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sais.config import Experiment
from sais.converters.for_training import for_training
from sais.data.transforms.multi_scale import max_input_size
from sais.engine.activation_memory import peak_bytes
from sais.engine.free_memory import free_memory
from sais.engine.hardware import training_settings
from sais.engine.optim import build_optimizer
from sais.engine.out_of_memory import is_out_of_memory, memory_remedies, out_of_memory_error
from sais.engine.train_step import compute_losses, total
from sais.errors import ResourceError
from sais.modeling.architecture import find_architecture
from sais.ops.letterbox import CANVAS_MULTIPLE, CanvasMap
from sais.ops.transfers import move_batch
from sais.structures import MASK_STRIDE, Batch, GroundTruth

OBJECTS = 20
"""Number of objects in each measured image; their share of the memory is negligible."""
MEMORY_FRACTION = 0.85
"""Fraction of the free memory to use: temporary memory of libraries is not measured."""
RESIDENT_RATIO = 1.4
"""Resident bytes per counted byte on a CPU: memory of libraries and waste of the allocator. Measured with paper-lite0
at 256x256: 1.14 for each image, 1.56 with full activation checkpointing."""


@dataclass(frozen=True)
class BatchSizeEstimate:
    """The result of `find_batch_size`, with memory in bytes."""

    batch_size: int
    """Number of images in one step."""
    per_image: int
    """Memory of each image."""
    fixed: int
    """Memory of a step that does not depend on its images: weights, gradients, the state of the optimizer."""
    free: int
    """Free memory."""

    def __str__(self) -> str:
        free, fixed = (f"{value / 2**30:.1f} GiB" for value in (self.free, self.fixed))
        memory = f"{self.per_image / 2**20:.0f} MiB per image plus {fixed}, of {free} free memory"
        return f"batch size {self.batch_size}: {memory}"


def find_batch_size(
    experiment: Experiment,
    num_classes: int,
    device: torch.device,
    memory_fraction: float = MEMORY_FRACTION,
    max_batch_size: int = 1024,
    free_bytes: int | None = None,
) -> BatchSizeEstimate:
    """Find the largest batch size whose training step fits into the free memory of a device.

    Args:
        experiment: settings; input size, precision, optimizer and activation checkpointing matter.
        num_classes: C.
        device: device to train on.
        memory_fraction: fraction of the free memory to use.
        max_batch_size: upper limit of the result.
        free_bytes: free memory in bytes; measured if None.

    Raises:
        ResourceError: not even one image fits, or the system does not report its free memory.
    """
    free_bytes = free_memory(device) if free_bytes is None else free_bytes
    fixed, per_image = memory_of_step(experiment, num_classes, device)
    batch_size = min(max_batch_size, int((memory_fraction * free_bytes - fixed) // per_image))
    if batch_size < 1:
        needed, usable = (value / 2**30 for value in (fixed + per_image, memory_fraction * free_bytes))
        raise ResourceError(
            f"{device}: a step on one image needs {needed:.2f} GiB, but {usable:.2f} GiB can be used. "
            + memory_remedies(experiment, device, 1)
        )
    return BatchSizeEstimate(batch_size, per_image, fixed, free_bytes)


def memory_of_step(experiment: Experiment, num_classes: int, device: torch.device) -> tuple[int, int]:
    """Return the bytes of a training step that do not depend on its images, and the bytes of each image.

    Args:
        experiment: settings; input size, precision, optimizer and activation checkpointing matter.
        num_classes: C.
        device: device to train on.

    Raises:
        ResourceError: not even two images fit.
    """
    estimate = _measure_memory if device.type == "cuda" else _count_memory
    try:
        with training_settings(experiment, device):  # they decide which algorithms, with which memory
            return estimate(experiment, num_classes, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_error(experiment, device, images=2) from error
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _measure_memory(experiment: Experiment, num_classes: int, device: torch.device) -> tuple[int, int]:
    """Return the fixed bytes of a step and the bytes of each image, from peaks of a CUDA device."""
    before = torch.cuda.memory_allocated(device)
    model, total_loss = _training_setup(experiment, num_classes, device)
    optimizer = build_optimizer(model, experiment.optim)
    peaks = []
    for images in (1, 1, 2):  # the first step allocates the optimizer's state and buffers of libraries
        torch.cuda.reset_peak_memory_stats(device)
        optimizer.zero_grad(set_to_none=True)
        total_loss(move_batch(_random_batch(experiment, num_classes, images), device)).backward()
        optimizer.step()
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    per_image = max(1, peaks[2] - peaks[1])
    average = _model_bytes(model) if experiment.run.ema else 0
    return max(0, peaks[1] - per_image) + average, per_image


def _count_memory(experiment: Experiment, num_classes: int, device: torch.device) -> tuple[int, int]:
    """Return the fixed bytes of a step and the bytes of each image, from counted tensors."""
    model, total_loss = _training_setup(experiment, num_classes, device)

    def step(images: int) -> None:
        total_loss(move_batch(_random_batch(experiment, num_classes, images), device)).backward()

    peaks = []
    for images in (1, 2):
        model.zero_grad(set_to_none=True)
        peaks.append(peak_bytes(partial(step, images)))
    per_image = max(1, peaks[1] - peaks[0])
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    states = 1 if experiment.optim.name == "sgd" else 2
    fixed = _model_bytes(model) * (2 if experiment.run.ema else 1) + trained * states
    return fixed + int(RESIDENT_RATIO * max(0, peaks[0] - per_image)), int(RESIDENT_RATIO * per_image)


def _training_setup(
    experiment: Experiment, num_classes: int, device: torch.device
) -> tuple[nn.Module, Callable[[Batch], Tensor]]:
    """Return a network in training mode and a function from a batch (B, .) to its scalar loss."""
    architecture = find_architecture(experiment.model.architecture)
    model = for_training(architecture.build(experiment, num_classes), experiment, device).train()
    criterion = architecture.build_criterion(experiment)

    def total_loss(batch: Batch) -> Tensor:
        return total(compute_losses(model, criterion, batch, experiment.run.precision))

    return model, total_loss


def _model_bytes(model: nn.Module) -> int:
    tensors: list[Any] = [*model.parameters(), *model.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def _random_batch(experiment: Experiment, num_classes: int, images: int) -> Batch:
    """Return images of noise (B, 3, H, W) with boxes of all sizes, on the largest canvas that the settings allow."""
    random = np.random.default_rng(0)
    largest = max_input_size(experiment.input, experiment.augment)
    if experiment.input.mode == "keep_ratio":  # the last batch of an epoch may mix portrait and landscape images
        largest = (max(largest), max(largest))
    height, width = (-(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE for side in largest)
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
