"""Entries of a COCO file in unusual forms: ids, masks, crowds; and all malformed entries of a file at once."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.data.annotations import DatasetSplit, make_annotation, object_mask
from sais.data.formats import notes, read_dataset_files
from sais.data.formats.coco import read_coco
from sais.errors import InputError
from sais.evaluation.coco_metrics import coco_metrics
from sais.ops.rasterize import inside
from sais.ops.rle import decode, encode
from tests.data.formats.coco_samples import make_document, write_split

Document = dict[str, Any]


def read_changed(
    folder: Path, change: Callable[[Document], object], classes: tuple[str, ...] | None = None
) -> DatasetSplit:
    document = make_document()
    change(document)
    (folder / "train.json").write_text(json.dumps(document))
    return read_coco(folder / "train.json", None, classes)


def map_ids(document: Document, key: str, change: Callable[[int], Any]) -> None:
    """Change the ids of images (key "image_id") or categories ("category_id") everywhere."""
    for entry in document["images" if key == "image_id" else "categories"]:
        entry["id"] = change(entry["id"])
    for annotation in document["annotations"]:
        annotation[key] = change(annotation[key])


@pytest.mark.parametrize("key", ["image_id", "category_id"])
@pytest.mark.parametrize("form", [str, float, lambda value: f" {value}.0"])
def test_ids_that_are_numbers_in_another_form_are_read(tmp_path: Path, key: str, form: Callable[[int], Any]) -> None:
    split = read_changed(tmp_path, lambda document: map_ids(document, key, form))
    assert [record.id for record in split.images] == [1, 2, 3, 4, 5, 6]
    assert split.category_ids == (1,)
    assert [len(record.annotations) for record in split.images] == [2] * 6
    assert sum(split.notes.values()) == (6 if key == "image_id" else 1)


def test_text_ids_are_numbered(tmp_path: Path) -> None:
    split = read_changed(tmp_path, lambda document: map_ids(document, "image_id", lambda value: f"img-{value}"))
    assert [record.id for record in split.images] == [1, 2, 3, 4, 5, 6]
    assert [len(record.annotations) for record in split.images] == [2] * 6
    assert split.notes == {notes.IMAGE_ID_TEXTS: 6}
    assert split.examples[notes.IMAGE_ID_TEXTS][0] == "'img-1'"
    categories = read_changed(tmp_path, lambda document: map_ids(document, "category_id", lambda value: "cat"))
    assert categories.category_ids == (1,)


def test_annotations_refer_to_ids_in_another_form(tmp_path: Path) -> None:
    def change(document: Document) -> None:
        for annotation in document["annotations"]:
            annotation.update(image_id=str(annotation["image_id"]), category_id=float(annotation["category_id"]))

    split = read_changed(tmp_path, change)
    assert [len(record.annotations) for record in split.images] == [2] * 6


def test_annotations_without_ids_are_numbered(tmp_path: Path) -> None:
    def change(document: Document) -> None:
        document["annotations"][0].pop("id")
        document["annotations"][3]["id"] = "a-b-c"

    split = read_changed(tmp_path, change)
    assert sorted(a.id for record in split.images for a in record.annotations) == [2, 3, *range(5, 15)]
    assert split.notes == {notes.ANNOTATION_IDS: 2}


def test_category_names_with_blanks_and_missing_classes(tmp_path: Path) -> None:
    def change(document: Document) -> None:
        document["categories"] = [{"id": 1, "name": "part "}, {"id": 2, "name": "bolt"}]

    split = read_changed(tmp_path, change)
    assert split.class_names == ("part", "bolt")
    assert split.notes == {notes.BLANK_NAMES: 1}
    wider = read_changed(tmp_path, lambda document: None, ("nut", "part"))
    assert (wider.class_names, wider.category_ids) == (("nut", "part"), (2, 1))
    assert wider.images[0].annotations[0].label == 1
    assert wider.notes == {notes.MISSING_CLASSES: 1}
    with pytest.raises(InputError, match=r"classes nut are not in 'categories' \(there are bolt\)"):
        read_changed(tmp_path, change, ("nut", "part"))
    with pytest.raises(InputError, match="nut"):
        read_changed(tmp_path, lambda document: None, ("nut",))


BITS = np.zeros((96, 128), bool)
BITS[20:70, 10:50] = True
RUNS = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], BITS.ravel("F"), [2]])))).tolist()


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ([96, 128], [float(run) for run in RUNS]),
        ([96.0, 128.0], RUNS),
        ([96, 128], [float(RUNS[0]), *RUNS[1:]]),
        ([96.0, 128.0], encode(BITS)["counts"]),
    ],
    ids=["counts", "size", "one count", "compressed"],
)
def test_rle_of_whole_floats_is_read_and_evaluated(tmp_path: Path, size: list, counts: Any) -> None:
    rle = {"size": size, "counts": counts}
    split = read_changed(
        tmp_path, lambda document: document["annotations"][0].update(segmentation=rle, bbox=[10, 20, 40, 50])
    )
    assert split.notes == {notes.FLOAT_RLE: 1}
    segmentation = split.images[0].annotations[0].segmentation
    assert isinstance(segmentation, dict)
    np.testing.assert_array_equal(decode(segmentation), BITS)
    result = {"image_id": 1, "category_id": 1, "score": 0.9, "bbox": [10, 20, 40, 50], "segmentation": encode(BITS)}
    assert coco_metrics(split, [result]).mask is not None
    with pytest.raises(InputError, match=r"annotation 1: malformed mask .*12\.5"):
        read_changed(
            tmp_path,
            lambda document: document["annotations"][0].update(segmentation={"size": [96, 128], "counts": [12.5, 3]}),
        )


def test_make_annotation_reads_rle_of_floats_and_bytes() -> None:
    compressed = {"size": [96, 128], "counts": encode(BITS)["counts"].encode()}
    for rle in ({"size": [96.0, 128], "counts": np.array(RUNS, float)}, compressed):
        annotation = make_annotation(1, 0, segmentation=rle)
        assert isinstance(annotation.segmentation, dict)
        assert isinstance(annotation.segmentation["counts"], (list, str))
        assert annotation.area == 2000


@pytest.mark.parametrize("far", [1e3, 1e5, 1e7, 1e9, 1e12])
def test_far_polygons_are_clipped_at_no_cost(tmp_path: Path, far: float) -> None:
    polygon = [10, 20, far, 20, 50, 70, 10, 70]

    def change(document: Document) -> None:
        for annotation in document["annotations"]:
            annotation.update(segmentation=[polygon], bbox=[10, 20, 40, 50])

    tracemalloc.start()
    start = time.process_time()
    split = read_changed(tmp_path, change)
    mask = object_mask(split.images[0].annotations[0], (96, 128))
    assert mask is not None
    pixels = inside(mask, (0, 0, 128, 96))
    coco_metrics(split, [])
    assert time.process_time() - start < 2
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert split.notes == {notes.FAR_OUTLINE: 12}
    assert pixels[20:70, 10:50].all()
    np.testing.assert_array_equal(split.images[0].annotations[0].box, [10, 20, 50, 70])
    with pytest.raises(InputError, match="Clip it to the image"):
        make_annotation(1, 0, segmentation=[[0, 0, far * 1e3, 0, 0, far * 1e3]])


def test_outlines_outside_the_image_are_dropped(tmp_path: Path) -> None:
    negative = [[-60, -20, -20, -20, -20, -70, -60, -70]]
    split = read_changed(tmp_path, lambda document: document["annotations"][0].update(segmentation=negative))
    assert split.images[0].annotations[0].segmentation is None
    assert split.notes == {notes.OUTLINE_OUTSIDE: 1, notes.NO_MASK: 1}


@pytest.mark.parametrize(
    ("segmentation", "note"),
    [
        ([[[10, 20], [50, 20], [50, 50], [10, 50]]], notes.NESTED),
        ([[10, 20], [50, 20], [50, 50], [10, 50]], notes.NESTED),
        ([[[10, 20, 50, 20, 50, 50, 10, 50]]], notes.NESTED),
        ([10, 20, 50, 20, 50, 50, 10, 50], notes.FLAT),
        ([encode(np.pad(np.ones((30, 40), bool), ((20, 46), (10, 78))))], None),
    ],
)
def test_polygons_in_other_forms_are_read(tmp_path: Path, segmentation: Any, note: str | None) -> None:
    split = read_changed(tmp_path, lambda document: document["annotations"][0].update(segmentation=segmentation))
    assert split.notes == ({note: 1} if note else {})
    mask = object_mask(split.images[0].annotations[0], (96, 128))
    assert mask is not None
    assert inside(mask, (0, 0, 128, 96)).sum() == 1200


@pytest.mark.parametrize("segmentation", [None, {}, [], [[]], [[3, 4]], [[1, 2, 3, 4]]])
def test_empty_segmentations_leave_the_box(tmp_path: Path, segmentation: Any) -> None:
    split = read_changed(tmp_path, lambda document: document["annotations"][0].update(segmentation=segmentation))
    assert split.images[0].annotations[0].segmentation is None
    assert split.notes[notes.NO_MASK] == 1


@pytest.mark.parametrize(("value", "crowd"), [("1", True), ("0", False), (True, True), (None, False), ("false", False)])
def test_iscrowd_in_other_forms_is_read(tmp_path: Path, value: Any, crowd: bool) -> None:
    split = read_changed(tmp_path, lambda document: document["annotations"][0].update(iscrowd=value))
    assert split.images[0].annotations[0].crowd is crowd


def test_ids_from_zero_are_read(tmp_path: Path) -> None:
    def change(document: Document) -> None:
        map_ids(document, "category_id", lambda value: value - 1)
        map_ids(document, "image_id", lambda value: value - 1)
        for annotation in document["annotations"]:
            annotation["id"] -= 1

    split = read_changed(tmp_path, change)
    assert (split.category_ids, [record.id for record in split.images]) == ((0,), [0, 1, 2, 3, 4, 5])
    assert [a.id for record in split.images for a in record.annotations] == list(range(12))
    assert split.notes == {}


def test_repeated_annotation_ids_are_replaced_and_equal_entries_dropped(tmp_path: Path) -> None:
    def change(document: Document) -> None:
        annotations = document["annotations"]
        annotations[4]["id"] = 1
        annotations[7]["id"] = "1"
        annotations.append(annotations[10] | {})
        annotations[11].pop("id")

    split = read_changed(tmp_path, change)
    ids = [a.id for record in split.images for a in record.annotations]
    assert sorted(ids) == [1, 2, 3, 4, 6, 7, 9, 10, 11, 12, 13, 14]
    assert [len(record.annotations) for record in split.images] == [2] * 6
    assert split.notes == {notes.REPEATED_IDS: 2, notes.REPEATED_ENTRIES: 1, notes.ANNOTATION_IDS: 1}
    assert split.examples[notes.REPEATED_IDS][0] == "annotation 1 at annotations[4] is 13"


def test_repeated_image_entries_are_dropped(tmp_path: Path) -> None:
    split = read_changed(tmp_path, lambda document: document["images"].append(document["images"][0] | {}))
    assert [len(record.annotations) for record in split.images] == [2] * 6
    assert split.notes == {notes.REPEATED_IMAGES: 1}


def test_annotations_of_removed_images_are_dropped_unless_they_are_most(tmp_path: Path) -> None:
    split = read_changed(tmp_path, lambda document: document["images"].pop())
    assert [len(record.annotations) for record in split.images] == [2] * 5
    assert split.notes == {notes.ORPHANS: 2}
    assert split.examples[notes.ORPHANS][0] == "annotation 11 of image 6"
    with pytest.raises(InputError, match="8 of 12 annotations are of images that are not in 'images'"):
        read_changed(tmp_path, lambda document: document.update(images=document["images"][:2]))


def test_malformed_entries_are_all_listed(tmp_path: Path) -> None:
    document = make_document()
    annotations = document["annotations"]
    annotations[0]["bbox"] = [1, 2]
    annotations[1]["bbox"] = [1, 2, "x", 4]
    annotations[2].pop("category_id")
    annotations[3]["category_id"] = 99
    annotations[4]["segmentation"] = [[1, 2, float("nan"), 4, 5, 6]]
    annotations[5]["id"] = 7
    annotations.append("no annotation")
    path = write_split(tmp_path, "train", document)
    document["images"].append({"file_name": "x.png"})
    path.write_text(json.dumps(document))
    problems: dict[str, list[str]] = {}
    split = read_dataset_files(path, tmp_path / "images", problems=problems)
    assert {kind: len(messages) for kind, messages in problems.items()} == {
        notes.BAD_IMAGE: 1, notes.BAD_BOX: 2, notes.BAD_ANNOTATION: 2, notes.BAD_REFERENCE: 1, notes.BAD_MASK: 1,
    }  # fmt: skip
    assert "images[6]" in problems[notes.BAD_IMAGE][0]
    assert "annotations[12]" in problems[notes.BAD_ANNOTATION][1]
    assert sum(len(record.annotations) for record in split.images) == 7
    with pytest.raises(InputError, match=r"images\[6\].*6 more entries are refused"):
        read_dataset_files(path, tmp_path / "images")
