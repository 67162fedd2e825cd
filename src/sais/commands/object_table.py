"""The table objects.csv of `sais predict --csv`: a row for each object, with its box and its measurements."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sais.errors import ConfigError
from sais.io.growing_files import RowFile
from sais.io.outputs import check_outputs, starts_with

if TYPE_CHECKING:
    from sais.results.detections import Detections

FILE_NAME = "objects.csv"


class ObjectTable:
    """The rows of objects.csv.

    Args:
        out: Output folder of the prediction.
        wanted: Whether the table is written.
        pixel_size: Side of a pixel in the unit.
        unit: Name of the unit of lengths.
    """

    def __init__(self, out: Path, wanted: bool, pixel_size: float, unit: str) -> None:
        self.path = out / FILE_NAME
        self._wanted, self._pixel_size, self._unit = wanted, pixel_size, unit
        self._file: RowFile | None = None

    def check(self, inputs: Iterable[Path], overwrite: bool) -> None:
        """Check that the file may be written. Creates nothing.

        Args:
            inputs: Files that are read.
            overwrite: Whether a file of others is replaced.

        Raises:
            ConfigError: The pixel size has no unit, or has no effect because the table is not written.
            InputError: The file would replace one that is read or one of others.
        """
        from sais.results.measurements import PIXELS, check_pixel_size

        if not self._wanted and (self._pixel_size != 1 or self._unit != PIXELS):
            raise ConfigError("sais predict: --pixel-size and --unit have no effect without --csv. Add it.")
        if self._wanted:
            check_pixel_size(self._pixel_size, self._unit)
            check_outputs([self.path], inputs, overwrite, self.path.parent, starts_with(_header()))

    def add(self, detections: Detections, file_name: str) -> None:
        """Add the objects of an image, named as in predictions.json."""
        if self._wanted:
            from sais.results.measurements import csv_lines, csv_row, csv_text

            table, name = detections.measure(self._pixel_size, self._unit), csv_text(file_name)
            self._rows().append(csv_lines([name, *csv_row(row, table.unit)] for row in table))

    def write(self) -> list[str]:
        """Complete the file; return a line about it, none if it is not wanted."""
        if not self._wanted:
            return []
        self._rows().close()
        return [f"measurements in {self.path}: lengths in {self._unit}, areas in {self._unit}^2"]

    def _rows(self) -> RowFile:
        if self._file is None:
            self._file = RowFile(self.path, _header())
        return self._file


def _header() -> str:
    """Return the first line of the file."""
    from sais.results.measurements import csv_header, csv_lines

    return csv_lines([["image", *csv_header()]])
