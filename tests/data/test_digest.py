"""The digest of a data set: equal for equal labels in any folder, another one after any change."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.data.digest import describe_data
from sais.data.formats import read_dataset


def changed(split: DatasetSplit, **changes: object) -> DatasetSplit:
    """Return the split with changes of the first object of the first image."""
    first, *others = split.images
    annotation, *rest_of_image = first.annotations
    altered = replace(annotation, **changes)  # type: ignore[arg-type]
    return replace(split, images=(replace(first, annotations=(altered, *rest_of_image)), *others))


def test_digest_depends_on_labels_and_not_on_the_folder(shapes: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes, tmp_path / "copy")
    split = read_dataset(shapes, "train")
    description = describe_data(split)
    assert description == describe_data(read_dataset(tmp_path / "copy", "train"))
    assert (description["split"], description["images"]) == ("train", 12)
    assert description["objects"] == sum(len(record.annotations) for record in split.images)
    annotations = [annotation for record in split.images for annotation in record.annotations]
    labels = [annotation.label for annotation in annotations]
    assert description["objects_per_class"] == [labels.count(label) for label in range(len(split.class_names))]
    sides = sorted(float(np.prod(annotation.box[2:] - annotation.box[:2])) ** 0.5 for annotation in annotations)
    expected = [sides[0], sides[len(sides) // 2], sides[-1]]
    np.testing.assert_allclose(description["object_sizes"], expected, atol=0.051)
    annotation = split.images[0].annotations[0]
    others = [
        changed(split, label=(annotation.label + 1) % 5),
        changed(split, box=annotation.box + np.float32(0.5)),
        changed(split, area=annotation.area + 1),
        changed(split, crowd=True),
        replace(split, images=split.images[:-1]),
        replace(split, images=split.images[::-1]),
        replace(split, class_names=("a", *split.class_names[1:])),
        replace(split, images=(replace(split.images[0], size=(1, 2)), *split.images[1:])),
    ]
    digests = {description["digest"], *(describe_data(other)["digest"] for other in others)}
    assert len(digests) == len(others) + 1
    assert all(len(digest) == 16 for digest in digests)


def test_digest_of_an_empty_split() -> None:
    description = describe_data(DatasetSplit("train", ("a",)))
    assert (description["objects"], description["objects_per_class"], description["object_sizes"]) == (0, [0], [])
