"""COCO files that are not arranged as splits: what a folder contains, and what to do next."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sais.io.outputs import written_by
from sais.io.regular_file import is_regular_file

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit

_HEAD_BYTES = 2**16
"""Number of bytes of a JSON file that are read to recognize COCO."""
_MAX_FILES = 100_000
"""Maximum number of files that are counted."""
_HELD_OUT = ("val", "test", "dev")
"""Beginnings of names of splits that are not trained on."""


def find_coco_files(folder: Path) -> list[Path]:
    """Return the COCO JSON files in a folder, its `annotations` and its other folders, without reading them whole."""
    places = [folder, folder / "annotations", *sorted(place for place in folder.glob("*") if place.is_dir())]
    files = [path for place in dict.fromkeys(places) for path in json_files(place)]
    return [path for path in files if is_coco(path) and (path.parent == folder or not _is_prediction(path))]


def json_files(folder: Path, pattern: str = "*.json") -> list[Path]:
    """Return the JSON files directly in a folder that fit a pattern, compressed ones (.json.gz) included, sorted."""
    return sorted([*folder.glob(pattern), *folder.glob(f"{pattern}.gz")])


def json_stem(path: Path) -> str:
    """Return the name of a file without .json and .json.gz."""
    return path.name.removesuffix(".gz").removesuffix(".json")


def describe_remedy(folder: Path, splits: list[str], wanted: str = "train") -> str:
    """Return what to do with a folder that does not have the split `wanted`, in one or two sentences.

    Args:
        folder: folder of the data set.
        splits: names of its splits.
        wanted: name of the split that is missing.
    """
    from sais.data.formats.yolo_config import find_yolo_config

    available = f"Available splits: {', '.join(splits)}. " if splits else ""
    files = find_coco_files(folder)
    whole = [path for path in files if not _is_held_out(path)]
    if not wanted.startswith("train") and splits:
        return f"{available}Choose one of them."
    if len(whole) == 1:
        return f"{available}Split {whole[0].relative_to(folder)} into train and valid: sais split {whole[0]}"
    if files:
        names = ", ".join(str(path.relative_to(folder)) for path in files[:5])
        return f"{available}COCO files: {names}. Rename them to annotations/train.json and annotations/valid.json."
    if splits:
        return f"{available}Choose one of them."
    config = find_yolo_config(folder)
    if config is not None:
        return f"No path of its {config.name} is in it. Correct the paths."
    remedy = "Export the labels in a format that is read, such as COCO JSON to annotations/train.json"
    return f"{describe_contents(folder)}. {remedy}."


def describe_contents(folder: Path) -> str:
    """Return what a folder without labels contains: "It contains no known labels, but 110 .jpg and 110 .txt"."""
    counts: Counter[str] = Counter()
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        counts.update(Path(name).suffix.lower() or "files without suffix" for name in files)
        if counts.total() > _MAX_FILES:
            break
    kinds = " and ".join(f"{count} {suffix}" for suffix, count in counts.most_common(3))
    return f"It contains no known labels, but {kinds}" if kinds else "It is empty"


def is_held_out(name: str) -> bool:
    """Return whether a split of this name is usually not trained on."""
    return name.startswith(_HELD_OUT)


def _is_held_out(path: Path) -> bool:
    return is_held_out(json_stem(path).removeprefix("instances_")) or is_held_out(path.parent.name)


def is_coco(path: Path) -> bool:
    """Return whether a JSON file looks like COCO, without reading it whole."""
    head = read_head(path).lstrip(b"\xef\xbb\xbf \r\n\t")
    return head.startswith(b"{") and any(key in head for key in (b'"images"', b'"annotations"'))


def read_head(path: Path) -> bytes:
    """Return the start of a file, decompressed; nothing if it is no regular file or cannot be read."""
    if not is_regular_file(path):
        return b""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head.startswith(b"\x1f\x8b"):
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _HEAD_BYTES)
    except (OSError, zlib.error):
        return b""
    return head


def _is_prediction(path: Path) -> bool:
    """Return whether a COCO file has predictions, which in a folder of a data set are no labels of it."""
    return path.name == "predictions.json" and written_by("sais predict")(path)


def whole_sets(splits: Sequence[DatasetSplit]) -> set[str]:
    """Return the names of splits that contain all images of the training split: the file that was split."""
    train = [split for split in splits if split.name.startswith("train")]
    if not train or not train[0].images:
        return set()
    names = _base_names(train[0])
    others = [split for split in splits if split is not train[0] and not split.name.startswith(_HELD_OUT)]
    return {split.name for split in others if names < _base_names(split)}


def _base_names(split: DatasetSplit) -> set[str]:
    return {record.name.rpartition("/")[2] for record in split.images}
