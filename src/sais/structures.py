"""The words of the package: the six types that data passes through, each made from the last.

    Sample -> Batch -> DenseOutputs, DenseTargets -> Instances -> Detections

Legend, the same in every file:

    B images     C classes     K prototypes (32)     N objects of one image     D detections of one image
    L locations of all levels, P3 first, row by row    H W a picture    h w the prototype grid (stride 4)

Spaces: *picture* is the file as a person sees it (EXIF applied), *canvas* is the network's input, *grid* is the
prototype map, one cell for 4 x 4 canvas pixels. Coordinates are continuous edges: pixel i covers [i, i + 1].
Boxes are float32 ``x1 y1 x2 y2``; sizes are ``(height, width)``; pictures are uint8 RGB; background is label -1.

`Detections` has its own file, `sais.detections`, since it computes with `sais.geometry`; this one imports nothing of
ours and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sais.geometry.raster import ObjectMask

STRIDES = (8, 16, 32, 64, 128)
"""Canvas pixels between neighbouring locations of P3 .. P7."""

MASK_STRIDE = 4
"""Canvas pixels for one cell of the prototype grid."""


class SaisError(Exception):
    """What the user can mend: bad data, a bad setting, a missing file. The command prints it and exits with 2."""


@dataclass(frozen=True)
class Placement:
    """Where a picture lies on its canvas: top left, scaled by ``scale``, the rest is padding.

    Canvas x = picture x * scale[1]; canvas y = picture y * scale[0]. This is the one mapping between the two
    spaces; everything that crosses over uses it.
    """

    picture_size: tuple[int, int]
    """(H, W) of the picture in pixels."""
    canvas_size: tuple[int, int]
    """(height, width) of the canvas in pixels, multiples of 32."""
    scale: tuple[float, float]
    """(vertical, horizontal) canvas pixels per picture pixel."""

    @property
    def content_size(self) -> tuple[float, float]:
        """(height, width) of the picture on its canvas, without the padding."""
        return self.picture_size[0] * self.scale[0], self.picture_size[1] * self.scale[1]

    def to_canvas(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the picture, moved to the canvas."""
        return boxes * self._factors()

    def to_picture(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (N, 4) of the canvas, moved to the picture and clipped to it."""
        height, width = self.picture_size
        limit = np.array([width, height, width, height], np.float32)
        return np.clip(boxes / self._factors(), 0, limit).astype(np.float32)

    def _factors(self) -> np.ndarray:
        return np.array([self.scale[1], self.scale[0], self.scale[1], self.scale[0]], np.float32)


@dataclass
class Sample:
    """A picture and its objects, before and after the transforms. No crowds: they train nothing."""

    image_id: int
    picture: np.ndarray
    """(H, W, 3) uint8 RGB; after `fit` the canvas."""
    boxes: np.ndarray
    """(N, 4) float32 in the pixels of `picture`."""
    labels: np.ndarray
    """(N,) int64, 0 .. C-1."""
    masks: list[ObjectMask | None]
    """N shapes in the pixels of `picture`, not yet rasterised; None where only a box was annotated."""
    placement: Placement | None = None
    """Set once the picture has been fitted to its canvas."""


@dataclass
class Objects:
    """The objects of one image as the losses need them, in canvas pixels."""

    boxes: Tensor
    """(N, 4) float32, canvas pixels."""
    labels: Tensor
    """(N,) int64."""
    mask_windows: Tensor
    """(N, 4) int64 ``x1 y1 x2 y2`` in grid cells, end exclusive: where each mask patch lies."""
    mask_values: Tensor
    """(sum of window areas,) uint8: the patches one after the other, row by row; coverage of a cell 0 .. 255."""

    def to(self, device: torch.device) -> Objects:
        """The same objects on another device."""
        return Objects(*(getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__))

    def pin_memory(self) -> Objects:
        """The same objects in memory that a GPU reads by itself."""
        return Objects(*(getattr(self, name).pin_memory() for name in self.__dataclass_fields__))


@dataclass
class Batch:
    """What one training or evaluation step consumes."""

    pictures: Tensor
    """(B, 3, height, width) uint8 RGB canvases; normalisation belongs to the model."""
    objects: list[Objects]
    """B entries."""
    image_ids: list[int]
    placements: list[Placement]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        pictures = self.pictures.to(device, non_blocking=True)
        return Batch(pictures, [o.to(device) for o in self.objects], self.image_ids, self.placements)

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU reads by itself, so that `to` need not wait."""
        pictures = self.pictures.pin_memory()
        return Batch(pictures, [o.pin_memory() for o in self.objects], self.image_ids, self.placements)


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
