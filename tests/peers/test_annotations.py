"""`python -m peers.annotations`: a data set like COCO, and the measurement of reading it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from peers.annotations import measure, run_children, write
from sais.data.formats import read_dataset


def test_written_data_set_has_the_distributions_of_coco(tmp_path: Path) -> None:
    path = write(tmp_path, 60, 2000, 0)
    document = json.loads(path.read_text())
    polygons = [part for entry in document["annotations"] if not entry["iscrowd"] for part in entry["segmentation"]]
    crowds = sum(entry["iscrowd"] for entry in document["annotations"])
    assert sum(map(len, polygons)) / 2 / len(polygons) == pytest.approx(20.2, abs=1.5)  # points of a polygon
    assert len(polygons) / (2000 - crowds) == pytest.approx(1.12, abs=0.05)
    assert 5 <= crowds <= 40
    assert 450 < path.stat().st_size / 2000 < 620  # COCO: 565 bytes per object
    split = read_dataset(tmp_path, "train")
    assert split.notes == {}
    assert len(split.images) == 60
    assert split.images[59].read().shape == (480, 640, 3)
    content = path.read_bytes()
    write(tmp_path, 60, 2000, 0)
    assert path.read_bytes() == content


def test_memory_and_time_of_a_reading(tmp_path: Path) -> None:
    """In a new process: the peak that the kernel states is not exact, and that of a test process is gigabytes."""
    write(tmp_path, 340, 400, 0)
    (result,) = run_children(tmp_path, "loader")
    assert result["images"] == 340
    assert 0 < result["before"] <= result["after_reading"] <= result["peak"]
    assert result["workers"] > 1
    assert result["seconds"] > 0


@pytest.mark.slow
def test_table_has_a_row_for_each_measurement(tmp_path: Path) -> None:
    write(tmp_path, 340, 400, 0)
    lines = measure(tmp_path, 1).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["cold", "cached", "loader", "ranks"]
