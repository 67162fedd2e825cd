"""Faults of known places in a copy of a data set, to measure what `sais doctor` finds, and what it names wrongly.

The data set is COCO with annotations/train.json, annotations/valid.json and images/SPLIT. Each fault is of another kind
and concerns images of its own, so that each finding is either of a planted fault, of a fault that the healthy data set
has as well, or about something healthy.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from peers.fault_planter import Entry, PlantedFault, Planter
from sais.data.annotations import rasterize_segmentation
from sais.data.doctor import kinds
from sais.data.doctor.check import check_across, check_dataset
from sais.data.doctor.findings import Case, Finding
from sais.data.doctor.report import CheckReport
from sais.data.formats import list_splits, notes, read_dataset
from sais.ops.outlines import crop_shape
from sais.ops.rasterize import CutMask


@dataclass
class FaultCounts:
    """What `sais doctor` has found of planted faults."""

    missed: list[PlantedFault] = field(default_factory=list)
    found: list[PlantedFault] = field(default_factory=list)
    healthy: list[str] = field(default_factory=list)
    """Findings about something healthy that the healthy data set does not have."""


@dataclass
class Measurement:
    """The findings of `sais doctor` on a copy of a data set with planted faults, and their time."""

    counts: FaultCounts
    images: int
    faults: int
    seconds: float
    """Time of the examination of the copy, annotations included."""


def measure(source: Path, folder: Path, seed: int = 0, workers: int = 2) -> Measurement:
    """Plant faults in a copy of a data set and examine it.

    Args:
        source: Folder of the healthy data set.
        folder: Folder for the copy, which is removed at the end.
        seed: Seed of the choice of images and objects.
        workers: Number of threads that read images.
    """
    healthy = examine(source, workers)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        planter = plant_faults(source, folder, seed)
        start = time.perf_counter()
        damaged = examine(folder, workers)
        seconds = time.perf_counter() - start
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    images = sum(len(report.split.images) for report in damaged)
    return Measurement(count_found(planter, damaged, healthy), images, len(planter.faults), seconds)


def plant_faults(source: Path, target: Path, seed: int = 0) -> Planter:
    """Write a copy of a data set with one fault of each kind.

    Args:
        source: Folder of the healthy data set.
        target: Folder of the copy, which must not exist.
        seed: Seed of the choice of images and objects.
    """
    planter = Planter(source, target, seed)
    _plant_classes(planter)
    _plant_files(planter)
    _plant_copies(planter)
    _plant_objects(planter)
    _plant_masks(planter)
    _plant_entries(planter)
    planter.write()
    return planter


def _plant_files(planter: Planter) -> None:
    entry = planter.take()
    path = planter.path("train", entry)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    planter.plant("truncated file", "train", kinds.UNREADABLE_IMAGE, entry["file_name"])
    entry = planter.take()
    planter.path("train", entry).unlink()
    planter.plant("missing file", "train", kinds.UNREADABLE_IMAGE, entry["file_name"])
    entry = planter.take()
    planter.path("train", entry).write_text("<html>404 not found</html>")
    planter.plant("web page in place of an image", "train", kinds.UNREADABLE_IMAGE, entry["file_name"])
    entry = planter.take("valid")
    path = planter.path("valid", entry)
    with Image.open(path) as image:
        smaller = image.convert("RGB").resize((image.width // 3, image.height // 2))
    smaller.save(path)
    sizes = (kinds.SIZE_MISMATCH, notes.OTHER_SIZE)
    planter.plant("image of another size and ratio", "valid", sizes, entry["file_name"])
    entry = planter.take(wanted=lambda entry, objects: bool(entry["width"] != entry["height"]))
    entry["width"], entry["height"] = entry["height"], entry["width"]
    planter.plant("width and height swapped", "train", sizes, entry["file_name"])
    entry = planter.take()
    Image.new("RGB", (entry["width"], entry["height"]), (90, 90, 90)).save(planter.path("train", entry))
    planter.plant("image of one color", "train", kinds.ONE_COLOR, entry["file_name"])
    noise = planter.random.integers(0, 255, (40, 900, 3), np.uint8)
    entry = planter.add_image("train", "panorama.jpg", (40, 900))
    Image.fromarray(noise).save(planter.path("train", entry))
    planter.plant("image of an extreme aspect ratio", "train", kinds.ODD_ASPECT, entry["file_name"])
    planter.plant("image without objects", "train", kinds.NO_OBJECTS, entry["file_name"])


def _plant_copies(planter: Planter) -> None:
    def copy(split: str, entry: Entry, name: str, into: str) -> Entry:
        objects = planter.objects(split, entry)
        added = planter.add_image(into, name, (entry["height"], entry["width"]), objects)
        shutil.copyfile(planter.path(split, entry), planter.path(into, added))
        return added

    def vary(split: str, entry: Entry, name: str, into: str) -> Entry:
        added = copy(split, entry, name, into)
        with Image.open(planter.path(into, added)) as image:
            brighter = ImageEnhance.Brightness(image.convert("RGB")).enhance(1.08)
        size = brighter.size
        small = brighter.resize((size[0] * 4 // 5, size[1] * 4 // 5), Image.Resampling.BILINEAR).resize(size)
        small.save(planter.path(into, added), quality=70)
        return added

    copy("train", planter.take(), "copy.jpg", "train")
    planter.plant("exact copy in the split", "train", kinds.SAME_CONTENT, "copy.jpg")
    copy("train", planter.take(), "copied_from_train.jpg", "valid")
    planter.plant("exact copy in another split", "valid", kinds.SHARED_IMAGE, "copied_from_train.jpg")
    vary("train", planter.take(), "similar.jpg", "train")
    planter.plant("near-duplicate in the split", "train", kinds.NEAR_DUPLICATE, "similar.jpg")
    vary("train", planter.take(), "similar_to_train.jpg", "valid")
    planter.plant("near-duplicate in another split", "valid", kinds.SHARED_NEAR_DUPLICATE, "similar_to_train.jpg")
    entry = planter.take()
    planter.add_image("train", entry["file_name"], (entry["height"], entry["width"]), planter.objects("train", entry))
    planter.plant("file listed twice", "train", kinds.REPEATED_FILE, entry["file_name"])


def _plant_objects(planter: Planter) -> None:
    entry, annotation = planter.take_object()
    number = planter.add_object("train", entry, annotation)
    planter.plant("object labeled twice", "train", kinds.DUPLICATE_OBJECT, f" {number}")
    entry, annotation = planter.take_object(min_side=48)
    x, y, side = _inner_square(annotation, (entry["height"], entry["width"]))
    number = planter.add_object("train", entry, annotation, **_rectangle(x, y, side, side))
    planter.plant("object inside another one of its class", "train", kinds.HIDDEN_OBJECT, f" {number}")
    entry, annotation = planter.take_object()
    classes = [category["id"] for category in planter.documents["train"]["categories"][:-1]]
    other = next(number for number in classes if number != annotation["category_id"])
    number = planter.add_object("train", entry, annotation, category_id=other)
    planter.plant("object with a second class", "train", kinds.SUSPICIOUS_CLASS, f" {number}")
    entry, annotation = planter.take_object()
    outside = _rectangle(entry["width"] + 30, 10, 20, 20)
    number = planter.add_object("train", entry, annotation, **outside)
    places = (notes.OUTSIDE, notes.OUTLINE_OUTSIDE)
    planter.plant("object outside the image", "train", places, f"annotation {number}")
    entry, annotation = planter.take_object()
    number = planter.add_object("train", entry, annotation, **_rectangle(2, 2, 2, 2))
    planter.plant("object of two pixels", "train", kinds.TINY_OBJECT, f"annotation {number}")
    entry, annotation = planter.take_object()
    length = min(entry["width"], 27 * 4.2)
    number = planter.add_object("train", entry, annotation, **_rectangle(0, 1, length, 4.2))
    planter.plant("thin object", "train", kinds.THIN_OBJECT, f"annotation {number}")
    entry, annotation = planter.take_object()
    number = planter.add_object("train", entry, annotation, bbox=[5, 5, 0, 12], segmentation=[])
    planter.plant("box without area", "train", notes.NO_AREA, f"annotation {number}")


def _plant_masks(planter: Planter) -> None:
    entry, annotation = planter.take_object()
    x, y, width, height = annotation["bbox"]
    annotation["bbox"] = [max(0, x - width / 2), max(0, y - height / 2), 1.9 * width, 1.9 * height]
    differing = (kinds.BOX_MISMATCH, notes.BOX_ELSEWHERE)
    planter.plant("box around more than the mask", "train", differing, f"annotation {annotation['id']}")
    entry, annotation = planter.take_object()
    x, y, width, height = annotation["bbox"]
    annotation["bbox"] = [x, y, 0.75 * width, 0.75 * height]
    annotation["area"] = 0.5 * 0.75**2 * width * height
    planter.plant("mask beyond its box", "train", kinds.MASK_OUTSIDE_BOX, f"annotation {annotation['id']}")
    entry, annotation = planter.take_object(min_side=32)
    x, y, width, height = annotation["bbox"]
    annotation["segmentation"] = [[x, y, x + width, y + height, x + width, y, x, y + height]]
    planter.plant("points out of order", "train", kinds.SELF_CROSSING, f"annotation {annotation['id']}")
    entry, annotation = planter.take_object()
    x, y = (round(edge) + 0.6 for edge in annotation["bbox"][:2])
    specks = [[x, y, x + 0.3, y, x + 0.3, y + 0.3]]
    number = planter.add_object("train", entry, annotation, segmentation=specks, bbox=[x - 4, y - 4, 8, 8], area=64)
    planter.plant("mask without a pixel", "train", (kinds.EMPTY_MASK, notes.NO_PIXEL), f"annotation {number}")
    entry, annotation = planter.take_object()
    annotation["area"] = 20.0 * annotation["bbox"][2] * annotation["bbox"][3]
    planter.plant("wrong area", "train", kinds.LARGE_AREA, f"annotation {annotation['id']}")
    entry, annotation = planter.take_object()
    height, width = entry["height"], entry["width"]
    other_size = {"size": [height // 2, width], "counts": [0, (height // 2) * width]}
    number = planter.add_object("train", entry, annotation, segmentation=other_size)
    planter.plant("mask of another size than the image", "train", notes.BAD_RLE, f"annotation {number}")


def _plant_entries(planter: Planter) -> None:
    entry, annotation = planter.take_object()
    number = planter.add_object("train", entry, annotation, segmentation=[[1, 2, "three", 4, 5, 6]])
    planter.plant("text in a polygon", "train", notes.BAD_MASK, f"annotation {number}")
    entry, annotation = planter.take_object()
    number = planter.add_object("train", entry, annotation, category_id=999)
    planter.plant("unknown category", "train", notes.BAD_REFERENCE, f"annotation {number}")
    entry, annotation = planter.take_object()
    repeated = annotation | _rectangle(1, 1, 20, 20)
    planter.documents["train"]["annotations"].append(repeated)
    planter.plant("repeated annotation id", "train", notes.REPEATED_IDS, f"annotation {annotation['id']}")


def _plant_classes(planter: Planter) -> None:
    number = 1 + max(category["id"] for category in planter.documents["train"]["categories"])
    for document in planter.documents.values():
        document["categories"] += [{"id": number + 3, "name": "rare kind"}, {"id": number + 5, "name": "unused kind"}]
    _, annotation = planter.take_object()
    annotation["category_id"] = number + 3
    planter.plant("class with one object", "train", kinds.RARE_CLASS, "rare kind")
    planter.plant("class missing from a split", "valid", kinds.MISSING_IN_SPLIT, "rare kind")
    planter.plant("class without objects", "train", kinds.EMPTY_CLASS, "unused kind")
    planter.plant("gap in the category ids", "train", kinds.ID_GAPS, str(number))


def _rectangle(x: float, y: float, width: float, height: float) -> Entry:
    """Return box, outline and area of a rectangular object."""
    outline = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {"bbox": [x, y, width, height], "segmentation": [outline], "area": width * height}


def _inner_square(annotation: Entry, size: tuple[int, int]) -> tuple[int, int, int]:
    """Return x, y and side of a square inside a mask in an image (H, W)."""
    shape = rasterize_segmentation(annotation["segmentation"], size, "planted")
    assert shape is not None
    assert not isinstance(shape, CutMask)
    bits, left, top = crop_shape(shape, size)
    for side in range(min(bits.shape) // 2, 5, -1):
        sums = np.pad(bits.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        full = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side] == side * side
        if full.any():
            row, column = np.argwhere(full)[0].tolist()
            return left + column, top + row, side
    raise ValueError("the mask contains no square of 6 pixels")


def examine(folder: Path, workers: int = 0) -> list[CheckReport]:
    """Return the reports of `sais doctor` on all splits of a data set."""
    reports = []
    for name in list_splits(folder):
        problems: dict[str, list[str]] = {}
        split = read_dataset(folder, name, problems=problems)
        reports.append(check_dataset(split, problems=problems, workers=workers))
    check_across(reports)
    return reports


def count_found(planter: Planter, damaged: Sequence[CheckReport], healthy: Sequence[CheckReport]) -> FaultCounts:
    """Compare the findings about a copy with planted faults with the faults, and with those about the healthy data.

    Args:
        planter: The planted faults.
        damaged: Reports on the copy.
        healthy: Reports on the data set without planted faults.
    """
    counts = FaultCounts()
    findings = {report.split.name: report.all_findings() for report in damaged}
    for fault in planter.faults:
        named = any(_names(finding, fault) for finding in findings[fault.split])
        (counts.found if named else counts.missed).append(fault)
    known = {
        (report.split.name, finding.kind, case.text)
        for report in healthy
        for finding in report.all_findings()
        for case in finding.cases
    }
    for split, found in findings.items():
        for finding in found:
            for case in finding.cases:
                planted = any(_names(finding, fault) for fault in planter.faults if fault.evidence in case.text)
                if (
                    not planted
                    and (split, finding.kind, case.text) not in known
                    and not _is_touched(planter, split, case)
                ):
                    counts.healthy.append(f"{split}: {finding.kind}: {case.text}")
    return counts


def _names(finding: Finding, fault: PlantedFault) -> bool:
    texts = [finding.remark, *(case.text for case in finding.cases)]
    return finding.kind in fault.kinds and any(fault.evidence in text for text in texts)


def _is_touched(planter: Planter, split: str, case: Case) -> bool:
    """Return whether a case concerns an image with a planted fault."""
    return case.image is not None and (split, case.image.name) in planter.touched
