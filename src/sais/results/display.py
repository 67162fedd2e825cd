"""Detections on a screen: drawings in several styles, notebook cells, Matplotlib axes and image viewers."""

from __future__ import annotations

import base64
import html
import io
import sys
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from sais.errors import ConfigError, MissingDependencyError
from sais.results.crops import find_image
from sais.results.draw import ColorBy, draw
from sais.results.palette import PALETTES, PaletteName, class_color
from sais.results.shrinking import shrink, shrink_image, shrunk_size
from sais.text import short_name, shorten

if TYPE_CHECKING:
    from sais.results.detections import Detections

Style = Literal["filled", "outline", "thin"]
STYLES: dict[Style, tuple[float, float]] = {"filled": (0.45, 1.0), "outline": (0.0, 1.0), "thin": (0.0, 0.0)}
"""Style -> opacity of the fill of the masks, and factor of the width of lines."""
PREVIEW_SIDE = 640
"""Longer side of the drawing in a notebook cell, in pixels."""
PLOT_SIDE = 2000
"""Longer side of the drawing on Matplotlib axes, in pixels."""
MAX_ROWS = 12
"""Maximum number of objects in the table of a notebook cell."""
MAX_SUMMARY = 1000
"""Maximum number of characters of the counts in a notebook cell."""
_NO_IMAGE = (96, 96, 96)
"""Color of the background if there is no image."""


def draw_detections(
    detections: Detections,
    image: Any = None,
    style: Style = "filled",
    *,
    boxes: bool | None = None,
    labels: bool = True,
    color_by: ColorBy = "class",
    palette: PaletteName = "default",
    opacity: float | None = None,
    score: float = 0.0,
    max_side: int | None = None,
) -> np.ndarray:
    """Draw detections on a copy of their image.

    Args:
        detections: The detections.
        image: The image that was predicted: path, array (H, W, 3) or others that `sais.io.images.as_image` converts;
            None for `detections.image`.
        style: "filled": masks with a fill and a line, and boxes; "outline": the lines only; "thin": lines of one pixel.
        boxes: Whether boxes are drawn; None: with the style "filled", and where there are no masks.
        labels: Whether the class and score of each object are written, where there is room.
        color_by: "class": objects of a class have the same color, in all images; "instance": each has the next color.
        palette: "default" has 16 colors; "color-blind" eight that color-blind readers can distinguish.
        opacity: Opacity of the fill of the masks, 0 to 1; None: that of the style.
        score: Minimum score of the objects drawn.
        max_side: Longer side of the drawing in pixels, if the image is larger: much faster for large images. None: the
            size of the image.

    Returns:
        (H, W, 3) uint8 RGB, or smaller.

    Raises:
        ConfigError: A style or palette is unknown, or a number is out of its range.
        InputError: There is no image, it cannot be read, or it has another size.
    """
    _check_choice("style", style, STYLES)
    _check_choice("palette", palette, PALETTES)
    _check_choice("color_by", color_by, ("class", "instance"))
    if opacity is not None and not 0 <= opacity <= 1:
        raise ConfigError(f"opacity: {opacity} is not between 0 and 1.")
    if max_side is not None and not max_side >= 1:
        raise ConfigError(f"max_side: {max_side} pixels. Use 1 or more, or None.")
    array = find_image(detections, image)
    size = shrunk_size(detections.image_size, max_side)
    fill, line_scale = STYLES[style]
    return draw(
        shrink_image(array, size),
        shrink(detections, size),
        score,
        boxes=style == "filled" or not detections.cropped_masks if boxes is None else boxes,
        labels=labels,
        opacity=fill if opacity is None else opacity,
        color_by=color_by,
        palette=palette,
        line_scale=line_scale,
    )


def _check_choice(name: str, value: object, choices: Any) -> None:
    """Raise ConfigError if a value is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{name} {value!r:.50}: unknown. Use {', '.join(choices)}.")


def preview(detections: Detections, max_side: int = PREVIEW_SIDE) -> np.ndarray:
    """Draw detections for a notebook cell, (h, w, 3) uint8 RGB; on gray if they refer to no image.

    Args:
        detections: The detections.
        max_side: Longer side of the drawing in pixels.
    """
    if detections.image is not None:
        return draw_detections(detections, max_side=max_side)
    height, width = shrunk_size(detections.image_size, max_side)
    background = np.full((max(1, height), max(1, width), 3), _NO_IMAGE, np.uint8)
    return draw(background, shrink(detections, (height, width)), 0) if height and width else background


def to_png(detections: Detections) -> bytes:
    """Return the preview as a PNG file."""
    return _encode(preview(detections), "PNG")


def to_html(detections: Detections) -> str:
    """Return the preview and a table of the first objects as HTML, less than 450 KB."""
    encoded = base64.b64encode(_encode(preview(detections), "JPEG", quality=85)).decode("ascii")
    areas = detections.area
    rows = []
    for i, label in enumerate(detections.labels[:MAX_ROWS].tolist()):
        swatch = "#{:02x}{:02x}{:02x}".format(*class_color(label))
        name = html.escape(short_name(detections.class_names[label]))
        numbers = [f"{detections.scores[i]:.2f}", *(f"{value:.0f}" for value in (*detections.boxes[i], areas[i]))]
        cells = "".join(f"<td>{number}</td>" for number in numbers)
        rows.append(
            f'<tr><td style="text-align:left"><span style="color:{swatch}">&#9632;</span> {name}</td>{cells}</tr>'
        )
    header = "".join(f"<th>{name}</th>" for name in ("class", "score", "x1", "y1", "x2", "y2", "area"))
    body = "".join(rows)
    table = f'<table style="text-align:right"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>'
    remarks = [f"{len(detections) - MAX_ROWS} more objects"] if len(detections) > MAX_ROWS else []
    if detections.image is None:
        remarks.append(
            "without the image: set <code>detections.image</code>, or predict with <code>keep_image=True</code>"
        )
    height, width = detections.image_size
    title = f"{html.escape(shorten(detections.summary(), MAX_SUMMARY))} ({width} x {height})"
    figure = f'<img alt="{title}" style="max-width:100%" src="data:image/jpeg;base64,{encoded}">'
    table = table if rows else ""
    return f"<div><p>{title}</p>{figure}{table}{''.join(f'<p>{remark}</p>' for remark in remarks)}</div>"


def _encode(image: np.ndarray, format: str, **options: Any) -> bytes:
    """Return an image (H, W, 3) uint8 as the content of a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, **options)
    return buffer.getvalue()


def plot(detections: Detections, image: Any = None, axes: Any = None, **options: Any) -> Any:
    """Draw detections on Matplotlib axes, whose coordinates are those of the image in pixels.

    Args:
        detections: The detections.
        image: As for `draw_detections`.
        axes: Axes to draw on; None for those of a new figure.
        options: As for `draw_detections`; the longer side has at most 2000 pixels by default.

    Returns:
        The axes.

    Raises:
        InputError: There is no image.
        MissingDependencyError: Matplotlib is not installed.
    """
    drawing = draw_detections(detections, image, **{"max_side": PLOT_SIDE} | options)
    if axes is None:
        try:
            from matplotlib import pyplot
        except ImportError:
            message = "plot: the package matplotlib is not installed. Run: pip install matplotlib"
            raise MissingDependencyError(message, "matplotlib", "reproduce") from None
        _, axes = pyplot.subplots(layout="constrained")
    height, width = detections.image_size
    axes.imshow(drawing, extent=(0, width, height, 0))
    shown = detections.above(options["score"]) if "score" in options else detections
    axes.set_title(shown.summary(), parse_math=False)  # a "$" in the name of a class starts no formula
    axes.set_axis_off()
    return axes


def show(detections: Detections, image: Any = None, **options: Any) -> None:
    """Show a drawing in the notebook, or in the image viewer of the system.

    Args:
        detections: The detections.
        image: As for `draw_detections`.
        options: As for `draw_detections`; the longer side has at most 2000 pixels by default.

    Raises:
        InputError: There is no image.
    """
    drawing = Image.fromarray(draw_detections(detections, image, **{"max_side": PLOT_SIDE} | options))
    # A kernel has loaded IPython already; in a terminal of IPython there is no place for an image.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        from IPython.display import display

        display(drawing)
    else:
        drawing.show()
