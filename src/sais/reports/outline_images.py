"""Outlines of ground truth and detections on parts of images, as JPEG inside of a page. An image is read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sais.data.annotations import ImageRecord
from sais.errors import OutOfMemoryError, SaisError
from sais.evaluation.visualize import resize_detections
from sais.ops.numpy_boxes import Window
from sais.reports.embedded_images import jpeg_url
from sais.reports.finding_images import Thumbnail, cut_out
from sais.results.detections import Detections
from sais.results.draw import draw_outlines
from sais.results.fonts import drawable_names
from sais.results.palette import COLOR_BLIND_PALETTE, Color

TRUTH: Color = COLOR_BLIND_PALETTE[1]
PREDICTION: Color = COLOR_BLIND_PALETTE[0]
"""Colors of outlines, blue and orange, which color-blind readers can distinguish."""
QUALITY = 78
"""JPEG quality."""
THICK, THIN = 3.0, 1.3
"""Width of the outlines that an image is about, and of those around, as factors of the usual width."""


@dataclass(frozen=True)
class Layer:
    """Objects that are outlined in one color."""

    objects: Detections
    color: Color
    is_subject: bool = True
    """Whether the image is about these objects: thick outlines and names."""
    named: bool = True
    """Whether the subject's class and score are written next to it."""


def draw_part(image: np.ndarray, window: Window, layers: Sequence[Layer], side: int, alt: str) -> Thumbnail:
    """Draw outlines on a part of an image, the last layer on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        window: part of the image that is shown.
        layers: outlines, in pixels of the whole image.
        side: longest side of the drawing in pixels.
        alt: description for people who do not see the image.
    """
    x1, y1, x2, y2 = window
    ratio = side / max(x2 - x1, y2 - y1)
    size = max(1, round(ratio * (y2 - y1))), max(1, round(ratio * (x2 - x1)))
    resized = Image.fromarray(image[y1:y2, x1:x2]).resize(size[::-1], Image.Resampling.LANCZOS)
    drawing = np.asarray(resized)
    for layer in layers:
        shown = resize_detections(cut_out(layer.objects, window), size)
        shown = shown[_is_inside(shown)]
        names = drawable_names(shown.class_names, shown.labels)
        pairs = zip(names, shown.scores.tolist(), strict=True)
        texts = [name if layer.color == TRUTH else f"{name} {score:.2f}" for name, score in pairs]
        is_named = layer.is_subject and layer.named
        drawing = draw_outlines(
            drawing, shown, layer.color, texts if is_named else [], THICK if layer.is_subject else THIN
        )
    return Thumbnail(jpeg_url(drawing, QUALITY), alt, size[1], size[0])


def read_images(records: Iterable[ImageRecord], unreadable: Callable[[], None]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the id and the pixels (H, W, 3) of each image, one at a time.

    Args:
        records: images.
        unreadable: function called for each image that cannot be read, or that has another size than its annotations.
    """
    for record in records:
        try:
            image = record.read()
        except OutOfMemoryError:
            raise
        except SaisError:
            unreadable()
            continue
        if image.shape[:2] == tuple(record.size):
            yield record.id, image
        else:
            unreadable()


def _is_inside(objects: Detections) -> np.ndarray:
    """Return which objects (N,) have a part inside of their image."""
    height, width = objects.image_size
    x1, y1, x2, y2 = objects.boxes.T
    inside: np.ndarray = (x2 > 0) & (y2 > 0) & (x1 < width) & (y1 < height)
    return inside
