"""The words of the package: the six types that data passes through, each made from the last.

    Sample -> Batch -> DenseOutputs, DenseTargets -> Instances -> Detections

Legend, the same in every file:

    B images     C classes     K prototypes (32)     N objects of one image     D detections of one image
    L locations of all levels, P3 first, row by row    H W an image    h w the prototype grid (stride 4)

Spaces: *image* is the file as a person sees it (EXIF applied), *canvas* is the network's input, *grid* is the
prototype map, one cell for 4 x 4 canvas pixels. Coordinates are continuous edges: pixel i covers [i, i + 1].
Boxes are float32 ``x1 y1 x2 y2``; sizes are ``(height, width)``; images are uint8 RGB; background is label -1.

`Detections` has its own file, `sais.results.detections`, since it computes with `sais.ops`; this one imports nothing of
ours and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sais.ops.rasterize import ObjectMask

STRIDES = (8, 16, 32, 64, 128)
"""Canvas pixels between neighboring locations of P3 .. P7."""

MASK_STRIDE = 4
"""Canvas pixels for one cell of the prototype grid."""


@dataclass(frozen=True)
class CanvasMap:
    """Where an image lies on its canvas: top left, scaled by ``scale``, the rest is padding.

    Canvas x = image x * scale[1]; canvas y = image y * scale[0]. This is the one mapping between the two
    spaces; everything that crosses over uses it.
    """

    image_size: tuple[int, int]
    """(H, W) of the image in pixels."""
    canvas_size: tuple[int, int]
    """(height, width) of the canvas in pixels, multiples of 32."""
    scale: tuple[float, float]
    """(vertical, horizontal) canvas pixels per image pixel."""

    @property
    def content_size(self) -> tuple[float, float]:
        """(height, width) of the image on its canvas, without the padding."""
        return self.image_size[0] * self.scale[0], self.image_size[1] * self.scale[1]

    def to_canvas(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the image, moved to the canvas."""
        return boxes * self._factors()

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the canvas, moved to the image and clipped to it."""
        height, width = self.image_size
        limit = np.array([width, height, width, height], np.float32)
        return np.clip(boxes / self._factors(), 0, limit).astype(np.float32)

    def _factors(self) -> np.ndarray:
        return np.array([self.scale[1], self.scale[0], self.scale[1], self.scale[0]], np.float32)


@dataclass
class Sample:
    """An image and its objects, before and after the transforms. No crowds: they train nothing."""

    image_id: int
    image: np.ndarray
    """(H, W, 3) uint8 RGB; after `fit` the canvas."""
    boxes: np.ndarray
    """(N, 4) float32 in the pixels of `image`."""
    labels: np.ndarray
    """(N,) int64, 0 .. C-1."""
    masks: list[ObjectMask | None]
    """N shapes in the pixels of `image`, not yet rasterized; None where only a box was annotated."""
    canvas_map: CanvasMap | None = None
    """Set once the image has been fitted to its canvas."""


@dataclass
class GroundTruth:
    """The objects of one image as the losses need them, in canvas pixels."""

    boxes: Tensor
    """(N, 4) float32, canvas pixels."""
    labels: Tensor
    """(N,) int64."""
    mask_windows: Tensor
    """(N, 4) int64 ``x1 y1 x2 y2`` in grid cells, end exclusive: where each mask patch lies."""
    mask_values: Tensor
    """(sum of window areas,) uint8: the patches one after the other, row by row; coverage of a cell 0 .. 255."""

    def to(self, device: torch.device) -> GroundTruth:
        """The same objects on another device."""
        return GroundTruth(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))

    def pin_memory(self) -> GroundTruth:
        """The same objects in memory that a GPU reads by itself."""
        return GroundTruth(*(getattr(self, name).pin_memory() for name in self.__dataclass_fields__))


@dataclass
class Batch:
    """What one training or evaluation step consumes."""

    images: Tensor
    """(B, 3, height, width) uint8 RGB canvases; normalization belongs to the model."""
    ground_truths: list[GroundTruth]
    """B entries."""
    image_ids: list[int]
    canvas_maps: list[CanvasMap]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        images = self.images.to(device, non_blocking=True)
        return Batch(images, [o.to(device) for o in self.ground_truths], self.image_ids, self.canvas_maps)

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU reads by itself, so that `to` need not wait."""
        images = self.images.pin_memory()
        return Batch(images, [o.pin_memory() for o in self.ground_truths], self.image_ids, self.canvas_maps)


@dataclass
class DenseOutputs:
    """What the network says at every location. It never sees ground truth."""

    class_logits: Tensor
    """(B, L, C)."""
    centerness_logits: Tensor
    """(B, L)."""
    distances: Tensor
    """(B, L, 4) left top right bottom, canvas pixels, positive."""
    coefficients: Tensor | None
    """(B, L, K) in (-1, 1); None where the model has no masks."""
    prototypes: Tensor | None
    """(B, K, h, w), not negative; None where the model has no masks."""
    level_sizes: tuple[tuple[int, int], ...]
    """(height, width) of P3 .. P7; their areas add up to L."""


@dataclass
class DenseTargets:
    """What the network should have said: one matching decides class, centerness, box and mask of a location."""

    object_index: Tensor
    """(B, L) int64, which object of the image a location belongs to; -1 is background."""
    labels: Tensor
    """(B, L) int64, the object's class; -1 is background."""
    distances: Tensor
    """(B, L, 4) float32 canvas pixels; zero where background."""
    centerness: Tensor
    """(B, L) float32 in [0, 1]; zero where background."""


@dataclass
class Instances:
    """The kept detections of a batch in fixed shapes, as an exported graph returns them. An empty slot has score 0."""

    boxes: Tensor
    """(B, D, 4) canvas pixels."""
    scores: Tensor
    """(B, D), descending."""
    labels: Tensor
    """(B, D) int64."""
    coefficients: Tensor | None
    """(B, D, K)."""
    prototypes: Tensor | None
    """(B, K, h, w)."""
