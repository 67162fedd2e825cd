"""Reading of the images of a plan, one after another, with further attempts where a network is in between."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from sais.errors import InputError, MissingDependencyError, OutOfMemoryError, ResourceError, SaisError
from sais.io.decoding import one_line
from sais.io.download import MAX_BYTES, URL_SCHEMES
from sais.io.images import as_image
from sais.scaling.containers import open_parquet
from sais.scaling.items import ImageItem
from sais.scaling.storage import is_remote, open_input

RETRY_SECONDS = (0.5, 2.0)
"""Seconds before the second and the third attempt to read from a network."""
_TRANSIENT = ("not downloaded", "not read")
"""Kinds of errors that another attempt may avoid."""
_ROWS_AT_ONCE = 16

Source = Path | str | BinaryIO
Result = TypeVar("Result")


class ItemReader:
    """Reads images: first their content, in order; decoding may be done by several threads.

    The tar or Parquet file of the last image stays open.

    Args:
        column: column of the images in Parquet files.
        max_pixels: as for `sais.io.images.read_image`.
        white_level: as for `sais.io.images.read_image`.
    """

    def __init__(self, column: str | None, max_pixels: int | None = None, white_level: int | None = None) -> None:
        self._column = column
        self._max_pixels = max_pixels
        self._white_level = white_level
        self._tar: tuple[str, BinaryIO] | None = None
        self._rows: _Rows | None = None

    def fetch(self, item: ImageItem) -> Source:
        """Return what is decoded: a path, an address, or the content in memory; call it from one thread.

        Raises:
            SaisError: the content cannot be read.
        """
        if item.start is not None:
            content = _attempt(lambda: self._from_container(item), is_remote(item.location))
        elif not is_remote(item.location):
            return Path(item.location)
        elif item.location.lower().startswith(URL_SCHEMES):
            return item.location
        else:
            content = _attempt(lambda: _read_file(item.location))
        source = io.BytesIO(content)
        source.name = item.label  # for error messages
        return source

    def decode(self, source: Source) -> tuple[np.ndarray, Counter[str]]:
        """Decode an image: (H, W, 3) uint8 RGB, and how it was converted.

        Raises:
            SaisError: as for `sais.io.images.as_image`.
        """
        notes: Counter[str] = Counter()
        return _attempt(lambda: as_image(source, self._max_pixels, white_level=self._white_level, notes=notes)), notes

    def close(self) -> None:
        """Close the open file."""
        if self._tar is not None:
            self._tar[1].close()
        if self._rows is not None:
            self._rows.close()
        self._tar = self._rows = None

    def _from_container(self, item: ImageItem) -> bytes:
        assert item.start is not None
        try:
            return self._from_row(item.location, item.start) if item.size is None else self._from_tar(item, item.size)
        except SaisError:
            self.close()
            raise
        except Exception as error:  # pyarrow's and fsspec's exceptions have no common base class
            self.close()
            raise InputError(
                f"{item.label}: cannot be read ({one_line(error)}). Restore the file.", "not read"
            ) from error

    def _from_tar(self, item: ImageItem, size: int) -> bytes:
        if size > MAX_BYTES:
            raise ResourceError(f"{item.label}: larger than {MAX_BYTES / 2**20:.0f} MB. Extract it and use the file.")
        if self._tar is None or self._tar[0] != item.location:
            self.close()
            self._tar = item.location, open_input(item.location)
        file = self._tar[1]
        file.seek(item.start or 0)
        content = file.read(size)
        if len(content) < size:
            raise InputError(f"{item.label}: the tar file is cut off. Restore the file.", "truncated")
        return content

    def _from_row(self, location: str, row: int) -> bytes:
        if self._rows is None or self._rows.location != location or row < self._rows.position:
            self.close()
            self._rows = _Rows(location, self._column or "image", row)
        value = self._rows.value(row)
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):  # Hugging Face's structure of an image that is a file of its own
            return _read_file(value)
        if not isinstance(value, bytes) or not value:
            raise InputError(f"{location}#{row}: a row without an image. Remove it.", "empty row")
        return value


class _Rows:
    """The values of a column of a Parquet file, read forward in small parts."""

    def __init__(self, location: str, column: str, row: int) -> None:
        self.location = location
        self._file = open_parquet(location)
        metadata, first, group = self._file.metadata, 0, 0
        while group < metadata.num_row_groups - 1 and first + metadata.row_group(group).num_rows <= row:
            first += metadata.row_group(group).num_rows
            group += 1
        self.position = first
        """Number of the first row that can still be read."""
        self._values = self._iterate(column, range(group, metadata.num_row_groups))
        self._last: Any = None

    def value(self, row: int) -> Any:
        """Return the value of a row at or after `position`."""
        while self.position <= row:
            try:
                self._last = next(self._values)
            except StopIteration:
                raise InputError(f"{self.location}#{row}: no such row. The file has changed.", "missing") from None
            self.position += 1
        return self._last

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _iterate(self, column: str, groups: range) -> Iterator[Any]:
        for batch in self._file.iter_batches(_ROWS_AT_ONCE, row_groups=list(groups), columns=[column]):
            yield from batch.column(0).to_pylist()


def _read_file(location: str) -> bytes:
    """Return the content of an image file in a storage."""
    with open_input(location) as file:
        try:
            content = file.read(MAX_BYTES + 1)
        except OSError as error:
            message = f"{location}: cannot be read ({one_line(error)}). Check the connection."
            raise InputError(message, "not read") from error
    if len(content) > MAX_BYTES:
        raise ResourceError(f"{location}: larger than {MAX_BYTES / 2**20:.0f} MB. Copy it and use the file.")
    return content


def _attempt(read: Callable[[], Result], remote: bool = True) -> Result:
    """Return the result of a function that reads, which is called again after errors of a network."""
    for seconds in RETRY_SECONDS if remote else ():
        try:
            return read()
        except (OutOfMemoryError, MissingDependencyError):
            raise
        except InputError as error:
            if error.kind not in _TRANSIENT:
                raise
        time.sleep(seconds)
    return read()
