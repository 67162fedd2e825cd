"""`python -m peers.pack`: a part of a data set at a small size, in one archive."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from peers.pack import Arguments, pack, scale_annotation
from sais.data.annotations import DatasetSplit, make_annotation
from sais.data.paths import DataPaths
from sais.errors import InputError
from sais.ops import rle


def unpack(path: Path, folder: Path) -> tuple[DatasetSplit, DatasetSplit]:
    """Return the training and validation split of an archive."""
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    data = DataPaths(folder / path.stem)
    train = data.read_train()
    valid = data.read_valid(train.class_names)
    assert valid is not None
    return train, valid


def test_packed_data_set_has_the_objects_at_the_smaller_size(shapes: Path, tmp_path: Path) -> None:
    assert "12 train images, 4 valid images" in pack(Arguments(shapes, tmp_path / "small.tar", side=64))
    packed = unpack(tmp_path / "small.tar", tmp_path)
    original = DataPaths(shapes).read_train()
    assert packed[0].class_names == original.class_names
    assert sorted(len(r.annotations) for r in packed[0].images) == sorted(len(r.annotations) for r in original.images)
    areas = [
        sum(a.area for split in splits for r in split.images for a in r.annotations)
        for splits in (packed[:1], (original,))
    ]
    assert areas[0] == pytest.approx(areas[1] / 4, rel=1e-3)  # 96 x 128 became 48 x 64
    for record in packed[0].images:
        assert record.size == (48, 64)
        assert record.read().shape == (48, 64, 3)
        for annotation in record.annotations:
            assert rle.area(annotation.segmentation) == pytest.approx(annotation.area, abs=12)


def test_a_smaller_part_is_a_subset(shapes: Path, tmp_path: Path) -> None:
    images = []
    for count in (3, 6):
        pack(Arguments(shapes, tmp_path / f"part{count}.tar", side=64, images=count))
        train, valid = unpack(tmp_path / f"part{count}.tar", tmp_path)
        assert (len(train.images), len(valid.images)) == (count, min(count, 4))
        images.append([record.read() for record in train.images])
    for small, large in zip(images[0], images[1], strict=False):
        np.testing.assert_array_equal(small, large)


def test_polygons_and_boxes_are_scaled_by_both_axes() -> None:
    polygon = [10.0, 20.0, 30.0, 20.0, 30.0, 60.0]
    annotation = make_annotation(1, 0, segmentation=[polygon], area=400)
    entry = scale_annotation(annotation, (100, 50), (50, 20))
    assert entry["segmentation"] == [[4.0, 10.0, 12.0, 10.0, 12.0, 30.0]]
    assert entry["bbox"] == [4.0, 10.0, 8.0, 20.0]
    assert entry["area"] == 80.0


def test_too_large_archives_are_removed(shapes: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    with pytest.raises(InputError, match=r"large\.tar: 0\.\d MB, more than 0\.001"):
        pack(Arguments(shapes, path, megabytes=0.001))
    assert not path.exists()
