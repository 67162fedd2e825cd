"""predictions.json: read by pycocotools, by strict readers and by our own; drawings of earlier predictions."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.commands.object_table import ObjectTable
from sais.commands.prediction_file import (
    FILE_NAME,
    LabelIds,
    PredictionFile,
    check_drawings,
    check_results,
    read_drawings,
    remove_drawings,
)
from sais.commands.track_files import TRACK_COLUMNS
from sais.data.formats.coco import read_coco
from sais.errors import InputError
from sais.evaluation.coco_metrics import coco_metrics
from sais.io.growing_files import RowFile
from sais.io.image_writer import write_image
from sais.ops.rle import encode_cropped
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.measurements import csv_lines
from sais.results.omitted import Omitted

NAMES, IDS = ("cat", "dog", "eel"), (3, 17, 90)
SIZE = (60, 80)


def write_labels(path: Path, images: int = 4) -> dict[str, Any]:
    """Write a COCO file with gaps in all ids; objects are rectangles."""
    random = np.random.default_rng(0)
    entries, annotations = [], []
    for number in range(images):
        image_id = 100 + 7 * number
        entries.append({"id": image_id, "file_name": f"sub/{number}.jpg", "height": SIZE[0], "width": SIZE[1]})
        for _ in range(4):
            x, y = int(random.integers(50)), int(random.integers(40))
            annotations.append(
                {
                    "id": 10 + 3 * len(annotations),
                    "image_id": image_id,
                    "category_id": IDS[int(random.integers(3))],
                    "bbox": [x, y, 20, 15],
                    "area": 300,
                    "iscrowd": 0,
                    "segmentation": encode_cropped(np.ones((15, 20), bool), x, y, SIZE),
                }
            )
    categories = [{"id": i, "name": n} for i, n in reversed(list(zip(IDS, NAMES, strict=True)))]
    document = {"images": entries, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))
    return document


def detections_near(document: dict[str, Any], image_id: int, seed: int) -> Detections:
    """Return detections of the objects of an image, moved by some pixels, some of a wrong class."""
    random = np.random.default_rng(seed)
    boxes, labels, masks = [], [], []
    for annotation in document["annotations"]:
        if annotation["image_id"] == image_id:
            x, y = (int(v) + int(random.integers(0, 4)) for v in annotation["bbox"][:2])
            boxes.append((x, y, x + 20, y + 15))
            masks.append(CroppedMask(x, y, np.ones((15, 20), bool)))
            labels.append(IDS.index(annotation["category_id"]) if random.random() < 0.7 else int(random.integers(3)))
    scores = np.sort(random.random(len(boxes)))[::-1]
    return Detections(SIZE, np.array(boxes), scores, np.array(labels), NAMES, masks)


def write_predictions(folder: Path, document: dict[str, Any], labels: Path | None, **options: Any) -> dict[str, Any]:
    reader = None if labels is None else LabelIds(labels)
    ids = IDS if reader is None else reader.category_ids(NAMES)
    predictions = PredictionFile(NAMES, ids, reader, **options)
    for number, image in enumerate(document["images"]):
        name = Path(image["file_name"]).name if number % 2 else image["file_name"]
        predictions.add(detections_near(document, image["id"], number), name)
    predictions.write(folder)
    content: dict[str, Any] = json.loads((folder / "predictions.json").read_text())
    return content


@pytest.mark.parametrize("polygons", [False, True])
def test_pycocotools_evaluates_predictions_to_the_ap_of_sais_eval(tmp_path: Path, polygons: bool) -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    labels = tmp_path / "valid.json"
    document = write_labels(labels)
    content = write_predictions(tmp_path, document, labels, polygons=polygons)
    split = read_coco(labels, None)
    results = []
    for number, image in enumerate(document["images"]):
        results += detections_near(document, image["id"], number).to_coco(image["id"], split.category_ids)
    metrics = coco_metrics(split, results)
    assert metrics.mask is not None
    assert 0.1 < metrics.mask.AP < 0.9
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(labels))
        whole = COCO(str(tmp_path / "predictions.json"))  # as it is, and as results
        for detections in (whole, truth.loadRes(content["annotations"])):
            evaluation = COCOeval(truth, detections, "segm")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(metrics.mask.AP, abs=1e-6)
            assert evaluation.stats[1] == pytest.approx(metrics.mask.AP50, abs=1e-6)


def read_strictly(content: dict[str, Any], polygons: bool) -> Counter[str]:
    """Read a COCO file as annotation tools do: every key, no dangling id, masks of the image's size; count by class."""
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    assert len(images) == len(content["images"])
    assert len({image["file_name"] for image in content["images"]}) == len(images)
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])
    counts: Counter[str] = Counter()
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        assert 0 <= x <= x + w <= image["width"]
        assert 0 <= y <= y + h <= image["height"]
        assert annotation["iscrowd"] == 0
        assert annotation["area"] > 0
        if polygons:
            for ring in annotation["segmentation"]:
                points = np.array(ring).reshape(-1, 2)
                assert len(points) >= 3
                assert (points.min(0) >= 0).all()
                assert (points.max(0) <= [image["width"], image["height"]]).all()
        else:
            assert annotation["segmentation"]["size"] == [image["height"], image["width"]]
            assert isinstance(annotation["segmentation"]["counts"], str)
        counts[categories[annotation["category_id"]]] += 1
    return counts


@pytest.mark.parametrize("polygons", [False, True])
def test_strict_readers_accept_predictions(tmp_path: Path, polygons: bool) -> None:
    document = write_labels(tmp_path / "valid.json")
    content = write_predictions(tmp_path, document, None, polygons=polygons)
    assert [image["id"] for image in content["images"]] == [1, 2, 3, 4]
    assert content["categories"] == [{"id": i, "name": n} for i, n in zip(IDS, NAMES, strict=True)]
    assert content["annotations"][0]["area"] == 300
    assert sum(read_strictly(content, polygons).values()) == len(document["annotations"])
    split = read_coco(tmp_path / "predictions.json", None)
    assert split.notes == {}
    assert split.category_ids == IDS
    assert sum(len(record.annotations) for record in split.images) == len(document["annotations"])


def test_polygons_leave_out_holes(tmp_path: Path) -> None:
    bits = np.ones((9, 9), bool)
    bits[3:6, 3:6] = False
    mask, box = CroppedMask(5, 5, bits), np.array([[5, 5, 14, 14]])
    detections = Detections(SIZE, box, np.array([0.5]), np.array([0]), NAMES, [mask])
    predictions = PredictionFile(NAMES, IDS, polygons=True)
    predictions.add(detections, "a.jpg")
    predictions.write(tmp_path)
    (annotation,) = json.loads((tmp_path / FILE_NAME).read_text())["annotations"]
    (ring,) = annotation["segmentation"]
    assert sorted(map(tuple, np.array(ring).reshape(-1, 2).tolist()))[0] == (5, 5)
    assert annotation["area"] == 72


def test_label_ids_are_found_by_path_then_by_unique_name(tmp_path: Path) -> None:
    names = ["a/1.jpg", "b/1.jpg", "a\\2.jpg", "./3.jpg", "caf\u00e9.jpg"]
    images = [{"id": 10 * (i + 1), "file_name": name} for i, name in enumerate(names)]
    categories = [{"id": "7", "name": "cat"}]
    (tmp_path / "labels.json").write_text(json.dumps({"images": images, "categories": categories}))
    ids = LabelIds(tmp_path / "labels.json")
    assert [ids.image_id(name) for name in ("b/1.jpg", "2.jpg", "x/3.jpg", "cafe\u0301.jpg")] == [20, 30, 40, 50]
    assert [ids.image_id(name) for name in ("1.jpg", "new.jpg", "2.jpg")] == [51, 52, 53]  # ambiguous, new, taken
    assert ids.unknown == 3
    assert ids.category_ids(["cat"]) == ("7",)
    with pytest.raises(InputError, match="no category cow"):
        ids.category_ids(["cow"])
    assert ids.category_ids(["cow", "cat"], detected=["cat"]) == (None, "7")
    predictions = PredictionFile(("cow", "cat"), ids.category_ids(["cow", "cat"], detected=["cat"]))
    predictions.write(tmp_path)
    assert json.loads((tmp_path / "predictions.json").read_text())["categories"] == [{"id": "7", "name": "cat"}]
    (tmp_path / "other.json").write_text("[1]")
    for path in (tmp_path / "other.json", tmp_path / "nothing.json"):
        with pytest.raises(InputError, match=path.name):
            LabelIds(path)


def test_prediction_file_counts_images_at_the_limit() -> None:
    predictions = PredictionFile(NAMES, IDS)
    for omitted in (None, Omitted(0.3), Omitted(0.3, limit=100)):
        detections = Detections(SIZE, np.zeros((0, 4)), np.zeros(0), np.zeros(0), NAMES, omitted=omitted)
        predictions.add(detections, f"{omitted}.jpg")
    assert predictions.limited == 1


def test_drawings_of_the_last_prediction_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("old.jpg", "again.jpg", "changed.jpg", "own.jpg"):
        (tmp_path / name).write_bytes(b"drawing")
    predictions = PredictionFile(NAMES, IDS)
    for name in ("old.jpg", "again.jpg", "changed.jpg"):
        predictions.add_drawing(tmp_path, tmp_path / name)
    predictions.drawings["../outside.jpg"] = 7
    (tmp_path.parent / "outside.jpg").write_bytes(b"outside")
    predictions.write(tmp_path)
    (tmp_path / "changed.jpg").write_bytes(b"edited by a person")
    earlier = read_drawings(tmp_path)
    check_drawings(tmp_path, [Path("again.jpg"), Path("new.jpg")], [], overwrite=False)
    for name in ("own.jpg", "changed.jpg"):
        with pytest.raises(InputError, match="overwrite=True"):
            check_drawings(tmp_path, [Path(name)], [], overwrite=False)
        check_drawings(tmp_path, [Path(name)], [], overwrite=True)
    assert remove_drawings(tmp_path, earlier, ["again.jpg"]) == 1
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["again.jpg", "changed.jpg", "own.jpg"]
    assert (tmp_path.parent / "outside.jpg").read_bytes() == b"outside"


def test_an_interrupted_prediction_leaves_its_drawings_listed(tmp_path: Path) -> None:
    predictions = PredictionFile(NAMES, IDS, drawings={"a.jpg": None})
    predictions.write(tmp_path, complete=False)
    (tmp_path / "a.jpg").write_bytes(b"a photograph that was put there since")
    with pytest.raises(InputError, match=r"a\.jpg: exists"):
        check_drawings(tmp_path, [Path("a.jpg")], [], overwrite=False)
    write_image(tmp_path / "a.jpg", np.zeros((9, 9, 3), np.uint8), writer="sais predict")
    check_drawings(tmp_path, [Path("a.jpg")], [], overwrite=False)
    assert remove_drawings(tmp_path, read_drawings(tmp_path), []) == 1


def test_tables_of_a_killed_prediction_are_removed_but_no_table_of_others(tmp_path: Path) -> None:
    names = ("objects.csv", "tracks.csv")
    PredictionFile(NAMES, IDS, drawings=dict.fromkeys(names)).write(tmp_path, complete=False)
    (tmp_path / "objects.csv").write_text("image,weight\n")
    assert remove_drawings(tmp_path, read_drawings(tmp_path), []) == 0
    ObjectTable(tmp_path, True, 1.0, "px").write()
    RowFile(tmp_path / "tracks.csv", csv_lines([TRACK_COLUMNS])).close()
    assert remove_drawings(tmp_path, read_drawings(tmp_path), []) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"info": {}}', '{"info": {"drawings": {"a.jpg": 1}}}'])
def test_files_of_other_programs_list_no_drawings(tmp_path: Path, content: str) -> None:
    (tmp_path / "predictions.json").write_text(content)
    assert read_drawings(tmp_path) == {}


def test_check_results_protects_files_of_other_programs(tmp_path: Path) -> None:
    check_results(tmp_path, [], overwrite=False)
    (tmp_path / "predictions.json").write_text('[{"image_id": 1}]')
    with pytest.raises(InputError, match=r"predictions\.json: exists.*overwrite=True"):
        check_results(tmp_path, [], overwrite=False)
    check_results(tmp_path, [], overwrite=True)
    PredictionFile(NAMES, IDS).write(tmp_path)
    check_results(tmp_path, [], overwrite=False)
    with pytest.raises(InputError, match="that is read"):
        check_results(tmp_path, [tmp_path / "predictions.json"], overwrite=True)


def test_check_drawings_protects_source_images(tmp_path: Path) -> None:
    source = tmp_path / "images" / "a.jpg"
    source.parent.mkdir()
    source.touch()
    link = tmp_path / "link"
    link.symlink_to(source.parent)
    for folder in (source.parent, link):
        with pytest.raises(InputError, match="the folder of the source images"):
            check_drawings(folder, [Path("b.jpg")], [source], overwrite=True)
    with pytest.raises(InputError, match="that is read"):
        check_drawings(tmp_path, [Path("images/a.jpg")], [source], overwrite=True)


@pytest.mark.parametrize(
    "content",
    [
        '{"images": ' + "[" * 100_000,
        '{"images": [{"file_name": "a.jpg", "id": [1]}], "categories": []}',
        '{"images": [{"file_name": "a.jpg", "id": NaN}], "categories": []}',
        '{"images": [], "categories": [{"name": "cat", "id": {}}]}',
        "[]",
    ],
)
def test_label_ids_refuse_what_is_no_coco_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(InputError, match="not a COCO file"):
        LabelIds(path)


def test_label_ids_refuse_pipes(tmp_path: Path) -> None:
    """Reading a pipe never ended."""
    os.mkfifo(tmp_path / "labels.json")
    with pytest.raises(InputError, match="not a regular file"):
        LabelIds(tmp_path / "labels.json")


def test_drawings_with_names_that_no_file_has_are_not_listed(tmp_path: Path) -> None:
    PredictionFile(NAMES, IDS, drawings={"a\0.jpg": 9, "b.jpg": 9}).write(tmp_path)
    assert read_drawings(tmp_path) == {"b.jpg": 9}
    (tmp_path / FILE_NAME).write_text((tmp_path / FILE_NAME).read_text().replace("b.jpg", "b\\ud800.jpg"))
    assert read_drawings(tmp_path) == {}


def test_deeply_nested_predictions_list_no_drawings(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text("[" * 100_000)
    assert read_drawings(tmp_path) == {}
