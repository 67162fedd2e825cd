"""Image files under other names than the annotations write: found where a single file matches, else named."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from sais.data.formats import notes, read_dataset
from sais.errors import InputError
from tests.data.formats.coco_samples import make_document, write_split

NAMES = [f"4f{i}c-caf\u00e9 {i}.png" for i in range(3)]
FORMS: dict[str, Callable[[str], str]] = {
    "backslash": lambda name: "images\\" + name,
    "server": lambda name: "..\\..\\label-studio\\media\\upload\\4\\" + name,
    "query": lambda name: "/data/local-files/?d=" + quote("images/" + name),
    "escapes": quote,
    "url": lambda name: "https://labels.example/media/" + quote(name) + "?token=1",
    "decomposed": lambda name: unicodedata.normalize("NFD", name),
    "upper case": lambda name: name.replace(".png", ".PNG"),
    "another suffix": lambda name: name.replace(".png", ".jpg"),
    "absolute": lambda name: "/home/me/labels/images/" + name,
    "drive": lambda name: "C:\\data\\images\\" + name,
    "project": lambda name: "images\\1/" + name,
    "upload prefix": lambda name: "media/1a2b3c4d-" + name,
}


def write_named(folder: Path, names: list[str]) -> None:
    """Write a training split whose entries have the given names; the files have `NAMES`."""
    document = make_document(len(names))
    for entry, name in zip(document["images"], names, strict=True):
        entry["file_name"] = name
    write_split(folder, "train", document, NAMES)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_names_of_other_tools_are_found_and_counted(tmp_path: Path, form: Callable[[str], str]) -> None:
    write_named(tmp_path, [form(name) for name in NAMES])
    split = read_dataset(tmp_path, "train")
    assert [record.path for record in split.images] == [tmp_path / "images" / name for name in NAMES]
    assert split.notes == {notes.RENAMED_FILES: 3}
    assert split.images[0].read().shape == (96, 128, 3)


def test_exact_names_and_subfolders_are_not_counted(tmp_path: Path) -> None:
    write_named(tmp_path, ["images/" + name for name in NAMES])
    assert read_dataset(tmp_path, "train").notes == {}


def test_a_single_name_in_another_form_is_found(tmp_path: Path) -> None:
    write_named(tmp_path, [NAMES[0], "images\\" + NAMES[1], NAMES[2]])
    split = read_dataset(tmp_path, "train")
    assert split.images[1].path == tmp_path / "images" / NAMES[1]
    assert split.notes == {notes.RENAMED_FILES: 1}


def test_ambiguous_names_are_not_used(tmp_path: Path) -> None:
    write_named(tmp_path, [NAMES[0], NAMES[1], "/elsewhere/c/x.png"])
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir()
        (tmp_path / "images" / folder / "x.png").write_bytes(b"")
    split = read_dataset(tmp_path, "train")
    assert split.notes == {notes.MISSING_FILES: 1}
    (tmp_path / "images" / "c").mkdir()
    (tmp_path / "images" / "c" / "x.png").write_bytes(b"")
    assert read_dataset(tmp_path, "train").images[2].path == tmp_path / "images/c/x.png"


def test_a_missing_image_is_not_taken_from_another_split(tmp_path: Path) -> None:
    document = make_document(3)
    write_split(tmp_path, "train", document)
    (tmp_path / "images" / "train").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.png").rename(tmp_path / "images" / "train" / f"{i}.png")
    (tmp_path / "images" / "valid").mkdir()
    (tmp_path / "images" / "train" / "1.png").rename(tmp_path / "images" / "valid" / "1.png")
    split = read_dataset(tmp_path, "train")
    assert split.notes == {notes.MISSING_FILES: 1}
    assert split.images[1].path == tmp_path / "images" / "train" / "1.png"


def test_the_nearest_file_of_a_missing_image_is_named(tmp_path: Path) -> None:
    write_named(tmp_path, [NAMES[0], "4f1c-cafe 1.png", NAMES[2]])
    split = read_dataset(tmp_path, "train")
    assert split.examples[notes.MISSING_FILES] == (f"4f1c-cafe 1.png (nearest file: {NAMES[1]})",)
    write_named(tmp_path, [f"no-{i}-caf.png" for i in range(3)])
    with pytest.raises(InputError, match=r"images \(no-0-caf\.png \.\.\.\) are not in .*the nearest file is .*caf"):
        read_dataset(tmp_path, "train")
