"""Data sets in formats that sais reads but does not write, made of another data set, and counts of their entries.

Accounting: every entry of a label file is an object, or part of one, or is counted in a note; an entry that is neither
is lost silently.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sais.data.annotations import Annotation, DatasetSplit
from sais.data.formats import notes as kinds
from sais.data.formats import read_dataset
from sais.data.objects import UNKNOWN_CLASS

SPLITS = ("train", "valid")
DROPPED = (
    *(kinds.NO_AREA, kinds.OUTSIDE, kinds.NO_SHAPE, kinds.NO_AREA_SHAPE, kinds.UNKNOWN_SHAPE, kinds.ORPHANS),
    *(kinds.REPEATED_ENTRIES, kinds.NO_CLASS, UNKNOWN_CLASS),
)
"""Notes of entries that are not among the objects of a split."""


def write_datumaro(data: Path, folder: Path) -> None:
    """Write a data set as Datumaro."""
    (folder / "annotations").mkdir(parents=True)
    for split in SPLITS:
        dataset = _copy_images(data, split, folder / "images" / split)
        labels = [{"name": name, "parent": "", "attributes": []} for name in dataset.class_names]
        items: list[dict[str, Any]] = []
        for record in dataset.images:
            entries = [_datumaro_entry(annotation) for annotation in record.annotations]
            image = {"path": record.name, "size": list(record.size)}
            items.append({"id": record.path.stem, "annotations": entries, "image": image})
        document = {"dm_format_version": "1.0", "categories": {"label": {"labels": labels}}, "items": items}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(document))


def write_xml(data: Path, folder: Path) -> None:
    """Write a data set as XML files with polygons next to the images, as Roboflow does."""
    for split in SPLITS:
        dataset = _copy_images(data, split, folder / split)
        for record in dataset.images:
            texts = []
            for annotation in record.annotations:
                edges = zip(("xmin", "ymin", "xmax", "ymax"), annotation.box.tolist(), strict=True)
                box = "".join(f"<{name}>{value:.2f}</{name}>" for name, value in edges)
                parts = f"<polygon>{_points(_outline(annotation))}</polygon>" if annotation.id % 3 else ""
                name = dataset.class_names[annotation.label]
                texts.append(f"<object><name>{name}</name><bndbox>{box}</bndbox>{parts}</object>")
            (folder / split / f"{record.path.stem}.xml").write_text(f"<annotation>{''.join(texts)}</annotation>")


def write_panoptic(data: Path, folder: Path) -> None:
    """Write a data set as COCO panoptic."""
    for split in SPLITS:
        dataset = _copy_images(data, split, folder / "images" / split)
        place = folder / "annotations" / f"panoptic_{split}"
        place.mkdir(parents=True)
        images, annotations = [], []
        for record in dataset.images:
            ids = np.zeros(record.size, np.uint8)
            regions = []
            for number, annotation in enumerate(record.annotations, 1):
                x1, y1, x2, y2 = annotation.box.astype(int).tolist()
                ids[y1:y2, x1:x2] = number
                regions.append({"id": number, "category_id": annotation.label + 1, "iscrowd": 0})
            Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], 2)).save(place / f"{record.path.stem}.png")
            images.append({"id": record.id, "file_name": record.name, "height": ids.shape[0], "width": ids.shape[1]})
            file = f"{record.path.stem}.png"
            annotations.append({"image_id": record.id, "file_name": file, "segments_info": regions})
        categories = [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(dataset.class_names, 1)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(document))


def lost_entries(format: str, data: Path, split: DatasetSplit) -> int:
    """Return how many entries of the label files of a split are neither objects nor counted.

    Args:
        format: Name of the format; entries are counted for coco, yolo, labelme and datumaro.
        data: Folder of the data set.
        split: The split as it was read, without problems.
    """
    if format == "coco":
        document = json.loads((data / "annotations" / f"{split.name}.json").read_bytes())
        entries = len(document.get("annotations", []))
    elif format == "datumaro":
        document = json.loads((data / "annotations" / f"{split.name}.json").read_bytes())
        entries = sum(_count_groups(item.get("annotations", []), "label_id", "group") for item in document["items"])
    elif format == "labelme":
        texts = [path.read_bytes() for path in (data / split.name).rglob("*.json")]
        documents = [json.loads(text.decode("utf-8-sig")) for text in texts]
        shapes = [document["shapes"] for document in documents if isinstance(document, dict) and "shapes" in document]
        entries = sum(_count_groups(found, "label", "group_id") for found in shapes)
    elif format == "yolo":
        places = [data / "labels" / record.path.relative_to(data / "images") for record in split.images]
        labels = [path for place in places if (path := place.with_suffix(".txt")).is_file()]
        lines = [line for path in labels for line in path.read_bytes().decode("utf-8-sig").splitlines()]
        entries = sum(bool(line.strip()) for line in lines)
    else:
        return 0
    objects = sum(len(record.annotations) for record in split.images)
    return max(0, entries - objects - sum(split.notes.get(kind, 0) for kind in DROPPED))


def _count_groups(entries: list[Any], label: str, group: str) -> int:
    """Return the number of objects that entries are parts of."""
    keys = set()
    for position, entry in enumerate(entries):
        number = entry.get(group)
        is_group = isinstance(number, (int, str)) and number not in ("", 0) and not isinstance(number, bool)
        keys.add((str(entry.get(label)).strip(), number) if is_group else position)
    return len(keys)


def _datumaro_entry(annotation: Annotation) -> dict[str, Any]:
    """Return an annotation of Datumaro: masks as they are, of every other object the polygon of its box."""
    entry = {"id": annotation.id, "label_id": annotation.label, "group": annotation.id, "attributes": {}}
    if annotation.id % 2 and isinstance(annotation.segmentation, dict):
        return entry | {"type": "mask", "rle": annotation.segmentation}
    return entry | {"type": "polygon", "points": _outline(annotation)}


def _outline(annotation: Annotation) -> list[float]:
    """Return the polygon of the box of an annotation."""
    x1, y1, x2, y2 = annotation.box.tolist()
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def _points(part: list[float]) -> str:
    pairs = np.array(part).reshape(-1, 2).tolist()
    return "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(pairs, 1))


def _copy_images(data: Path, split: str, folder: Path) -> DatasetSplit:
    """Copy the images of a split into a folder, and return the split."""
    dataset = read_dataset(data, split)
    folder.mkdir(parents=True)
    for record in dataset.images:
        shutil.copy(record.path, folder)
    return dataset
