"""3x3 convolutions with a quarter of the multiplications, on CPUs where multiplications are what takes the time.

Winograd's minimal filtering (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015) makes a tile of
n x n outputs of a 3x3 convolution from (n + 2)^2 products instead of 9 n^2. Two ways to it:

- Large maps: torch carries it in NNPACK (n = 6), but its own choice of a kernel never falls on it.
- Small maps: NNPACK transforms the weights in each pass, which is then most of its work. Here they are transformed once
  (n = 4), and the tiles of all levels of a pyramid share one batched matrix product.

Rounding differs from the direct sum's by about 1e-5 of the greatest output. Times are in `docs/performance.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

HAS_NNPACK = torch.backends.nnpack.is_available()
"""Asking initialises it, in every process; without that it refuses to work."""

LEAST_CHANNELS = 128
"""In and out; below, the transforms cost more than they save."""
LARGE = 50 * 50
"""Cells of a map from which NNPACK is the faster way."""
STRIP = 128 * 128
"""Cells that NNPACK is given at once: its working memory is twice the map's, so larger maps go strip by strip."""
LEAST_JOINT_CHANNELS = 256
"""Fewer channels make matrix products too small to win."""

TILE, REACH = 4, 6
"""Outputs and inputs of a tile's side, for the small maps."""
INPUT_TRANSFORM = torch.tensor(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=torch.float64,
)
WEIGHT_TRANSFORM = torch.tensor(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64
) / torch.tensor([24.0], dtype=torch.float64)
OUTPUT_TRANSFORM = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)
"""B^T, G and A^T of F(4, 3) in the paper above."""
INPUT_BOTH_WAYS = torch.kron(INPUT_TRANSFORM, INPUT_TRANSFORM)
OUTPUT_BOTH_WAYS = torch.kron(OUTPUT_TRANSFORM, OUTPUT_TRANSFORM)
"""(36, 36) and (16, 36): of both dimensions of a tile at once."""


def winograd_pays() -> bool:
    """Whether this machine is of the kind on which it was measured to be faster: AVX2 without AVX-512, with NNPACK.

    NNPACK does not use AVX-512, with which the direct sums catch up; other processors were not measured.
    """
    return HAS_NNPACK and torch.backends.cpu.get_cpu_capability() == "AVX2"


def with_winograd(network: nn.Module) -> nn.Module:
    """Replace each convolution for which it may pay, in place; returns the network."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and _fits(module):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, WinogradConvolution(module))
    return network


class WinogradConvolution(nn.Module):
    """A 3x3 convolution with stride 1 and padding 1, by whichever way is the fastest for the map's size.

    Args:
        convolution: whose weights it takes, float32 on the CPU.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().clone(memory_format=torch.contiguous_format), False)
        bias = convolution.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), False)
        self._transformed: Tensor | None = None  # (36, in, out), made at the first call of `each` with small maps

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h, w); what is not float32 on the CPU goes torch's own way."""
        large = maps.shape[2] * maps.shape[3] >= LARGE
        if not (large and HAS_NNPACK and len(maps) and maps.dtype == torch.float32 and maps.device.type == "cpu"):
            return functional.conv2d(maps, self.weight, self.bias, padding=1)
        pictures = [_in_strips(picture, self.weight, self.bias) for picture in maps.split(1)]  # faster than at once
        return pictures[0] if len(pictures) == 1 else torch.cat(pictures)

    def each(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The convolution of several maps (B, in, h, w) of different sizes, the small ones in one product."""
        small = [i for i, maps in enumerate(levels) if maps.shape[2] * maps.shape[3] < LARGE]
        if len(small) < 2 or min(self.weight.shape[:2]) < LEAST_JOINT_CHANNELS:
            return [self(maps) for maps in levels]
        if self._transformed is None:
            self._transformed = transformed_weight(self.weight)
        done = dict(zip(small, joint(tuple(levels[i] for i in small), self._transformed, self.bias), strict=True))
        return [done[i] if i in done else self(maps) for i, maps in enumerate(levels)]


def transformed_weight(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (36, in, out): G w G^T, summed in float64."""
    both = torch.einsum("ai,ocij,bj->abco", WEIGHT_TRANSFORM, weight.double(), WEIGHT_TRANSFORM)
    return both.flatten(0, 1).to(weight.dtype).contiguous()


def joint(levels: Sequence[Tensor], transformed: Tensor, bias: Tensor | None = None) -> list[Tensor]:
    """Maps (B, in, h, w) of any sizes -> (B, out, h, w) each, channels-last: 3x3, stride 1, padding 1."""
    tiles = [_tiles(maps) for maps in levels]
    counts = [one.shape[1] for one in tiles]
    channels_in, channels_out = transformed.shape[1:]
    together = torch.cat(tiles, 1)  # (36, T, in)
    inputs = INPUT_BOTH_WAYS.to(together) @ together.flatten(1)
    products = torch.bmm(inputs.view(REACH**2, -1, channels_in), transformed)  # (36, T, out)
    outputs = (OUTPUT_BOTH_WAYS.to(products) @ products.flatten(1)).view(TILE**2, -1, channels_out)
    if bias is not None:
        outputs += bias
    return [_from_tiles(part, maps) for part, maps in zip(outputs.split(counts, 1), levels, strict=True)]


def _tiles(maps: Tensor) -> Tensor:
    """(B, in, h, w) -> (36, tiles, in): overlapping tiles of 6 x 6, four cells apart."""
    batch, channels, height, width = maps.shape
    down, across = -(-height // TILE), -(-width // TILE)
    rows = maps.permute(0, 2, 3, 1)
    padded = functional.pad(rows, (0, 0, 1, across * TILE + 1 - width, 1, down * TILE + 1 - height))
    windows = padded.unfold(1, REACH, TILE).unfold(2, REACH, TILE)  # (B, down, across, in, 6, 6)
    return windows.permute(4, 5, 0, 1, 2, 3).reshape(REACH**2, batch * down * across, channels)


def _from_tiles(tiles: Tensor, maps: Tensor) -> Tensor:
    """(16, tiles, out) -> (B, out, h, w) for the h and w of `maps`."""
    batch, _, height, width = maps.shape
    down, across = -(-height // TILE), -(-width // TILE)
    rows = tiles.view(TILE, TILE, batch, down, across, -1).permute(2, 3, 0, 4, 1, 5)
    return rows.reshape(batch, down * TILE, across * TILE, -1)[:, :height, :width].permute(0, 3, 1, 2)


def _in_strips(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """NNPACK's convolution of one picture's map (1, in, h, w)."""
    height, width = maps.shape[2:]
    if height * width <= STRIP:
        return _nnpack(maps, weight, bias)
    rows = max(6, STRIP // width // 6 * 6)  # NNPACK's tiles have 6 x 6 outputs
    out = maps.new_empty(1, weight.shape[0], height, width)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        above, below = min(first, 1), min(height - last, 1)  # a row of the neighbours on either side
        strip = _nnpack(maps[:, :, first - above : last + below], weight, bias)
        out[:, :, first:last] = strip[:, :, above : above + last - first]
    return out


def _nnpack(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch._nnpack_spatial_convolution(maps.contiguous(), weight, bias, padding=1)
    return out


def _fits(convolution: nn.Conv2d) -> bool:
    c = convolution
    plain = (c.kernel_size, c.stride, c.padding, c.dilation, c.groups) == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
    return plain and min(c.in_channels, c.out_channels) >= LEAST_CHANNELS
