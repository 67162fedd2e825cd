"""COCO files as labeling tools export them, without splits: what `check`, `train` and `split` advise leads to a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sais.cli import main
from sais.data.formats import list_splits, read_dataset
from sais.data.formats.unsplit import describe_contents, find_coco_files, whole_sets
from sais.errors import InputError


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


def test_check_of_a_cvat_export_leads_to_two_splits(cvat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(cvat)]) == 0
    advice = capsys.readouterr().out.splitlines()[-1]
    command = f"sais split {cvat / 'annotations' / 'instances_default.json'}"
    assert advice.endswith(command)
    assert main(command.split()[1:]) == 0
    assert f"next: sais check {cvat}" in capsys.readouterr().out
    splits = [read_dataset(cvat, name) for name in ("train", "valid")]
    assert [record.source.parent.name for split in splits for record in split.images] == ["default"] * 12  # type: ignore[union-attr]
    assert main(["check", str(cvat)]) == 0
    output = capsys.readouterr().out
    assert "contains all images of train" in output
    assert "another split" not in output
    assert "another file name" not in output
    assert whole_sets([*splits, read_dataset(cvat, "default")]) == {"default"}


def test_check_of_a_label_studio_export_leads_to_two_splits(
    label_studio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(label_studio)]) == 2
    assert f"sais split {label_studio / 'result.json'}" in capsys.readouterr().err
    assert main(["split", str(label_studio)]) == 0  # the folder is enough
    assert list_splits(label_studio) == ["train", "valid"]
    assert len(read_dataset(label_studio, "train").images) + len(read_dataset(label_studio, "valid").images) == 12


def test_read_dataset_advises_to_split(cvat: Path, label_studio: Path, shapes: Path) -> None:
    with pytest.raises(InputError, match=r"Available splits: default\. Split annotations/instances_default\.json"):
        read_dataset(cvat, "train")
    with pytest.raises(InputError, match=r"Split result\.json into train and valid: sais split "):
        read_dataset(label_studio, "train")
    with pytest.raises(InputError, match=r"Available splits: train, valid\.$"):
        read_dataset(shapes, "test")


def test_describe_remedy_names_what_a_folder_contains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels").mkdir()
    for name in ("a.jpg", "b.JPG", "labels/a.txt", ".hidden/c.png", "notes.json", "tasks.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("[]" if name == "tasks.json" else "{}")
    assert find_coco_files(tmp_path) == []
    assert describe_contents(tmp_path) == "It contains no COCO JSON, but 2 .jpg and 2 .json and 1 .txt"
    assert main(["check", str(tmp_path)]) == 2
    assert "2 .jpg and 2 .json and 1 .txt. Export the labels as COCO JSON" in capsys.readouterr().err
    for name in ("first", "second"):
        (tmp_path / f"{name}.json").write_text('{"images": [], "annotations": []}')
    assert main(["check", str(tmp_path)]) == 2
    assert "COCO files: first.json, second.json. Rename them to annotations/train.json" in capsys.readouterr().err
    assert main(["split", str(tmp_path)]) == 2
    assert "several COCO files" in capsys.readouterr().err
