"""Measurements of detections: a table with a row for each object, in pixels or in units of length.

`sais.ops.shape_measures` defines the measures. Masks are measured one at a time, in their crops.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from sais.errors import ConfigError, InputError, MissingDependencyError
from sais.resolve import suggest
from sais.text import printable, short_name, text_width

if TYPE_CHECKING:
    from sais.results.cropped_mask import CroppedMask
    from sais.results.detections import Detections

PIXELS = "px"
"""The unit of lengths without a pixel size."""
_SHOWN_ROWS = 20
"""Number of rows that the text of a table has at most."""
_FORMULA_STARTS = ("=", "+", "-", "@")
"""First characters of a text that a spreadsheet program takes for a formula."""


@dataclass(frozen=True)
class Measurement:
    """One object, with lengths in the unit of the table and positions in image pixels."""

    class_name: str
    """Name of the class."""
    score: float
    """Score, 0 to 1."""
    x1: float
    """Left edge of the box in pixels."""
    y1: float
    """Top edge of the box in pixels."""
    x2: float
    """Right edge of the box in pixels."""
    y2: float
    """Bottom edge of the box in pixels."""
    centroid_x: float
    """Center of mass in pixels; the center of the first pixel is 0.5."""
    centroid_y: float
    """Center of mass in pixels."""
    area: float
    """Area of the mask without its holes, in squares of the unit."""
    perimeter: float
    """Length of the line through the border pixels (`perimeter` of scikit-image)."""
    perimeter_crofton: float
    """Length of the edge by Crofton's formula (`perimeter_crofton` of scikit-image), closer to the true length."""
    equivalent_diameter: float
    """Diameter of a circle of the same area."""
    length: float
    """Longer side of the rectangle of minimum area around the pixels, in any direction."""
    width: float
    """Shorter side of this rectangle."""
    angle: float
    """Direction of the longer side in degrees from the x axis, clockwise as seen on the screen, in (-90, 90]."""
    orientation: float
    """Angle between the y axis and the major axis of the ellipse of the same moments in radians (scikit-image)."""
    circularity: float
    """4 pi area / perimeter_crofton^2, at most 1: 1 for a disc, less for elongated and jagged shapes."""


class Measurements(Sequence[Measurement]):
    """A table with a row for each of D objects: a sequence of `Measurement`.

    Args:
        rows: D rows.
        unit: Unit of lengths.
    """

    def __init__(self, rows: Iterable[Measurement], unit: str = "px") -> None:
        self.rows = tuple(rows)
        self.unit = unit

    @staticmethod
    def columns() -> tuple[str, ...]:
        """Return the names of the columns."""
        return tuple(field.name for field in fields(Measurement))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Measurement: ...

    @overload
    def __getitem__(self, index: slice) -> Measurements: ...

    def __getitem__(self, index: int | slice) -> Measurement | Measurements:
        """Return a row, or the table of a slice."""
        return Measurements(self.rows[index], self.unit) if isinstance(index, slice) else self.rows[index]

    def column(self, name: str) -> list[Any]:
        """Return the D values of a column.

        Raises:
            InputError: There is no such column.
        """
        if name not in self.columns():
            raise InputError(f"measurements: no column {name!r}{suggest(name, self.columns())}")
        return [getattr(row, name) for row in self.rows]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a dictionary for each object."""
        return [dict(zip(self.columns(), astuple(row), strict=True)) for row in self.rows]

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each object; `attrs["unit"]` is the unit.

        Raises:
            MissingDependencyError: The package pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            message = "to_pandas: the package pandas is not installed. Run: pip install pandas"
            raise MissingDependencyError(message, "pandas") from None
        frame = pandas.DataFrame([astuple(row) for row in self.rows], columns=list(self.columns()))
        frame.attrs["unit"] = self.unit
        return frame

    def to_csv(self, path: str | Path | None = None, overwrite: bool = False) -> str:
        """Return the table as CSV, with the unit as the last column, and write it to a file if a path is given.

        Args:
            path: File to write, atomically; None writes none.
            overwrite: Whether an existing file that is no such table is replaced.

        Raises:
            InputError: The file exists, and is no such table.
            ResourceError: The file cannot be written.
        """
        text = csv_lines([csv_header(), *(csv_row(row, self.unit) for row in self.rows)])
        if path is not None:
            from sais.io.atomic import write_text
            from sais.io.outputs import check_outputs, starts_with

            check_outputs([Path(path)], overwrite=overwrite, own=starts_with(csv_lines([csv_header()])))
            write_text(Path(path), text)
        return text

    def __repr__(self) -> str:
        shown = ("class_name", "score", "area", "perimeter_crofton", "length", "width", "circularity")
        rows = [[short_name(_text(getattr(row, name), 5)) for name in shown] for row in self.rows[:_SHOWN_ROWS]]
        widths = [max(map(text_width, column)) for column in zip(shown, *rows, strict=True)]
        lines = [
            "  ".join(" " * (width - text_width(text)) + text for text, width in zip(row, widths, strict=True))
            for row in (shown, *rows)
        ]
        more = [f"... {len(self) - _SHOWN_ROWS} more rows"] if len(self) > _SHOWN_ROWS else []
        return "\n".join([f"{len(self)} objects, unit {short_name(self.unit)}", *lines, *more])


def measure(detections: Detections, pixel_size: float = 1.0, unit: str = PIXELS) -> Measurements:
    """Measure each object: area, perimeter, diameter, length, width, direction and circularity.

    Objects without a mask are measured as their boxes. The mask of an object may have several parts, which are measured
    together.

    Args:
        detections: D detections.
        pixel_size: Side of a pixel in units of length, such as 0.25 (micrometers).
        unit: Name of the unit, which the table states: "um".

    Raises:
        ConfigError: The pixel size is not a positive number, or has no unit.
    """
    check_pixel_size(pixel_size, unit)
    rows = []
    for i, label in enumerate(detections.labels.tolist()):
        box = detections.boxes[i].astype(np.float64)
        shape = measure_mask(detections.cropped_masks[i]) if detections.cropped_masks else measure_box(box)
        x, y, area, *lengths, angle, orientation = shape
        circularity = min(1.0, 4 * math.pi * area / lengths[1] ** 2) if lengths[1] else math.nan
        diameter = math.sqrt(4 * area / math.pi)
        perimeters, sides = lengths[:2], lengths[2:]
        scaled = [value * pixel_size for value in (*perimeters, diameter, *sides)]
        values = (x, y, area * pixel_size**2, *scaled, angle, orientation, circularity)
        name, score = detections.class_names[label], float(detections.scores[i])
        rows.append(Measurement(name, score, *box.tolist(), *values))
    return Measurements(rows, unit)


def check_pixel_size(pixel_size: float, unit: str) -> None:
    """Raise ConfigError for a pixel size that is not a positive number, or whose unit is still pixels."""
    if not (math.isfinite(pixel_size) and pixel_size > 0):
        raise ConfigError(f"pixel_size: {pixel_size} is not a positive number. Give the side of a pixel in {unit}.")
    if unit == PIXELS and pixel_size != 1:
        raise ConfigError(f"unit: lengths at a pixel size of {pixel_size} are not in {PIXELS}. Name their unit.")


def measure_mask(mask: CroppedMask) -> tuple[float, ...]:
    """Return the center x y, area, two perimeters, length, width, angle and orientation of a mask in pixels."""
    from sais.ops import shape_measures as measures

    bits = mask.bits
    x, y, orientation = measures.centroid_and_orientation(bits)
    lengths = measures.perimeter(bits), measures.crofton_perimeter(bits), *measures.minimal_rectangle(bits)
    return (x + mask.x, y + mask.y, float(mask.area), *lengths, orientation)


def measure_box(box: np.ndarray) -> tuple[float, ...]:
    """Return the same values for a box (4,) x1 y1 x2 y2, which are exact for a rectangle."""
    x1, y1, x2, y2 = box.tolist()
    width, height = max(0.0, x2 - x1), max(0.0, y2 - y1)
    perimeter, angle = 2 * (width + height), 0.0 if width >= height else 90.0
    orientation = 0.0 if width <= height else math.pi / 2
    sides = max(width, height), min(width, height)
    return ((x1 + x2) / 2, (y1 + y2) / 2, width * height, perimeter, perimeter, *sides, angle, orientation)


def csv_header() -> list[str]:
    """Return the names of the columns of a CSV table."""
    return [*Measurements.columns(), "unit"]


def csv_row(row: Measurement, unit: str) -> list[str]:
    """Return the fields of an object: numbers with seven digits, nothing for what is not defined."""
    name, *numbers = astuple(row)
    return [csv_text(name), *map(_text, numbers), csv_text(unit)]


def csv_text(text: str) -> str:
    """Return a name as a field of a CSV table: in one line, and no formula for a spreadsheet program.

    A text that starts like a formula gets an apostrophe in front, which marks a text there.
    """
    text = printable(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA_STARTS) else text


def csv_lines(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as CSV text with a line each."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _text(value: Any, digits: int = 7) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{digits}g}"
    return str(value)
