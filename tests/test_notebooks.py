"""The notebooks in examples/: each runs in a kernel, on small synthetic data, and is stored without outputs."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.ipynb"))
SECONDS = 300
"""Limit of a cell; a whole notebook takes a fraction of it."""
needs_kernel = pytest.mark.skipif(
    find_spec("nbclient") is None or find_spec("ipykernel") is None, reason="nbclient or ipykernel is missing (dev)"
)


def execute(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **parameters: object) -> dict[str, Any]:
    """Run a notebook with values of its cell "parameters" and return its cells by id, with outputs."""
    import nbclient
    import nbformat

    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for name in parameters:
        assert name in cell.source
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    client = nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3")
    client.execute(cwd=str(folder))
    return {cell.id: cell for cell in notebook.cells}


def printed(cell: Any) -> str:
    """Return what a cell has printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def shown(cell: Any) -> set[str]:
    """Return the types of what a cell shows: image/png, text/html, ..."""
    return {kind for output in cell.outputs if "data" in output for kind in output.data}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_there_are_notebooks_for_the_four_tasks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["deploy", "measure", "train", "video"]


@pytest.mark.slow
@needs_kernel
def test_train_notebook_trains_evaluates_and_predicts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = execute(root / "examples/train.ipynb", tmp_path, monkeypatch, images=10, epochs=2, size=64)
    assert "10 training and 2 validation images" in printed(cells["data"])
    assert "text/html" in shown(cells["labels"])
    assert "star" in printed(cells["doctor"])
    assert "model.safetensors" in printed(cells["train"])
    assert "image/png" in shown(cells["curve"])
    assert "mask" in printed(cells["evaluate"])
    assert "text/html" in shown(cells["predict"])


@pytest.mark.slow
@needs_kernel
def test_deploy_notebook_exports_serves_and_asks(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = execute(root / "examples/deploy.ipynb", tmp_path, monkeypatch, images=8, epochs=1, size=64)
    assert "shapes.onnx" in printed(cells["export"])
    assert len(printed(cells["compare"]).splitlines()) == 4
    assert "ONNX Runtime" in printed(cells["time"])
    assert "text/html" in shown(cells["request"])


@pytest.mark.slow
@needs_kernel
def test_video_notebook_keeps_the_ids(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("av", "scipy", "matplotlib"):
        pytest.importorskip(package)
    cells = execute(root / "examples/video.ipynb", tmp_path, monkeypatch, frames=24, objects=3)
    assert "24 frames, 3 shapes, 3 tracks" in printed(cells["track"])
    assert "text/html" in shown(cells["track"])
    assert printed(cells["paths"]).count("px in") == 3
    assert "24 frames" in printed(cells["write"])
