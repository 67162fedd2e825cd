"""COCO files as labeling tools export them, without splits: drawn splits, and those that `sais split` writes."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from sais.cli import main
from sais.data.formats import list_splits, read_dataset, read_dataset_files
from sais.data.formats.notes import DRAWN
from sais.data.formats.unsplit import describe_contents, find_coco_files, whole_sets
from sais.errors import InputError, ResourceError
from tests.data.formats.label_samples import image_names, labelme_document, objects, write_image, write_yolo


@pytest.fixture
def cvat(shapes: Path, tmp_path: Path) -> Path:
    """An export of CVAT: annotations/instances_default.json, images/default."""
    folder = tmp_path / "cvat"
    shutil.copytree(shapes / "images" / "train", folder / "images" / "default")
    (folder / "annotations").mkdir()
    shutil.copy(shapes / "annotations" / "train.json", folder / "annotations" / "instances_default.json")
    return folder


@pytest.fixture
def label_studio(shapes: Path, tmp_path: Path) -> Path:
    """An export of Label Studio: result.json, images with an upload prefix."""
    folder = tmp_path / "studio"
    (folder / "images").mkdir(parents=True)
    document = json.loads((shapes / "annotations" / "train.json").read_text())
    for number, image in enumerate(document["images"]):
        name = f"{number:08x}-{Path(image['file_name']).name}"
        shutil.copy(shapes / "images" / "train" / image["file_name"], folder / "images" / name)
        image["file_name"] = f"images/{name}"
    (folder / "result.json").write_text(json.dumps(document))
    return folder


def test_a_cvat_export_is_split_by_a_draw_and_by_a_command(cvat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_splits(cvat) == ["train", "valid"]
    assert main(["doctor", str(cvat)]) == 0
    output = capsys.readouterr().out
    assert "found COCO, 2 splits" in output
    assert f"NOTE: {DRAWN}: 10" in output
    drawn = {name: read_dataset(cvat, name) for name in ("train", "valid")}
    assert main(["split", str(cvat)]) == 0
    assert f"next: sais doctor {cvat}" in capsys.readouterr().out
    splits = [read_dataset(cvat, name) for name in ("train", "valid")]
    for split in splits:  # the same images as before
        assert [record.source for record in split.images] == [record.source for record in drawn[split.name].images]
    assert [record.source.parent.name for split in splits for record in split.images] == ["default"] * 12  # type: ignore[union-attr]
    assert main(["doctor", str(cvat)]) == 0
    output = capsys.readouterr().out
    assert "contains all images of train" in output
    assert "another split" not in output
    assert "another file name" not in output
    assert whole_sets([*splits, read_dataset(cvat, "default")]) == {"default"}


def test_a_label_studio_export_is_split_by_a_draw_and_by_a_command(
    label_studio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(label_studio)]) == 0
    assert len(read_dataset(label_studio, "all").images) == 12
    assert main(["split", str(label_studio)]) == 0  # the folder is enough
    assert list_splits(label_studio) == ["train", "valid"]
    assert len(read_dataset(label_studio, "train").images) + len(read_dataset(label_studio, "valid").images) == 12


def test_a_drawn_split_is_the_same_every_time_and_keeps_every_class(label_studio: Path) -> None:
    first, second = (read_dataset(label_studio, "valid") for _ in range(2))
    assert [record.source for record in first.images] == [record.source for record in second.images]
    train = read_dataset(label_studio, "train")
    assert not {record.source for record in first.images} & {record.source for record in train.images}
    assert train.class_names == first.class_names


def test_a_file_of_one_split_is_not_drawn_from(label_studio: Path, shapes: Path) -> None:
    (label_studio / "result.json").rename(label_studio / "train.json")
    assert len(read_dataset(label_studio, "train").images) == 12
    with pytest.raises(InputError, match="no annotations of split 'valid'"):
        read_dataset(label_studio, "valid")
    # The message once ended in "test.json, ... Available splits: train, valid.", as if it had been cut.
    places = r"annotations/test\.json or annotations/instances_test\.json or \d+ other places"
    with pytest.raises(InputError, match=rf" in {places}\. Available splits: train, valid\. Choose one of them\.$"):
        read_dataset(shapes, "test")


def test_predictions_in_a_folder_of_labels_are_not_read_as_its_labels(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    results = tmp_path / "results"
    results.mkdir()
    document = {"info": {"written_by": "sais predict"}, "images": [], "annotations": [], "categories": []}
    (results / "predictions.json").write_text(json.dumps(document))
    assert read_dataset(tmp_path, "train").origin.startswith("YOLO")
    assert find_coco_files(results) == [results / "predictions.json"]


def test_compressed_annotations_are_read(label_studio: Path, tmp_path: Path) -> None:
    content = (label_studio / "result.json").read_bytes()
    path = tmp_path / "all.json"
    path.write_bytes(gzip.compress(content))
    assert len(read_dataset_files(path, label_studio).images) == 12
    path.write_bytes(gzip.compress(content)[:-20])
    with pytest.raises(InputError, match=r"all\.json: the gzip file ends too early"):
        read_dataset_files(path, label_studio)


def test_decompressed_annotations_have_the_limit_of_the_others(
    label_studio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gzip.compress(b" " * 100_000 + (label_studio / "result.json").read_bytes())
    (label_studio / "result.json").write_bytes(content)
    monkeypatch.setattr("sais.input_limits.MAX_JSON_BYTES", 50_000)
    with pytest.raises(ResourceError, match="when decompressed"):
        read_dataset_files(label_studio / "result.json", label_studio)


def test_split_writes_labels_of_another_format_as_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in image_names("train"):
        write_image(tmp_path / "photos" / f"{name}.png")
        (tmp_path / "photos" / f"{name}.json").write_text(json.dumps(labelme_document(name)))
    drawn = {name: objects(read_dataset(tmp_path, name)) for name in ("train", "valid")}
    assert main(["split", str(tmp_path)]) == 0
    assert "found LabelMe, 2 splits, 2 classes" in capsys.readouterr().out
    assert {name: objects(read_dataset(tmp_path, name)) for name in ("train", "valid")} == drawn
    assert read_dataset(tmp_path, "train").origin == "COCO, 2 splits, 2 classes"
    assert main(["split", str(tmp_path)]) == 2  # COCO files now: the folder does not say which of them
    assert main(["split", str(tmp_path), "--format", "labelme"]) == 0  # unchanged


def test_split_does_not_split_a_data_set_with_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_yolo(tmp_path)
    assert main(["split", str(tmp_path)]) == 2
    assert "already split into train, val" in capsys.readouterr().err


def test_describe_remedy_names_what_a_folder_contains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels").mkdir()
    for name in ("a.jpg", "b.JPG", "labels/a.txt", ".hidden/c.png", "notes.json", "tasks.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("[]" if name == "tasks.json" else "{}")
    assert find_coco_files(tmp_path) == []
    assert describe_contents(tmp_path) == "It contains no known labels, but 2 .jpg and 2 .json and 1 .txt"
    assert main(["doctor", str(tmp_path)]) == 2
    assert "2 .jpg and 2 .json and 1 .txt. Export the labels in a format that is read" in capsys.readouterr().err
    for name in ("first", "second"):
        (tmp_path / f"{name}.json").write_text('{"images": [], "annotations": []}')
    assert main(["doctor", str(tmp_path)]) == 2
    assert "COCO files: first.json, second.json. Rename them to annotations/train.json" in capsys.readouterr().err
    assert main(["split", str(tmp_path)]) == 2
    assert "several COCO files" in capsys.readouterr().err
