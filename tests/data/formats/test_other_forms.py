"""The same data set in other forms has the same objects in every format.

Text files with a byte order mark, other line ends or compressed; names in another Unicode form; images turned by EXIF.
"""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.data.formats import list_splits, read_dataset
from sais.data.formats import notes as kinds
from tests.data.formats.label_samples import (
    SIZE,
    SPLITS,
    objects,
    write_cityscapes,
    write_coco,
    write_datumaro,
    write_labelme,
    write_masks,
    write_panoptic,
    write_voc,
    write_xml_files,
    write_yolo,
)

WRITERS: dict[str, Callable[[Path], Path]] = {
    "coco": write_coco,
    "yolo": write_yolo,
    "yolo list": lambda folder: write_yolo(folder, "list"),
    "labelme": write_labelme,
    "datumaro": write_datumaro,
    "voc": write_voc,
    "xml": write_xml_files,
    "cityscapes": write_cityscapes,
    "panoptic": write_panoptic,
    "masks": write_masks,
}
TEXTS = (".json", ".txt", ".yaml", ".xml")
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "line ends of Windows": lambda content: content.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WRITERS)
def test_text_files_in_other_forms_have_the_same_objects(tmp_path: Path, name: str, form: str) -> None:
    folder = WRITERS[name](tmp_path / "data")
    expected = {split: objects(read_dataset(folder, split)) for split in SPLITS}
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in TEXTS]
    assert files
    for path in files:
        path.write_bytes(FORMS[form](path.read_bytes()))
    assert {split: objects(read_dataset(folder, split)) for split in SPLITS} == expected


@pytest.mark.parametrize("place", ["annotations/{}.json.gz", "annotations/instances_{}2017.json.gz", "{}.json.gz"])
def test_compressed_coco_files_are_found(tmp_path: Path, place: str) -> None:
    folder = write_coco(tmp_path)
    expected = {split: objects(read_dataset(folder, split)) for split in SPLITS}
    for split in SPLITS:
        path = folder / "annotations" / f"{split}.json"
        (folder / place.format(split)).write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert {split: objects(read_dataset(folder, split)) for split in SPLITS} == expected
    assert [name.removesuffix("2017") for name in list_splits(folder)] == list(SPLITS)


def test_a_compressed_file_of_all_images_is_split_by_a_draw(tmp_path: Path) -> None:
    folder = write_coco(tmp_path)
    (folder / "annotations" / "valid.json").unlink()
    content = gzip.compress((folder / "annotations" / "train.json").read_bytes())
    (folder / "annotations" / "train.json").unlink()
    (folder / "result.json.gz").write_bytes(content)
    assert list_splits(folder) == ["train", "valid"]
    assert read_dataset(folder, "train").notes[kinds.DRAWN] == len(read_dataset(folder, "train").images)


@pytest.mark.parametrize("name", ["coco", "labelme", "datumaro", "xml", "yolo"])
def test_images_of_another_unicode_form_and_suffix_are_found(tmp_path: Path, name: str) -> None:
    """Archives from macOS have decomposed names, and tools write the suffix of the file that they were given."""
    folder = WRITERS[name](tmp_path / "data")
    expected = {stem: rows for split in SPLITS for stem, rows in objects(read_dataset(folder, split)).items()}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".yaml"):
            path.write_text(path.read_text().replace("train_", "tr\u00e4in_").replace("valid_", "v\u00e4lid_"))
    for path in sorted(folder.rglob("*_*")):
        form = "NFD" if path.suffix == ".png" else "NFC"
        stem = path.stem.replace("train_", "tr\u00e4in_").replace("valid_", "v\u00e4lid_")
        suffix = ".PNG" if path.suffix == ".png" and name != "labelme" else path.suffix
        path.rename(path.with_name(unicodedata.normalize(form, stem) + suffix))
    found = {stem: rows for split in SPLITS for stem, rows in objects(read_dataset(folder, split)).items()}
    plain = {unicodedata.normalize("NFC", stem).replace("\u00e4", "a"): rows for stem, rows in found.items()}
    assert plain == expected


@pytest.mark.parametrize("name", WRITERS)
def test_images_that_exif_turns_have_the_same_objects(tmp_path: Path, name: str) -> None:
    """Tools label the upright image, whose size is that of the labels; the stored pixels are turned by a quarter."""
    folder = WRITERS[name](tmp_path / "data")
    splits = {split: read_dataset(folder, split) for split in SPLITS}
    expected = {split: (objects(found), [record.read() for record in found.images]) for split, found in splits.items()}
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in {record.path for found in splits.values() for record in found.images}:
        with Image.open(path) as image:
            turned = image.transpose(Image.Transpose.ROTATE_90)
        turned.save(path, exif=exif)
    for split, (rows, images) in expected.items():
        found = read_dataset(folder, split)
        assert objects(found) == rows
        assert found.notes == splits[split].notes
        for record, pixels in zip(found.images, images, strict=True):
            assert record.size == SIZE
            np.testing.assert_array_equal(record.read(), pixels)
