"""Cases of labels in formats other than COCO: a data set is converted, and one of its label files is changed."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from peers.fuzz.mutation import json_text, mutate_bytes, mutate_json
from peers.fuzz.oracle import Case, run_command
from peers.fuzz.samples import Samples

FORMATS = ("yolo", "labelme", "voc", "masks", "cityscapes")
_IMAGE_FOLDERS = ("images", "JPEGImages", "leftImg8bit")


def label_files(rng: Random, samples: Samples, folder: Path) -> Case:
    """Labels of other formats: `sais check`, `sais split`, and the ground truth of every image."""
    from sais.data.convert import convert

    data, format = folder / "data", rng.choice(FORMATS)
    convert(samples.data, data, format)
    files = [path for path in sorted(data.rglob("*")) if path.is_file() and not _is_image(path.relative_to(data))]
    path = rng.choice(files)
    content = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_bytes(json_text(rng, mutate_json(rng, json.loads(content))))
    else:
        path.write_bytes(mutate_bytes(rng, content))
    if rng.random() < 0.5:
        return Case(lambda: _read_labels(data), f"read_dataset of {format}, {path.name}")
    argv = rng.choice(
        (["check", str(data)], ["check", str(data), "--format", format], ["split", str(data), "--out", "halves"])
    )
    return Case(lambda: run_command(argv), f"sais {' '.join(argv)}: {format}, {path.name}")


def _is_image(path: Path) -> bool:
    """Return whether a file of a data set is an image, by its path in the data set."""
    return path.suffix in (".jpg", ".jpeg") or (path.suffix == ".png" and bool({*path.parts} & {*_IMAGE_FOLDERS}))


def _read_labels(data: Path) -> None:
    from sais.data.dataset import read_sample
    from sais.data.formats import list_splits, read_dataset

    for name in list_splits(data) or ["train"]:
        for record in read_dataset(data, name).images:
            read_sample(record)
