"""COCO's files without annotations: test2017, and test-dev2017, which lists a part of the images of test2017."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sais.data.formats import list_splits, read_dataset
from tests.data.formats.coco_samples import make_document, write_split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_split(tmp_path, "instances_train2017", make_document(2))
    document = make_document(3)
    del document["annotations"]
    for number, entry in enumerate(document["images"]):
        entry["file_name"] = f"test_{number}.png"
    for name, count in (("image_info_test2017", 3), ("image_info_test-dev2017", 2)):
        content = document | {"images": document["images"][:count]}
        (tmp_path / "annotations" / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("parent", [".", "images"])
@pytest.mark.parametrize(("split", "count"), [("test-dev", 2), ("test-dev2017", 2), ("test2017", 3)])
def test_images_are_in_the_folder_of_the_test_set(folder: Path, parent: str, split: str, count: int) -> None:
    place = folder / parent / "test2017"
    place.mkdir()
    for number in range(3):
        Image.new("RGB", (128, 96)).save(place / f"test_{number}.png")
    images = read_dataset(folder, split).images
    assert [record.path for record in images] == [place / f"test_{number}.png" for number in range(count)]
    assert all(record.annotations == () for record in images)


def test_names_of_the_splits_are_without_the_prefix(folder: Path) -> None:
    assert list_splits(folder) == ["train2017", "test-dev2017", "test2017"]
