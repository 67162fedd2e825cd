"""The types that data passes through, each made from the previous one.

    Sample -> Batch -> DenseOutputs, DenseTargets -> Instances -> Detections

Legend, the same in every file:

    B images     C classes     K prototypes (32)     N objects of one image     D detections of one image
    L locations of all levels, P3 first, row by row    H W an image    h w the prototype grid (stride 4)

Spaces: *image* is the image as displayed (EXIF orientation applied), *canvas* is the network's input, *grid* is the
prototype map, one cell for 4 x 4 canvas pixels. Coordinates are continuous edges: pixel i covers [i, i + 1].
Boxes are float32 ``x1 y1 x2 y2``; sizes are ``(height, width)``; images are uint8 RGB; background is label -1.

`Detections` is in `sais.results.detections`. This module imports no other module of the package and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sais.ops.letterbox import CanvasMap
    from sais.ops.rasterize import ObjectMask

STRIDES = (8, 16, 32, 64, 128)
"""Canvas pixels between neighboring locations of P3 .. P7."""

MASK_STRIDE = 4
"""Canvas pixels for one cell of the prototype grid."""


def copies_overlap(device: torch.device) -> bool:
    """Return whether a copy to a device may still run when `Tensor.to` returns.

    CUDA copies ordinary memory to a buffer of its own first. MPS reads it later, when it may have been freed.
    """
    return device.type == "cuda"


@dataclass
class Sample:
    """An image and its objects, before or after the transforms. Crowd regions are left out: they are not trained on."""

    image_id: int
    image: np.ndarray
    """(H, W, 3) uint8 RGB; the canvas once it has been resized."""
    boxes: np.ndarray
    """(N, 4) float32 in the pixels of `image`."""
    labels: np.ndarray
    """(N,) int64, 0 to C - 1."""
    masks: list[ObjectMask | None]
    """N shapes in the pixels of `image`, not yet rasterized; None if only a box was annotated."""
    canvas_map: CanvasMap | None = None
    """Map from the original image to `image`, once that is the canvas."""


@dataclass
class GroundTruth:
    """The objects of one image in the form that the losses use."""

    boxes: Tensor
    """(N, 4) float32, canvas pixels."""
    labels: Tensor
    """(N,) int64."""
    mask_windows: Tensor
    """(N, 4) int64 ``x1 y1 x2 y2`` in grid cells, end exclusive: window of each mask."""
    mask_values: Tensor
    """(sum of window areas,) uint8: coverage of each cell, 0 to 255; window after window, row by row."""

    host: GroundTruth | None = field(default=None, init=False, repr=False, compare=False)
    """The same objects in host memory, if these are on another device: targets are assigned there while it computes. A
    changed copy (`dataclasses.replace`) has none."""

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes (N, 4), labels (N,), mask windows (N, 4) and mask values (sum of window areas,)."""
        return self.boxes, self.labels, self.mask_windows, self.mask_values

    def on_host(self) -> GroundTruth:
        """Return the objects in host memory; that waits for the device if they are there only."""
        if self.host is not None or self.boxes.device.type == "cpu":
            return self.host or self
        boxes, labels, mask_windows, mask_values = (tensor.cpu() for tensor in self.tensors())
        return GroundTruth(boxes, labels, mask_windows, mask_values)


@dataclass
class Batch:
    """The input of one training or evaluation step."""

    images: Tensor
    """(B, 3, height, width) uint8 RGB canvases; normalization belongs to the model."""
    ground_truths: list[GroundTruth]
    """Objects of B images."""
    image_ids: list[int]
    """B ids."""
    canvas_maps: list[CanvasMap]
    """B maps from the images to their canvases."""

    def pin_memory(self) -> Batch:
        """Return a copy with its images in pinned memory, from which `move_batch` copies asynchronously."""
        return replace(self, images=self.images.pin_memory())


@dataclass
class DenseOutputs:
    """Predictions at every location. The network never sees ground truth."""

    class_logits: Tensor
    """(B, L, C)."""
    quality_logits: Tensor | None
    """(B, L) logits of the quality branch (centerness by default); None for a head without one."""
    distances: Tensor
    """(B, L, 4) left top right bottom from the locations, canvas pixels; positive, except in some heads
    (`sais.modeling.head.HeadOutputs`)."""
    coefficients: Tensor | None
    """(B, L, K) in (-1, 1), but for those of relative coordinates; None for a model without masks."""
    prototypes: Tensor | None
    """(B, K, h, w), not negative; None for a model without masks."""
    level_sizes: tuple[tuple[int, int], ...]
    """(height, width) of P3 .. P7; their areas sum to L."""


@dataclass
class DenseTargets:
    """Training targets at every location. One assignment decides class, quality, box and mask of a location."""

    object_index: Tensor
    """(B, L) int64, index of the assigned object in its image; -1 is background."""
    labels: Tensor
    """(B, L) int64, class of the assigned object; -1 is background."""
    distances: Tensor
    """(B, L, 4) float32 left top right bottom, canvas pixels; zero at background locations."""
    quality: Tensor | None = None
    """(B, L) float32 in [0, 1], target of the quality branch and weight of the box loss, zero at background locations.
    None where it depends on predictions (IoU) or there is no quality branch."""
    score_targets: Tensor | None = None
    """(B, L) float32 in [0, 1], target probability of the class in `labels`. None: 1 at all positive locations."""
    weights: Tensor | None = None
    """(B, L) float32 weight of each location in classification, box and quality loss. None: 1 at all locations."""
    positives: tuple[Tensor, Tensor] | None = None
    """Image (P,) and location (P,) int64 of the positive locations, known without waiting for the device. None: to be
    found in `object_index`."""


Array = Any
"""A torch tensor or a numpy array, depending on the backend."""


@dataclass
class Instances:
    """The detections of a batch in fixed shapes, as an exported graph returns them. An empty slot has score 0."""

    boxes: Array
    """(B, D, 4) canvas pixels."""
    scores: Array
    """(B, D), descending."""
    labels: Array
    """(B, D) int64."""
    coefficients: Array | None
    """(B, D, K); None for a model without masks."""
    prototypes: Array | None
    """(B, K, h, w); None for a model without masks."""
