"""Data sets on disk: which folder layouts are understood, and the one table of formats.

COCO, with SPLIT a name such as train or valid (val means the same):

    DIR/annotations/SPLIT.json, instances_SPLIT.json or the only file with SPLIT in its name (instances_train2017.json)
        images in DIR/images/SPLIT, DIR/images, DIR/SPLIT or DIR itself, SPLIT also with its year
    DIR/SPLIT/_annotations.coco.json with the images beside it (Roboflow)

To add a format: a file here that returns an `Index`, a row in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sais.data.annotations import DatasetSplit
from sais.data.formats.coco import read_coco
from sais.errors import SaisError

_SYNONYMS = {"valid": "val", "val": "valid"}
_PREFIX = "instances_"
_ROBOFLOW = "_annotations.coco.json"
_OTHER_TASKS = ("captions_", "person_keypoints_", "stuff_", "panoptic_")
"""What else lies in COCO's annotations folder."""

Classes = tuple[str, ...] | None


@dataclass(frozen=True)
class Format:
    """How one format is found in a folder and read."""

    read_dataset: Callable[[Path, str, Classes, list[str]], DatasetSplit | None]
    """(folder, split, classes, where it looked so far) -> the index; None, and its places added, where it is not."""
    list_splits: Callable[[Path], list[str]]
    """The splits of this format in a folder."""


def read_dataset(data: Path | str, split: str, classes: Classes = None) -> DatasetSplit:
    """The index of one split of the data set in a folder.

    Args:
        data: the folder.
        split: its name; val and valid mean the same, train finds instances_train2017.json.
        classes: a model's class names, which the labels then follow.

    Raises:
        SaisError: nothing found (and where it looked), or the annotations are wrong.
    """
    folder = Path(data)
    if not folder.is_dir():
        raise SaisError(f"{folder}: no such folder of data; check the path")
    looked: list[str] = []
    for known in FORMATS.values():
        index = known.read_dataset(folder, split, classes, looked)
        if index is not None:
            return index
    present = list_splits(folder)
    hint = f"it has the splits {', '.join(present)}" if present else "see the README for the layouts it may have"
    raise SaisError(f"{folder}: no annotations of split '{split}'; looked for {', '.join(looked)}; {hint}")


def read_dataset_files(annotations: Path | str, images: Path | str, classes: Classes = None) -> DatasetSplit:
    """The index of an annotation file and an image folder named one by one.

    Raises:
        SaisError: as `read_coco`.
    """
    return read_coco(Path(annotations), Path(images), classes)


def list_splits(data: Path | str) -> list[str]:
    """The splits present in a data folder, as `find` takes them; sorted, train first."""
    found = {split for known in FORMATS.values() for split in known.list_splits(Path(data))}
    return sorted(found, key=lambda split: (not split.startswith("train"), split))


def _find_coco(folder: Path, split: str, classes: Classes, looked: list[str]) -> DatasetSplit | None:
    names = [split, _SYNONYMS[split]] if split in _SYNONYMS else [split]
    annotations = _coco_file(folder, names, looked)
    if annotations is None:
        return None
    stem = annotations.stem.removeprefix(_PREFIX)
    below = list(dict.fromkeys([stem, *names, *(f"{name}2017" for name in names)]))
    candidates = [folder / "images" / name for name in below]
    candidates += [folder / "images", *(folder / name for name in below), folder, annotations.parent]
    if annotations.name == _ROBOFLOW:
        candidates = [annotations.parent, annotations.parent / "images"]
    index = read_coco(annotations, candidates, classes)
    return DatasetSplit(split, index.class_names, index.category_ids, index.images, index.notes)


def _coco_file(folder: Path, names: list[str], looked: list[str]) -> Path | None:
    exact: list[Path] = []
    for name in names:
        exact += [
            folder / "annotations" / f"{name}.json",
            folder / "annotations" / f"{_PREFIX}{name}.json",
            folder / name / _ROBOFLOW,
            folder / f"{name}.json",
        ]
    for path in exact:
        if path.is_file():
            return path
    patterns = [prefix + f"*{name}*.json" for prefix in (_PREFIX, "") for name in names]
    for pattern in patterns:
        matches = sorted(p for p in (folder / "annotations").glob(pattern) if not p.name.startswith(_OTHER_TASKS))
        if len(matches) == 1:
            return matches[0]
        if matches:
            several = ", ".join(p.stem.removeprefix(_PREFIX) for p in matches)
            raise SaisError(f"{folder}: split '{names[0]}' could be any of {several}; name one of them")
    looked += [str(path.relative_to(folder)) for path in exact] + [f"annotations/{p}" for p in patterns]
    return None


def _coco_splits(folder: Path) -> list[str]:
    files = [p for p in sorted((folder / "annotations").glob("*.json")) if not p.name.startswith(_OTHER_TASKS)]
    beside = [p.parent.name for p in sorted(folder.glob(f"*/{_ROBOFLOW}"))]
    return [p.stem.removeprefix(_PREFIX) for p in files] + beside


FORMATS: dict[str, Format] = {"coco": Format(_find_coco, _coco_splits)}
"""Every format there is, tried in this order."""
