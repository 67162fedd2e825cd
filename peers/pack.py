"""Pack a part of a data set at a small size into one archive, to carry it to a machine without the data.

    python -m peers.pack --data animals --side 320 --images 700 --out animals-320.tar

Images are reduced to a longest side of `--side` pixels and written as JPEG, polygons and boxes are scaled, RLE masks
are resampled. The images of each split are the first of one fixed random order, so that a smaller part is a subset of a
larger one. The archive contains a folder that `sais train --data` reads; it is removed if it is larger than
`--megabytes`.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peers.entry import run_main
from sais.commands.arguments import check_writable, parse
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.paths import DataPaths
from sais.errors import InputError
from sais.io.image_writer import write_image
from sais.io.temporary import temporary_folder
from sais.ops import rle

SPLITS = ("train", "valid")


@dataclass(frozen=True)
class Arguments:
    """Pack a part of a data set at a small size into one archive; see peers/README.md."""

    data: Path
    """Folder of the data set, or its name in $SAIS_DATA."""
    out: Path
    """Archive to write, a .tar file."""
    side: int = 320
    """Longest side of the images in pixels; smaller images keep their size."""
    images: int = 700
    """Maximum number of images of each split."""
    quality: int = 90
    """Quality of the JPEG files, 1 to 100."""
    megabytes: float = 50.0
    """Maximum size of the archive."""


def pack(arguments: Arguments) -> str:
    """Write the archive; returns a line about its content.

    Raises:
        InputError: the data set has no such split, an image cannot be read, or the archive would be too large.
    """
    data = DataPaths(arguments.data)
    train = data.read_train()
    valid = data.read_valid(train.class_names)
    splits = {name: split for name, split in zip(SPLITS, (train, valid), strict=True) if split is not None}
    counts = []
    with temporary_folder() as folder:
        root = folder / arguments.out.stem
        for name, split in splits.items():
            records = random.Random(0).sample(split.images, len(split.images))[: arguments.images]
            document = pack_split(split, records, root / "images" / name, arguments.side, arguments.quality)
            path = root / "annotations" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(document), encoding="utf-8")
            counts.append(f"{len(records)} {name} images")
        with tarfile.open(arguments.out, "w") as archive:
            archive.add(root, root.name)
    size = arguments.out.stat().st_size / 1e6
    if size > arguments.megabytes:
        arguments.out.unlink()
        raise InputError(
            f"{arguments.out}: {size:.1f} MB, more than {arguments.megabytes:g}. Pack fewer or smaller images, or "
            "lower the quality."
        )
    return f"{arguments.out}: {', '.join(counts)}, {size:.1f} MB"


def pack_split(
    split: DatasetSplit, records: Sequence[ImageRecord], folder: Path, side: int, quality: int
) -> dict[str, Any]:
    """Write the reduced images of a split to `folder`, and return their annotations as a COCO document."""
    document: dict[str, Any] = {"images": [], "annotations": []}
    names = zip(split.category_ids, split.class_names, strict=True)
    document["categories"] = [{"id": category_id, "name": name} for category_id, name in names]
    for number, record in enumerate(records, start=1):
        image = record.read()
        reduction = min(1.0, side / max(record.size))
        height, width = (max(1, round(length * reduction)) for length in record.size)
        reduced = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
        path = write_image(folder / f"{number:06d}.jpg", reduced, quality)
        document["images"].append({"id": number, "file_name": path.name, "height": height, "width": width})
        for annotation in record.annotations:
            entry = scale_annotation(annotation, record.size, (height, width))
            ids = {"id": len(document["annotations"]) + 1, "image_id": number}
            document["annotations"].append(ids | entry | {"category_id": split.category_ids[annotation.label]})
    return document


def scale_annotation(annotation: Annotation, size: tuple[int, int], new_size: tuple[int, int]) -> dict[str, Any]:
    """Return an annotation of an image of another size as a COCO entry.

    Args:
        annotation: the object.
        size: (height, width) of its image.
        new_size: (height, width) of the reduced image.
    """
    y, x = (new / old for new, old in zip(new_size, size, strict=True))
    x1, y1, x2, y2 = (float(edge) for edge in annotation.box)
    entry = {
        "bbox": [round(value, 2) for value in (x1 * x, y1 * y, (x2 - x1) * x, (y2 - y1) * y)],
        "area": round(annotation.area * x * y, 2),
        "iscrowd": int(annotation.crowd),
    }
    if isinstance(annotation.segmentation, list):
        entry["segmentation"] = [
            [round(value * (y if i % 2 else x), 2) for i, value in enumerate(polygon)]
            for polygon in annotation.segmentation
        ]
    elif annotation.segmentation is not None:
        mask = Image.fromarray(rle.decode(annotation.segmentation).astype(np.float32))
        reduced = mask.resize((new_size[1], new_size[0]), Image.Resampling.BILINEAR)
        entry["segmentation"] = rle.encode(np.asarray(reduced) >= 0.5)
    return entry


def main(argv: Sequence[str]) -> int:
    """Run `python -m peers.pack`."""
    arguments = parse(Arguments, argv, "python -m peers.pack")
    check_writable(arguments.out.parent)
    print(pack(arguments))
    return 0


if __name__ == "__main__":
    run_main(main)
