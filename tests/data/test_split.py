"""One COCO file into two: nothing lost, nothing twice, classes shared out, bad input said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais import cli
from sais.data.formats import read_dataset
from sais.data.split import split_document
from sais.data.synthetic import write_shapes
from sais.errors import SaisError


def document(count: int, seed: int = 0) -> dict[str, Any]:
    """Images with up to three objects: of the first class in every one, of the last in a tenth of them."""
    random = np.random.default_rng(seed)
    annotations: list[dict[str, int]] = []
    for image_id in range(count):
        for category in (1, *([2] * int(random.integers(0, 2))), *([7] * (image_id % 10 == 0))):
            annotations.append({"id": len(annotations), "image_id": image_id, "category_id": category})
    categories = [{"id": number, "name": str(number)} for number in (1, 2, 7)]
    images = [{"id": image_id, "file_name": f"{image_id}.jpg"} for image_id in range(count)]
    return {"info": "kept", "images": images, "annotations": annotations, "categories": categories}


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.999])
def test_every_image_goes_to_one_side_with_its_objects(share: float) -> None:
    whole = document(40)
    parts = split_document(whole, share, 0)
    assert len(parts[1]["images"]) == min(max(1, round(share * 40)), 39)
    for key in ("images", "annotations"):
        ids = [one["id"] for part in parts for one in part[key]]
        assert sorted(ids) == [one["id"] for one in whole[key]]
    for part in parts:
        assert (part["info"], part["categories"]) == ("kept", whole["categories"])
        images = {one["id"] for one in part["images"]}
        assert all(one["image_id"] in images for one in part["annotations"])
    assert whole == document(40)


def test_every_class_is_shared_out() -> None:
    """A rare class, ten objects in a hundred images: a fifth of it is two, whichever images are drawn."""
    chosen = set()
    for seed in range(5):
        valid = split_document(document(100, 1), 0.2, seed)[1]
        assert sum(one["category_id"] == 7 for one in valid["annotations"]) == 2
        chosen.add(tuple(one["id"] for one in valid["images"]))
        assert split_document(document(100, 1), 0.2, seed)[1] == valid
    assert len(chosen) == 5


def test_without_annotations_and_with_one_image() -> None:
    bare = document(3)
    del bare["annotations"]
    assert [sorted(part) for part in split_document(bare, 0.5, 0)] == [["categories", "images", "info"]] * 2
    with pytest.raises(SaisError, match="one image cannot be split"):
        split_document(document(1), 0.5, 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "mine"
    write_shapes(data, train=12, valid=1, size=(64, 64))
    file = data / "annotations/all.json"
    (data / "annotations/valid.json").unlink()
    (data / "annotations/train.json").rename(file)
    for path in (data / "images/train").iterdir():
        path.rename(data / "images" / path.name)
    before = file.read_bytes()
    assert cli.main(["split", str(file), "--valid", "0.25"]) == 0
    said = capsys.readouterr().out
    assert f"{data / 'annotations/train.json'}: 9 images" in said
    assert f"next: sais check {data}" in said
    train, valid = read_dataset(data, "train"), read_dataset(data, "valid")
    assert (len(train.images), len(valid.images)) == (9, 3)
    assert train.class_names == valid.class_names
    assert file.read_bytes() == before
    assert cli.main(["split", str(file)]) == 2
    assert "train.json is there already; choose another --out" in capsys.readouterr().err
    elsewhere = tmp_path / "elsewhere"
    assert cli.main(["split", str(file), "--out", str(elsewhere)]) == 0
    assert f"the images are still to be put into {elsewhere / 'images'}" in capsys.readouterr().out
    assert len(json.loads((elsewhere / "annotations/valid.json").read_text())["images"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.json"], "no such annotation file"),
        (["all.json", "--valid", "20"], "--valid 20: must be between 0 and 1"),
        (["all.json", "--valid", "nan"], "--valid nan: must be between 0 and 1"),
        (["all.json"], "not COCO: the key 'images' is missing"),
    ],
)
def test_bad_input_is_said(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all.json").write_text('{"categories": []}')
    assert cli.main(["split", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("annotations").exists()
