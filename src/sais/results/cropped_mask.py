"""Box-local masks: a small bitmap and its position in the image."""

from __future__ import annotations

import numpy as np

_ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)
"""How many bits of each byte are set."""


class CroppedMask:
    """A box-local mask: a small boolean image and where its top left pixel lies in the whole image.

    Kept with one bit for a pixel, so that a thousand large objects stay small.

    Args:
        x: column of the whole image.
        y: row of the whole image.
        bits: (height, width) bool.
    """

    __slots__ = ("_packed", "shape", "x", "y")

    def __init__(self, x: int, y: int, bits: np.ndarray) -> None:
        if bits.ndim != 2:
            raise ValueError(f"a patch has two dimensions, got shape {bits.shape}")
        self.x, self.y = int(x), int(y)
        self.shape: tuple[int, int] = (bits.shape[0], bits.shape[1])
        """(height, width)."""
        self._packed = np.packbits(np.asarray(bits, dtype=bool))

    @property
    def bits(self) -> np.ndarray:
        """(height, width) bool, unpacked for you; writing into it changes nothing, and is refused."""
        unpacked = np.unpackbits(self._packed, count=self.shape[0] * self.shape[1]).view(bool).reshape(self.shape)
        unpacked.setflags(write=False)
        return unpacked

    @property
    def area(self) -> int:
        """How many of its pixels are the object's."""
        return int(_ONES[self._packed].sum())

    def moved(self, x: int, y: int) -> CroppedMask:
        """The same bits, the top left pixel elsewhere: `x` columns further right, `y` rows further down."""
        other = CroppedMask.__new__(CroppedMask)
        other.x, other.y, other.shape, other._packed = self.x + int(x), self.y + int(y), self.shape, self._packed
        return other

    def __repr__(self) -> str:
        return f"Patch(x={self.x}, y={self.y}, shape={self.shape}, area={self.area})"
