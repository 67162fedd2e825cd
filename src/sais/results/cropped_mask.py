"""Box-local masks: a small bitmap and its position in the image."""

from __future__ import annotations

import numpy as np

_BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1)
"""(256,) number of set bits of each byte."""


class CroppedMask:
    """A mask stored as a small bitmap and the position of its top left pixel in the image.

    A pixel takes one bit of memory. The mask is empty outside the bitmap.

    Args:
        x: Column of the bitmap's left pixels in the image.
        y: Row of the bitmap's top pixels in the image.
        bits: (height, width) bool.

    Raises:
        ValueError: `bits` is not two-dimensional.
    """

    __slots__ = ("_packed", "shape", "x", "y")

    def __init__(self, x: int, y: int, bits: np.ndarray) -> None:
        if bits.ndim != 2:
            raise ValueError(f"cropped mask: expected two dimensions, got shape {bits.shape}")
        self.x, self.y = int(x), int(y)
        self.shape: tuple[int, int] = (bits.shape[0], bits.shape[1])
        """(height, width)."""
        self._packed = np.packbits(np.asarray(bits, dtype=bool))

    @classmethod
    def from_packed(cls, x: int, y: int, shape: tuple[int, int], packed: np.ndarray) -> CroppedMask:
        """Return a mask whose pixels are packed already.

        Args:
            x: Column of the bitmap's left pixels in the image.
            y: Row of the bitmap's top pixels in the image.
            shape: (height, width) of the bitmap.
            packed: (ceil(height * width / 8),) uint8, row after row, the first pixel in the highest bit; the last bits,
                beyond the bitmap, are 0.

        Raises:
            ValueError: `packed` has another length.
        """
        if packed.dtype != np.uint8 or packed.shape != (-(-shape[0] * shape[1] // 8),):
            raise ValueError(f"cropped mask of {shape}: {packed.shape} {packed.dtype} of packed pixels")
        mask = cls.__new__(cls)
        mask.x, mask.y, mask.shape, mask._packed = int(x), int(y), (int(shape[0]), int(shape[1])), packed
        return mask

    @property
    def bits(self) -> np.ndarray:
        """(height, width) bool, unpacked on each access; read-only."""
        unpacked = np.unpackbits(self._packed, count=self.shape[0] * self.shape[1]).view(bool).reshape(self.shape)
        unpacked.setflags(write=False)
        return unpacked

    @property
    def area(self) -> int:
        """Number of set pixels."""
        return int(_BITS_OF_BYTE[self._packed].sum())

    def shift(self, x: int, y: int) -> CroppedMask:
        """Return the mask moved `x` columns to the right and `y` rows down; the bits are shared."""
        return CroppedMask.from_packed(self.x + int(x), self.y + int(y), self.shape, self._packed)

    def __repr__(self) -> str:
        return f"CroppedMask(x={self.x}, y={self.y}, shape={self.shape}, area={self.area})"
