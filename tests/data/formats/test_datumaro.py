"""Datumaro: the same objects as COCO, and the oddities of its files."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from sais.data.annotations import DatasetSplit
from sais.data.formats import list_splits, read_dataset
from sais.data.formats import notes as kinds
from sais.errors import InputError
from sais.ops.rle import encode
from tests.data.formats.label_samples import (
    SIZE,
    SPLITS,
    Shape,
    datumaro_item,
    image_names,
    objects,
    shapes,
    twin,
    write_datumaro,
    write_image,
)

LABELS = {"label": {"labels": [{"name": "cat"}, {"name": "dog"}]}}
BOX = {"id": 1, "type": "bbox", "label_id": 1, "group": 0, "bbox": [4.0, 5.0, 20.0, 10.0]}


def write_one(folder: Path, *annotations: Any, **item: Any) -> Path:
    """Write a data set of one labeled image, in a file for all images."""
    write_image(folder / "images" / "default" / "a.png")
    (folder / "annotations").mkdir()
    items = [{"id": "a", "annotations": list(annotations), "image": {"path": "a.png", "size": list(SIZE)}} | item]
    document = {"info": {}, "categories": LABELS, "items": items}
    (folder / "annotations" / "default.json").write_text(json.dumps(document))
    return folder


def read_all(folder: Path, problems: dict[str, list[str]] | None = None) -> DatasetSplit:
    return read_dataset(folder, "all", problems=problems)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("with_masks", [False, True])
def test_datumaro_has_the_objects_of_its_coco_twin(tmp_path: Path, with_masks: bool, split: str) -> None:
    folder = write_datumaro(tmp_path / "datumaro", with_masks)
    found = read_dataset(folder, split)
    assert objects(found) == twin(tmp_path / "coco", split, with_masks)
    assert (found.origin, found.notes) == ("Datumaro, 2 splits, 2 classes", {})
    assert list_splits(folder) == ["train", "valid"]


def test_datumaro_groups_are_parts_of_one_object(tmp_path: Path) -> None:
    parts = [*shapes("train_0")[1].parts, *shapes("train_0")[2].parts]
    given = datumaro_item("a", [Shape(1, parts)])["annotations"]
    box = BOX | {"group": 1, "bbox": [5.0, 5.0, 51.0, 39.0]}
    mask = {"id": 9, "type": "mask", "label_id": 0, "group": 0, "rle": encode(shapes("train_0")[0].bits)}
    split = read_all(write_one(tmp_path, *given, box, mask | {"attributes": {"is_crowd": True}}))
    (several, crowd) = split.images[0].annotations
    assert several.segmentation == parts
    assert (crowd.crowd, crowd.label, several.label) == (True, 0, 1)


def test_datumaro_boxes_and_what_has_no_area_are_told_apart(tmp_path: Path) -> None:
    point = {"type": "points", "label_id": 0, "points": [1, 2, 2]}
    split = read_all(write_one(tmp_path, BOX, point, {"type": "label", "label_id": 0}, {"type": "cuboid_3d"}))
    (box,) = split.images[0].annotations
    assert (box.box.tolist(), box.segmentation, box.label) == ([4, 5, 24, 15], None, 1)
    assert split.notes == {kinds.NO_AREA_SHAPE: 2, kinds.UNKNOWN_SHAPE: 1, kinds.NO_MASK: 1}


def test_datumaro_trusts_the_size_of_the_file(tmp_path: Path) -> None:
    size = {"image": {"path": "a.png", "size": [2 * SIZE[0], 2 * SIZE[1]]}}
    split = read_all(write_one(tmp_path, BOX, **size))
    assert split.images[0].annotations[0].box.tolist() == [2, 2.5, 12, 7.5]
    assert split.notes == {kinds.SCALED: 1, kinds.NO_MASK: 1}


@pytest.mark.parametrize("name", ["A.png", "images\\a.png", "/home/me/default/a.png", "a.jpg", ""])
def test_datumaro_images_are_found_under_other_names(tmp_path: Path, name: str) -> None:
    split = read_all(write_one(tmp_path, BOX, image={"path": name, "size": list(SIZE)}))
    assert split.images[0].path == tmp_path / "images" / "default" / "a.png"


def test_datumaro_ids_are_names_in_another_unicode_form(tmp_path: Path) -> None:
    folder = write_one(tmp_path, BOX, id=unicodedata.normalize("NFD", "\u00e4"), image={})
    (folder / "images" / "default" / "a.png").rename(folder / "images" / "default" / "\u00e4.png")
    assert read_all(folder).images[0].name == "\u00e4.png"


def test_datumaro_compressed_files_are_read(tmp_path: Path) -> None:
    folder = write_datumaro(tmp_path)
    for path in sorted((folder / "annotations").iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert list_splits(folder) == ["train", "valid"]
    assert len(read_dataset(folder, "train").images) == len(image_names("train"))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (BOX | {"label_id": 2}, "label_id 2 is not in 'categories'"),
        (BOX | {"bbox": [1, 2, 3]}, "bbox has 3 numbers"),
        (BOX | {"bbox": [1, 2, 3, float("nan")]}, "not a list of numbers"),
        ({"type": "polygon", "label_id": 0, "points": [1, 2, 3, 4, 5]}, "an odd count"),
        ({"type": "polygon", "label_id": 0, "points": "x"}, "not a list of numbers"),
        ({"type": "mask", "label_id": 0, "rle": {"size": list(SIZE)}}, "no 'rle' with 'counts'"),
        ({"type": "mask", "label_id": 0, "rle": {"size": list(SIZE), "counts": [7]}}, "malformed mask"),
        (7, "7 is no annotation"),
    ],
)
def test_datumaro_malformed_annotations_are_named(tmp_path: Path, annotation: Any, message: str) -> None:
    folder = write_one(tmp_path, BOX, annotation)
    with pytest.raises(InputError, match=rf"annotations/default\.json item 0 annotation 1: .*{message}"):
        read_all(folder)
    problems: dict[str, list[str]] = {}
    assert len(read_all(folder, problems).images[0].annotations) == 1
    assert [len(messages) for messages in problems.values()] == [1]


@pytest.mark.parametrize("name", ["../../secret/b.png", "{}/secret/b.png"])
def test_datumaro_names_do_not_lead_outside_of_the_data_folder(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "secret" / "b.png")
    folder = write_one(tmp_path / "data", BOX, id="b", image={"path": name.format(tmp_path), "size": list(SIZE)})
    with pytest.raises(InputError, match=r"item 0: its image .* is not in"):
        read_all(folder)
