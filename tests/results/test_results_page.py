"""The page docs/results.md: its Python code runs in order, and its tables name every column and option."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sais
from sais.results.display import draw_detections
from sais.results.measurements import Measurements
from tests.results.detection_samples import random_image, squares


@pytest.fixture
def page(root: Path) -> str:
    """Return the text of the page."""
    return (root / "docs/results.md").read_text(encoding="utf-8")


def test_code_of_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Predictor:
        """A predictor that finds two squares in every image."""

        def __init__(self, source: str) -> None:
            assert source == "runs/first"

        def __call__(self, image: str, keep_image: bool = False) -> sais.Detections:
            detections = squares((20, 30), (40, 10))
            detections.image = random_image() if keep_image else None
            return detections

    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(sais, "Predictor", Predictor, raising=False)
    monkeypatch.setattr(Image.Image, "show", lambda image: None)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(random_image()).save("image.jpg")
    names: dict[str, Any] = {}
    with pyplot.rc_context({"backend": "agg"}):
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(block, names)
        pyplot.close(names["axes"].figure)
    assert len(names["bears"]) == 1
    assert len(names["both"]) == len(names["again"]) == 2
    assert len(names["missed"]) == 0
    assert len(names["inside"]) == 2
    np.testing.assert_array_equal(names["again"].masks(), names["detections"].masks())
    assert Path("objects.csv").read_text().startswith("class_name,score,")


def test_tables_of_the_page_are_complete(page: str) -> None:
    named = set(re.findall(r"`(\w+)`", page))
    assert set(Measurements.columns()) <= named
    assert set(inspect.signature(draw_detections).parameters) - {"detections", "image"} <= named
