"""Masks of a batch, assembled and packed to bits on an accelerator in fixed shapes; the pixels of `sais.ops.masks`.

All pixels of all boxes form one list, box after box, row after row. Each box starts at a new byte, so that its bytes
are those of `sais.results.cropped_mask.CroppedMask`. The list has a fixed capacity: bytes beyond those that the boxes
need are zero, and the caller compares the number of bytes needed with the capacity. Interpolation has the same formula
and the same order of operations as on a CPU: columns, then rows, with indices and weights computed in float64.

Legend: B images, D detections, K prototypes, h w the prototype grid, H W an image, S the longest side of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sais.ops.letterbox import CanvasMap

CHUNK_PIXELS = 2**22
"""Number of pixels that are interpolated at once: about 300 MB of indices, weights and logits."""


class MapTensors(NamedTuple):
    """The canvas maps of a batch as tensors."""

    image_sizes: Tensor
    """(B, 2) int64 (H, W) of the images."""
    cells_per_pixel: Tensor
    """(B, 2) float64 (vertical, horizontal) grid cells for one image pixel."""
    scale: Tensor
    """(B, 2) float32 (vertical, horizontal) canvas pixels for one image pixel."""
    shift: Tensor
    """(B, 2) float32 (y, x) of the images' corners on the canvas."""
    content_sizes: Tensor
    """(B, 2) float32 (height, width) of the images on the canvas."""


class PackedMasks(NamedTuple):
    """The masks of a batch."""

    windows: Tensor
    """(B, D, 4) int32 x1 y1 x2 y2 of each mask in image pixels, end exclusive."""
    packed: Tensor
    """(capacity,) uint8, eight pixels a byte, the first in the highest bit; box after box."""
    length: Tensor
    """Number of bytes that the masks need, a scalar int64; masks are incomplete where it exceeds the capacity."""


def map_tensors(canvas_maps: Sequence[CanvasMap], mask_stride: int) -> MapTensors:
    """Return B canvas maps as tensors (B, .) in host memory; `mask_stride` is the canvas pixels for one grid cell."""
    return MapTensors(
        torch.tensor([canvas_map.image_size for canvas_map in canvas_maps]),
        torch.tensor([canvas_map.cells_per_pixel(mask_stride) for canvas_map in canvas_maps], dtype=torch.float64),
        torch.tensor([canvas_map.scale for canvas_map in canvas_maps], dtype=torch.float32),
        torch.tensor([canvas_map.shift for canvas_map in canvas_maps], dtype=torch.float32),
        torch.tensor([canvas_map.content_size for canvas_map in canvas_maps], dtype=torch.float32),
    )


def pack_masks(
    boxes: Tensor,
    coefficients: Tensor,
    prototypes: Tensor,
    visible: Tensor,
    maps: MapTensors,
    longest_side: int,
    capacity: int,
    margin: float = 0.0,
) -> PackedMasks:
    """Assemble and pack the masks of the detections of a batch, each inside its box.

    Args:
        boxes: (B, D, 4) x1 y1 x2 y2 in canvas pixels.
        coefficients: (B, D, K) float32.
        prototypes: (B, K, h, w) float32.
        visible: (B, D) bool; the masks of other detections take no bytes.
        maps: canvas maps, on the device.
        longest_side: S, maximum of all H and W.
        capacity: number of bytes of the result.
        margin: fraction of the box's sides by which a mask may extend beyond its box.
    """
    height, width = prototypes.shape[2:]
    windows = pixel_windows(image_boxes(boxes, maps), maps.image_sizes, margin)
    windows = torch.where(visible[:, :, None], windows, 0)
    logits = torch.bmm(coefficients, prototypes.flatten(2)).view(-1)
    rows = neighbors(longest_side, height, maps.cells_per_pixel[:, 0])
    columns = neighbors(longest_side, width, maps.cells_per_pixel[:, 1])
    items, ends = _items(windows, longest_side, height * width)
    length = ends[-1]
    ends = ends.clamp(max=capacity + 1).int()
    chunks = []
    for first in range(0, capacity, CHUNK_PIXELS // 8):
        places = torch.arange(first, min(first + CHUNK_PIXELS // 8, capacity), dtype=torch.int32, device=boxes.device)
        item = torch.searchsorted(ends, places, right=True, out_int32=True).clamp_(max=len(ends) - 1)
        chunks.append(_pack(places, items.index_select(0, item), logits, rows, columns, (height, width)))
    return PackedMasks(windows.int(), torch.cat(chunks), length)


def masknesses(
    boxes: Tensor, coefficients: Tensor, prototypes: Tensor, maps: MapTensors, margin: float = 0.0
) -> Tensor:
    """Return the maskness of each detection, as `sais.ops.maskness.compute_maskness` does: (B, D).

    Args:
        boxes: (B, D, 4) x1 y1 x2 y2 in canvas pixels.
        coefficients: (B, D, K) float32.
        prototypes: (B, K, h, w) float32.
        maps: canvas maps, on the device.
        margin: fraction of the box's sides by which a mask may extend beyond its box.
    """
    height, width = prototypes.shape[2:]
    x1, y1, x2, y2 = pixel_windows(image_boxes(boxes, maps), maps.image_sizes, margin).unbind(2)
    vertical, horizontal = maps.cells_per_pixel.unbind(1)
    logits = torch.bmm(coefficients, prototypes.flatten(2)).unflatten(2, (height, width))
    positive = logits > 0
    positive &= _interpolated_cells(y1, y2, height, vertical)[:, :, :, None]
    positive &= _interpolated_cells(x1, x2, width, horizontal)[:, :, None]
    number = positive.sum((2, 3))
    total = logits.sigmoid_().masked_fill_(positive.logical_not_(), 0).sum((2, 3))
    return torch.where(number > 0, total / number, 0.5)


def image_boxes(boxes: Tensor, maps: MapTensors) -> Tensor:
    """Map boxes (B, D, 4) from the canvas to the images as `CanvasMap.boxes_to_image` does."""
    scale, shift = (pair.flip(1).repeat(1, 2)[:, None] for pair in (maps.scale, maps.shift))
    limits = maps.image_sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
    return torch.minimum(((boxes - shift) / scale).clamp(min=0), limits)


def pixel_windows(boxes: Tensor, image_sizes: Tensor, margin: float = 0.0) -> Tensor:
    """Return the windows of the pixels inside boxes (B, D, 4), as `sais.ops.masks.pixel_window`: (B, D, 4) int64.

    Args:
        boxes: (B, D, 4) x1 y1 x2 y2 in image pixels.
        image_sizes: (B, 2) (H, W).
        margin: fraction of the box's sides by which the box is enlarged on each side.
    """
    low, high = boxes.double().split(2, dim=2)  # (B, D, 2) x y
    margins = margin * (high - low)
    sizes = image_sizes.flip(1)[:, None].to(low.dtype)
    first = torch.minimum((low - margins - 0.5).ceil().clamp(min=0), sizes)
    last = torch.minimum(torch.maximum((high + margins - 0.5).ceil(), first), sizes)
    return torch.cat([first, last], 2).long()


def neighbors(pixels: int, cells: int, cells_per_pixel: Tensor) -> tuple[Tensor, Tensor]:
    """Return the interpolation indices and weights along one axis of B images, as `sais.ops.masks.neighbors`.

    Args:
        pixels: number of pixels P.
        cells: number of grid cells.
        cells_per_pixel: (B,) float64.

    Returns:
        (B, P) int32 index of the cell before each pixel center; (B, P) float32 weight of the next cell.
    """
    centers = torch.arange(pixels, dtype=torch.float64, device=cells_per_pixel.device) + 0.5
    position = (centers * cells_per_pixel[:, None] - 0.5).clamp(0, cells - 1)
    before = position.long().clamp(max=max(cells - 2, 0))
    return before.int(), (position - before).float()


def _interpolated_cells(first: Tensor, end: Tensor, cells: int, cells_per_pixel: Tensor) -> Tensor:
    """Return which cells along one axis the pixels of windows are interpolated from: (B, D, cells) bool.

    Args:
        first: (B, D) int64 first pixel of each window.
        end: (B, D) int64 pixel after its last; no cells for a window without pixels.
        cells: number of grid cells.
        cells_per_pixel: (B,) float64.
    """
    centers = torch.stack([first, end - 1], 2).double() + 0.5
    position = (centers * cells_per_pixel[:, None, None] - 0.5).clamp(0, cells - 1)
    before, last = position.long().clamp(max=max(cells - 2, 0)).split(1, dim=2)
    index = torch.arange(cells, device=first.device)
    return (index >= before) & (index <= last + 1) & (end > first)[:, :, None]


def _items(windows: Tensor, longest_side: int, cells: int) -> tuple[Tensor, Tensor]:
    """Return what the pixels of each mask need.

    Returns:
        (B * D, 6) int32: first byte, number of pixels, width, and indices of the first row and column in tables
        (B, S) and of the first cell of the logits; (B * D,) int64 end of its bytes.
    """
    batch, number = windows.shape[:2]
    x1, y1, x2, y2 = windows.unbind(2)
    areas = (x2 - x1) * (y2 - y1)
    ends = ((areas + 7) // 8).view(-1).cumsum(0)
    starts = (ends - (areas.view(-1) + 7) // 8).view(batch, number)
    images = torch.arange(batch, device=windows.device)[:, None]
    first_row, first_column = (torch.where(areas > 0, images * longest_side + edge, 0) for edge in (y1, x1))
    grids = torch.arange(batch * number, device=windows.device).view(batch, number) * cells
    columns = (starts.clamp(max=2**30), areas, (x2 - x1).clamp(min=1), first_row, first_column, grids)
    return torch.stack(columns, 2).view(-1, 6).int(), ends


def _pack(
    places: Tensor,
    items: Tensor,
    logits: Tensor,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    grid: tuple[int, int],
) -> Tensor:
    """Return bytes of masks.

    Args:
        places: (n,) int32 indices of the bytes.
        items: (n, 6) int32 mask of each byte, see `_items`.
        logits: (B * D * h * w,).
        rows: (B, S) index and weight.
        columns: (B, S) index and weight.
        grid: (h, w).
    """
    bits = torch.arange(8, dtype=torch.int32, device=places.device)
    start, area, width = items[:, 0:1], items[:, 1:2], items[:, 2:3]
    pixel = (places[:, None] - start) * 8 + bits  # (n, 8)
    inside = pixel < area
    pixel = torch.minimum(pixel, (area - 1).clamp(min=0))
    y = pixel.div(width, rounding_mode="trunc")
    x = pixel.sub_(y * width)
    row, column = (y.add_(items[:, 3:4])).view(-1), (x.add_(items[:, 4:5])).view(-1)
    cell = rows[0].view(-1).index_select(0, row).mul_(grid[1])
    cell.add_(columns[0].view(-1).index_select(0, column))
    cell = cell.view(-1, 8).add_(items[:, 5:6]).view(-1)
    weight = columns[1].view(-1).index_select(0, column)
    next_column, next_row = int(grid[1] > 1), grid[1] * int(grid[0] > 1)
    above = _interpolate(logits, cell, next_column, weight)
    below = _interpolate(logits, cell.add_(next_row), next_column, weight)
    values = below.sub_(above).mul_(rows[1].view(-1).index_select(0, row)).add_(above)
    positive = (values > 0).view(-1, 8) & inside
    return (positive.to(torch.uint8) << (7 - bits).to(torch.uint8)).sum(1, dtype=torch.uint8)


def _interpolate(logits: Tensor, cell: Tensor, step: int, weight: Tensor) -> Tensor:
    """Interpolate logits between cells (n,) and the cells `step` later."""
    value = logits.index_select(0, cell)
    return logits.index_select(0, cell + step).sub_(value).mul_(weight).add_(value)
