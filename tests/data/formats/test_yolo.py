"""YOLO segmentation: layouts, the same objects as COCO, oddities of label files, and files of strangers."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from sais.data.formats import list_splits, read_dataset
from sais.data.formats.notes import CLASS_COUNT, DRAWN, NO_IMAGE, NO_LABEL_FILE, NO_MASK, SCORES_LEFT_OUT
from sais.data.options import DataOptions
from sais.errors import InputError
from tests.data.formats.label_samples import SIZE, SPLITS, image_names, objects, twin, write_image, write_yolo


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("layout", ["ultralytics", "roboflow", "list"])
def test_yolo_layouts_have_the_objects_of_their_coco_twin(tmp_path: Path, layout: str, split: str) -> None:
    folder = write_yolo(tmp_path / "yolo", layout)
    found = read_dataset(folder, split)
    assert objects(found) == twin(tmp_path / "coco", split, with_masks=False)
    assert found.origin == "YOLO segmentation, 2 splits, 2 classes"
    assert found.notes == {NO_LABEL_FILE: 1}
    assert list_splits(folder) == ["train", "val"]


def test_yolo_is_read_where_its_folder_also_has_coco_and_the_format_is_given(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path)
    (folder / "annotations").mkdir()
    (folder / "annotations" / "train.json").write_text("{}")
    with pytest.raises(InputError, match="not COCO"):
        read_dataset(folder, "train")
    assert len(read_dataset(folder, "train", options=DataOptions(format="yolo")).images) == SPLITS["train"]


def test_yolo_without_yaml_is_split_by_a_draw(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    parts = {name: read_dataset(tmp_path, name) for name in list_splits(tmp_path)}
    names = [record.name for part in parts.values() for record in part.images]
    assert [len(part.images) for part in parts.values()] == [5, 1]
    assert sorted(names) == sorted(f"{name}.png" for split in SPLITS for name in image_names(split))
    assert parts["train"].notes[DRAWN] == 5
    assert len(read_dataset(tmp_path, "all").images) == 6


def test_yolo_classes_with_an_empty_line_are_refused(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\n\ndog\n\n")
    with pytest.raises(InputError, match=r"classes\.txt: line 2 is empty\. Name its class, or remove the line\."):
        read_dataset(tmp_path, "train")


def test_yolo_paths_that_do_not_exist_are_reported(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: pictures/train\nval: pictures/val\nnames: [cat, dog]\n")
    with pytest.raises(InputError, match=r"No path of its data\.yaml is in it\. Correct the paths\."):
        read_dataset(tmp_path, "train")


def one_image(folder: Path, labels: str, config: str = "train: images\nnames: [cat, dog]\n") -> Path:
    """Write a data set of one image with the content of its label file."""
    write_image(folder / "images" / "a.png")
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text(labels)
    (folder / "data.yaml").write_text(config)
    return folder


def test_yolo_boxes_polygons_and_empty_lines_are_told_apart(tmp_path: Path) -> None:
    one_image(tmp_path, "\n1 0.5 0.5 0.25 0.5\n\n0.0 0.25 0.25 0.5 0.25 0.5 0.5\n")
    (tmp_path / "labels" / "b.txt").write_text("")
    split = read_dataset(tmp_path, "train")
    box, polygon = split.images[0].annotations
    assert (box.label, box.segmentation, box.box.tolist()) == (1, None, [24, 12, 40, 36])
    assert (polygon.label, polygon.segmentation) == (0, [[16.0, 12.0, 32.0, 12.0, 32.0, 24.0]])
    assert split.images[0].size == SIZE
    assert split.notes == {NO_MASK: 1, NO_IMAGE: 1}
    assert split.examples[NO_MASK] == ("labels/a.txt line 2",)


def test_yolo_scores_of_predictions_are_left_out_and_counted(tmp_path: Path) -> None:
    one_image(tmp_path, "1 0.5 0.5 0.25 0.5 0.93\n0 0.25 0.25 0.5 0.25 0.5 0.5 0.5\n")
    split = read_dataset(tmp_path, "train")
    box, polygon = split.images[0].annotations
    assert box.box.tolist() == [24, 12, 40, 36]
    assert polygon.segmentation == [[16.0, 12.0, 32.0, 12.0, 32.0, 24.0]]
    assert split.notes == {SCORES_LEFT_OUT: 2, NO_MASK: 1}


def test_yolo_scores_are_expected_where_the_first_file_has_them(tmp_path: Path) -> None:
    one_image(tmp_path, "0 0.5 0.5 0.2 0.2\n")
    write_image(tmp_path / "images" / "b.png")
    (tmp_path / "labels" / "b.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2 0.9\n")
    with pytest.raises(InputError, match=r"b\.txt line 1: 7 numbers after the class"):
        read_dataset(tmp_path, "train")


def test_yolo_boxes_only_are_stated(tmp_path: Path) -> None:
    split = read_dataset(one_image(tmp_path, "1 0.5 0.5 0.25 0.5\n"), "train")
    assert split.origin == "YOLO segmentation, 1 split, 2 classes, boxes without masks"
    assert split.notes == {NO_MASK: 1}


def test_yolo_class_counts_that_differ_from_the_names_are_counted(tmp_path: Path) -> None:
    config = "train: images\nnc: {}\nnames: [cat, dog]\n"
    one_image(tmp_path, "1 0.5 0.5 0.25 0.5\n", config.format(3))
    split = read_dataset(tmp_path, "train")
    assert split.notes == {CLASS_COUNT: 1, NO_MASK: 1}
    assert split.examples[CLASS_COUNT] == ("data.yaml: nc 3, 2 names",)
    (tmp_path / "data.yaml").write_text(config.format(2))
    assert read_dataset(tmp_path, "train").notes == {NO_MASK: 1}


def test_yolo_names_in_another_unicode_form_are_found(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "\u00e4") for form in ("NFC", "NFD"))
    one_image(tmp_path, "", "train: train.txt\nnames: [cat, dog]\n")
    write_image(tmp_path / "images" / f"{composed}.png")
    (tmp_path / "labels" / f"{decomposed}.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "train.txt").write_text(f"images/A.PNG\nimages/{decomposed}.png\n")
    split = read_dataset(tmp_path, "train")
    assert [record.name for record in split.images] == ["a.png", f"{composed}.png"]
    assert [len(record.annotations) for record in split.images] == [0, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.1 0.2", r"labels/a\.txt line 2: 3 numbers after the class"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.9", "7 numbers after the class"),
        ("0 0.1 0.1 0.2 nan", "NaN or an infinite"),
        ("0 10 10 20 10 20 20", "coordinate 20, which is not a fraction"),
        ("cat 0.1 0.1 0.2 0.2", "not a number in 'cat"),
        ("0.5 0.1 0.1 0.2 0.2", "class '0.5'"),
        ("2 0.1 0.1 0.2 0.2", r"class '2' is not in data\.yaml"),
        ("-1 0.1 0.1 0.2 0.2", "class '-1'"),
    ],
)
def test_yolo_malformed_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    one_image(tmp_path, f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path, "train")
    problems: dict[str, list[str]] = {}
    assert len(read_dataset(tmp_path, "train", problems=problems).images[0].annotations) == 1
    assert [len(messages) for messages in problems.values()] == [1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("train: images\nnames: [cat", "not YAML"),
        ("train: images\nnames: 7\n", "'names' is 7"),
        ("train: images\nnames: {0: [1]}\n", "'names' has the class 0"),
        ("train: images\nnames: [a, yes]\n", "class 1: True"),
        ("train: 7\nnames: [cat]\n", "'train' is 7"),
        ("train: images\nnames: [cat]\nkpt_shape: [17, 3]\n", "keypoints"),
        ("train: images\nnames: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("a: &a {x: 1}\nb: &b {<<: [" + ", ".join(["*a"] * 20) + "]}\ntrain: images\nnames: [cat]\n", "aliases"),
        ("train: [images, more]\nnames: [cat, dog]\n", "'more' of split 'train' is not in"),
    ],
)
def test_yolo_malformed_descriptions_are_named(tmp_path: Path, config: str, message: str) -> None:
    one_image(tmp_path, "", config)
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path, "train")


@pytest.mark.parametrize("outside", ["../secret", "{}/secret"])
def test_yolo_names_do_not_lead_outside_of_the_data_folder(tmp_path: Path, outside: str) -> None:
    write_image(tmp_path / "secret" / "b.png")
    folder = one_image(tmp_path / "data", "", f"train: {outside.format(tmp_path)}\nnames: [cat]\n")
    with pytest.raises(InputError, match="no annotations of split 'train'"):
        read_dataset(folder, "train")
    (folder / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    (folder / "train.txt").write_text(f"images/a.png\n{outside.format(tmp_path)}/b.png\n")
    with pytest.raises(InputError, match=r"train\.txt: line 2: image .* is not in"):
        read_dataset(folder, "train")
