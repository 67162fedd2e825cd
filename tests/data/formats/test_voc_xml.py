"""XML files of VOC without id maps: as Roboflow and LabelImg arrange them, with polygons or boxes."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from sais.data.formats import list_splits, read_dataset
from sais.data.formats import notes as kinds
from sais.errors import InputError
from tests.data.formats.label_samples import SPLITS, objects, twin, write_image, write_xml_files

OBJECT = (
    "<object><name>cat</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>16</ymax></bndbox>{}</object>"
)


def write_one(folder: Path, text: str, name: str = "a") -> Path:
    """Write an image with its XML file next to it."""
    write_image(folder / f"{name}.png")
    (folder / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    return folder


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("pattern", ["{0}/{1}.xml", "{0}/annotations/{1}.xml", "{0}/Annotations/{1}.xml"])
def test_xml_files_with_polygons_have_the_objects_of_their_coco_twin(tmp_path: Path, pattern: str, split: str) -> None:
    folder = write_xml_files(tmp_path / "xml", pattern)
    found = read_dataset(folder, split)
    assert objects(found) == twin(tmp_path / "coco", split, with_masks=False)
    assert (found.origin, found.notes) == ("Pascal VOC, 2 splits, 2 classes", {})
    assert list_splits(folder) == ["train", "valid"]


def test_a_folder_of_images_and_xml_files_is_split_by_a_draw(tmp_path: Path) -> None:
    for name in "abc":
        write_one(tmp_path, OBJECT.format(""), name)
    write_image(tmp_path / "d.png")
    assert list_splits(tmp_path) == ["train", "valid"]
    split = read_dataset(tmp_path, "all")
    assert [record.annotations[0].box.tolist() for record in split.images] == [[4, 5, 20, 16]] * 3
    assert split.origin == "Pascal VOC, 2 splits, 1 class, boxes without masks"
    assert split.notes == {kinds.NO_MASK: 3, kinds.NOT_LABELED: 1}


def test_polygons_of_points_are_read(tmp_path: Path) -> None:
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((5, 6), (20, 6), (20, 16)))
    split = read_dataset(write_one(tmp_path, OBJECT.format(f"<polygon>{points}</polygon>")), "all")
    assert split.images[0].annotations[0].segmentation == [[4, 5, 19, 5, 19, 15]]


def test_xml_names_in_another_unicode_form_are_found(tmp_path: Path) -> None:
    write_one(tmp_path, OBJECT.format(""), "\u00e4")
    (tmp_path / "\u00e4.xml").rename(tmp_path / unicodedata.normalize("NFD", "\u00e4.xml"))
    assert len(read_dataset(tmp_path, "all").images[0].annotations) == 1


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ("<x1>1</x1><y1>2</y1><x2>3</x2>", "no y2"),
        ("<x1>1</x1><y1>a</y1>", "Write numbers"),
        ("<pt><x>1</x></pt>", "without x or y"),
        ("<x1>nan</x1><y1>1</y1><x2>3</x2><y2>3</y2><x3>3</x3><y3>4</y3>", "NaN"),
    ],
)
def test_malformed_polygons_are_named(tmp_path: Path, polygon: str, message: str) -> None:
    folder = write_one(tmp_path, OBJECT.format(f"<polygon>{polygon}</polygon>"))
    with pytest.raises(InputError, match=message):
        read_dataset(folder, "all")
    problems: dict[str, list[str]] = {}
    assert not read_dataset(folder, "all", problems=problems).images[0].annotations
    assert problems


def test_an_xml_file_without_its_image_is_reported(tmp_path: Path) -> None:
    write_one(tmp_path, OBJECT.format(""))
    (tmp_path / "b.xml").write_text("<annotation></annotation>")
    with pytest.raises(InputError, match=r"b\.xml: no image of this name"):
        read_dataset(tmp_path, "all")
