"""The folder layouts in which COCO files are found.

COCO, with SPLIT a name such as train or valid (val is a synonym):

    DIR/annotations/SPLIT.json, instances_SPLIT.json, or the only file with SPLIT in its name (instances_train2017.json)
        with images in DIR/images/SPLIT, DIR/images, DIR/SPLIT, DIR or another folder in DIR/images, such as
        DIR/images/default; SPLIT may have the year as well
    DIR/SPLIT/_annotations.coco.json with the images next to it (Roboflow)

Each of the JSON files may be compressed as well, SPLIT.json.gz.

A single file of another name has all images, as labeling tools export them (CVAT, Label Studio): training and
validation images are drawn from it (`folder_splits.draw_split`).
"""

from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path

from sais.data.annotations import DatasetSplit
from sais.data.formats.coco import Problems, read_coco
from sais.data.formats.folder_splits import DRAWN_SPLITS, WHOLE, draw_split
from sais.data.formats.image_sizes import trust_file_sizes
from sais.data.formats.unsplit import find_coco_files, is_coco, is_held_out, json_files, json_stem
from sais.errors import InputError

_SYNONYMS = {"valid": "val", "val": "valid"}
_PREFIX = "instances_"
_IMAGES_ONLY = "image_info_"
"""Prefix of COCO's files without annotations: test2017, test-dev2017, unlabeled2017."""
_ROBOFLOW = "_annotations.coco.json"
_OTHER_TASKS = ("captions_", "person_keypoints_", "stuff_", "panoptic_")
"""Prefixes of the annotation files of COCO's other tasks."""


def read_coco_split(
    folder: Path,
    split: str,
    classes: tuple[str, ...] | None,
    searched: list[str],
    problems: Problems | None,
    outside_images: bool = False,
) -> DatasetSplit | None:
    """Read a split of COCO: as for `sais.data.formats.yolo.read_split`.

    Args:
        folder: Folder of the data set.
        split: Name of the split.
        classes: A model's class names, which the labels then follow; None for those of the data set.
        searched: Takes the places searched.
        problems: Takes the error messages of what is refused; None raises for the first.
        outside_images: Whether images outside of the folder are read where names lead there.

    Raises:
        InputError: The split matches several files, or its annotations are malformed.
    """
    names = [split, _SYNONYMS[split]] if split in _SYNONYMS else [split]
    root = None if outside_images else folder
    annotations = _find_coco_file(folder, names, searched)
    if annotations is not None:
        candidates = image_folders(folder, annotations, names)
        found = read_coco(annotations, candidates, classes, problems, root)
        return replace(trust_file_sizes(found), name=split)
    whole = _find_whole_file(folder) if split in (*DRAWN_SPLITS, "val", WHOLE) else None
    if whole is None:
        return None
    found = read_coco(whole, image_folders(folder, whole, []), classes, problems, root)
    return draw_split(trust_file_sizes(found), split)


def image_folders(folder: Path, annotations: Path, names: list[str]) -> list[Path]:
    """Return the folders where the images of an annotation file may be.

    Args:
        folder: Folder of the data set.
        annotations: Annotation file.
        names: Names of the split.
    """
    folders = list(dict.fromkeys([_stem(annotations), *names, *(f"{name}2017" for name in names)]))
    folders += [name.replace("test-dev", "test") for name in folders if name.startswith("test-dev")]  # a part of test
    candidates = [folder / "images" / name for name in folders]
    candidates += [folder / "images", *(folder / name for name in folders), folder, annotations.parent]
    candidates += sorted(place for place in (folder / "images").glob("*") if place.is_dir())
    if annotations.name == _ROBOFLOW:
        candidates = [annotations.parent, annotations.parent / "images"]
    return candidates


def _find_whole_file(folder: Path) -> Path | None:
    """Return the only COCO file of a folder, test splits excepted, if it has the name of no split."""
    files = [path for path in find_coco_files(folder) if not _split_name(path).startswith("test")]
    if len(files) != 1 or files[0].name.startswith(_OTHER_TASKS):
        return None
    name = _split_name(files[0])
    return None if name.startswith("train") or is_held_out(name) else files[0]


def _split_name(path: Path) -> str:
    return path.parent.name if path.name == _ROBOFLOW else _stem(path)


def _stem(path: Path) -> str:
    return json_stem(path).removeprefix(_PREFIX).removeprefix(_IMAGES_ONLY)


def _find_coco_file(folder: Path, names: list[str], searched: list[str]) -> Path | None:
    exact: list[Path] = []
    for name in names:
        exact += [
            folder / "annotations" / f"{name}.json",
            folder / "annotations" / f"{_PREFIX}{name}.json",
            folder / name / _ROBOFLOW,
            folder / f"{name}.json",
        ]
    for path in exact:
        for file in (path, path.with_name(f"{path.name}.gz")):
            if file.is_file():
                return file
    patterns = [prefix + f"*{glob.escape(name)}*.json" for prefix in (_PREFIX, "") for name in names]
    for pattern in patterns:
        files = json_files(folder / "annotations", pattern)
        matches = [path for path in files if not path.name.startswith(_OTHER_TASKS)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            candidates = ", ".join(_split_name(path) for path in matches)
            raise InputError(f"{folder}: split '{names[0]}' matches several files: {candidates}. Name one of them.")
    searched += [str(path.relative_to(folder)) for path in exact] + [f"annotations/{p}" for p in patterns]
    return None


def list_coco_splits(folder: Path) -> list[str]:
    """Return the names of the COCO files of a folder, or of the splits drawn from the only one."""
    files = [path for path in json_files(folder / "annotations") if not path.name.startswith(_OTHER_TASKS)]
    files += sorted(folder.glob(f"*/{_ROBOFLOW}"))
    files += [p for p in json_files(folder) if p.name.startswith(("train", "val", "test")) and is_coco(p)]
    names = [_split_name(path) for path in files]
    if any(name.startswith(("train", "val")) for name in names):
        return names
    whole = _find_whole_file(folder)
    return names if whole is None else [*DRAWN_SPLITS, *(name for name in names if name != _split_name(whole))]
