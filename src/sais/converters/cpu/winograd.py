"""3x3 convolutions, and their gradients, with a quarter of the multiplications.

Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015) computes a tile
of 4 x 4 outputs of a 3x3 convolution from 36 products instead of 144: inputs and weights are transformed, multiplied,
and the products transformed back. All three steps are linear, so both gradients consist of the same products,
transposed.

The usual interpolation points (0, 1, -1, 2, -2 and infinity) lose one digit; those used here lose less than half of
that. The rounding error is about 1e-6 of the size of a tile's outputs: a cell that is much larger than its neighbors
adds to the error of all cells within five cells of it (`docs/performance.md`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

TILE, REACH = 4, 6
"""Outputs and inputs per side of a tile."""
NEAR, FAR = 5 / 8, 3 / 2
"""Interpolation points, with both signs, in addition to zero and infinity: among multiples of 1/16 a pair with minimum
rounding error."""


def _transforms(near: float, far: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return B^T (6, 6), G (6, 3) and A^T (4, 6) of F(4, 3) for the points 0, near, -near, far, -far, infinity.

    A row of B^T contains the polynomial whose roots are all points but its own; G is divided by its value there.
    """
    n, f = near**2, far**2
    rows = [[n * f, 0, -(n + f), 0, 1, 0]]
    weights = [[1 / (n * f), 0, 0]]
    outputs = [[1.0, 0, 0, 0]]
    for point, other in ((near, f), (-near, f), (far, n), (-far, n)):
        rows.append([0, -point * other, -other, point, 1, 0])
        value = 2 * point**2 * (point**2 - other)
        weights.append([power / value for power in (1, point, point**2)])
        outputs.append([1, point, point**2, point**3])
    rows.append([0, n * f, 0, -(n + f), 0, 1])
    weights.append([0, 0, 1])
    outputs.append([0, 0, 0, 1])
    inputs, weight, output = (torch.tensor(matrix, dtype=torch.float64) for matrix in (rows, weights, outputs))
    return inputs, weight, output.T.contiguous()


INPUT_TRANSFORM, WEIGHT_TRANSFORM, OUTPUT_TRANSFORM = _transforms(NEAR, FAR)
"""B^T, G and A^T in the notation of Lavin and Gray."""
INPUT_2D, WEIGHT_2D, OUTPUT_2D = (
    torch.kron(matrix, matrix).contiguous() for matrix in (INPUT_TRANSFORM, WEIGHT_TRANSFORM, OUTPUT_TRANSFORM)
)
"""(36, 36), (36, 9) and (16, 36): the transforms of both dimensions of a tile at once."""
STRIP = 96
"""Tiles that are computed together (at least one row): their transforms fit the processor's cache, and the memory they
take does not depend on the sizes of maps and batches."""


def is_faster() -> bool:
    """Return whether minimal filtering was measured to be faster on this kind of processor: AVX2 without AVX-512.

    There multiplications take most of the time. With AVX-512 direct sums are as fast; others were not measured.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def transformed_weight(weight: Tensor) -> Tensor:
    """Return G w G^T, computed in the precision of the weight: (out, in, 3, 3) -> (36, out, in)."""
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (WEIGHT_2D.to(weight) @ taps).view(REACH**2, *weight.shape[:2])


def convolve_levels(levels: Sequence[Tensor], transformed: Tensor, bias: Tensor | None = None) -> list[Tensor]:
    """Convolve maps (B, in, h, w) of any sizes with stride 1 and padding 1 -> (B, out, h, w) each, channels-last.

    Args:
        levels: maps.
        transformed: weight (36, out, in) as `transformed_weight` returns it.
        bias: (out,).
    """
    work = _Work(levels[0])
    tiles = [_input_tiles(maps.permute(0, 2, 3, 1), 0, _tiles_down(maps), _Work(maps)) for maps in levels]
    counts = [level.shape[1] for level in tiles]
    outputs = _outputs(torch.cat(tiles, 1), transformed, bias, work)
    results = []
    for part, maps in zip(outputs.split(counts, 1), levels, strict=True):
        rows = maps.new_empty(maps.shape[0], *maps.shape[2:], transformed.shape[1])
        _place_tiles(part, rows, 0, _tiles_down(maps))
        results.append(rows.permute(0, 3, 1, 2))
    return results


def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write the convolution of maps (B, in, h, w) with weight (out, in, 3, 3), stride 1 and padding 1, into `out`.

    No gradients are recorded; `training_convolution.convolution` records them.

    Args:
        maps: inputs.
        weight: weight.
        bias: (out,) or None.
        out: (B, out, h, w), channels-last.
    """
    transformed, work = transformed_weight(weight), _Work(maps)
    rows, filled = maps.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1)
    for images, first, last in _strips(maps):
        tiles = _input_tiles(rows[images], first, last, work)
        _place_tiles(_outputs(tiles, transformed, bias, work), filled[images], first, last)


def gradients(
    maps: Tensor, weight: Tensor, gradient: Tensor, of_maps: bool = True, of_weight: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Compute the gradients of maps (B, in, h, w) and weight (out, in, 3, 3) from that of the outputs (B, out, h, w).

    With V and U the transformed inputs and weights, the outputs are A^T (V U) A. So the products' gradient is A g A^T,
    the inputs' B (A g A^T U^T) B^T, summed where tiles overlap, and the weights' G^T (V^T A g A^T) G.
    """
    work, channels = _Work(maps), weight.shape[:2]
    rows, gradient_rows = maps.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    maps_gradient = _MapsGradient(maps) if of_maps else None
    transformed = transformed_weight(weight) if of_maps else None
    of_transformed = maps.new_empty(REACH**2, *channels) if of_weight else None
    for number, (images, first, last) in enumerate(_strips(maps)):
        tiles = _output_tiles(gradient_rows[images], first, last, work)
        products = _transformed(OUTPUT_2D.T, tiles, "products", work)
        if of_transformed is not None:
            inputs = _transformed(INPUT_2D, _input_tiles(rows[images], first, last, work), "inputs", work)
            beta = 1.0 if number else 0.0  # 0 ignores the content of new memory
            torch.baddbmm(of_transformed, products.transpose(1, 2), inputs, beta=beta, out=of_transformed)
        if maps_gradient is not None and transformed is not None:
            back = torch.bmm(products, transformed, out=work("back", REACH**2, products.shape[1], channels[1]))
            maps_gradient.add(_transformed(INPUT_2D.T, back, "spread", work), images, first, last)
    weight_gradient = None
    if of_transformed is not None:
        taps = WEIGHT_2D.to(weight).T @ of_transformed.flatten(1)
        weight_gradient = taps.view(3, 3, *channels).permute(2, 3, 0, 1)
    return maps_gradient.sum() if maps_gradient is not None else None, weight_gradient


class _Work:
    """Memory that the strips of one convolution share: allocating it for each takes as long as the arithmetic.

    Args:
        like: tensor with the data type and device of the memory.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._blocks: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Return the block of that name as an uninitialized tensor of that shape."""
        size = math.prod(shape)
        block = self._blocks.get(name)
        if block is None or len(block) < size:
            block = self._blocks[name] = self._like.new_empty(size)
        return block[:size].view(shape)


class _MapsGradient:
    """The gradient of the maps, to which overlapping tiles are added.

    Args:
        maps: (B, in, h, w), the maps.
    """

    def __init__(self, maps: Tensor) -> None:
        batch, channels, self.height, self.width = maps.shape
        self.down, self.across = _tiles_down(maps), -(-self.width // TILE)
        self.sums = maps.new_zeros(batch, self.down + 1, TILE, self.across + 1, TILE, channels)

    def add(self, tiles: Tensor, images: slice, first: int, last: int) -> None:
        """Add the tiles (36, tiles, in) of a strip: two cells extend into the next tile on both axes."""
        across = self.across
        laid = tiles.view(REACH, REACH, images.stop - images.start, last - first, across, -1)
        own, next_tile = slice(0, TILE), slice(TILE, REACH)
        for y, to_rows in ((own, slice(first, last)), (next_tile, slice(first + 1, last + 1))):
            for x, to_columns in ((own, slice(0, across)), (next_tile, slice(1, across + 1))):
                part = laid[y, x].permute(2, 3, 0, 4, 1, 5)  # (B, down, rows, across, columns, in)
                self.sums[images, to_rows, : part.shape[2], to_columns, : part.shape[4]] += part

    def sum(self) -> Tensor:
        """Return the gradient (B, in, h, w), channels-last."""
        padded = self.sums.view(len(self.sums), (self.down + 1) * TILE, (self.across + 1) * TILE, -1)
        return padded[:, 1 : self.height + 1, 1 : self.width + 1].permute(0, 3, 1, 2)


def _tiles_down(maps: Tensor) -> int:
    return -(-maps.shape[2] // TILE)


def _strips(maps: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Yield strips of about `STRIP` tiles of maps (B, in, h, w): images, first and last row of tiles (exclusive)."""
    down, across = _tiles_down(maps), -(-maps.shape[3] // TILE)
    images = max(1, STRIP // (down * across))
    rows = max(1, -(-down // -(-images * down * across // STRIP)))
    for start in range(0, len(maps), images):
        for first in range(0, down, rows):
            yield slice(start, min(start + images, len(maps))), first, min(first + rows, down)


def _transformed(matrix: Tensor, tiles: Tensor, name: str, work: _Work) -> Tensor:
    """Multiply `matrix` (n, m) with tiles (m, T, channels) -> (n, T, channels), in the block `name`."""
    out = work(name, matrix.shape[0], *tiles.shape[1:])
    torch.mm(matrix.to(tiles), tiles.flatten(1), out=out.flatten(1))
    return out


def _outputs(tiles: Tensor, transformed: Tensor, bias: Tensor | None, work: _Work) -> Tensor:
    """Compute outputs (16, T, out) from inputs (36, T, in) and transformed weights (36, out, in)."""
    inputs = _transformed(INPUT_2D, tiles, "inputs", work)
    products = work("products", REACH**2, tiles.shape[1], transformed.shape[1])
    torch.bmm(inputs, transformed.transpose(1, 2), out=products)
    outputs = _transformed(OUTPUT_2D, products, "outputs", work)
    return outputs if bias is None else outputs.add_(bias)


def _input_tiles(rows: Tensor, first: int, last: int, work: _Work) -> Tensor:
    """Return the overlapping 6 x 6 tiles, four cells apart, of rows of tiles: (B, h, w, in) -> (36, tiles, in)."""
    batch, height, width, channels = rows.shape
    across = -(-width // TILE)
    top, bottom = first * TILE - 1, last * TILE + 1
    part = rows[:, max(top, 0) : min(bottom, height)]
    part = functional.pad(part, (0, 0, 1, across * TILE + 1 - width, max(-top, 0), max(bottom - height, 0)))
    windows = part.unfold(1, REACH, TILE).unfold(2, REACH, TILE)  # (B, rows of tiles, across, in, 6, 6)
    tiles = work("input tiles", REACH, REACH, batch, last - first, across, channels)
    return tiles.copy_(windows.permute(4, 5, 0, 1, 2, 3)).view(REACH**2, -1, channels)


def _output_tiles(rows: Tensor, first: int, last: int, work: _Work) -> Tensor:
    """Return the adjacent 4 x 4 tiles of rows of tiles: (B, h, w, out) -> (16, tiles, out)."""
    batch, height, width, channels = rows.shape
    across = -(-width // TILE)
    part = rows[:, first * TILE : min(last * TILE, height)]
    missing = (0, 0, 0, across * TILE - width, 0, max(last * TILE - height, 0))
    if any(missing):
        part = functional.pad(part, missing)
    windows = part.unflatten(1, (-1, TILE)).unflatten(3, (-1, TILE))  # (B, rows of tiles, 4, across, 4, out)
    tiles = work("output tiles", TILE, TILE, batch, last - first, across, channels)
    return tiles.copy_(windows.permute(2, 4, 0, 1, 3, 5)).view(TILE**2, -1, channels)


def _place_tiles(tiles: Tensor, rows: Tensor, first: int, last: int) -> None:
    """Copy the tiles (16, tiles, out) of rows of tiles to their place in (B, h, w, out)."""
    batch, height, width, channels = rows.shape
    across = -(-width // TILE)
    laid = tiles.reshape(TILE, TILE, batch, last - first, across, channels).permute(2, 3, 0, 4, 1, 5)
    place = rows[:, first * TILE : last * TILE]
    if last * TILE <= height and across * TILE == width:
        place.unflatten(1, (-1, TILE)).unflatten(3, (-1, TILE)).copy_(laid)
    else:
        whole = laid.reshape(batch, (last - first) * TILE, across * TILE, channels)
        place.copy_(whole[:, : place.shape[1], :width])
