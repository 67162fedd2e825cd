"""`sais bench models` of exported files where torch is not installed, in the processes that it starts as well."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Export

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "safetensors", "onnx"):
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Absent())
"""
"""The content of a `sitecustomize.py`, which every Python process with its folder on the path runs first."""


@pytest.mark.slow
def test_bench_models_measures_exported_files_without_torch(exported: Export, root: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root / "src")])}
    files = [str(exported(name)) for name in ("raw.onnx", "masks.onnx")]
    options = ["--objects", "5", "--image-size", "60", "80", "--repeats", "1", "--no-memory", "--out", str(tmp_path)]
    command = [sys.executable, "-m", "sais", "bench", "models"]
    done = subprocess.run([*command, *files, *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "without torch" in done.stdout
    rows = json.loads((tmp_path / "models.json").read_text())["rows"]
    assert [row["default_allocator"]["num_detections"] for row in rows] == [5, 5]
    done = subprocess.run([*command, *files, "sais-lite"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "PyTorch is not installed" in done.stderr
    assert done.stderr.count("\n") == 1
