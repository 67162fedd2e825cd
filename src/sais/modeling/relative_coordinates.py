"""Relative coordinates: masks that also depend on where a cell is, relative to the location that predicts the mask.

Two objects that look alike have the same prototypes; their positions differ. CondInst (Tian et al. 2020) gives the
coordinates relative to the location to a small network for each object. Here they enter linearly: the logit of a cell
at (x, y), predicted from the location (a, b) with the coefficients c, is

    sum_k c_k P_k(x, y) + GAIN (c_x u + c_y v + c_xx u^2 + c_yy v^2),  u = (x - a) / s,  v = (y - b) / s,

where s is 8 strides of the location's level, about the largest distance that the level is responsible for. Expanded by
powers of x and y, this is a sum of coefficients times prototypes, five of which are the functions 1, x, y, x^2 and y^2.
The mask loss, the assembly of masks and exported graphs do not differ.

Legend: B images, K prototypes, L locations of all levels, h w the prototype grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

GAIN = 8.0
"""Logit at the distance s for a coefficient of 1."""
REACH = 8
"""Strides in the distance s."""
UNIT = 64.0
"""Canvas pixels in a unit of x and y; the origin is the center of the canvas. Both keep the powers small."""
COEFFICIENTS = 4
"""Coefficients of a location for relative coordinates: c_x, c_y, c_xx, c_yy, the last of its coefficients."""


class RelativeCoordinates(nn.Module):
    """Expand coefficients and prototypes by relative coordinates. It has no parameters.

    Args:
        strides: canvas pixels per location of the levels.
        mask_stride: canvas pixels for one cell of the prototypes.
    """

    def __init__(self, strides: Sequence[int], mask_stride: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.mask_stride = mask_stride

    def forward(
        self, coefficients: Tensor, prototypes: Tensor, level_sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Coefficients (B, L, K + 4) and prototypes (B, K, h, w) -> (B, L, K + 5) and (B, K + 5, h, w).

        `level_sizes` has (height, width) of the levels.
        """
        batch, _, height, width = prototypes.shape
        columns, rows = (_centers(length, self.mask_stride, prototypes) for length in (width, height))
        origin_x, origin_y = columns.mean(), rows.mean()
        x, y = (columns - origin_x).expand(height, width), (rows - origin_y)[:, None].expand(height, width)
        powers = torch.stack([torch.ones_like(x), x, y, x * x, y * y]).expand(batch, -1, -1, -1)
        expanded, first = [], 0
        for stride, (height, width) in zip(self.strides, level_sizes, strict=True):
            on_level = coefficients[:, first : first + height * width]
            first += height * width
            a = (_centers(width, stride, on_level) - origin_x).expand(height, width).flatten()
            b = (_centers(height, stride, on_level) - origin_y)[:, None].expand(height, width).flatten()
            expanded.append(_expand(on_level, a, b, UNIT / (REACH * stride)))
        return torch.cat(expanded, 1), torch.cat([prototypes, powers], 1)


def _centers(length: int, stride: int, like: Tensor) -> Tensor:
    """Return the centers of the cells along an axis (length,) in units."""
    return (torch.arange(length, device=like.device).to(like.dtype) + 0.5) * (stride / UNIT)


def _expand(coefficients: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Turn the coefficients (B, n, K + 4) of locations at a, b (n,) into those of 1, x, y, x^2, y^2: (B, n, K + 5)."""
    of_x, of_y = (coefficients[..., -4:-2] * (GAIN * scale)).unbind(2)
    of_xx, of_yy = (coefficients[..., -2:] * (GAIN * scale * scale)).unbind(2)
    constant = (of_xx * a - of_x) * a + (of_yy * b - of_y) * b
    powers = torch.stack([constant, of_x - 2 * of_xx * a, of_y - 2 * of_yy * b, of_xx, of_yy], 2)
    return torch.cat([coefficients[..., :-COEFFICIENTS], powers], 2)
