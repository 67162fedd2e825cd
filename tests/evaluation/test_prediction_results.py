"""Files with detections as results of a split: ids, names, classes, masks as polygons, malformed files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.data.annotations import DatasetSplit
from sais.errors import InputError
from sais.evaluation.prediction_results import read_predictions
from sais.ops.rle import decode_cropped
from tests.evaluation.test_error_analysis import IDS, NAMES, annotation, make_split, result

BOX = (4, 6, 20, 10)


def two_images() -> DatasetSplit:
    return make_split([annotation(1, 0, BOX)], [annotation(2, 1, BOX)])


def predictions(**changes: Any) -> dict[str, Any]:
    """Return a predictions.json of `two_images`, with ids of its own."""
    entries = [
        result(0, 0, BOX, 0.9) | {"image_id": 7, "category_id": 2, "id": 1},
        result(1, 1, BOX, 0.5) | {"image_id": 8, "category_id": 1, "id": 2},
    ]
    document = {
        "info": {"score": "score >= 0.3: as given"},
        "images": [{"id": 7, "file_name": "sub/0.jpg"}, {"id": 8, "file_name": "1.jpg"}],
        "categories": [{"id": 2, "name": NAMES[0]}, {"id": 1, "name": NAMES[1]}, {"id": 5, "name": "other"}],
        "annotations": entries,
    }
    return document | changes


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_predictions_get_the_ids_of_the_data_set_by_file_name_and_class_name(tmp_path: Path) -> None:
    read = read_predictions(write(tmp_path / "predictions.json", predictions()))
    results, image_ids = read.of_split(two_images())
    assert image_ids == {0, 1}
    assert [(r["image_id"], r["category_id"], round(r["score"], 4)) for r in results] == [
        (0, IDS[0], 0.9), (1, IDS[1], 0.5)
    ]  # fmt: skip
    assert read.class_names == (NAMES[0], NAMES[1], "other")
    assert read.score == "score >= 0.3: as given"


def test_polygons_become_masks(tmp_path: Path) -> None:
    document = predictions()
    x, y, w, h = BOX
    document["annotations"][0]["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    results, _ = read_predictions(write(tmp_path / "p.json", document)).of_split(two_images())
    bits, left, top = decode_cropped(results[0]["segmentation"])
    assert (bits.shape, left, top) == ((h, w), x, y)
    assert bits.all()


def test_a_list_of_results_has_the_ids_of_the_data_set(tmp_path: Path) -> None:
    entries = [result(1, 1, BOX, 0.25), result(9, 1, BOX, 0.9)]  # of an image outside of the split
    read = read_predictions(write(tmp_path / "results.json", entries))
    results, image_ids = read.of_split(two_images())
    assert read.class_names is None
    assert image_ids == {0, 1}
    assert [(r["image_id"], r["category_id"], r["score"]) for r in results] == [(1, IDS[1], 0.25)]
    assert np.allclose(results[0]["bbox"], BOX)


def test_images_and_classes_outside_of_the_split_are_left_out(tmp_path: Path) -> None:
    document = predictions()
    document["images"].append({"id": 9, "file_name": "absent.jpg"})
    document["annotations"].append(document["annotations"][0] | {"image_id": 9})
    document["annotations"].append(document["annotations"][0] | {"category_id": 5})
    results, image_ids = read_predictions(write(tmp_path / "p.json", document)).of_split(two_images())
    assert (len(results), image_ids) == (2, {0, 1})


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    split = two_images()
    records = [replace(r, source=tmp_path / folder / "a.jpg") for r, folder in zip(split.images, "xy", strict=True)]
    images = [{"id": 7, "file_name": "y/a.jpg"}, {"id": 8, "file_name": "x/a.jpg"}]
    read = read_predictions(write(tmp_path / "p.json", predictions(images=images)))
    results, _ = read.of_split(replace(split, images=tuple(records)))
    assert sorted((r["image_id"], round(r["score"], 4)) for r in results) == [(0, 0.5), (1, 0.9)]
    images[1]["file_name"] = "y/a.jpg"
    with pytest.raises(InputError, match="several entries for image 1"):
        read_predictions(write(tmp_path / "p.json", predictions(images=images))).of_split(
            replace(split, images=tuple(records))
        )


@pytest.mark.parametrize(
    "document",
    [
        {}, [1], [{"image_id": 1}], {"images": [], "categories": []}, predictions(images=[{"id": 1}]),
        predictions(annotations=[{"id": 1}]), predictions(images=[{"id": [1], "file_name": "0.jpg"}]), "text", None,
    ],
)  # fmt: skip
def test_other_files_are_refused(document: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a file with detections"):
        read_predictions(write(tmp_path / "p.json", document))


def test_malformed_entries_and_other_images_are_refused(tmp_path: Path) -> None:
    document = predictions()
    document["annotations"][0]["segmentation"] = {"size": [5, 5], "counts": "1"}
    with pytest.raises(InputError, match=r"p\.json: image 0: entry 0: malformed"):
        read_predictions(write(tmp_path / "p.json", document)).of_split(two_images())
    document = predictions(annotations=[{"score": 1.0}])
    with pytest.raises(InputError, match="malformed entry"):
        read_predictions(write(tmp_path / "p.json", document)).of_split(two_images())
    document = predictions(images=[{"id": 7, "file_name": "absent.jpg"}])
    with pytest.raises(InputError, match="none of its images"):
        read_predictions(write(tmp_path / "p.json", document)).of_split(two_images())
