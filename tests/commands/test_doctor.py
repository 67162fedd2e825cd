"""`sais doctor`: all findings of all splits, by severity, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais import cli
from sais.data.doctor.kinds import NEVER_FOUND, OTHER_CLASS, UNLABELED
from sais.data.formats import notes
from tests.data.formats.coco_samples import make_document, write_split


def examine(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run `sais doctor` and return its exit code and output."""
    capsys.readouterr()
    code = cli.main(["doctor", *words])
    return code, capsys.readouterr().out


def write_data(folder: Path, train: dict[str, Any], valid: dict[str, Any] | None = None) -> str:
    """Write a training split, and a validation split with its own images; return the folder."""
    write_split(folder, "train", train)
    other = valid or make_document(2)
    for entry in other["images"]:
        entry["file_name"] = f"valid_{entry['file_name']}"
    write_split(folder, "valid", other)
    return str(folder)


def test_doctor_of_healthy_data_finds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = examine(capsys, write_data(tmp_path, make_document()))
    assert code == 0
    assert output.count("no problems found") == 2


def test_doctor_of_a_held_out_split_recommends_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path, make_document())
    assert "recommended: sais train" in examine(capsys, data)[1]
    assert "recommended" not in examine(capsys, data, "--split", "valid")[1]


def test_doctor_names_an_unknown_class_of_a_training_split_with_a_year(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_split(tmp_path, "train2017", make_document())
    code, output = examine(capsys, str(tmp_path), "--classes", "nothing")
    assert code == 2
    assert "train2017: no class 'nothing'" in output


def test_doctor_lists_errors_warnings_and_notes_of_every_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = make_document()
    train["annotations"][0]["bbox"] = [1, 2]
    train["annotations"][1]["bbox"] = [float("nan"), 2, 3, 4]
    train["annotations"][2].pop("area")
    train["annotations"][3]["iscrowd"] = 1
    data = write_data(tmp_path, train)
    code, output = examine(capsys, data)
    assert code == 2
    assert "ERROR: malformed boxes: 2" in output
    assert "annotation 1: its bbox is [1, 2]" in output
    assert "annotation 2: its bbox contains nan" in output
    assert "WARNING: crowds: 1" in output
    assert "--crowds-as-objects reads them as objects" in output
    assert "NOTE: areas computed: 1\n    1.png: annotation 3" in output
    assert output.index("ERROR") < output.index("WARNING") < output.index("NOTE")
    assert "== valid" in output


def test_doctor_continues_after_a_broken_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path, make_document())
    (tmp_path / "annotations/train.json").write_text('{"images": []}')
    code, output = examine(capsys, data)
    assert code == 2
    assert "ERROR: " in output.partition("== valid")[0]
    assert "'categories' is missing" in output
    assert "valid: 2 images" in output


def test_doctor_exits_with_0_for_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = make_document()
    for annotation in train["annotations"]:
        annotation["bbox"] = [0, 0, 128, 96]
    code, output = examine(capsys, write_data(tmp_path, train))
    assert code == 0
    assert "WARNING: boxes of the whole image replaced" in output


def test_doctor_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = make_document()
    for annotation in train["annotations"][:7]:
        annotation["segmentation"] = "text"
    code, output = examine(capsys, write_data(tmp_path, train), "--json")
    report = json.loads(output)
    assert code == 2
    assert (report["ok"], report["splits"]["train"]["ok"], report["splits"]["valid"]["ok"]) == (False, False, True)
    finding = report["splits"]["train"]["findings"][0]
    assert (finding["severity"], finding["kind"], finding["count"]) == ("ERROR", "malformed masks", 7)
    assert len(finding["examples"]) == 7
    assert report["recommendation"]["recipe"] == "sais-lite"
    assert sum(report["splits"]["valid"]["object_sizes"]["image"].values()) == 4
    assert report["splits"]["valid"]["classes"] == {"part": 4}


def test_doctor_finds_images_in_two_entries_and_two_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = make_document()
    train["images"].append(train["images"][0] | {"id": 50})
    write_split(tmp_path, "train", train)
    (tmp_path / "images/copy.png").write_bytes((tmp_path / "images/3.png").read_bytes())
    valid = make_document(2)
    valid["images"][1]["file_name"] = "copy.png"
    (tmp_path / "annotations/valid.json").write_text(json.dumps(valid))
    code, output = examine(capsys, str(tmp_path))
    assert code == 0
    assert "image files listed more than once (--merge-duplicate-images merges their objects): 1" in output
    assert "images that are in another split as well: 2" in output
    assert "copy.png: also in train" in output
    assert "image files listed more than once" not in examine(capsys, str(tmp_path), "--merge-duplicate-images")[1]


def test_doctor_finds_objects_without_pixels_and_odd_areas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = make_document()
    train["annotations"][0]["segmentation"] = [[10, 20, 50, 50, 10, 20, 50, 50]]
    train["annotations"][1]["area"] = 12000
    train["annotations"][2].update(bbox=[1, 1, 126, 94])
    output = examine(capsys, write_data(tmp_path, train))[1]
    assert "WARNING: empty masks: 1" in output
    assert "WARNING: areas larger than the box: 1" in output
    assert "WARNING: boxes that do not match their mask (IoU with the box of the mask below 0.7): 1" in output


def test_doctor_reports_frames_of_images_turned_by_exif(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path, make_document())
    for name, orientation in (("0.png", 6), ("1.png", 3), ("2.png", 8)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = np.random.default_rng(orientation).integers(0, 255, (96, 128, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name, exif=exif)
    for words in ((), ("--no-decode",)):
        code, output = examine(capsys, data, *words)
        assert code == 0
        assert "images turned by EXIF but annotated as stored (used as stored): 2" in output
        assert "images turned by EXIF whose size does not show how they are annotated (used upright): 1" in output


@pytest.mark.parametrize(
    ("names", "code", "text"),
    [
        (["part"], 0, "WARNING: categories of train missing here: bolt"),
        (["part", "nut"], 2, "ERROR: categories of train missing here: bolt; add them"),
        (["part", "bolt", "nut"], 0, "WARNING: categories missing in train, not evaluated: nut"),
        (["bolt ", "part"], 0, "NOTE: category names with blanks at their ends stripped: 1"),
    ],
)
def test_doctor_compares_categories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], code: int, text: str
) -> None:
    train, valid = make_document(), make_document(2)
    train["categories"].append({"id": 2, "name": "bolt"})
    valid["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    assert examine(capsys, write_data(tmp_path, train, valid))[0] == code
    assert text in examine(capsys, str(tmp_path))[1]


def test_doctor_reads_an_annotation_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_split(tmp_path, "labels", make_document())
    code, output = examine(capsys, str(path), "--image-folder", str(tmp_path / "images"))
    assert code == 0
    assert "labels: 6 images, 12 objects" in output


def test_check_is_the_former_name_of_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path, make_document())
    assert cli.main(["check", data]) == 0
    captured = capsys.readouterr()
    assert "no problems found" in captured.out
    assert "the command check is now called doctor" in captured.err


def test_doctor_prints_classes_of_all_splits_and_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    valid = make_document(2)
    valid["categories"].append({"id": 2, "name": "bolt"})
    valid["annotations"][0]["category_id"] = 2
    output = examine(capsys, write_data(tmp_path, make_document(), valid))[1]
    assert [line.split() for line in output.splitlines() if line.startswith(("class ", "part ", "bolt "))] == [
        ["class", "train", "valid"], ["part", "12", "3"], ["bolt", "-", "1"],
    ]  # fmt: skip
    sizes = {
        line.split(",")[0]: line.split()[-6:] for line in output.splitlines() if line.startswith(("medium", "large"))
    }
    assert sizes["medium"] == ["12", "(100", "%)", "0", "(0", "%)"]  # objects of 30 x 40, in the images
    assert sizes["large"] == ["0", "(0", "%)", "12", "(100", "%)"]  # in the network's input
    assert "objects in an image: median 2, 90 % have at most 2, maximum 2" in output


def test_doctor_exits_with_2_for_warnings_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = make_document()
    train["annotations"][0].update(bbox=[1, 1, 2, 2], segmentation=[[1, 1, 3, 1, 3, 3, 1, 3]], area=4)
    data = write_data(tmp_path, train)
    assert examine(capsys, data)[0] == 0
    assert examine(capsys, data, "--fail-on", "warning")[0] == 2


def test_doctor_fix_writes_a_copy_and_prints_what_it_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = make_document()
    train["annotations"].append(train["annotations"][0] | {"id": 100})
    data = write_data(tmp_path / "data", train)
    (tmp_path / "data/images/3.png").write_bytes(b"no image")
    assert examine(capsys, data)[0] == 2
    code, output = examine(capsys, data, "--fix", str(tmp_path / "fixed"))
    assert code == 0
    assert "train: unreadable images removed: 1; doubled objects removed: 1" in output
    assert "valid: nothing to repair" in output
    code, output = examine(capsys, str(tmp_path / "fixed"))
    assert code == 0
    assert "train: 5 images, 10 objects" in output
    assert output.count("no problems found") == 2
    assert "--fix: cannot be combined" in fix_error(capsys, data, "--no-decode")


def fix_error(capsys: pytest.CaptureFixture[str], data: str, *words: str) -> str:
    """Return the error of `sais doctor --fix` with other options."""
    assert cli.main(["doctor", data, "--fix", "unused", *words]) == 2
    return capsys.readouterr().err


def test_page_of_a_data_set_is_written_and_replaces_no_file_that_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, page = write_data(tmp_path / "data", make_document()), tmp_path / "page.html"
    code, output = examine(capsys, data, "--html", str(page))
    assert code == 0
    assert f"wrote {page}" in output
    text = page.read_text(encoding="utf-8")
    assert "sais train sais-lite" in text
    assert examine(capsys, data, "--html", str(page))[0] == 0  # its own file
    labels, image = tmp_path / "data/annotations/train.json", tmp_path / "data/images/0.png"
    before = labels.read_bytes(), image.read_bytes()
    for words in ([data, "--html", str(labels)], [data, "--html", str(image)], [str(labels), "--html", str(labels)]):
        folder = ["--image-folder", str(image.parent)] if words[0] == str(labels) else []
        assert examine(capsys, *words, *folder, "--overwrite")[0] == 2
    assert (labels.read_bytes(), image.read_bytes()) == before


def test_model_that_is_missing_is_an_error_before_the_images_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sais.data.doctor.check.check_dataset", lambda *_, **__: pytest.fail("images were read"))
    data = write_data(tmp_path / "data", make_document())
    assert cli.main(["doctor", data, "--model", str(tmp_path / "nothing")]) == 2
    assert "no such model" in capsys.readouterr().err


@pytest.mark.slow
def test_findings_of_a_model_are_printed_and_shown(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    words = [str(shapes), "--model", str(trained), "--device", "cpu"]
    code, output = examine(capsys, *words, "--html", str(page), "--split", "valid")
    assert code == 0
    kinds = [kind for kind in (UNLABELED, NEVER_FOUND, OTHER_CLASS) if f"{kind}: " in output]
    assert NEVER_FOUND in kinds  # the model has seen too little
    text = page.read_text(encoding="utf-8")
    assert all(kind in text for kind in kinds)
    findings = json.loads(examine(capsys, *words, "--split", "valid", "--json")[1])["splits"]["valid"]["findings"]
    never = next(finding for finding in findings if finding["kind"] == NEVER_FOUND)
    assert never["severity"] == "NOTE"
    assert len(never["cases"]) == never["count"]


def test_doctor_fix_writes_no_split_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data", make_document())
    for number in range(2):
        (tmp_path / f"data/images/valid_{number}.png").write_bytes(b"no image")
    code, output = examine(capsys, data, "--fix", str(tmp_path / "fixed"))
    assert code == 0
    assert "valid: unreadable images removed: 2; no image is left" in output
    assert [path.name for path in (tmp_path / "fixed/annotations").iterdir()] == ["train.json"]
    for path in (tmp_path / "data/images").iterdir():
        path.write_bytes(b"no image")
    assert cli.main(["doctor", data, "--fix", str(tmp_path / "none")]) == 2
    assert "no image can be used" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_labels_whose_images_are_all_malformed_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They were a traceback: a split without images has no ends of objects."""
    data = write_data(tmp_path, make_document())
    (tmp_path / "annotations/train.json").write_text(json.dumps(make_document() | {"images": [0, 0]}))
    code, output = examine(capsys, data)
    assert code == 2
    assert "ERROR" in output


def test_doctor_warns_of_a_split_without_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was reported, and training on it was recommended."""
    crowds = make_document()
    for annotation in crowds["annotations"]:
        annotation["iscrowd"] = 1
    data = write_data(tmp_path, crowds, make_document(2) | {"annotations": []})
    code, output = examine(capsys, data)
    assert code == 0
    assert output.count("WARNING: no objects, apart from crowds") == 2
    assert "recommended" not in output


def test_doctor_fix_names_the_splits_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The copy lacked them without a word, with exit code 0."""
    data = write_data(tmp_path / "data", make_document())
    (tmp_path / "data" / "annotations" / "valid.json").write_text('{"images": [')
    code, output = examine(capsys, data, "--fix", str(tmp_path / "out"))
    assert code == 2
    assert "valid: cannot be read, so that the copy lacks this split" in output


def test_doctor_names_the_images_of_objects_that_the_reader_drops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the annotation id was named, which no image of the split had any more."""
    document = make_document()
    document["annotations"][0].update(bbox=[4000, 4000, 10, 10], segmentation=[])
    document["annotations"][1].update(bbox=[5, 5, 0, 10], segmentation=[])
    names = {entry["id"]: entry["file_name"] for entry in document["images"]}
    output = examine(capsys, write_data(tmp_path, document), "--split", "train", "--json")[1]
    findings = {finding["kind"]: finding for finding in json.loads(output)["splits"]["train"]["findings"]}
    for kind, annotation in zip((notes.OUTSIDE, notes.NO_AREA), document["annotations"], strict=False):
        name = names[annotation["image_id"]]
        assert findings[kind]["cases"][0]["text"] == f"{name}: annotation {annotation['id']}"
        assert findings[kind]["cases"][0]["image"] == name
