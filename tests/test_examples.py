"""The examples: the scenes of synthetic coins that the README's model is trained on."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest

from sais.data.formats import read_dataset


@pytest.fixture
def coins(root: Path) -> types.ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("coins_example", root / "examples" / "coins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_coins_example_writes_a_data_set_of_bright_discs(coins: types.ModuleType, tmp_path: Path) -> None:
    coins.write_split(tmp_path, "train", count=1, seed=3)
    split = read_dataset(tmp_path, "train")
    (record,) = split.images
    assert split.class_names == ("coin",)
    assert record.size == (coins.HEIGHT, coins.WIDTH)
    assert len(record.annotations) >= 2
    image = record.read().astype(float)
    inside = np.zeros(record.size, bool)
    for annotation in record.annotations:
        x1, y1, x2, y2 = np.rint(annotation.box).astype(int)
        inside[(3 * y1 + y2) // 4 : (y1 + 3 * y2) // 4, (3 * x1 + x2) // 4 : (x1 + 3 * x2) // 4] = True
    assert image[inside].mean() > image[~inside].mean() + 20
