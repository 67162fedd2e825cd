"""File names of COCO that lead outside of the data folder: no such file is read unless the option asks for it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sais.cli import main
from sais.data.formats import notes, read_dataset, read_dataset_files
from sais.data.options import DataOptions
from sais.data.paths import DataPaths
from sais.errors import InputError
from tests.data.formats.coco_samples import make_document, write_split

FORMS = {
    "parent": "../../secret/s.png",
    "absolute": "{}/secret/s.png",
    "through a folder": "x/../../../secret/s.png",
    "parent of a link": "link/../s.png",
}
OUTSIDE = DataOptions(outside_images=True)


def write_data(folder: Path, name: str) -> Path:
    """Write a data set of three images, the second of which has a name that leads to another folder."""
    document = make_document(3)
    write_split(folder / "data", "train", document)
    (folder / "secret" / "inner").mkdir(parents=True)
    Image.new("RGB", (128, 96)).save(folder / "secret" / "s.png")
    os.symlink(folder / "secret" / "inner", folder / "data" / "images" / "link")
    document["images"][1]["file_name"] = name.format(folder)
    (folder / "data" / "annotations" / "train.json").write_text(json.dumps(document))
    return folder / "data"


_OPENED: list[str] = []
"""The real paths of the files that are opened, while a test uses the fixture."""


@pytest.fixture(scope="module")
def watch() -> dict[str, bool]:
    """Return a switch that adds each opened file to `_OPENED`; a hook cannot be removed."""
    switch = {"on": False}

    def hook(event: str, arguments: Any) -> None:
        if switch["on"] and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            switch["on"] = False
            _OPENED.append(os.path.realpath(arguments[0]))
            switch["on"] = True

    sys.addaudithook(hook)
    return switch


@pytest.fixture
def opened(watch: dict[str, bool]) -> Iterator[list[str]]:
    """The real paths of the files that are opened during a test."""
    _OPENED.clear()
    watch["on"] = True
    yield _OPENED
    watch["on"] = False


@pytest.mark.parametrize("name", FORMS.values(), ids=FORMS)
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str, opened: list[str]) -> None:
    folder = write_data(tmp_path, name)
    opened.clear()
    problems: dict[str, list[str]] = {}
    split = read_dataset(folder, "train", problems=problems)
    for record in split.images:
        record.path.exists()
    assert not [path for path in opened if path.startswith(str(tmp_path / "secret"))]
    assert all(str(record.path.resolve()).startswith(str(folder)) for record in split.images)
    assert split.notes == {notes.MISSING_FILES: 1}
    assert not problems
    is_named = "data option outside_images" in split.examples[notes.MISSING_FILES][0]
    assert is_named == (name != FORMS["parent of a link"])  # which is in the data folder
    assert not any(record.path.exists() for record in split.images[1:2])


def test_a_data_set_whose_names_all_lead_outside_is_refused(tmp_path: Path) -> None:
    folder = write_data(tmp_path, FORMS["parent"])
    path = folder / "annotations" / "train.json"
    document = json.loads(path.read_text())
    for entry in document["images"]:
        entry["file_name"] = FORMS["parent"]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"are not in .* the data option outside_images also reads files outside of"):
        read_dataset(folder, "train")


@pytest.mark.parametrize("form", ["parent", "absolute", "through a folder"])
def test_names_that_lead_outside_are_followed_on_request(tmp_path: Path, form: str) -> None:
    folder = write_data(tmp_path, FORMS[form])
    (folder / "images" / "x").mkdir()
    expected = (tmp_path / "secret" / "s.png").resolve()
    splits = [
        read_dataset(folder, "train", options=OUTSIDE),
        read_dataset_files(folder / "annotations/train.json", folder / "images", options=OUTSIDE),
        DataPaths(folder, outside_images=True).read_train(),
    ]
    for split in splits:
        assert split.images[1].path.resolve() == expected
        assert split.notes == {}


def test_names_that_stay_inside_are_read(tmp_path: Path) -> None:
    folder = write_data(tmp_path, "../images/./1.png")
    assert read_dataset(folder, "train").images[1].path == folder / "images" / "1.png"
    document = json.loads((folder / "annotations/train.json").read_text())
    document["images"][1]["file_name"] = str(folder / "images" / "1.png")
    (folder / "annotations/train.json").write_text(json.dumps(document))
    split = read_dataset(folder, "train")
    assert (split.images[1].path, split.notes) == (folder / "images" / "1.png", {})


def test_links_in_the_data_folder_are_followed(tmp_path: Path) -> None:
    folder = write_data(tmp_path, "1.png")
    (folder / "images" / "1.png").unlink()
    os.symlink(tmp_path / "secret" / "s.png", folder / "images" / "1.png")
    assert read_dataset(folder, "train").images[1].read().shape == (96, 128, 3)


def test_images_without_a_size_are_not_opened_outside(tmp_path: Path, opened: list[str]) -> None:
    folder = write_data(tmp_path, FORMS["absolute"])
    path = folder / "annotations" / "train.json"
    document = json.loads(path.read_text())
    for entry in document["images"]:
        entry.pop("width")
    path.write_text(json.dumps(document))
    opened.clear()
    assert main(["split", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert str(path) in opened
    assert not [name for name in opened if name.startswith(str(tmp_path / "secret"))]


def test_commands_name_and_have_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_data(tmp_path, FORMS["parent"])
    assert main(["convert", str(folder), str(tmp_path / "out"), "--to", "yolo"]) == 0
    assert "train: 2 images (1 left out)" in capsys.readouterr().out
    assert main(["convert", str(folder), str(tmp_path / "out"), "--to", "yolo", "--outside-images"]) == 0
    assert len(list((tmp_path / "out" / "images" / "train").iterdir())) == 3
