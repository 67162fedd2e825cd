"""Labels written by the tools themselves, where they are installed: LabelMe, and the converter of ultralytics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sais.data.annotations import object_mask
from sais.data.formats import read_dataset
from sais.ops.rasterize import inside
from tests.data.formats.label_samples import (
    SIZE,
    SPLITS,
    image_names,
    labelme_document,
    mask_shape,
    objects,
    write_coco,
    write_image,
)


def test_a_file_of_labelme_is_read_as_labelme_reads_it(tmp_path: Path) -> None:
    files = pytest.importorskip("labelme._label_file", reason="LabelMe 6 is not installed")
    from labelme.utils import shapes_to_label  # type: ignore[import-not-found]

    bits = np.zeros(SIZE, bool)
    bits[30:40, 40:50] = True
    bits[33:35, 43:45] = False
    shapes = labelme_document("train_0")["shapes"]
    shapes[1]["group_id"] = shapes[2]["group_id"] = 3
    shapes.append(shapes[0] | mask_shape(bits))
    image, path = write_image(tmp_path / "a.png"), tmp_path / "a.json"
    size = {"image_height": SIZE[0], "image_width": SIZE[1]}
    files.write_label_file(str(path), shapes=shapes, image_path="a.png", image_data=image.read_bytes(), **size)
    (record,) = read_dataset(tmp_path, "all").images
    _, ids = shapes_to_label(SIZE, files.read_label_file(str(path)).shapes, {"cat": 1, "dog": 2})
    assert len(record.annotations) == ids.max() == 3
    for object_id, annotation in enumerate(record.annotations, 1):
        mask = object_mask(annotation, SIZE)
        assert mask is not None
        pixels = inside(mask, (0, 0, SIZE[1], SIZE[0]))
        if isinstance(annotation.segmentation, dict):
            assert np.array_equal(pixels, ids == object_id)
        else:  # LabelMe rounds the points and also fills the pixels that an outline only touches
            assert (pixels & (ids != object_id)).sum() <= 5
            assert (pixels | (ids != object_id)).mean() > 0.95


def test_labels_of_the_converter_of_ultralytics_are_read(tmp_path: Path) -> None:
    converter = pytest.importorskip("ultralytics.data.converter", reason="ultralytics is not installed")
    coco, folder = write_coco(tmp_path / "coco"), tmp_path / "yolo"
    for path in (coco / "annotations").glob("*.json"):
        document = json.loads(path.read_text())
        for entry in document["annotations"]:
            (part,) = entry["segmentation"]
            left, top = min(part[::2]), min(part[1::2])
            entry["bbox"] = [left, top, max(part[::2]) - left, max(part[1::2]) - top]
        path.write_text(json.dumps(document))
    converter.convert_coco(str(coco / "annotations"), str(folder), use_segments=True, cls91to80=False)
    (folder / "data.yaml").write_text("train: images/train\nval: images/valid\nnames: {0: cat, 1: dog}\n")
    for split in SPLITS:
        for name in image_names(split):
            write_image(folder / "images" / split / f"{name}.png")
        found, expected = (objects(read_dataset(place, split)) for place in (folder, coco))
        pixels = [{n: sorted((r[0], r[4]) for r in rows) for n, rows in part.items()} for part in (found, expected)]
        assert pixels[0] == pixels[1]
