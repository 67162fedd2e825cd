"""Drawing: overlays of masks, boxes and labels on an image, and contact sheets of many images. Numpy and Pillow.

Masks are blended one cropped mask at a time, without a dense stack. Line widths and font sizes scale with the image.
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
"""Colors (red, green, blue) of the objects in order; repeated after the last."""

_STRIP_PIXELS = 2**21
"""Number of mask pixels blended at once."""
_OPACITY = 0.45
"""Default opacity of the fill of a mask."""
_SHEET_BACKGROUND = (24, 26, 30)
_SHEET_TEXT = (225, 228, 232)

TagBox = tuple[int, int, int, int]
"""left top right bottom of a text tag in pixels."""


def draw(
    image: np.ndarray,
    detections: Detections,
    score: float = 0.3,
    *,
    boxes: bool = True,
    labels: bool = True,
    opacity: float = _OPACITY,
) -> np.ndarray:
    """Draw detections on a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: Detections of this image.
        score: Minimum score of the objects drawn.
        boxes: Whether boxes are drawn.
        labels: Whether the class and score of each object are written.
        opacity: Opacity of the fill of the masks, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The image is not uint8 RGB, or not of the detections' size.
    """
    if image.shape[:2] != detections.image_size:
        raise ValueError(f"draw: image of {image.shape[:2]} for detections on an image of {detections.image_size}")
    shown = detections.above(score)
    pairs = zip(shown.labels, shown.scores, strict=True)
    texts = [f"{shown.class_names[label]} {value:.2f}" for label, value in pairs] if labels else []
    return _draw_overlay(image, shown.boxes if boxes else None, shown.boxes, texts, shown.cropped_masks, opacity)


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    masks: list[CroppedMask] | None = None,
    opacity: float = _OPACITY,
) -> np.ndarray:
    """Draw ground-truth objects on a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) image pixels.
        labels: (N,) indices into `class_names`.
        class_names: C names, label 0 first.
        masks: N masks, or None for boxes only.
        opacity: Opacity of the fill of the masks, 0 to 1.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The image is not uint8 RGB.
    """
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    return _draw_overlay(image, boxes, boxes, [class_names[int(label)] for label in labels], masks or [], opacity)


def overlay(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    masks: Sequence[CroppedMask],
    colors: Sequence[int] | None = None,
    font_scale: float = 1.0,
) -> np.ndarray:
    """Draw boxes, texts and masks on a copy of an image, with chosen colors and font size.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) image pixels.
        texts: N texts, or an empty sequence.
        masks: N masks, or an empty sequence.
        colors: N indices into `PALETTE`, modulo its length; by default 0 to N - 1.
        font_scale: Factor of the default font size.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The image is not uint8 RGB.
    """
    return _draw_overlay(image, boxes, boxes, list(texts), list(masks), _OPACITY, colors, font_scale)


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int = 4,
    tile: tuple[int, int] = (320, 320),
    captions: Sequence[str] | None = None,
    gap: int = 12,
) -> np.ndarray:
    """Arrange images on one sheet, row by row, each resized to fit its tile with its aspect ratio.

    Args:
        images: N images (H, W, 3) uint8 RGB.
        columns: Maximum number of images in a row.
        tile: (height, width) of a tile in pixels.
        captions: N captions of one line, drawn below the images and shortened with an ellipsis; None for no captions.
        gap: Pixels around and between the tiles.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: There are no images or columns, or the number of captions differs.
    """
    if not images or columns < 1 or (captions is not None and len(captions) != len(images)):
        raise ValueError(
            f"contact sheet: {len(images)} images, {columns} columns, {captions and len(captions)} captions; expected "
            "at least one image and column, and one caption per image or None"
        )
    (height, width), columns = tile, min(columns, len(images))
    font = _font(max(11, round(width / 22)))
    line_height = round(1.6 * getattr(font, "size", 11)) if captions else 0
    rows = -(-len(images) // columns)
    step_y, step_x = height + line_height + gap, width + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), _SHEET_BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        top, left = gap + i // columns * step_y, gap + i % columns * step_x
        pillow = Image.fromarray(_check_image(image))
        ratio = min(height / pillow.height, width / pillow.width)
        pillow = pillow.resize(
            (max(1, round(pillow.width * ratio)), max(1, round(pillow.height * ratio))), Image.Resampling.LANCZOS
        )
        sheet.paste(pillow, (left + (width - pillow.width) // 2, top + (height - pillow.height) // 2))
        if captions:
            text = _shorten(captions[i], font, width)
            pen.text((left + width / 2, top + height + line_height / 2), text, fill=_SHEET_TEXT, font=font, anchor="mm")
    return np.asarray(sheet).copy()


def _check_image(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8; raise ValueError for any other array."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, got {image.shape} {image.dtype}")
    return image


def _draw_overlay(
    image: np.ndarray,
    boxes: np.ndarray | None,
    anchors: np.ndarray,
    texts: list[str],
    masks: list[CroppedMask],
    opacity: float,
    palette_indices: Sequence[int] | None = None,
    font_scale: float = 1.0,
) -> np.ndarray:
    """Draw masks from large to small, then boxes, then tags; the tag of the first object is on top.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) boxes drawn; None draws none.
        anchors: (N, 4) boxes that the tags are placed at.
        texts: N texts, or none.
        masks: N masks, or none.
        opacity: Opacity of the fill of the masks.
        palette_indices: N indices into `PALETTE`.
        font_scale: Factor of the default font size.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = _check_image(image).copy()
    indices = range(len(anchors)) if palette_indices is None else palette_indices
    colors = [PALETTE[i % len(PALETTE)] for i in indices]
    scale = float(np.sqrt(canvas.shape[0] * canvas.shape[1]))
    thickness = max(1, round(scale / 420))
    for i in sorted(range(len(masks)), key=lambda i: -masks[i].area):
        _blend_mask(canvas, masks[i], colors[i], opacity, thickness)
    if boxes is None and not texts:
        return canvas
    height, width = canvas.shape[:2]
    pillow = Image.fromarray(canvas)
    del canvas  # a large image is not held in memory twice
    pen = ImageDraw.Draw(pillow)
    for i in reversed(range(len(boxes) if boxes is not None else 0)):
        x1, y1, x2, y2 = np.rint(boxes[i]).astype(int).tolist()  # type: ignore[index]
        left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        corner = (max(left, min(x2, width) - 1), max(top, min(y2, height) - 1))
        pen.rectangle(((left, top), corner), outline=colors[i], width=thickness)
    _draw_tags(pen, anchors, texts, (height, width), _font(round(font_scale * max(9, round(scale / 48)))), colors)
    return to_array(pillow)


def _blend_mask(
    canvas: np.ndarray, mask: CroppedMask, color: tuple[int, int, int], opacity: float, thickness: int
) -> None:
    """Fill a mask and draw a soft line along its border, in place on the canvas (H, W, 3)."""
    if mask.area == 0:
        return
    (h, w), (height, width), margin = mask.shape, canvas.shape[:2], thickness + 1
    x1, y1 = max(0, mask.x - margin), max(0, mask.y - margin)
    x2, y2 = min(width, mask.x + w + margin), min(height, mask.y + h + margin)
    bits = np.zeros((y2 - y1, x2 - x1), dtype=np.uint8)
    bits[mask.y - y1 : mask.y - y1 + h, mask.x - x1 : mask.x - x1 + w] = mask.bits * np.uint8(255)
    # In strips, with the margin that the blur needs: float arrays of a mask on a large image would take gigabytes.
    strip_height = max(1, _STRIP_PIXELS // (x2 - x1))
    for top in range(0, y2 - y1, strip_height):
        first, bottom = max(0, top - margin), min(top + strip_height, y2 - y1)
        strip = bits[first : bottom + margin]
        # After blurring, the border is where the mask is half set. The blur repeats the pixels at the edge of the
        # image, so that a mask cut off by the image has no line there.
        blur = np.asarray(Image.fromarray(strip).filter(ImageFilter.BoxBlur((thickness + 1) / 2)), dtype=np.float32)
        inner = slice(top - first, bottom - first)
        line = np.clip(2.2 * (1 - np.abs(blur[inner] / 127.5 - 1)), 0, 1)
        weight = np.maximum(line, (strip[inner] > 0) * np.float32(opacity))[..., None]
        window = canvas[y1 + top : y1 + bottom, x1:x2]
        window[:] = np.rint(window * (1 - weight) + np.array(color, np.float32) * weight).astype(np.uint8)


def _draw_tags(
    pen: ImageDraw.ImageDraw,
    anchors: np.ndarray,
    texts: list[str],
    size: tuple[int, int],
    font: Any,
    colors: list[tuple[int, int, int]],
) -> None:
    """Write each text at the top left corner of its box (N, 4), inside the image (H, W) and clear of other texts."""
    tags: list[TagBox] = []
    shortened = []
    for box, text in zip(anchors, texts, strict=False):
        shortened.append(_shorten(text, font, size[1] - 4))
        tags.append(_place_tag(box, shortened[-1], size, font, tags))
    for i, (tag, text) in reversed(list(enumerate(zip(tags, shortened, strict=True)))):
        color = colors[i]
        pen.rounded_rectangle(tag, radius=max(1, (tag[3] - tag[1]) // 5), fill=color)
        luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
        ink = (15, 15, 15) if luminance > 110 else (255, 255, 255)
        pen.text(((tag[0] + tag[2]) / 2, (tag[1] + tag[3]) / 2), text, fill=ink, font=font, anchor="mm")


def _place_tag(box: np.ndarray, text: str, size: tuple[int, int], font: Any, placed: list[TagBox]) -> TagBox:
    """Return the position of a box's tag: the first of above, inside, below and right that overlaps no placed tag."""
    height, width = size
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    em = getattr(font, "size", 11)
    w, h = round(font.getlength(text) + 0.7 * em), round(1.35 * em)
    corners = ((x1, y1 - h), (x1, y1), (x2 - w, y1), (x1, y2), (x1, y2 - h), (x2 - w, y2 - h), (x1, y1 - 2 * h))
    candidates = []
    for left, top in corners:
        left, top = max(0, min(left, width - 1 - w)), max(0, min(top, height - 1 - h))
        tag = (left, top, min(left + w, width - 1), min(top + h, height - 1))
        if not any(_tags_touch(tag, other) for other in placed):
            return tag
        candidates.append(tag)
    return candidates[0]


def _tags_touch(a: TagBox, b: TagBox) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _shorten(text: str, font: Any, width: float) -> str:
    """Shorten a text with an ellipsis to at most `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _font(size: int) -> Any:
    """Return Pillow's default font; without FreeType, Pillow has it in one size only."""
    try:
        return ImageFont.load_default(size=size)
    except (ImportError, OSError):
        return ImageFont.load_default()
