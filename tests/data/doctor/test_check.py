"""Check of a data set: findings, and a report without findings."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from PIL import Image

from sais.data.doctor.check import check_dataset
from sais.data.doctor.kinds import (
    DUPLICATE_OBJECT,
    LARGE_AREA,
    MASK_OUTSIDE_BOX,
    NO_OBJECTS,
    ONE_COLOR,
    SAME_CONTENT,
    SIZE_MISMATCH,
    TINY_OBJECT,
    UNREADABLE_IMAGE,
)
from sais.data.formats.coco import read_coco
from tests.data.formats.coco_samples import DOCUMENT, write_images


def test_check_dataset_reports_all_kinds_of_findings(tmp_path: Path) -> None:
    write_images(tmp_path)
    document = copy.deepcopy(DOCUMENT)
    document["images"].append({"id": 10, "file_name": "c.png", "height": 60, "width": 40})
    Image.new("RGB", (60, 40)).save(tmp_path / "c.png")
    first = document["annotations"][0]
    document["annotations"] += [
        {**first, "id": 2},
        {**first, "id": 3, "bbox": [10, 10, 12, 10]},
        {**first, "id": 4, "bbox": [40, 30, 3, 9], "segmentation": [[40, 30, 43, 30, 43, 39, 40, 39]]},
    ]
    valid = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(valid[: len(valid) // 2])
    (tmp_path / "some.json").write_text(json.dumps(document))
    progress: list[tuple[int, int]] = []
    report = check_dataset(
        read_coco(tmp_path / "some.json", tmp_path), progress=lambda done, total: progress.append((done, total))
    )
    assert {kind: len(cases) for kind, cases in report.findings.items()} == {
        UNREADABLE_IMAGE: 1, SIZE_MISMATCH: 1, DUPLICATE_OBJECT: 2, MASK_OUTSIDE_BOX: 1, TINY_OBJECT: 1,
        LARGE_AREA: 2, SAME_CONTENT: 1, NO_OBJECTS: 2, ONE_COLOR: 2,
    }  # fmt: skip
    assert not report.ok
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert "annotation 3: by 8.0 px" in report.summary()
    assert "(height and width swapped)" in report.summary()
    (tmp_path / "b.png").write_bytes(valid)
    (tmp_path / "some.json").write_text(json.dumps(DOCUMENT))
    clean = check_dataset(read_coco(tmp_path / "some.json", tmp_path))
    assert clean.ok
    assert "ERROR" not in clean.summary()


def test_check_dataset_warns_of_a_split_without_outlines(tmp_path: Path) -> None:
    write_images(tmp_path)
    document = copy.deepcopy(DOCUMENT)
    for annotation in document["annotations"]:
        annotation["segmentation"] = []
        annotation["iscrowd"] = 0
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    report = check_dataset(read_coco(tmp_path / "boxes.json", tmp_path))
    assert "WARNING: no object has an outline" in report.summary()
    assert "makes a model without masks" in report.summary()
    (tmp_path / "some.json").write_text(json.dumps(DOCUMENT))
    assert "no object has an outline" not in check_dataset(read_coco(tmp_path / "some.json", tmp_path)).summary()
