"""The files that a command reads, which none of its outputs may replace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sais.errors import InputError

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit

_ANNOTATIONS = ("annotations/*.json", "*/_annotations.coco.json", "*.json")
"""Patterns of the annotation files in the folder of a data set."""
_RUN_FILES = ("*.safetensors", "*.json", "*.jsonl", "log.txt")


def model_files(model: Path) -> list[Path]:
    """Return the file of a model, with the weights of an .xml file, or the files in the folder of its run."""
    if model.is_dir():
        return [path for pattern in _RUN_FILES for path in model.glob(pattern)]
    return [model, *([model.with_suffix(".bin")] if model.suffix == ".xml" else [])]


def annotation_files(data: Path | None, *files: Path | None) -> Iterator[Path]:
    """Yield annotation files: those of a data set's folder or its name in $SAIS_DATA, and single ones."""
    from sais.data.paths import locate

    yield from (file for file in files if file is not None)
    if data is None:
        return
    try:
        folder = locate(data)
    except InputError:  # reported where the data set is read
        return
    for pattern in _ANNOTATIONS:
        yield from folder.glob(pattern)


def image_files(*splits: DatasetSplit) -> Iterator[Path]:
    """Yield the image files of splits."""
    for split in splits:
        yield from (record.source for record in split.images if isinstance(record.source, Path))
