"""The results of a shard as a file, Parquet or COCO, and its table of errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sais._version import __version__
from sais.errors import InputError, MissingDependencyError
from sais.results.coco import to_coco_annotations
from sais.scaling.items import WRITER, ImageItem

if TYPE_CHECKING:
    from sais.results.detections import Detections

Format = Literal["parquet", "coco"]
Rows = Literal["image", "detection"]

RESULTS, ERRORS = "detections", "errors"
"""Folders of the results and of the errors."""
FLUSH_IMAGES = 64
"""Number of images whose results are in memory, and form a row group of a Parquet file."""
IDS_PER_IMAGE = 1_000_000
"""Distance of the annotation ids of two images in COCO files, so that ids are unique in all shards together."""

Row = dict[str, Any]


class ShardFile(Protocol):
    """Receives the detections of images; `close` completes the file."""

    def add(self, image_id: int, item: ImageItem, detections: Detections) -> None:
        """Add the detections of an image, whose id is its position in the plan, from 1."""

    def close(self) -> None:
        """Complete the file."""


@dataclass(frozen=True)
class ImageError:
    """An image that could not be read."""

    image_id: int
    item: ImageItem
    kind: str
    """What is wrong, in a few words to count by."""
    message: str

    def row(self) -> Row:
        """Return its row in the table of errors."""
        location = _text(self.item.label)
        row = {"image_id": self.image_id, "file_name": _text(self.item.name), "location": location}
        return row | {"kind": _text(self.kind), "message": _text(self.message)}


def suffix(format_: Format) -> str:
    """Return the suffix of the files of results."""
    return ".parquet" if format_ == "parquet" else ".json"


def errors_suffix(format_: Format) -> str:
    """Return the suffix of the tables of errors."""
    return ".parquet" if format_ == "parquet" else ".jsonl"


def open_shard_file(
    path: Path, format_: Format, rows: Rows, class_names: Sequence[str], category_ids: Sequence[int]
) -> ShardFile:
    """Return a new file for the results of a shard.

    Args:
        path: file to write.
        format_: its format.
        rows: what a row of a Parquet file is.
        class_names: C names, label 0 first.
        category_ids: C category ids, label 0 first.
    """
    if format_ == "coco":
        return CocoFile(path, class_names, category_ids)
    return ParquetFile(path, rows, class_names, category_ids)


class CocoFile:
    """A COCO file as `sais predict` writes it, with ids that are unique in all shards together."""

    def __init__(self, path: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self._path, self._category_ids = path, category_ids
        self._categories = [{"id": i, "name": name} for i, name in zip(category_ids, class_names, strict=True)]
        self._images: list[Row] = []
        self._annotations: list[Row] = []

    def add(self, image_id: int, item: ImageItem, detections: Detections) -> None:
        """Add the detections of an image."""
        height, width = detections.image_size
        self._images.append({"id": image_id, "width": width, "height": height, "file_name": item.name})
        first_id = image_id * IDS_PER_IMAGE
        self._annotations += to_coco_annotations(detections, image_id, self._category_ids, first_id)

    def close(self) -> None:
        """Write the file."""
        content = {
            "info": {"description": f"predictions of sais {__version__}", "written_by": WRITER},
            "images": self._images,
            "categories": self._categories,
            "annotations": self._annotations,
        }
        self._path.write_text(json.dumps(content), encoding="ascii")


class ParquetFile:
    """A Parquet file; a row group is written for each `FLUSH_IMAGES` images."""

    def __init__(self, path: Path, rows: Rows, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        from pyarrow.parquet import ParquetWriter

        self._rows_are_images = rows == "image"
        self._class_names, self._category_ids = list(map(_text, class_names)), list(category_ids)
        self._schema = _schema(self._rows_are_images)
        self._file = path.open("wb")  # pyarrow refuses paths that are not UTF-8
        self._writer = ParquetWriter(self._file, self._schema, compression="zstd")
        self._rows: list[Row] = []
        self._images = 0

    def add(self, image_id: int, item: ImageItem, detections: Detections) -> None:
        """Add the detections of an image."""
        height, width = detections.image_size
        image = {"image_id": image_id, "file_name": _text(item.name), "width": width, "height": height}
        columns = self._columns(detections)
        if self._rows_are_images:
            self._rows.append(image | columns)
        else:
            values = zip(*columns.values(), strict=True)
            self._rows += [image | dict(zip(_COLUMNS.values(), row, strict=True)) for row in values]
        self._images += 1
        if self._images % FLUSH_IMAGES == 0:
            self._flush()

    def close(self) -> None:
        """Complete the file."""
        self._flush()
        self._writer.close()
        self._file.close()

    def _columns(self, detections: Detections) -> dict[str, list[Any]]:
        labels = detections.labels.tolist()
        rle = [entry["counts"] for entry in detections.rle()] if detections.cropped_masks else [None] * len(labels)
        values = (
            detections.boxes.tolist(),
            detections.scores.tolist(),
            labels,
            [self._class_names[label] for label in labels],
            [self._category_ids[label] for label in labels],
            detections.area.tolist(),
            rle,
        )
        return dict(zip(_COLUMNS, values, strict=True))

    def _flush(self) -> None:
        if self._rows:
            import pyarrow

            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, self._schema))
            self._rows = []


_COLUMNS = {
    "boxes": "box",
    "scores": "score",
    "labels": "label",
    "class_names": "class_name",
    "category_ids": "category_id",
    "areas": "area",
    "rle": "rle",
}
"""Columns of lists in the row of an image -> column of the row of a detection."""


def _schema(rows_are_images: bool) -> Any:
    import pyarrow as pa

    kinds = {
        "boxes": pa.list_(pa.float32()),
        "scores": pa.float32(),
        "labels": pa.int32(),
        "class_names": pa.string(),
        "category_ids": pa.int64(),
        "areas": pa.float64(),
        "rle": pa.string(),
    }
    image = [("image_id", pa.int64()), ("file_name", pa.string()), ("width", pa.int32()), ("height", pa.int32())]
    if rows_are_images:
        columns = [(name, pa.list_(kind)) for name, kind in kinds.items()]
    else:
        columns = [(_COLUMNS[name], kind) for name, kind in kinds.items()]
    return pa.schema([*image, *columns], metadata={"written_by": WRITER, "sais": __version__})


def write_errors(path: Path, errors: Sequence[ImageError], format_: Format) -> None:
    """Write the table of errors of a shard.

    Args:
        path: file to write.
        errors: the errors.
        format_: format of the results: "parquet", or "coco" for lines of JSON.
    """
    rows = [error.row() for error in errors]
    if format_ == "coco":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
        return
    import pyarrow as pa
    from pyarrow.parquet import write_table

    text = ("file_name", "location", "kind", "message")
    schema = pa.schema([("image_id", pa.int64()), *((name, pa.string()) for name in text)])
    with path.open("wb") as file:
        write_table(pa.Table.from_pylist(rows, schema), file)


def read_errors(content: bytes, format_: Format) -> list[Row]:
    """Return the rows of a table of errors.

    Args:
        content: content of the file.
        format_: as for `write_errors`.
    """
    if format_ == "coco":
        return [json.loads(line) for line in content.decode("ascii").splitlines()]
    import pyarrow as pa
    from pyarrow.parquet import read_table

    rows: list[Row] = read_table(pa.BufferReader(content)).to_pylist()
    return rows


def check_format(format_: Format) -> None:
    """Raise MissingDependencyError if the package that writes a format is not installed."""
    if format_ == "coco":
        return
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        message = 'Parquet needs pyarrow, which is not installed. Run pip install "sais-seg[parquet]", or write COCO.'
        raise MissingDependencyError(message, "pyarrow", "parquet") from None


def check_ids(images: int) -> None:
    """Raise InputError for more images than ids of annotations allow, which JSON numbers hold exactly up to 2^53."""
    if images >= 2**53 // IDS_PER_IMAGE:
        raise InputError(f"{images} images are too many for unique ids. Divide the input.")


def _text(text: str) -> str:
    """Return a text as Parquet can store it: bytes of a file name that are not UTF-8 as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
