"""Another split of a data set that is split already: all its images are drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.convert import with_same_classes
from sais.data.formats import list_splits, read_dataset
from sais.data.formats.coco_from_split import to_document
from sais.data.formats.unsplit import whole_sets
from sais.data.split import split_document


def read_all_splits(folder: Path, format: str = "auto") -> DatasetSplit:
    """Return the images of all splits of a data set, numbered again; those of a file with all images are used once.

    Args:
        folder: Folder of the data set.
        format: As for `sais.data.formats.read_dataset`.

    Raises:
        InputError: A split cannot be read.
    """
    splits = [read_dataset(folder, name, format=format) for name in list_splits(folder, format)]
    whole = whole_sets(splits)
    return join_splits([split for split in splits if split.name not in whole])


def join_splits(splits: Sequence[DatasetSplit]) -> DatasetSplit:
    """Return the images of several splits as one, with image and annotation ids from 1.

    Args:
        splits: At least one split.
    """
    records: list[ImageRecord] = []
    annotations = 0
    unified = with_same_classes(splits)
    for split in unified:
        for record in split.images:
            objects = [replace(a, id=annotations + i) for i, a in enumerate(record.annotations, 1)]
            annotations += len(objects)
            records.append(replace(record, id=len(records) + 1, annotations=tuple(objects)))
    return replace(unified[0], name="all", images=tuple(records), notes={}, examples={})


def draw_parts(
    whole: DatasetSplit, fraction: float, seed: int, test_fraction: float, groups: Mapping[int, int]
) -> list[DatasetSplit]:
    """Return the parts of a data set for training, validation and, with a fraction above 0, test.

    Args:
        whole: All images, which are in files.
        fraction: As for `sais.data.split.split_document`.
        seed: As for `split_document`.
        test_fraction: As for `split_document`.
        groups: Image id -> number of its group; the images of a group are in one part.

    Raises:
        InputError: There are fewer images than parts.
    """
    documents = split_document(to_document(whole, Path(".")), fraction, seed, test_fraction, groups)
    parts = []
    for name, document in zip(("train", "valid", "test"), documents, strict=False):
        ids = {entry["id"] for entry in document["images"]}
        parts.append(replace(whole, name=name, images=tuple(record for record in whole.images if record.id in ids)))
    return parts
