"""Letterboxing: the one mapping of an image to the canvas of the network, by ratio-keeping or fixed resizing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from sais.errors import SaisError
from sais.structures import CanvasMap

PADDING = (124, 116, 104)
"""What fills the canvas beside the image: about the ImageNet mean, so near zero once normalized."""


CANVAS_MULTIPLE = 32
"""A canvas side is a multiple of this many pixels, the stride of C5."""


def letterbox(image_size: tuple[int, int], mode: Literal["fixed", "keep_ratio"], size: tuple[int, int]) -> CanvasMap:
    """Where an image of `image_size` (H, W) goes on the canvas.

    Args:
        image_size: (H, W) pixels.
        mode: fixed stretches to `size`; keep_ratio scales until the short side is size[0] or the long side size[1],
            and pads right and below to a multiple of 32.
        size: fixed: (height, width) of the canvas; keep_ratio: (short side, greatest long side).

    Raises:
        SaisError: a fixed size that is not of positive multiples of 32, or an unknown mode.
    """
    height, width = image_size
    if height < 1 or width < 1:
        raise SaisError(f"an image of {height} x {width} pixels has nothing to place; give one of at least 1 x 1")
    if min(size) < 1:
        raise SaisError(f"input size {size[0]} {size[1]}: both must be positive")
    if mode == "fixed":
        if size[0] % CANVAS_MULTIPLE or size[1] % CANVAS_MULTIPLE:
            near = " ".join(str(max(1, round(side / CANVAS_MULTIPLE)) * CANVAS_MULTIPLE) for side in size)
            raise SaisError(f"input size {size[0]} {size[1]}: both must be multiples of 32, for instance {near}")
        return CanvasMap((height, width), (size[0], size[1]), (size[0] / height, size[1] / width))
    if mode != "keep_ratio":
        raise SaisError(f"input mode {mode!r} is unknown; known are 'fixed', 'keep_ratio'")
    factor = min(size[0] / min(height, width), size[1] / max(height, width))
    resized = max(1, round(height * factor)), max(1, round(width * factor))
    canvas = _rounded_up(resized[0]), _rounded_up(resized[1])
    return CanvasMap((height, width), canvas, (resized[0] / height, resized[1] / width))


def resize_and_pad(image: np.ndarray, canvas_map: CanvasMap) -> np.ndarray:
    """The canvas: the image resized (bilinear, antialiased) to its place at the top left, PADDING elsewhere.

    Args:
        image: (H, W, 3) uint8, H and W as `canvas_map.image_size` has them.
        canvas_map: from `place`.

    Returns:
        (height, width, 3) uint8 of its own memory.
    """
    if image.shape[:2] != canvas_map.image_size:
        raise ValueError(f"image of {image.shape[:2]}, canvas_map for {canvas_map.image_size}")
    # place() made scale = resized / size, so the product is the whole number again but for the last bit.
    height = round(canvas_map.image_size[0] * canvas_map.scale[0])
    width = round(canvas_map.image_size[1] * canvas_map.scale[1])
    resized = image
    if (height, width) != image.shape[:2]:
        resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    if (height, width) == canvas_map.canvas_size:
        return np.array(resized, order="C")
    canvas = np.empty((*canvas_map.canvas_size, 3), np.uint8)
    canvas[:] = PADDING
    height, width = min(height, canvas.shape[0]), min(width, canvas.shape[1])
    canvas[:height, :width] = resized[:height, :width]
    return canvas


def group_by_canvas(
    images: Sequence[np.ndarray], mode: Literal["fixed", "keep_ratio"], size: tuple[int, int]
) -> Iterator[tuple[list[int], list[CanvasMap], np.ndarray]]:
    """Images fitted to their canvases, those with canvases alike together: one pass of a network each.

    Yields:
        Which of the images (their places in the list), where they lie, and the canvases (B, height, width, 3) uint8.
    """
    canvas_maps = [letterbox((p.shape[0], p.shape[1]), mode, size) for p in images]
    for canvas in dict.fromkeys(p.canvas_size for p in canvas_maps):
        group = [i for i, p in enumerate(canvas_maps) if p.canvas_size == canvas]
        yield (
            group,
            [canvas_maps[i] for i in group],
            np.stack([resize_and_pad(images[i], canvas_maps[i]) for i in group]),
        )


def _rounded_up(side: int) -> int:
    return -(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE
