"""Drawing: masks, boxes and names over an image, and sheets of many images. Numpy and Pillow.

Masks are blended patch by patch; there is never a stack of full masks. Lines and letters grow with the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from sais.io.images import to_array
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

PALETTE = (
    (255, 82, 82),
    (41, 182, 246),
    (255, 202, 40),
    (102, 220, 110),
    (186, 104, 255),
    (255, 145, 35),
    (38, 222, 200),
    (255, 105, 180),
    (92, 130, 255),
    (198, 230, 60),
    (214, 140, 95),
    (140, 226, 255),
    (245, 70, 245),
    (20, 170, 120),
    (255, 178, 160),
    (170, 170, 250),
)
"""Colors (red, green, blue) of the objects, one after the other, around again after the last."""

_STRIP = 2**21
"""Pixels of a mask that are blended at once."""

_SHEET = (24, 26, 30)
_SHEET_TEXT = (225, 228, 232)

TagBox = tuple[int, int, int, int]


def draw(
    image: np.ndarray,
    detections: Detections,
    score: float = 0.3,
    *,
    boxes: bool = True,
    names: bool = True,
    opacity: float = 0.45,
) -> np.ndarray:
    """The image with its detections drawn over it.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        detections: of this image.
        score: objects below this score are left out.
        boxes: draw the boxes.
        names: draw the class and score of each object.
        opacity: of the masks' fill, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the image is not uint8 RGB or not of the detections' size.
    """
    if image.shape[:2] != detections.image_size:
        raise ValueError(f"detections of an image of {detections.image_size}, drawn on one of {image.shape[:2]}")
    kept = detections.above(score)
    pairs = zip(kept.labels, kept.scores, strict=True)
    texts = [f"{kept.class_names[label]} {value:.2f}" for label, value in pairs] if names else []
    return _painted(image, kept.boxes if boxes else None, kept.boxes, texts, kept.cropped_masks, opacity)


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    masks: list[CroppedMask] | None = None,
    opacity: float = 0.45,
) -> np.ndarray:
    """The image with labeled objects (ground truth) drawn over it.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        boxes: (N, 4) in the image's pixels.
        labels: (N,) indices into class_names.
        class_names: the classes.
        masks: N patches, or None for boxes only.
        opacity: of the masks' fill, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the image is not uint8 RGB.
    """
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return _painted(image, boxes, boxes, [class_names[int(label)] for label in labels], masks or [], opacity)


def paint(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    patches: Sequence[CroppedMask],
    colors: Sequence[int] | None = None,
    letters: float = 1.0,
) -> np.ndarray:
    """The image with anything in boxes drawn over it: what `draw` and `draw_objects` do, with a choice of colors.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        boxes: (N, 4) in the image's pixels.
        texts: N names, or none.
        patches: N masks, or none.
        colors: N places in `PALETTE`; by default one after the other.
        letters: how many times as large as usual the names are written.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the image is not uint8 RGB.
    """
    return _painted(image, boxes, boxes, list(texts), list(patches), 0.45, colors, letters)


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int = 4,
    tile: tuple[int, int] = (320, 320),
    captions: Sequence[str] | None = None,
    gap: int = 12,
) -> np.ndarray:
    """Many images on one sheet, row by row, each fitted into its tile with its ratio kept.

    Args:
        images: each (H, W, 3) uint8 RGB.
        columns: images in a row; fewer when there are fewer images.
        tile: (height, width) in pixels for each image.
        captions: one line for each image, drawn below it; cut with an ellipsis where too long.
        gap: pixels around and between the tiles.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: no images, columns below 1, or another number of captions.
    """
    if not images or columns < 1 or (captions is not None and len(captions) != len(images)):
        raise ValueError("a contact sheet needs images, at least one column, and a caption for each or none")
    (height, width), columns = tile, min(columns, len(images))
    font = _font(max(11, round(width / 22)))
    line = round(1.6 * getattr(font, "size", 11)) if captions else 0
    rows = -(-len(images) // columns)
    step_y, step_x = height + line + gap, width + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), _SHEET)
    pen = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        top, left = gap + i // columns * step_y, gap + i % columns * step_x
        pillow = Image.fromarray(_checked(image))
        ratio = min(height / pillow.height, width / pillow.width)
        pillow = pillow.resize(
            (max(1, round(pillow.width * ratio)), max(1, round(pillow.height * ratio))), Image.Resampling.LANCZOS
        )
        sheet.paste(pillow, (left + (width - pillow.width) // 2, top + (height - pillow.height) // 2))
        if captions:
            text = _shortened(captions[i], font, width)
            pen.text((left + width / 2, top + height + line / 2), text, fill=_SHEET_TEXT, font=font, anchor="mm")
    return np.asarray(sheet).copy()


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, got {image.shape} {image.dtype}")
    return image


def _painted(
    image: np.ndarray,
    boxes: np.ndarray | None,
    places: np.ndarray,
    texts: list[str],
    patches: list[CroppedMask],
    opacity: float,
    colors: Sequence[int] | None = None,
    letters: float = 1.0,
) -> np.ndarray:
    """Masks first, the large ones lowest; then all boxes; then all tags, the first object's on top."""
    canvas = _checked(image).copy()
    paints = [PALETTE[i % len(PALETTE)] for i in (range(len(places)) if colors is None else colors)]
    scale = float(np.sqrt(canvas.shape[0] * canvas.shape[1]))
    thickness = max(1, round(scale / 420))
    for i in sorted(range(len(patches)), key=lambda i: -patches[i].area):
        _blend(canvas, patches[i], paints[i], opacity, thickness)
    if boxes is None and not texts:
        return canvas
    height, width = canvas.shape[:2]
    pillow = Image.fromarray(canvas)
    del canvas  # a big image is not held twice
    pen = ImageDraw.Draw(pillow)
    for i in reversed(range(len(boxes) if boxes is not None else 0)):
        x1, y1, x2, y2 = np.rint(boxes[i]).astype(int).tolist()  # type: ignore[index]
        left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        corner = (max(left, min(x2, width) - 1), max(top, min(y2, height) - 1))
        pen.rectangle(((left, top), corner), outline=paints[i], width=thickness)
    _tags(pen, places, texts, (height, width), _font(round(letters * max(9, round(scale / 48)))), paints)
    return to_array(pillow)


def _blend(canvas: np.ndarray, patch: CroppedMask, color: tuple[int, int, int], opacity: float, thickness: int) -> None:
    """Fill the mask and run a soft line along its border, in place."""
    if patch.area == 0:
        return
    (h, w), (height, width), margin = patch.shape, canvas.shape[:2], thickness + 1
    x1, y1 = max(0, patch.x - margin), max(0, patch.y - margin)
    x2, y2 = min(width, patch.x + w + margin), min(height, patch.y + h + margin)
    bits = np.zeros((y2 - y1, x2 - x1), dtype=np.uint8)
    bits[patch.y - y1 : patch.y - y1 + h, patch.x - x1 : patch.x - x1 + w] = patch.bits * np.uint8(255)
    # Strip by strip, with a margin that the blur needs: floats of a mask over a big image would fill gigabytes.
    high = max(1, _STRIP // (x2 - x1))
    for top in range(0, y2 - y1, high):
        first, below = max(0, top - margin), min(top + high, y2 - y1)
        strip = bits[first : below + margin]
        # Blurred, the border is where the mask is half set. The blur repeats the pixels at the edge of the image, so
        # that a mask leaving the image has no line there.
        blur = np.asarray(Image.fromarray(strip).filter(ImageFilter.BoxBlur((thickness + 1) / 2)), dtype=np.float32)
        inner = slice(top - first, below - first)
        line = np.clip(2.2 * (1 - np.abs(blur[inner] / 127.5 - 1)), 0, 1)
        weight = np.maximum(line, (strip[inner] > 0) * np.float32(opacity))[..., None]
        window = canvas[y1 + top : y1 + below, x1:x2]
        window[:] = np.rint(window * (1 - weight) + np.array(color, np.float32) * weight).astype(np.uint8)


def _tags(
    pen: ImageDraw.ImageDraw,
    places: np.ndarray,
    texts: list[str],
    size: tuple[int, int],
    font: Any,
    paints: list[tuple[int, int, int]],
) -> None:
    """Name every object beside the top left corner of its box, inside the image, clear of other tags if it can be."""
    taken: list[TagBox] = []
    chosen = []
    for box, text in zip(places, texts, strict=False):
        text = _shortened(text, font, size[1] - 4)
        tag = _place(box, text, size, font, taken)
        taken.append(tag)
        chosen.append((tag, text))
    for i, (tag, text) in reversed(list(enumerate(chosen))):
        color = paints[i]
        pen.rounded_rectangle(tag, radius=max(1, (tag[3] - tag[1]) // 5), fill=color)
        luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
        ink = (15, 15, 15) if luminance > 110 else (255, 255, 255)
        pen.text(((tag[0] + tag[2]) / 2, (tag[1] + tag[3]) / 2), text, fill=ink, font=font, anchor="mm")


def _place(box: np.ndarray, text: str, size: tuple[int, int], font: Any, taken: list[TagBox]) -> TagBox:
    """Where the tag of a box goes: above, else inside, below, at the right; the first that covers no other tag."""
    height, width = size
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    em = getattr(font, "size", 11)
    w, h = round(font.getlength(text) + 0.7 * em), round(1.35 * em)
    corners = ((x1, y1 - h), (x1, y1), (x2 - w, y1), (x1, y2), (x1, y2 - h), (x2 - w, y2 - h), (x1, y1 - 2 * h))
    places = []
    for left, top in corners:
        left, top = max(0, min(left, width - 1 - w)), max(0, min(top, height - 1 - h))
        place = (left, top, min(left + w, width - 1), min(top + h, height - 1))
        if not any(_meet(place, other) for other in taken):
            return place
        places.append(place)
    return places[0]


def _meet(a: TagBox, b: TagBox) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _shortened(text: str, font: Any, width: float) -> str:
    """The text, cut with an ellipsis to at most `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _font(size: int) -> Any:
    """Pillow's own font; a Pillow built without FreeType has one size only."""
    try:
        return ImageFont.load_default(size=size)
    except (ImportError, OSError):
        return ImageFont.load_default()
