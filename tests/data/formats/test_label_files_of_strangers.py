"""Damaged label files of every format: an error in one line, or a split that can be trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sais.data.dataset import read_sample
from sais.data.formats import list_splits, read_dataset
from sais.data.split_checks import check_split
from sais.errors import SaisError
from tests.data.formats.label_samples import (
    write_bowl,
    write_cityscapes,
    write_coco,
    write_datumaro,
    write_image,
    write_labelme,
    write_masks,
    write_panoptic,
    write_voc,
    write_xml_files,
    write_yolo,
)
from tests.data.formats.test_id_formats import OBJECT, XML, write_xml

WRITERS: dict[str, Callable[[Path], Path]] = {
    "yolo": write_yolo,
    "yolo list": lambda folder: write_yolo(folder, "list"),
    "labelme": write_labelme,
    "labelme masks": lambda folder: write_labelme(folder, with_masks=True),
    "voc": write_voc,
    "voc xml": lambda folder: write_boxes(folder),
    "cityscapes": write_cityscapes,
    "panoptic": write_panoptic,
    "masks": write_masks,
    "bowl": write_bowl,
    "coco": write_coco,
    "coco masks": lambda folder: write_coco(folder, with_masks=True),
    "datumaro": write_datumaro,
    "datumaro masks": lambda folder: write_datumaro(folder, with_masks=True),
    "xml polygons": lambda folder: write_xml_files(folder, "{0}/annotations/{1}.xml"),
}
TOKENS = (
    *(b"nan", b"-1", b"1e309", b"99999999999999999999", b"[]", b"null", b"{}", b'"', b"", b"\0", b"\xff", b"../../x"),
    *(b"\xef\xbb\xbf", b"[" * 300, b"0.5", b"true", b"\n", b" ", b":", b"<", b"&", b"*a", b"1" * 5000),
)


def write_boxes(folder: Path) -> Path:
    """Write a VOC data set of two images with boxes only."""
    write_xml(folder, XML.format(OBJECT.format("cat", 5) + OBJECT.format("ape", 7)))
    write_image(folder / "JPEGImages" / "b.png")
    (folder / "Annotations" / "b.xml").write_text(XML.format(OBJECT.format("cat", 5)))
    return folder


def mutate(content: bytes, random: np.random.Generator) -> bytes:
    """Return a file with one to three changes: tokens, numbers, lost, repeated or flipped bytes."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        start = int(random.integers(0, len(data) + 1))
        end = min(len(data), start + int(random.integers(1, 12)))
        token = TOKENS[random.integers(len(TOKENS))]
        match int(random.integers(6)):
            case 0:
                data[start:end] = token
            case 1:
                data[start:start] = token
            case 2:
                del data[start : start + int(random.integers(1, max(2, len(data) // 2)))]
            case 3:
                data[start:start] = data[start:end] * 3
            case 4:
                data[start:end] = random.bytes(end - start)
            case _:
                digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
                if digits:
                    place = digits[random.integers(len(digits))]
                    data[place : place + 1] = token
    return bytes(data)


def label_files(folder: Path) -> list[Path]:
    """Return the files of a data set that are labels: all but the images."""
    images = ("images", "JPEGImages", "leftImg8bit")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [p for p in files if not (p.suffix == ".png" and any(part in images for part in p.parts))]


def read_everything(folder: Path) -> str:
    """Return "read" if all splits of a folder can be read, with their samples, or else the message of the error."""
    try:
        for name in list_splits(folder) or ["train"]:
            split = read_dataset(folder, name)
            check_split(split)
            for record in split.images:
                read_sample(record)
    except SaisError as error:
        return str(error)
    return "read"


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_damaged_label_files_give_an_error_or_a_split(tmp_path: Path, name: str) -> None:
    folder = WRITERS[name](tmp_path / "data")
    files = label_files(folder)
    assert files
    random = np.random.default_rng(list(name.encode()))
    outcomes = set()
    for _ in range(200):
        file = files[random.integers(len(files))]
        content = file.read_bytes()
        file.write_bytes(mutate(content, random))
        outcomes.add(read_everything(folder))
        file.write_bytes(content)
    assert "read" in outcomes
    assert not [message for message in outcomes if "\n" in message]
    assert len(outcomes) > 5
