"""3x3 convolutions, and their gradients, with a quarter of the multiplications.

Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015) makes a tile of
4 x 4 outputs of a 3x3 convolution from 36 products instead of 144: inputs and weights are transformed, multiplied, and
the products transformed back. All three are linear, so both gradients are made of the same products, transposed.

The usual points of interpolation (0, 1, -1, 2, -2 and infinity) cost a digit; those chosen here cost less than half of
that: rounding then is off by about 1e-6 of the size of a tile's outputs. It goes by the tile: a cell that is much
greater than its neighbors rounds off theirs too, within five cells of it (`docs/performance.md`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

TILE, REACH = 4, 6
"""Outputs and inputs of a tile's side."""
NEAR, FAR = 5 / 8, 3 / 2
"""Points of interpolation, besides zero and infinity, with both signs: of all sixteenths a pair that rounds least."""


def _transforms(near: float, far: float) -> tuple[Tensor, Tensor, Tensor]:
    """B^T (6, 6), G (6, 3) and A^T (4, 6) of F(4, 3), for the points 0, near, -near, far, -far, infinity.

    A row of B^T holds the polynomial with all points but its own as roots; G is divided by its value there.
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
    inputs, weight, output = (torch.tensor(one, dtype=torch.float64) for one in (rows, weights, outputs))
    return inputs, weight, output.T.contiguous()


INPUT_TRANSFORM, WEIGHT_TRANSFORM, OUTPUT_TRANSFORM = _transforms(NEAR, FAR)
"""B^T, G and A^T in the paper above."""
INPUT_BOTH_WAYS, WEIGHT_BOTH_WAYS, OUTPUT_BOTH_WAYS = (
    torch.kron(one, one).contiguous() for one in (INPUT_TRANSFORM, WEIGHT_TRANSFORM, OUTPUT_TRANSFORM)
)
"""(36, 36), (36, 9) and (16, 36): of both dimensions of a tile at once."""
STRIP = 96
"""Tiles that are worked on together (at least a row of them): their transforms fit the processor's cache, and what they
take stays the same however large maps and batches are."""


def is_faster() -> bool:
    """Whether this is a processor of the kind on which it was measured to be faster: AVX2 without AVX-512.

    Multiplications are what takes the time there. With AVX-512 the direct sums catch up; others were not measured.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def transformed_weight(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (36, out, in): G w G^T, summed in the weight's own precision."""
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (WEIGHT_BOTH_WAYS.to(weight) @ taps).view(REACH**2, *weight.shape[:2])


def convolve_levels(levels: Sequence[Tensor], transformed: Tensor, bias: Tensor | None = None) -> list[Tensor]:
    """Maps (B, in, h, w) of any sizes -> (B, out, h, w) each, channels-last: 3x3, stride 1, padding 1."""
    work = _Work(levels[0])
    tiles = [_input_tiles(maps.permute(0, 2, 3, 1), 0, _tiles_down(maps), _Work(maps)) for maps in levels]
    counts = [one.shape[1] for one in tiles]
    outputs = _outputs(torch.cat(tiles, 1), transformed, bias, work)
    found = []
    for part, maps in zip(outputs.split(counts, 1), levels, strict=True):
        rows = maps.new_empty(maps.shape[0], *maps.shape[2:], transformed.shape[1])
        _lay_down(part, rows, 0, _tiles_down(maps))
        found.append(rows.permute(0, 3, 1, 2))
    return found


def convolve(maps: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Write the convolution of maps (B, in, h, w) with weight (out, in, 3, 3), stride 1 and padding 1, into `out`.

    No gradients are recorded; `training_convolution.convolution` has them.

    Args:
        out: (B, out, h, w), channels-last.
    """
    transformed, work = transformed_weight(weight), _Work(maps)
    rows, filled = maps.permute(0, 2, 3, 1), out.permute(0, 2, 3, 1)
    for some, first, last in _strips(maps):
        tiles = _input_tiles(rows[some], first, last, work)
        _lay_down(_outputs(tiles, transformed, bias, work), filled[some], first, last)


def gradients(
    maps: Tensor, weight: Tensor, gradient: Tensor, of_maps: bool = True, of_weight: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Of the maps (B, in, h, w) and of the weight (out, in, 3, 3), from that of the outputs (B, out, h, w).

    With V and U the transformed inputs and weights, the outputs are A^T (V U) A. So the products' gradient is A g A^T,
    the inputs' B (A g A^T U^T) B^T, summed where tiles overlap, and the weights' G^T (V^T A g A^T) G.
    """
    work, channels = _Work(maps), weight.shape[:2]
    rows, gradient_rows = maps.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)
    spread = _Spread(maps) if of_maps else None
    transformed = transformed_weight(weight) if of_maps else None
    of_transformed = maps.new_empty(REACH**2, *channels) if of_weight else None
    for number, (some, first, last) in enumerate(_strips(maps)):
        tiles = _output_tiles(gradient_rows[some], first, last, work)
        products = _transformed(OUTPUT_BOTH_WAYS.T, tiles, "products", work)
        if of_transformed is not None:
            inputs = _transformed(INPUT_BOTH_WAYS, _input_tiles(rows[some], first, last, work), "inputs", work)
            beta = 1.0 if number else 0.0  # of nothing, whatever the fresh memory holds
            torch.baddbmm(of_transformed, products.transpose(1, 2), inputs, beta=beta, out=of_transformed)
        if spread is not None and transformed is not None:
            back = torch.bmm(products, transformed, out=work("back", REACH**2, products.shape[1], channels[1]))
            spread.add(_transformed(INPUT_BOTH_WAYS.T, back, "spread", work), some, first, last)
    weight_gradient = None
    if of_transformed is not None:
        taps = WEIGHT_BOTH_WAYS.to(weight).T @ of_transformed.flatten(1)
        weight_gradient = taps.view(3, 3, *channels).permute(2, 3, 0, 1)
    return spread.summed() if spread is not None else None, weight_gradient


class _Work:
    """Memory that the strips of one convolution share: to get it anew from the system takes as long as the arithmetic.

    Args:
        like: whose kind of number it holds.
    """

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._blocks: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The block of that name, as a tensor of this shape, with anything in it."""
        size = math.prod(shape)
        block = self._blocks.get(name)
        if block is None or len(block) < size:
            block = self._blocks[name] = self._like.new_empty(size)
        return block[:size].view(shape)


class _Spread:
    """The gradient of the maps, to which overlapping tiles are added.

    Args:
        maps: (B, in, h, w), of which it will be.
    """

    def __init__(self, maps: Tensor) -> None:
        batch, channels, self.height, self.width = maps.shape
        self.down, self.across = _tiles_down(maps), -(-self.width // TILE)
        self.sums = maps.new_zeros(batch, self.down + 1, TILE, self.across + 1, TILE, channels)

    def add(self, tiles: Tensor, some: slice, first: int, last: int) -> None:
        """(36, tiles, in) of a strip: two cells reach into the next tile, on either axis."""
        across = self.across
        laid = tiles.view(REACH, REACH, some.stop - some.start, last - first, across, -1)
        here, beyond = slice(0, TILE), slice(TILE, REACH)
        for y, to_rows in ((here, slice(first, last)), (beyond, slice(first + 1, last + 1))):
            for x, to_columns in ((here, slice(0, across)), (beyond, slice(1, across + 1))):
                part = laid[y, x].permute(2, 3, 0, 4, 1, 5)  # (B, down, rows, across, columns, in)
                self.sums[some, to_rows, : part.shape[2], to_columns, : part.shape[4]] += part

    def summed(self) -> Tensor:
        """(B, in, h, w), channels-last."""
        padded = self.sums.view(len(self.sums), (self.down + 1) * TILE, (self.across + 1) * TILE, -1)
        return padded[:, 1 : self.height + 1, 1 : self.width + 1].permute(0, 3, 1, 2)


def _tiles_down(maps: Tensor) -> int:
    return -(-maps.shape[2] // TILE)


def _strips(maps: Tensor) -> Iterator[tuple[slice, int, int]]:
    """Strips of about `STRIP` tiles: which images, first and last row of tiles (exclusive)."""
    down, across = _tiles_down(maps), -(-maps.shape[3] // TILE)
    images = max(1, STRIP // (down * across))
    rows = max(1, -(-down // -(-images * down * across // STRIP)))
    for one in range(0, len(maps), images):
        for first in range(0, down, rows):
            yield slice(one, min(one + images, len(maps))), first, min(first + rows, down)


def _transformed(both_ways: Tensor, tiles: Tensor, name: str, work: _Work) -> Tensor:
    """`both_ways` (n, m) of tiles (m, T, channels) -> (n, T, channels), in the block `name`."""
    out = work(name, both_ways.shape[0], *tiles.shape[1:])
    torch.mm(both_ways.to(tiles), tiles.flatten(1), out=out.flatten(1))
    return out


def _outputs(tiles: Tensor, transformed: Tensor, bias: Tensor | None, work: _Work) -> Tensor:
    """(36, T, in) inputs and (36, out, in) weights -> (16, T, out)."""
    inputs = _transformed(INPUT_BOTH_WAYS, tiles, "inputs", work)
    products = work("products", REACH**2, tiles.shape[1], transformed.shape[1])
    torch.bmm(inputs, transformed.transpose(1, 2), out=products)
    outputs = _transformed(OUTPUT_BOTH_WAYS, products, "outputs", work)
    return outputs if bias is None else outputs.add_(bias)


def _input_tiles(rows: Tensor, first: int, last: int, work: _Work) -> Tensor:
    """(B, h, w, in) -> (36, tiles, in): the overlapping tiles, 6 x 6 and four cells apart, of some rows of tiles."""
    batch, height, width, channels = rows.shape
    across = -(-width // TILE)
    top, bottom = first * TILE - 1, last * TILE + 1
    part = rows[:, max(top, 0) : min(bottom, height)]
    part = functional.pad(part, (0, 0, 1, across * TILE + 1 - width, max(-top, 0), max(bottom - height, 0)))
    windows = part.unfold(1, REACH, TILE).unfold(2, REACH, TILE)  # (B, rows of tiles, across, in, 6, 6)
    tiles = work("input tiles", REACH, REACH, batch, last - first, across, channels)
    return tiles.copy_(windows.permute(4, 5, 0, 1, 2, 3)).view(REACH**2, -1, channels)


def _output_tiles(rows: Tensor, first: int, last: int, work: _Work) -> Tensor:
    """(B, h, w, out) -> (16, tiles, out): tiles of 4 x 4 side by side, of some rows of tiles."""
    batch, height, width, channels = rows.shape
    across = -(-width // TILE)
    part = rows[:, first * TILE : min(last * TILE, height)]
    missing = (0, 0, 0, across * TILE - width, 0, max(last * TILE - height, 0))
    if any(missing):
        part = functional.pad(part, missing)
    windows = part.unflatten(1, (-1, TILE)).unflatten(3, (-1, TILE))  # (B, rows of tiles, 4, across, 4, out)
    tiles = work("output tiles", TILE, TILE, batch, last - first, across, channels)
    return tiles.copy_(windows.permute(2, 4, 0, 1, 3, 5)).view(TILE**2, -1, channels)


def _lay_down(tiles: Tensor, rows: Tensor, first: int, last: int) -> None:
    """(16, tiles, out), of some rows of tiles, to their place in (B, h, w, out)."""
    batch, height, width, channels = rows.shape
    across = -(-width // TILE)
    laid = tiles.reshape(TILE, TILE, batch, last - first, across, channels).permute(2, 3, 0, 4, 1, 5)
    place = rows[:, first * TILE : last * TILE]
    if last * TILE <= height and across * TILE == width:
        place.unflatten(1, (-1, TILE)).unflatten(3, (-1, TILE)).copy_(laid)
    else:
        whole = laid.reshape(batch, (last - first) * TILE, across * TILE, channels)
        place.copy_(whole[:, : place.shape[1], :width])
