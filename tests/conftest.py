"""What all tests share: one thread per process, and the real data sets where they lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported; tests run side by side

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """The folder of a real data set by name (animals, breadboard, coco_mini); skips the test where it is absent."""
    shelf = Path(os.environ.get("SAIS_DATA", ROOT.parent / "shared" / "data"))

    def folder(name: str) -> Path:
        if not (shelf / name).is_dir():
            pytest.skip(f"no real data at {shelf / name}; set SAIS_DATA to the folder that has {name}")
        return shelf / name

    return folder
