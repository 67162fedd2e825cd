"""The notebook examples/measure.ipynb: its cells run in order, without a kernel, and it is stored without outputs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def notebook(root: Path) -> dict[str, Any]:
    """Return the notebook."""
    content: dict[str, Any] = json.loads((root / "examples/measure.ipynb").read_text(encoding="utf-8"))
    return content


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Execute a cell and return the value of its last expression, as a kernel shows it; None if it has none."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # type: ignore[attr-defined]


def test_notebook_measures_the_objects_of_a_synthetic_image(
    notebook: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    names: dict[str, Any] = {}
    cells = {cell["id"]: "".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"}
    shown = {name: run_cell(source, names) for name, source in cells.items()}
    assert "data:image/jpeg" in shown["objects"]._repr_html_()
    assert len(shown["objects"]) > len(names["whole"]) >= 2
    table = names["table"]
    np.testing.assert_allclose(table.column("area"), names["whole"].area / 16)
    assert len((tmp_path / "objects.csv").read_text().splitlines()) == len(table) + 1
    with Image.open(tmp_path / "object_0.png") as cutout:
        assert cutout.mode == "RGBA"
    assert shown["draw"].size == (320, 256)


def test_notebook_is_stored_without_outputs(notebook: dict[str, Any]) -> None:
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
