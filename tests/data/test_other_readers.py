"""What `sais.convert` writes, read by other programs, where they are installed; more of these in test_convert.py.

    PYTHONPATH=src /tmp/formats-venv/bin/python -m pytest tests/data/test_other_readers.py tests/data/test_convert.py

(tests/data/real_tools/README.md has the environment.)
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sais
from sais.data.annotations import object_mask
from sais.data.formats import read_dataset
from sais.ops.rasterize import inside
from tests.data.formats.label_samples import SIZE, write_coco

SPLIT = "train"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a COCO data set with RLE masks."""
    return write_coco(tmp_path_factory.mktemp("source") / "coco", with_masks=True)


def expected_masks(source: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Return class and pixels of the objects of each training image, sorted, by the name of the image."""
    split = read_dataset(source, SPLIT)
    masks: dict[str, list[tuple[str, bytes]]] = {}
    for record in split.images:
        rows = []
        for annotation in record.annotations:
            shape = object_mask(annotation, SIZE)
            assert shape is not None
            rows.append((split.class_names[annotation.label], inside(shape, (0, 0, SIZE[1], SIZE[0])).tobytes()))
        masks[record.path.stem] = sorted(rows)
    return masks


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_datumaro_reads_the_masks(source: Path, format: str, tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="pip install datumaro")
    sais.convert(source, tmp_path / "out", format)
    file = tmp_path / "out" / "annotations" / f"{SPLIT}.json"
    places = {"coco": (file, "coco_instances"), "voc": (tmp_path / "out", "voc_instance_segmentation")}
    dataset = datumaro.Dataset.import_from(str(places[format][0]), places[format][1])
    names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    found = {}
    for item in dataset:
        masks = [a for a in item.annotations if a.type == datumaro.AnnotationType.mask]
        if item.subset in (SPLIT, "default"):
            found[item.id] = sorted((names[mask.label], np.asarray(mask.image, bool).tobytes()) for mask in masks)
    assert found == expected_masks(source)


def test_datumaro_reads_the_polygons(tmp_path: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="pip install datumaro")
    source = write_coco(tmp_path / "source")
    sais.convert(source, tmp_path / "out", "coco")
    dataset = datumaro.Dataset.import_from(str(tmp_path / "out/annotations/train.json"), "coco_instances")
    found = [a.points for item in dataset for a in item.annotations if a.type == datumaro.AnnotationType.polygon]
    objects = [a for record in read_dataset(source, SPLIT).images for a in record.annotations]
    expected = [part for annotation in objects for part in annotation.segmentation or ()]
    rounded = [[round(value, 2) for value in points] for points in [*found, *expected]]  # Datumaro rounds
    assert sorted(rounded[: len(found)]) == sorted(rounded[len(found) :])


def test_fiftyone_reads_coco_yolo_and_voc(source: Path, tmp_path: Path) -> None:
    """FiftyOne's own loaders of files; its data sets need a MongoDB server."""
    coco = pytest.importorskip("fiftyone.utils.coco", reason="pip install fiftyone")
    from fiftyone.utils import voc, yolo

    expected = expected_masks(source)
    for format in ("coco", "yolo", "voc"):
        sais.convert(source, tmp_path / format, format)
    *_, images, annotations = coco.load_coco_detection_annotations(str(tmp_path / f"coco/annotations/{SPLIT}.json"))
    for number, image in images.items():
        rows = []
        for item in annotations.get(number, []):
            found: Any = item.to_detection((SIZE[1], SIZE[0]), classes_map={1: "cat", 2: "dog"}, load_segmentation=True)
            rows.append((found.label, int(found.mask.sum())))
        areas = [
            (name, int(np.frombuffer(pixels, bool).sum())) for name, pixels in expected[Path(image["file_name"]).stem]
        ]
        assert sorted(rows) == sorted(areas)
    for stem, rows_of_image in expected.items():
        classes = Counter(name for name, _ in rows_of_image)
        path = str(tmp_path / f"yolo/labels/{SPLIT}/{stem}.txt")
        polylines = yolo.load_yolo_annotations(path, ["cat", "dog"], label_type="polylines")
        assert Counter(line.label for line in polylines.polylines) == classes
        boxes = voc.load_voc_detection_annotations(str(tmp_path / f"voc/Annotations/{stem}.xml")).to_detections()
        assert Counter(box.label for box in boxes.detections) == classes


def test_the_scripts_of_cityscapes_read_the_instances(source: Path, tmp_path: Path) -> None:
    scripts = pytest.importorskip("cityscapesscripts.evaluation.instances2dict", reason="pip install cityscapesscripts")
    sais.convert(source, tmp_path / "out", "cityscapes", classes=["person=cat", "car=dog"])
    files = sorted((tmp_path / "out").rglob(f"gtFine/{SPLIT}/*/*_instanceIds.png"))
    expected = expected_masks(source)
    for path, found in scripts.instances2dict([str(file) for file in files]).items():
        rows = expected[Path(path).name.partition("_gtFine")[0]]
        for name, other in (("person", "cat"), ("car", "dog")):
            areas = [int(np.frombuffer(pixels, bool).sum()) for label, pixels in rows if label == other]
            assert sorted(item["pixelCount"] for item in found[name]) == sorted(areas)
