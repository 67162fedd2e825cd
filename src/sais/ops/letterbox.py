"""Letterboxing: the one mapping between an image and the canvas of the network, and the resizing that applies it.

Legend: B images, N objects of one image, H W the image, height width the canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from sais.errors import ConfigError, InputError

if TYPE_CHECKING:
    from sais.ops.numpy_boxes import Window
    from sais.ops.rasterize import ObjectMask

PADDING = (124, 116, 104)
"""Color (red, green, blue) of the canvas outside the image: about the ImageNet mean, so near zero once normalized."""

CANVAS_MULTIPLE = 32
"""Canvas sides are multiples of this number of pixels, the stride of C5."""


@dataclass(frozen=True)
class CanvasMap:
    """The axis-aligned map from an image to its canvas.

    Canvas x = image x * scale[1] + shift[1]; canvas y = image y * scale[0] + shift[0]. Canvas pixels without an image
    pixel are padding.
    """

    image_size: tuple[int, int]
    """(H, W) of the image in pixels."""
    canvas_size: tuple[int, int]
    """(height, width) of the canvas in pixels."""
    scale: tuple[float, float]
    """(vertical, horizontal) canvas pixels per image pixel."""
    shift: tuple[float, float] = (0, 0)
    """(y, x) of the image's top left corner on the canvas; a letterboxed image is at (0, 0)."""

    @property
    def content_size(self) -> tuple[float, float]:
        """(height, width) of the image on its canvas, without the padding."""
        return self.image_size[0] * self.scale[0], self.image_size[1] * self.scale[1]

    def cells_per_pixel(self, stride: int) -> tuple[float, float]:
        """Return the (vertical, horizontal) number of cells per image pixel of a canvas grid with this stride."""
        return self.scale[0] / stride, self.scale[1] / stride

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes (N, 4) from the image to the canvas: (N, 4), not clipped."""
        return boxes * _repeat(self.scale) + _repeat(self.shift)

    def boxes_to_image(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes (N, 4) from the canvas to the image: (N, 4) float32, clipped to the image."""
        height, width = self.image_size
        limit = np.array([width, height, width, height], np.float32)
        return np.clip((boxes - _repeat(self.shift)) / _repeat(self.scale), 0, limit).astype(np.float32)

    def masks(self, masks: Sequence[ObjectMask | None]) -> list[ObjectMask | None]:
        """Map the shapes of N objects from the image to the canvas; None remains None."""
        from sais.ops.rasterize import transform_mask

        (vertical, horizontal), (y, x) = self.scale, self.shift
        return [mask if mask is None else transform_mask(mask, horizontal, vertical, x, y) for mask in masks]

    def image(self, image: np.ndarray) -> np.ndarray:
        """Resize (bilinear, antialiased) and pad a letterboxed image.

        Args:
            image: (H, W, 3) uint8, of `image_size`.

        Returns:
            (height, width, 3) uint8 canvas in its own memory, filled with `PADDING` outside the image.

        Raises:
            ValueError: The image is not of `image_size`, or the map has a shift.
        """
        if image.shape[:2] != self.image_size or any(self.shift):
            raise ValueError(f"canvas map: image of {image.shape[:2]} for a map of {self.image_size} at {self.shift}")
        # `letterbox` sets scale = resized / size, so the product is a whole number up to the last bit.
        height, width = (round(side) for side in self.content_size)
        resized = image
        if (height, width) != image.shape[:2]:
            resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        if (height, width) == self.canvas_size:
            return np.array(resized, order="C")
        canvas = np.empty((*self.canvas_size, 3), np.uint8)
        canvas[:] = PADDING
        height, width = min(height, canvas.shape[0]), min(width, canvas.shape[1])
        canvas[:height, :width] = resized[:height, :width]
        return canvas

    def image_window(self, image: np.ndarray, window: Window) -> np.ndarray:
        """Resize (bilinear, antialiased) and shift an image, computing one window of the canvas only.

        Args:
            image: (H, W, 3) uint8.
            window: Pixels of the canvas; not empty and inside the resized image.

        Returns:
            (h, w, 3) uint8 pixels of the window.
        """
        (vertical, horizontal), (y, x) = self.scale, self.shift
        left, top, right, bottom = window
        source = ((left - x) / horizontal, (top - y) / vertical, (right - x) / horizontal, (bottom - y) / vertical)
        size = right - left, bottom - top
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=source))


def _repeat(pair: tuple[float, float]) -> np.ndarray:
    """Return (vertical, horizontal) values for the edges of a box, (4,) float32."""
    return np.array([pair[1], pair[0], pair[1], pair[0]], np.float32)


def letterbox(image_size: tuple[int, int], mode: Literal["fixed", "keep_ratio"], size: tuple[int, int]) -> CanvasMap:
    """Compute the canvas of an image and the image's position on it.

    Args:
        image_size: (H, W) of the image in pixels.
        mode: "fixed" stretches the image to `size`; "keep_ratio" scales it until its short side is size[0] or its long
            side size[1], and pads right and below to multiples of 32.
        size: With "fixed", (height, width) of the canvas; with "keep_ratio", (short side, maximum long side).

    Raises:
        InputError: The image has no pixels.
        ConfigError: The size is not positive, a fixed size is not a multiple of 32, or the mode is unknown.
    """
    height, width = image_size
    if height < 1 or width < 1:
        raise InputError(f"image of {height} x {width} pixels: empty. Use an image of at least 1 x 1 pixels.")
    if min(size) < 1:
        raise ConfigError(f"input.size {size[0]} {size[1]}: not positive. Set both sides to at least 1.")
    if mode == "fixed":
        if size[0] % CANVAS_MULTIPLE or size[1] % CANVAS_MULTIPLE:
            nearest = " ".join(str(max(1, round(side / CANVAS_MULTIPLE)) * CANVAS_MULTIPLE) for side in size)
            raise ConfigError(f"input.size {size[0]} {size[1]}: not multiples of 32. Set for example {nearest}.")
        return CanvasMap((height, width), (size[0], size[1]), (size[0] / height, size[1] / width))
    if mode != "keep_ratio":
        raise ConfigError(f"input.mode {mode!r}: unknown. Choose 'fixed' or 'keep_ratio'.")
    factor = min(size[0] / min(height, width), size[1] / max(height, width))
    resized = max(1, round(height * factor)), max(1, round(width * factor))
    canvas = _round_up(resized[0]), _round_up(resized[1])
    return CanvasMap((height, width), canvas, (resized[0] / height, resized[1] / width))


def group_by_canvas(
    images: Sequence[np.ndarray],
    mode: Literal["fixed", "keep_ratio"],
    size: tuple[int, int],
    image_map: Callable[..., Iterable[np.ndarray]] = map,
) -> Iterator[tuple[list[int], list[CanvasMap], np.ndarray]]:
    """Letterbox images and group them by canvas size, so that each group is one forward pass.

    Args:
        images: Images (H, W, 3) uint8 RGB.
        mode: As for `letterbox`.
        size: As for `letterbox`.
        image_map: Function like `map` that resizes the images, such as that of a pool of threads.

    Yields:
        The indices of the B images of a group, their maps, and their canvases (B, height, width, 3) uint8.
    """
    canvas_maps = [letterbox((image.shape[0], image.shape[1]), mode, size) for image in images]
    for canvas_size in dict.fromkeys(canvas_map.canvas_size for canvas_map in canvas_maps):
        group = [i for i, canvas_map in enumerate(canvas_maps) if canvas_map.canvas_size == canvas_size]
        canvases = np.stack(list(image_map(lambda i: canvas_maps[i].image(images[i]), group)))
        yield group, [canvas_maps[i] for i in group], canvases


def _round_up(side: int) -> int:
    return -(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE
