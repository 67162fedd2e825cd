"""Cases of labels in every format: a data set is converted, and one of its label files is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

from peers.fuzz.label_formats import lost_entries, write_datumaro, write_panoptic, write_xml
from peers.fuzz.mutation import json_text, mutate_bytes, mutate_json
from peers.fuzz.oracle import Case, run_command
from peers.fuzz.samples import Samples

WRITTEN: dict[str, Callable[[Path, Path], None]] = {
    "datumaro": write_datumaro,
    "xml": write_xml,
    "panoptic": write_panoptic,
}
"""Formats that sais does not write -> function of the data set and the folder to write to."""
FORMATS = ("coco", "yolo", "labelme", "voc", "masks", "cityscapes", *WRITTEN)
_READ_AS = {"xml": "voc"}
_IMAGE_FOLDERS = ("images", "JPEGImages", "leftImg8bit")


def label_files(rng: Random, samples: Samples, folder: Path) -> Case:
    """Labels of every format: `sais doctor`, `split`, `convert`, and the ground truth of every image."""
    return label_case(rng, samples, folder, rng.choice(FORMATS))


def label_case(rng: Random, samples: Samples, folder: Path, format: str) -> Case:
    """Labels of one format of `FORMATS`, of which one file is changed."""
    from sais.data.convert import convert

    data = folder / "data"
    if format in WRITTEN:
        WRITTEN[format](samples.data, data)
    else:
        convert(samples.data, data, format)
    files = [path for path in sorted(data.rglob("*")) if path.is_file() and not _is_image(path.relative_to(data))]
    path = rng.choice(files)
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_bytes(json_text(rng, mutate_json(rng, json.loads(content))))
    else:
        path.write_bytes(mutate_bytes(rng, content))
    if rng.random() < 0.5:
        return Case(lambda: _read_labels(data, format), f"read_dataset of {format}, {path.name}")
    check = ["doctor", str(data)]
    name = _READ_AS.get(format, format)
    target = rng.choice(("coco", "yolo", "labelme", "masks"))
    argv = rng.choice(
        (
            check,
            [*check, "--format", name],
            [*check, "--html", "page.html"],
            [*check, "--fix", "repaired"],
            ["show", str(data), "--out", "shown"],
            ["split", str(data), "--out", "halves"],
            ["convert", str(data), "converted", "--to", target],
        )
    )
    return Case(lambda: run_command(argv), f"sais {' '.join(argv)}: {format}, {path.name}")


def _is_image(path: Path) -> bool:
    """Return whether a file of a data set is an image, by its path in the data set."""
    is_next_to_labels = path.suffix == ".png" and path.parts[0] in ("train", "valid")
    in_image_folder = path.suffix == ".png" and bool({*path.parts} & {*_IMAGE_FOLDERS})
    return path.suffix in (".jpg", ".jpeg") or is_next_to_labels or in_image_folder


def _read_labels(data: Path, format: str) -> None:
    from sais.data.dataset import read_sample
    from sais.data.formats import list_splits, read_dataset

    for name in list_splits(data) or ["train"]:
        split = read_dataset(data, name)
        lost = lost_entries(format, data, split)
        assert not lost, f"{lost} entries of {name} are lost silently"
        for record in split.images:
            read_sample(record)
