"""Splits of formats that keep the labels of each image in files of its own: a folder for each split, or none.

Labels in a single folder have no splits. Training and validation images are then drawn, with the same seed every time,
and the draw is a note of the split; `sais split` writes it to files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sais.data.annotations import DatasetSplit
from sais.data.formats import notes as kinds
from sais.data.stratified_draw import class_counts, draw_rows
from sais.errors import InputError

WHOLE = "all"
"""Name of the split that contains all images of a data set without splits."""
DRAWN_SPLITS = ["train", "valid"]
"""Names of the splits that are drawn."""
VALID_FRACTION, SEED = 0.2, 0
_SPLIT_NAME = re.compile(r"(?:^|[^a-z])(?:train|val|test)(?:ing|id|idation)?\d*(?:[^a-z]|$)", re.IGNORECASE)
"""Names of folders that are splits, such as train, val2017 and stage1_train."""


def list_folder_splits(folder: Path, has_labels: Callable[[Path], bool]) -> list[str]:
    """Return the names of the splits of a folder, the drawn ones if it has labels but no splits.

    Args:
        folder: Folder of the data set.
        has_labels: Whether a folder has labels of the format.
    """
    names = _named_folders(folder, has_labels)
    return names or (list(DRAWN_SPLITS) if has_labels(folder) else [])


def read_folder_split(
    folder: Path, split: str, has_labels: Callable[[Path], bool], read: Callable[[Path], DatasetSplit]
) -> DatasetSplit | None:
    """Return a split of a folder: of a folder with its name, or drawn; None if there is none.

    Args:
        folder: Folder of the data set.
        split: Name of the split; val and valid are synonyms, and train finds stage1_train.
        has_labels: Whether a folder has labels of the format.
        read: Reader of all labels of a folder.
    """
    names = ["valid", "val"] if split in ("val", "valid") else [split]
    exact = [folder / name for name in names if has_labels(folder / name)]
    named = _named_folders(folder, has_labels)
    similar = [folder / place for place in named if any(name in place for name in names)]
    if exact or len(similar) == 1:
        return replace(read((exact or similar)[0]), name=split)
    if named or not has_labels(folder):
        return None
    return draw_split(read(folder), split)


def draw_split(whole: DatasetSplit, split: str) -> DatasetSplit | None:
    """Return a part of a data set without splits: of its images for training or validation, or all of them.

    Args:
        whole: All images.
        split: "train", "valid", "val" or "all".

    Raises:
        InputError: There is only one image.
    """
    if split == WHOLE:
        return replace(whole, name=split)
    if split not in (*DRAWN_SPLITS, "val"):
        return None
    if len(whole.images) < 2:
        raise InputError(f"{whole.images[0].location}: the only image, which cannot be split. Add images.")
    chosen = set(draw_rows(class_counts(whole), VALID_FRACTION, SEED))
    is_train = split == "train"
    images = tuple(record for row, record in enumerate(whole.images) if (row in chosen) != is_train)
    notes = whole.notes | {kinds.DRAWN: len(images)}
    return replace(whole, name=split, images=images, notes=notes)


def _named_folders(folder: Path, has_labels: Callable[[Path], bool]) -> list[str]:
    places = sorted(place for place in folder.glob("*") if _SPLIT_NAME.search(place.name))
    return [place.name for place in places if place.is_dir() and has_labels(place)]
