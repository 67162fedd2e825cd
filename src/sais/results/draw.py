"""Drawing: overlays of masks, boxes and labels on an image, and contact sheets of many images. Numpy and Pillow.

An object has the color of its class. Masks are blended one cropped mask at a time, without a dense stack. Line widths
and font sizes follow the size of the image and of the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sais.io.pixels import to_array
from sais.results.cropped_mask import CroppedMask
from sais.results.fonts import MAX_LETTERS, default_font, drawable_names, font_for, shorten_to_width
from sais.results.label_placement import place_tags
from sais.results.palette import PALETTE, Color, PaletteName, class_color, ink_on
from sais.text import printable

if TYPE_CHECKING:
    from sais.results.detections import Detections

__all__ = ["PALETTE", "contact_sheet", "draw", "draw_objects", "draw_outlines", "overlay"]

_STRIP_PIXELS = 2**21
"""Number of mask pixels blended at once."""
_OPACITY = 0.45
"""Default opacity of the fill of a mask."""
_TAG_OPACITY = 0.88
_MIN_BOX_SIDE = 16
"""Minimum side of the boxes drawn around masks, in pixels."""
_MAX_TAGS = 500
"""Number of objects, the first, next to which texts are written; of more, they would hide the image."""
_MANY_OBJECTS = 25
"""Number of objects above which names are smaller."""
_SHEET_BACKGROUND = (24, 26, 30)
_SHEET_TEXT = (225, 228, 232)

ColorBy = Literal["class", "instance"]


def draw(
    image: np.ndarray,
    detections: Detections,
    score: float = 0.3,
    *,
    boxes: bool = True,
    labels: bool = True,
    opacity: float = _OPACITY,
    color_by: ColorBy = "class",
    palette: PaletteName = "default",
    line_scale: float = 1.0,
) -> np.ndarray:
    """Draw detections on a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: Detections of this image.
        score: Minimum score of the objects drawn.
        boxes: Whether boxes are drawn.
        labels: Whether the class and score of each object are written, where there is room.
        opacity: Opacity of the fill of the masks, 0 to 1.
        color_by: "class": objects of a class have the same color, in all images; "instance": each has the next color,
            that of its track if the detections have track ids.
        palette: Colors; "color-blind" has eight that color-blind readers can distinguish.
        line_scale: Factor of the width of lines, which are at least one pixel wide.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The image is not uint8 RGB, or not of the detections' size.
    """
    if image.shape[:2] != detections.image_size:
        raise ValueError(f"draw: image of {image.shape[:2]} for detections on an image of {detections.image_size}")
    canvas = Image.fromarray(_check_image(image))  # a copy
    draw_on(canvas, detections, score, boxes, labels, opacity, color_by, palette, line_scale)
    return to_array(canvas)


def draw_on(
    canvas: Image.Image,
    detections: Detections,
    score: float = 0.3,
    boxes: bool = True,
    labels: bool = True,
    opacity: float = _OPACITY,
    color_by: ColorBy = "class",
    palette: PaletteName = "default",
    line_scale: float = 1.0,
) -> None:
    """Draw detections on an RGB image of Pillow, in place; see `draw`."""
    shown = detections.above(score)
    ids = shown.track_ids
    # A track has the same color in all frames of a video.
    if ids is not None and color_by == "instance":
        colors = _object_colors(ids - 1, "class", palette)
    else:
        colors = _object_colors(shown.labels, color_by, palette)
    pairs = zip(drawable_names(shown.class_names, shown.labels), shown.scores, strict=True)
    texts = [f"{name} {value:.2f}" for name, value in pairs] if labels else []
    if ids is not None:
        texts = [f"#{number} {text}" for number, text in zip(ids, texts, strict=False)]
    drawn_boxes = shown.boxes if boxes else None
    masks = shown.cropped_masks
    _draw_on(canvas, drawn_boxes, shown.boxes, texts, masks, opacity, colors, line_scale=line_scale)


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    masks: list[CroppedMask] | None = None,
    opacity: float = _OPACITY,
    color_by: ColorBy = "class",
) -> np.ndarray:
    """Draw ground-truth objects on a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) image pixels.
        labels: (N,) indices into `class_names`.
        class_names: C names, label 0 first.
        masks: N masks, or None for boxes only.
        opacity: Opacity of the fill of the masks, 0 to 1.
        color_by: "class": objects of a class have the same color, in all images; "instance": each has the next color.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The image is not uint8 RGB.
    """
    boxes = np.asarray(boxes, dtype=np.float32).reshape(-1, 4)
    texts, colors = drawable_names(class_names, labels), _object_colors(labels, color_by)
    return _draw_overlay(image, boxes, boxes, texts, masks or [], opacity, colors)


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
        colors: N indices of colors, as of classes; by default 0 to N - 1.
        font_scale: Factor of the default font size.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The image is not uint8 RGB.
    """
    shades = [class_color(i) for i in (range(len(boxes)) if colors is None else colors)]
    return _draw_overlay(image, boxes, boxes, list(texts), list(masks), _OPACITY, shades, font_scale)


def draw_outlines(
    image: np.ndarray, detections: Detections, color: Color, texts: Sequence[str] = (), line_scale: float = 1.0
) -> np.ndarray:
    """Draw the outlines of masks, of boxes where there is no mask, in one color on a copy of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: D objects of this image.
        color: RGB, 0 to 255.
        texts: D texts, or an empty sequence.
        line_scale: Factor of the width of lines, which are at least one pixel wide.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The image is not uint8 RGB.
    """
    masks = detections.cropped_masks
    without_mask = [i for i in range(len(detections)) if not (masks and masks[i].area)]
    colors = [color] * len(detections)
    boxes = detections.boxes[without_mask]
    drawn = _draw_overlay(image, boxes, boxes, [], [], 0.0, colors, line_scale=line_scale)
    return _draw_overlay(drawn, None, detections.boxes, list(texts), masks, 0.0, colors, line_scale=line_scale)


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
    font_size = max(11, round(width / 22))
    line_height = round(1.6 * font_size) if captions else 0
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
            caption = printable(captions[i], MAX_LETTERS)
            caption_font = font_for(caption, font_size)
            text = caption if caption_font else caption.encode("ascii", "replace").decode()
            font = caption_font or default_font(font_size)
            text = shorten_to_width(text, font, width)
            pen.text((left + width / 2, top + height + line_height / 2), text, fill=_SHEET_TEXT, font=font, anchor="mm")
    return np.asarray(sheet).copy()


def _check_image(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8; raise ValueError for any other array."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: expected (H, W, 3) uint8, got {image.shape} {image.dtype}")
    return image


def _object_colors(labels: np.ndarray, color_by: ColorBy, palette: PaletteName = "default") -> list[Color]:
    """Return the colors of N objects with labels (N,)."""
    indices = range(len(labels)) if color_by == "instance" else np.asarray(labels).tolist()
    return [class_color(int(index), palette) for index in indices]


def _draw_overlay(image: np.ndarray, *words: Any, **options: Any) -> np.ndarray:
    """Draw on a copy of an image (H, W, 3) uint8 RGB, with the other arguments of `_draw_on`."""
    canvas = Image.fromarray(_check_image(image))  # a copy
    _draw_on(canvas, *words, **options)
    return to_array(canvas)


def _draw_on(
    canvas: Image.Image,
    boxes: np.ndarray | None,
    anchors: np.ndarray,
    texts: list[str],
    masks: list[CroppedMask],
    opacity: float,
    colors: Sequence[Color],
    font_scale: float = 1.0,
    line_scale: float = 1.0,
) -> None:
    """Draw masks from large to small, then boxes, then tags; the box of the first object is on top.

    Args:
        canvas: RGB image that is drawn on.
        boxes: (N, 4) boxes drawn; None draws none.
        anchors: (N, 4) boxes that the tags are placed at.
        texts: N texts, or none.
        masks: N masks, or none.
        opacity: Opacity of the fill of the masks.
        colors: N colors.
        font_scale: Factor of the default font size.
        line_scale: Factor of the default width of lines.
    """
    scale = float(np.sqrt(canvas.width * canvas.height))
    line_width = max(1.0, line_scale * scale / 400)
    for i in sorted(range(len(masks)), key=lambda i: -masks[i].area):
        _blend_mask(canvas, masks[i], colors[i], opacity, line_width)
    if boxes is not None and len(boxes):
        shown = [i for i in range(len(boxes)) if not (masks and masks[i].area and _is_tiny(boxes[i]))]
        box_line_width = max(1, round(line_width / 2 if masks else line_width))
        _draw_boxes(canvas, boxes[shown], [colors[i] for i in shown], box_line_width)
    texts = texts[:_MAX_TAGS]
    if texts:
        crowd = max(0.6, min(1.0, (_MANY_OBJECTS / len(texts)) ** 0.25))
        _draw_tags(canvas, anchors, texts, max(10, round(font_scale * crowd * max(11.0, scale / 46))), colors)


def _is_tiny(box: np.ndarray) -> bool:
    """Return whether the outline of a box (4,) would hide most of the mask in it."""
    return bool(min(box[2] - box[0], box[3] - box[1]) < _MIN_BOX_SIDE)


def _draw_boxes(canvas: Image.Image, boxes: np.ndarray, colors: Sequence[Color], line_width: int) -> None:
    """Draw the outlines of boxes (N, 4), inside the image."""
    pen, (width, height) = ImageDraw.Draw(canvas), canvas.size
    for i in reversed(range(len(boxes))):
        x1, y1, x2, y2 = np.rint(boxes[i]).astype(int).tolist()
        left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        corner = (max(left, min(x2, width) - 1), max(top, min(y2, height) - 1))
        pen.rectangle(((left, top), corner), outline=colors[i], width=line_width)


def _blend_mask(canvas: Image.Image, mask: CroppedMask, color: Color, opacity: float, line_width: float) -> None:
    """Fill a mask and draw a soft line along its border, in place."""
    area = mask.area
    if area == 0:
        return
    line_width = max(1.0, min(line_width, area**0.5 / 8))  # a small object is not all outline
    (h, w), (width, height), margin = mask.shape, canvas.size, round(line_width) + 1
    x1, y1 = max(0, mask.x - margin), max(0, mask.y - margin)
    x2, y2 = min(width, mask.x + w + margin), min(height, mask.y + h + margin)
    bits = np.zeros((y2 - y1, x2 - x1), dtype=np.uint8)
    bits[mask.y - y1 : mask.y - y1 + h, mask.x - x1 : mask.x - x1 + w] = mask.bits
    bits *= np.uint8(255)
    fill = np.uint8(round(255 * opacity))
    # In strips, with the margin that the blur needs: a mask of a whole scan would be held in memory several times.
    strip_height = max(1, _STRIP_PIXELS // (x2 - x1))
    for top in range(0, y2 - y1, strip_height):
        first, bottom = max(0, top - margin), min(top + strip_height, y2 - y1)
        strip = bits[first : bottom + margin]
        # After blurring, the border is where the mask is half set. The blur repeats the pixels at the edge of the
        # image, so that a mask cut off by the image has no line there.
        blurred = Image.fromarray(strip).filter(ImageFilter.BoxBlur((line_width + 1) / 2))
        cut = slice(top - first, bottom - first)
        blend = np.maximum(_LINE[np.asarray(blurred)[cut]], strip[cut] & fill)  # set bits are 255
        canvas.paste(color, (x1, y1 + top), Image.fromarray(blend))


_LINE = np.array([round(255 * min(1.0, max(0.0, 2.2 * (1 - abs(v / 127.5 - 1))))) for v in range(256)], np.uint8)
"""Blurred mask -> opacity of the line along its border."""


def _draw_tags(
    canvas: Image.Image, anchors: np.ndarray, texts: list[str], font_size: int, colors: Sequence[Color]
) -> None:
    """Write each text next to its box (N, 4), inside the image and clear of other texts and of small objects."""
    width, height = canvas.size
    tags = [_tag_text(text, font_size, width - font_size) for text in texts]
    padding, tag_height = 0.35 * font_size, round(1.32 * font_size)
    sizes = [(min(width, round(length + 2 * padding)), min(height, tag_height)) for _, _, length in tags]
    pen = ImageDraw.Draw(canvas)
    places = place_tags(anchors, sizes, (height, width))
    for place, (w, h), box, color in zip(places, sizes, anchors, colors, strict=False):
        if place is not None and place[2]:
            _draw_leader(pen, (place[0], place[1], place[0] + w, place[1] + h), box, color, max(1, font_size // 12))
    for i, place in enumerate(places):
        if place is None:
            continue
        (left, top, _), (w, h), (text, font, _) = place, sizes[i], tags[i]
        canvas.paste(colors[i], (left, top), _tag_shape(w, h))
        pen.text((left + w / 2, top + h / 2), text, fill=ink_on(colors[i]), font=font, anchor="mm")


@lru_cache(maxsize=1024)  # a video repeats the texts of its objects
def _tag_text(text: str, font_size: int, max_width: int) -> tuple[str, Any, float]:
    """Return a text as it is written in at most `max_width` pixels, its font, and its width in pixels."""
    text = printable(text, MAX_LETTERS)
    font = font_for(text, font_size) or default_font(font_size)
    text = shorten_to_width(text, font, max_width)
    return text, font, font.getlength(text)


def _draw_leader(
    pen: ImageDraw.ImageDraw, tag: tuple[int, int, int, int], box: np.ndarray, color: Color, line_width: int
) -> None:
    """Draw a line from a tag to the nearest point of its box (4,)."""
    x1, y1, x2, y2 = box.tolist()
    start = (min(max((x1 + x2) / 2, tag[0]), tag[2]), min(max((y1 + y2) / 2, tag[1]), tag[3]))
    end = (min(max(start[0], x1), x2), min(max(start[1], y1), y2))
    pen.line((start, end), fill=color, width=line_width)


@lru_cache(maxsize=256)
def _tag_shape(width: int, height: int) -> Image.Image:
    """Return the opacity of a tag with rounded, anti-aliased corners."""
    factor = 4
    shape = Image.new("L", (factor * width, factor * height))
    pen = ImageDraw.Draw(shape)
    corner = (factor * width - 1, factor * height - 1)
    pen.rounded_rectangle(((0, 0), corner), factor * height // 5, fill=round(255 * _TAG_OPACITY))
    return shape.resize((width, height), Image.Resampling.BOX)
