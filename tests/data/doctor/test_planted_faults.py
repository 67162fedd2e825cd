"""`sais doctor` on a copy of a data set with one fault of each kind: it names each, and nothing healthy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peers.planted_faults import count_found, examine, plant_faults
from sais import cli
from sais.data.annotations import Annotation, DatasetSplit, object_mask
from sais.data.formats import read_dataset
from sais.data.synthetic import write_shapes
from sais.ops.rasterize import coverage


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 90 images without faults."""
    folder = tmp_path_factory.mktemp("data") / "healthy"
    write_shapes(folder, train=60, valid=30, size=(160, 224), seed=5)
    return folder


def test_doctor_names_every_planted_fault_and_nothing_healthy(healthy: Path, tmp_path: Path) -> None:
    planter = plant_faults(healthy, tmp_path / "damaged", seed=1)
    counts = count_found(planter, examine(tmp_path / "damaged"), examine(healthy))
    assert len({fault.name for fault in planter.faults}) >= 25
    assert counts.missed == []
    assert len(counts.healthy) <= 5, counts.healthy


def object_key(annotation: Annotation, split: DatasetSplit, size: tuple[int, int]) -> tuple[Any, ...]:
    """Return class, box and pixels of an object."""
    shape = object_mask(annotation, size)
    assert shape is not None
    pixels = coverage(shape, (0, 0, size[1], size[0]), 1.0, 1)
    return split.class_names[annotation.label], *np.round(annotation.box, 2).tolist(), pixels.tobytes()


def test_fix_output_is_clean_and_has_every_healthy_object(
    healthy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planter = plant_faults(healthy, tmp_path / "damaged", seed=1)
    assert cli.main(["doctor", str(tmp_path / "damaged"), "--fix", str(tmp_path / "fixed")]) == 0
    capsys.readouterr()
    assert cli.main(["doctor", str(tmp_path / "fixed"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    left = {
        f["kind"].partition(" (")[0]
        for s in report["splits"].values()
        for f in s["findings"]
        if f["severity"] == "WARNING"
    }
    assert left <= {
        "images of one color", "images nearly the same as another one of the split",
        "images nearly the same as one in another split", "objects inside another object of the same class",
        "objects of different classes at the same place", "objects with a side below 4 px",
        "objects without a mask", "classes with fewer than 10 objects",
        "classes without objects here that have objects in another split",
    }, left  # fmt: skip
    for name in ("train", "valid"):
        before, after = read_dataset(healthy, name), read_dataset(tmp_path / "fixed", name)
        repaired = {record.name: record for record in after.images}
        compared = 0
        for record in before.images:
            if (name, record.name) not in planter.touched:
                objects = {object_key(a, after, record.size) for a in repaired[record.name].annotations}
                assert {object_key(a, before, record.size) for a in record.annotations} == objects
                compared += len(objects)
        assert compared > 40


@pytest.mark.slow
def test_doctor_names_every_planted_fault_in_animals(real_data: Any, tmp_path: Path) -> None:
    source = real_data("animals")
    planter = plant_faults(source, tmp_path / "damaged")
    counts = count_found(planter, examine(tmp_path / "damaged", 2), examine(source, 2))
    assert counts.missed == []
    assert len(counts.healthy) <= 5, counts.healthy
