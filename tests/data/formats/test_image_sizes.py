"""Sizes in a COCO file that the image files contradict: the file is right, and the outlines follow where they can."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.data.annotations import DatasetSplit, object_mask
from sais.data.dataset import read_sample
from sais.data.formats import notes, read_dataset
from sais.data.remarks import describe_split
from sais.errors import InputError
from sais.ops.rasterize import inside
from sais.ops.rle import encode
from tests.data.formats.coco_samples import make_document, write_split

SIZE = (96, 128)


def write_resized(
    folder: Path, size: tuple[int, int], change: Callable[[dict[str, Any]], object] = lambda document: None
) -> Path:
    """Write a data set whose second image file has another size (H, W) than its entry states."""
    document = make_document(3, SIZE)
    change(document)
    write_split(folder, "train", document)
    Image.new("RGB", (size[1], size[0])).save(folder / "images" / "1.png")
    (folder / "annotations" / "train.json").write_text(json.dumps(document))
    return folder


def masks(split: DatasetSplit) -> list[np.ndarray]:
    """Return the masks (H, W) bool of the second image."""
    record = split.images[1]
    shapes = [object_mask(annotation, record.size) for annotation in record.annotations]
    return [inside(shape, (0, 0, record.size[1], record.size[0])) for shape in shapes if shape is not None]


@pytest.mark.parametrize("factor", [2, 0.5])
def test_outlines_are_scaled_where_the_ratio_is_the_same(tmp_path: Path, factor: float) -> None:
    size = (int(96 * factor), int(128 * factor))
    split = read_dataset(write_resized(tmp_path, size), "train")
    assert [record.size for record in split.images] == [SIZE, size, SIZE]
    first = split.images[1].annotations[0]
    assert first.box.tolist() == [11 * factor, 20 * factor, 51 * factor, 50 * factor]
    assert first.area == 1200 * factor**2
    assert [mask.sum() for mask in masks(split)] == pytest.approx([1200 * factor**2] * 2, rel=0.1)
    assert read_sample(split.images[1]).image.shape[:2] == size
    assert split.notes == {notes.SCALED: 1}
    assert "1.png: " in describe_split(split)[0]


@pytest.mark.parametrize("factor", [2, 3, 0.5])
def test_masks_are_scaled_to_the_pixel(tmp_path: Path, factor: float) -> None:
    bits = np.zeros(SIZE, bool)
    bits[20:60, 10:30] = True
    bits[30:40, 14:22] = False

    def change(document: dict[str, Any]) -> None:
        for entry in document["annotations"]:
            entry.update(segmentation=encode(bits), bbox=[10, 20, 20, 40])

    size = (int(96 * factor), int(128 * factor))
    split = read_dataset(write_resized(tmp_path, size, change), "train")
    if factor > 1:
        expected = np.kron(bits, np.ones((int(factor), int(factor)), bool))
    else:
        expected = bits[1::2, 1::2]
    for mask in masks(split):
        np.testing.assert_array_equal(mask, expected)


def test_outlines_in_pixels_of_the_file_are_unchanged(tmp_path: Path) -> None:
    """A tool wrote a size of its own next to outlines in pixels of the files."""

    def change(document: dict[str, Any]) -> None:
        for entry in document["images"]:
            entry.update(width=100, height=75)

    folder = tmp_path
    document = make_document(3, SIZE)
    write_split(folder, "train", document)
    change(document)
    (folder / "annotations" / "train.json").write_text(json.dumps(document))
    split = read_dataset(folder, "train")
    expected = make_document(3, SIZE)
    assert [record.size for record in split.images] == [SIZE] * 3
    outlines = [a.segmentation for record in split.images for a in record.annotations]
    assert outlines == [entry["segmentation"] for entry in expected["annotations"]]
    boxes = [a.box.tolist() for record in split.images for a in record.annotations]
    assert boxes == [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in expected["annotations"])]
    assert split.notes[notes.OTHER_SIZE] == 3


def test_another_ratio_changes_nothing_but_the_size_where_outlines_fit(tmp_path: Path) -> None:
    split = read_dataset(write_resized(tmp_path, (128, 128)), "train")
    assert split.images[1].size == (128, 128)
    assert split.images[1].annotations[0].box.tolist() == [11, 20, 51, 50]
    assert split.notes == {notes.OTHER_SIZE: 1}


def test_an_image_that_outlines_do_not_fit_remains_an_error(tmp_path: Path) -> None:
    split = read_dataset(write_resized(tmp_path, (40, 128)), "train")
    assert split.images[1].size == SIZE
    assert split.notes == {}
    with pytest.raises(InputError, match=r"128 x 40 pixels, but 128 x 96 in the annotations"):
        read_sample(split.images[1])


def test_no_object_is_lost_where_width_and_height_are_exchanged(tmp_path: Path) -> None:
    """Polygons beyond the stated width, masks of the file's size, and boxes without an outline."""
    bits = np.zeros(SIZE, bool)
    bits[10:30, 90:120] = True
    document = make_document(3, SIZE)
    outline, mask, only_box = ({**document["annotations"][2], "id": 100 + i} for i in range(3))
    outline.update(segmentation=[[100, 10, 120, 10, 120, 40]], bbox=[100, 10, 20, 30])
    mask.update(segmentation=encode(bits), bbox=[90, 10, 30, 20])
    only_box.update(segmentation=[], bbox=[80, 50, 40, 30])
    image_id = document["annotations"][2]["image_id"]
    document["annotations"] += [outline, mask, only_box]
    write_split(tmp_path / "right", "train", document)
    right = read_dataset(tmp_path / "right", "train")
    entry = next(entry for entry in document["images"] if entry["id"] == image_id)
    write_split(tmp_path / "exchanged", "train", document)
    entry.update(width=entry["height"], height=entry["width"])
    (tmp_path / "exchanged/annotations/train.json").write_text(json.dumps(document))
    exchanged = read_dataset(tmp_path / "exchanged", "train")
    assert [record.size for record in exchanged.images] == [SIZE] * 3
    for one, other in zip(right.images, exchanged.images, strict=True):
        objects = [[(a.id, a.box.tolist(), a.area, a.segmentation) for a in r.annotations] for r in (one, other)]
        assert objects[0] == objects[1]
    assert exchanged.notes == right.notes | {notes.OTHER_SIZE: 1}
    assert "128 x 96, annotated as 96 x 128" in exchanged.examples[notes.OTHER_SIZE][0]


def test_images_that_exif_turns_are_not_of_another_size(tmp_path: Path) -> None:
    folder = write_resized(tmp_path, SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 128)).save(folder / "images" / "1.png", exif=exif)
    Image.new("RGB", (128, 96)).save(folder / "images" / "2.png", exif=exif)  # labeled as it is stored
    split = read_dataset(folder, "train")
    assert [record.size for record in split.images] == [SIZE] * 3
    assert [record.read().shape[:2] for record in split.images] == [SIZE] * 3
    assert split.notes == {}
