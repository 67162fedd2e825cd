"""Stratified split of a COCO file: completeness, class distribution, the command, invalid input."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais import cli
from sais.data.formats import list_splits, read_dataset
from sais.data.split import split_document
from sais.data.synthetic import write_shapes
from sais.errors import InputError
from tests.data.formats.coco_samples import make_document, write_split


def document(count: int, seed: int = 0) -> dict[str, Any]:
    """Return images with up to three objects: the first class in every image, the last in a tenth of them."""
    random = np.random.default_rng(seed)
    annotations: list[dict[str, int]] = []
    for image_id in range(count):
        for category in (1, *([2] * int(random.integers(0, 2))), *([7] * (image_id % 10 == 0))):
            annotations.append({"id": len(annotations), "image_id": image_id, "category_id": category})
    categories = [{"id": number, "name": str(number)} for number in (1, 2, 7)]
    images = [{"id": image_id, "file_name": f"{image_id}.jpg"} for image_id in range(count)]
    return {"info": "info text", "images": images, "annotations": annotations, "categories": categories}


@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 0.999])
def test_split_document_assigns_each_image_with_its_objects_to_one_part(fraction: float) -> None:
    original = document(40)
    parts = split_document(original, fraction, 0)
    assert len(parts[1]["images"]) == min(max(1, round(fraction * 40)), 39)
    for key in ("images", "annotations"):
        ids = [item["id"] for part in parts for item in part[key]]
        assert sorted(ids) == [item["id"] for item in original[key]]
    for part in parts:
        assert (part["info"], part["categories"]) == ("info text", original["categories"])
        images = {image["id"] for image in part["images"]}
        assert all(item["image_id"] in images for item in part["annotations"])
    assert original == document(40)


def test_split_document_distributes_every_class() -> None:
    """Split a class of ten objects in a hundred images: a fifth is two, whichever images are drawn."""
    chosen = set()
    for seed in range(5):
        valid = split_document(document(100, 1), 0.2, seed)[1]
        assert sum(item["category_id"] == 7 for item in valid["annotations"]) == 2
        chosen.add(tuple(image["id"] for image in valid["images"]))
        assert split_document(document(100, 1), 0.2, seed)[1] == valid
    assert len(chosen) == 5


def test_split_document_without_annotations_and_with_one_image() -> None:
    bare = document(3)
    del bare["annotations"]
    assert [sorted(part) for part in split_document(bare, 0.5, 0)] == [["categories", "images", "info"]] * 2
    with pytest.raises(InputError):
        split_document(document(1), 0.5, 0)


def test_split_document_with_a_test_part() -> None:
    """Three parts share the images and a class of ten objects as the fractions ask for."""
    train, valid, test = split_document(document(100, 1), 0.2, 0, 0.3)
    images = [{image["id"] for image in part["images"]} for part in (train, valid, test)]
    assert [len(part) for part in images] == [50, 20, 30]
    assert set.union(*images) == set(range(100))
    rare = [sum(item["category_id"] == 7 for item in part["annotations"]) for part in (train, valid, test)]
    assert rare == [5, 2, 3]
    with pytest.raises(InputError, match="fewer images than parts"):
        split_document(document(2), 0.4, 0, 0.4)


def test_split_command_writes_both_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "mine"
    write_shapes(data, train=12, valid=1, size=(64, 64))
    file = data / "annotations/all.json"
    (data / "annotations/valid.json").unlink()
    (data / "annotations/train.json").rename(file)
    for path in (data / "images/train").iterdir():
        path.rename(data / "images" / path.name)
    before = file.read_bytes()
    assert cli.main(["split", str(file), "--valid", "0.25"]) == 0
    output = capsys.readouterr().out
    assert f"{data / 'annotations/train.json'}: 9 images" in output
    assert f"next: sais doctor {data}" in output
    train, valid = read_dataset(data, "train"), read_dataset(data, "valid")
    assert (len(train.images), len(valid.images)) == (9, 3)
    assert train.class_names == valid.class_names
    assert file.read_bytes() == before
    assert cli.main(["split", str(file)]) == 2
    assert "train.json: exists" in capsys.readouterr().err
    elsewhere = tmp_path / "elsewhere"
    assert cli.main(["split", str(file), "--out", str(elsewhere)]) == 0
    assert f"copy or link the images into {elsewhere / 'images'}" in capsys.readouterr().out
    assert len(json.loads((elsewhere / "annotations/valid.json").read_text())["images"]) == 2
    assert not (elsewhere / "annotations/test.json").exists()
    for name in ("train", "valid"):
        (data / f"annotations/{name}.json").unlink()
    assert cli.main(["split", str(file), "--valid", "0.25", "--test", "0.25"]) == 0
    assert [len(read_dataset(data, name).images) for name in list_splits(data)] == [6, 3, 12, 3]
    assert list_splits(data) == ["train", "valid", "all", "test"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.json"], "no such annotation file"),
        (["all.json", "--valid", "20"], "--valid 20: not between 0 and 1"),
        (["all.json", "--valid", "nan"], "--valid nan: not between 0 and 1"),
        (["all.json", "--valid", "0.5", "--test", "0.5"], "--test 0.5: with --valid 0.5, no images are left"),
        (["all.json", "--test", "nan"], "--test nan: "),
        (["all.json"], "not COCO: the key 'images' is missing"),
    ],
)
def test_split_command_rejects_invalid_input(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all.json").write_text('{"categories": []}')
    assert cli.main(["split", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("annotations").exists()


def test_split_document_keeps_entries_of_an_image_together() -> None:
    original = document(20)
    for image in original["images"]:
        image["file_name"] = f"{image['id'] // 2}.jpg"
        image["id"] = str(image["id"])  # annotations refer to numbers
    train, valid = split_document(original, 0.3, 0)
    files = [{image["file_name"] for image in part["images"]} for part in (train, valid)]
    assert not files[0] & files[1]
    assert (len(files[0]), len(files[1])) == (7, 3)
    assert len(train["annotations"]) + len(valid["annotations"]) == len(original["annotations"])


def test_split_command_needs_no_sizes_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = make_document(5)
    path = write_split(tmp_path, "all", document)  # the images are in another folder
    for image in document["images"]:
        del image["height"], image["width"]
    path.write_text(json.dumps(document))
    assert cli.main(["split", str(path)]) == 0
    assert "valid: 1 images, 2 objects of 1 classes" in capsys.readouterr().out
    assert read_dataset(tmp_path, "train").images[0].size == (96, 128)


def write_pairs(folder: Path) -> dict[str, Any]:
    """Write 10 images, each with a near-duplicate of another size and quality, and return their document."""
    document = make_document(20)
    write_split(folder, "all", document)
    (folder / "annotations" / "all.json").rename(folder / "labels.json")
    for i in range(10):
        with Image.open(folder / "images" / f"{i}.png") as image:
            image.resize((80, 60)).resize((128, 96)).save(folder / "images" / f"{i + 10}.png")
    return document


def test_split_keeps_near_duplicates_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With pairs in both splits, the validation images are nearly training images."""
    write_pairs(tmp_path)

    def pairs_apart(*words: str) -> tuple[int, int]:
        assert cli.main(["split", str(tmp_path / "labels.json"), "--overwrite", *words]) == 0
        train, valid = (
            {record.path.stem for record in read_dataset(tmp_path, name).images} for name in ("train", "valid")
        )
        return sum((str(i) in train) != (str(i + 10) in train) for i in range(10)), len(valid)

    assert pairs_apart() == (0, 4)
    assert "20 images are near-duplicates of another one; they are kept in one split" in capsys.readouterr().out
    assert pairs_apart("--no-keep-similar")[0] > 0


def test_split_without_images_reads_the_labels_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path)
    shutil.rmtree(tmp_path / "images")
    assert cli.main(["split", str(tmp_path / "labels.json")]) == 0
    assert "the images are not found" in capsys.readouterr().out


def test_split_document_keeps_groups_together_in_all_parts() -> None:
    original = document(60)
    groups = {image_id: image_id // 3 for image_id in range(60)}
    parts = split_document(original, 0.2, 0, 0.2, groups)
    chosen = [{image["id"] // 3 for image in part["images"]} for part in parts]
    assert [len(part["images"]) for part in parts] == [36, 12, 12]
    assert not chosen[0] & chosen[1]
    assert not chosen[2] & (chosen[0] | chosen[1])


@pytest.mark.parametrize("format", ["coco", "yolo", "labelme", "voc", "masks"])
def test_split_splits_a_data_set_of_any_format_again(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    data, out = tmp_path / "data", tmp_path / "again"
    assert cli.main(["convert", str(shapes), str(data), "--to", format]) == 0
    assert cli.main(["split", str(data)]) == 2
    assert "--out DIR" in capsys.readouterr().err
    words = ["split", str(data), "--out", str(out), "--valid", "0.25", "--test", "0.125", "--no-keep-similar"]
    assert cli.main(words) == 0
    before = [read_dataset(data, name) for name in list_splits(data)]
    after = [read_dataset(out, name) for name in ("train", "valid", "test")]
    assert [len(split.images) for split in after] == [10, 4, 2]
    assert len({record.path for split in after for record in split.images}) == 16
    for split in before:
        assert split.class_names == after[0].class_names

    def count(splits: list[Any]) -> Counter[int]:
        return Counter(a.label for split in splits for record in split.images for a in record.annotations)

    assert count(after) == count(before)
    assert cli.main(["split", str(data), "--out", str(data)]) == 2


def test_split_searches_the_data_folder_and_explains_a_single_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in $SAIS_DATA were not found, and images that are all alike were "fewer images than parts"."""
    with pytest.raises(InputError, match="all images are near-duplicates of each other"):
        split_document(document(4), 0.5, 0, groups=dict.fromkeys(range(4), 1))
    monkeypatch.setenv("SAIS_DATA", str(tmp_path))
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "all.json").write_text(json.dumps(document(10)))
    assert cli.main(["split", "named"]) == 0
    assert (tmp_path / "named" / "annotations" / "valid.json").is_file()
    assert cli.main(["split", "unknown"]) == 2
    assert "unknown: no such data folder, nor in SAIS_DATA" in capsys.readouterr().err
