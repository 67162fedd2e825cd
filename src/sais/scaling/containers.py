"""Images inside of other files: members of tar files in WebDataset's layout, and columns of Parquet files."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from sais.errors import InputError, MissingDependencyError
from sais.io.decoding import one_line
from sais.io.sources import IMAGE_SUFFIXES
from sais.scaling.items import ImageItem
from sais.scaling.storage import is_remote, local_path, open_input

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "bytes", "content", "image_bytes")
PATH_COLUMNS = ("path", "file_name", "filename", "uri", "url", "image_path", "image_url", "file")
NAME_COLUMNS = ("file_name", "filename", "name", "id", "image_id", "key", "__key__", "path")
"""Names by which columns are found, the first that exists."""


@dataclass
class ParquetImages:
    """The images of Parquet files."""

    items: list[ImageItem] = field(default_factory=list)
    column: str = ""
    """Column of the images."""
    notes: list[str] = field(default_factory=list)


def tar_items(files: Sequence[str], extension: str | None) -> Iterator[ImageItem]:
    """Yield the images of tar files in their order, by reading the headers only.

    Args:
        files: paths or addresses.
        extension: extension of the images, such as "jpg" or "depth.png": what follows the first dot of their names.
            None: those whose extension is that of an image, which leaves out "seg.png".

    Raises:
        InputError: a file is no tar file, or contains no such image.
    """
    for file in files:
        count = 0
        try:
            with open_input(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # it would remember every member
                    if member.isreg() and _is_wanted(member.name, extension):
                        count += 1
                        yield ImageItem(member.name.removeprefix("./"), file, member.offset_data, member.size)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise InputError(f"{file}: cannot be read as a tar file ({one_line(error)}). Restore the file.") from error
        if not count:
            kind = "images" if extension is None else f"members with the extension {extension}"
            raise InputError(f"{file}: no {kind} in this tar file. Check its members with tar -t.")


def _is_wanted(name: str, extension: str | None) -> bool:
    base = PurePosixPath(name).name
    suffix = base.partition(".")[2].lower()
    if base.startswith("."):
        return False
    return suffix == extension.lower().lstrip(".") if extension is not None else f".{suffix}" in IMAGE_SUFFIXES


def parquet_items(files: Sequence[str], column: str | None, name_column: str | None) -> ParquetImages:
    """Return the images of Parquet files, without reading their content.

    A column of bytes, or of structures with `bytes` and `path` as Hugging Face writes them, contains images; a column
    of texts contains their paths or addresses.

    Args:
        files: paths or addresses.
        column: column of the images; None for the first of `IMAGE_COLUMNS`, then of `PATH_COLUMNS`.
        name_column: column of their names; None for the first of `NAME_COLUMNS`.

    Raises:
        InputError: a file cannot be read, or there is no such column.
        MissingDependencyError: pyarrow is not installed.
    """
    images = ParquetImages()
    for file in files:
        with open_parquet(file) as table:
            schema = table.schema_arrow
            images.column = _find_column(schema, column, file)
            _add_rows(images, table, file, _find_name_column(schema, images.column, name_column, file))
    if not images.items:
        rows = f"{len(images.notes)} rows without a path" if images.notes else "no rows"
        raise InputError(f"{files[0]}: no images in {len(files)} Parquet files, {rows}. Check the input.")
    return images


def open_parquet(file: str) -> Any:
    """Open a Parquet file.

    Raises:
        InputError: it cannot be read.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        message = f'{file}: Parquet needs pyarrow. Run pip install "sais-seg[parquet]".'
        raise MissingDependencyError(message, "pyarrow", "parquet") from None
    try:
        opened = is_remote(file) or not file.isascii()  # pyarrow refuses paths that are not UTF-8
        return ParquetFile(open_input(file) if opened else local_path(file), pre_buffer=False)
    except (ArrowException, OSError) as error:
        raise InputError(f"{file}: cannot be read as Parquet ({one_line(error)}). Restore the file.") from error


def _find_column(schema: Any, column: str | None, file: str) -> str:
    import pyarrow

    if column is not None:
        if column not in schema.names:
            names = ", ".join(schema.names[:20])
            raise InputError(f"{file}: no column {column!r}. Its columns are {names}.")
        return column
    for name in (*IMAGE_COLUMNS, *PATH_COLUMNS):
        if name in schema.names and _kind(schema.field(name).type, pyarrow) != "":
            return name
    names = ", ".join(schema.names[:20])
    raise InputError(f"{file}: no column of images found among {names}. Name it with column.")


def _find_name_column(schema: Any, column: str, name_column: str | None, file: str) -> str | None:
    if name_column is not None:
        if name_column not in schema.names:
            raise InputError(f"{file}: no column {name_column!r}. Its columns are {', '.join(schema.names[:20])}.")
        return name_column
    return next((name for name in NAME_COLUMNS if name in schema.names and name != column), None)


def _kind(kind: Any, pyarrow: Any) -> str:
    """Return "bytes", "struct" or "path" for the type of a column; "" for others."""
    types = pyarrow.types
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "bytes"
    if types.is_struct(kind) and any(kind.field(i).name == "bytes" for i in range(kind.num_fields)):
        return "struct"
    return "path" if types.is_string(kind) or types.is_large_string(kind) else ""


def _add_rows(images: ParquetImages, table: Any, file: str, name_column: str | None) -> None:
    import pyarrow

    column, rows = images.column, table.metadata.num_rows
    data_type = table.schema_arrow.field(column).type
    kind = _kind(data_type, pyarrow)
    if not kind:
        raise InputError(
            f"{file}: the column {column!r} of type {data_type} has neither images nor paths. Choose another."
        )
    has_path = kind == "struct" and any(data_type.field(i).name == "path" for i in range(data_type.num_fields))
    names: list[Any] = [None] * rows
    if name_column is not None:
        names = _read_values(table, name_column, file)
    elif has_path:
        names = [(entry or {}).get("path") for entry in _read_values(table, f"{column}.path", file)]
    stem = PurePosixPath(file.replace("\\", "/")).stem
    if kind != "path":
        for row, name in enumerate(names):
            images.items.append(ImageItem(f"{stem}#{row}" if name in (None, "") else str(name), file, row))
        return
    locations = _read_values(table, column, file)
    for row, (location, name) in enumerate(zip(locations, names, strict=True)):
        if not location:
            images.notes.append(f"left out: row {row} of {file} without a path")
            continue
        place = location if is_remote(location) else str(local_path(location).absolute())
        default = PurePosixPath(location.replace("\\", "/")).name or location
        images.items.append(ImageItem(default if name in (None, "") else str(name), place))


def _read_values(table: Any, column: str, file: str) -> list[Any]:
    """Return the values of a column; InputError for a damaged file."""
    try:
        return list(table.read(columns=[column]).column(0).to_pylist())
    except Exception as error:  # damage raises any of Arrow's and Python's exceptions
        raise InputError(
            f"{file}: the column {column!r} cannot be read ({one_line(error)}). Restore the file."
        ) from error
