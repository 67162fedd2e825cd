"""Labels written by the real tools (tests/data/real_tools): the objects of the same data set, and a training step."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from sais.data.annotations import ImageRecord, object_mask
from sais.data.formats import list_splits, read_dataset
from sais.data.formats import notes as kinds
from sais.ops.rasterize import inside
from tests.data.formats.label_samples import NAMES, SIZE, SPLITS, image_names, shapes

FOLDER = Path(__file__).parents[1] / "real_tools"
FIXTURES = {
    "pycocotools": ("COCO", 0.97),
    "labelme": ("LabelMe", 1.0),
    "label_studio_coco": ("COCO", 1.0),
    "label_studio_yolo": ("YOLO segmentation", 1.0),
    "supervision_coco": ("COCO", 0.85),
    "supervision_yolo": ("YOLO segmentation", 0.85),
    "supervision_voc": ("Pascal VOC", 0.85),
    "ultralytics": ("YOLO segmentation", 1.0),
    "ultralytics_predictions": ("YOLO segmentation", 0.85),
    "datumaro": ("Datumaro", 1.0),
    "datumaro_voc": ("Pascal VOC", 0.97),
    "datumaro_panoptic": ("COCO panoptic", 0.97),
    "cityscapes": ("Cityscapes", 0.85),
}
"""Fixture -> the format that is found, and the minimum IoU of masks: below 1 where the tool traces pixels or rounds."""
PREFIX = re.compile(r"^[0-9a-f]{8}-|_leftImg8bit$")
"""What tools add to the name of an image."""


OTHER_NAMES = {"cityscapes": ("person", "car")}
"""Fixture -> its names of the classes cat and dog."""


def expected_objects(name: str, names: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """Return class and mask (H, W) bool of the objects of an image."""
    return [(names[shape.label], shape.bits) for shape in shapes(name)]


def objects(record: ImageRecord, class_names: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
    """Return class and mask (H, W) bool of the objects of an image as it was read."""
    rows = []
    for annotation in record.annotations:
        mask = object_mask(annotation, record.size)
        assert mask is not None
        rows.append((class_names[annotation.label], inside(mask, (0, 0, SIZE[1], SIZE[0]))))
    return rows


def parts(folder: Path) -> list[str]:
    """Return the splits of a fixture; "all" where its labels have none."""
    drawn = kinds.DRAWN in read_dataset(folder, "train").notes
    return ["all"] if drawn else [split for split in list_splits(folder) if not split.startswith("test")]


@pytest.mark.parametrize("name", FIXTURES)
def test_labels_of_tools_have_the_objects_of_their_data_set(name: str) -> None:
    origin, minimum = FIXTURES[name]
    seen = set()
    for part in parts(FOLDER / name):
        split = read_dataset(FOLDER / name, part)
        assert split.origin.startswith(f"{origin}, ")
        for record in split.images:
            stem = PREFIX.sub("", record.path.stem)
            seen.add(stem)
            found, expected = objects(record, split.class_names), expected_objects(stem, OTHER_NAMES.get(name, NAMES))
            assert len(found) == len(expected)
            for class_name, bits in expected:
                shares = [(bits & b).sum() / (bits | b).sum() for other, b in found if other == class_name]
                assert max(shares) >= minimum, (stem, class_name, shares)
    assert seen == {image for split in SPLITS for image in image_names(split)}


@pytest.mark.parametrize("name", [name for name in FIXTURES if "label_studio" not in name])
def test_labels_of_tools_keep_their_splits(name: str) -> None:
    for split in SPLITS:
        found = read_dataset(FOLDER / name, split)
        assert sorted(PREFIX.sub("", record.path.stem) for record in found.images) == image_names(split)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXTURES)
def test_a_training_step_from_labels_of_tools(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from peers.fuzz.samples import EXPERIMENT
    from sais.data.paths import DataPaths
    from sais.engine.trainer import train

    data = shutil.copytree(FOLDER / name, tmp_path / "data")
    train(EXPERIMENT, DataPaths(data), tmp_path / "run", random_init=True, max_iterations=1, verbose=False)
    assert (tmp_path / "run" / "log.jsonl").read_text().count('"iteration"') >= 1
