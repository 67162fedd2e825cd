"""`sais info`: what checkpoints and exported graphs state, as text and JSON, also files with odd entries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sais
from sais import cli
from sais.checkpoint import load_checkpoint, save_checkpoint
from sais.config import Experiment, to_dict
from sais.data.digest import describe_data
from sais.data.formats import read_dataset
from sais.inference.metadata import GraphMetadata, metadata_from_text
from sais.inference.score_thresholds import ScoreThresholds
from sais.inference.trained_model import load_model


def info_of(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the JSON of `sais info`."""
    capsys.readouterr()
    assert cli.main(["info", str(path), "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_info_states_what_the_checkpoint_of_a_run_contains(
    trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = info_of(trained, capsys)
    checkpoint = load_checkpoint(trained / "model.safetensors")
    assert info["file"] == str(trained / "model.safetensors")
    assert info["size_bytes"] == (trained / "model.safetensors").stat().st_size
    assert info["settings"] == json.loads(json.dumps(to_dict(checkpoint.experiment)))
    assert [item["name"] for item in info["classes"]] == list(checkpoint.class_names)
    assert info["parameters"] == sum(tensor.numel() for tensor in checkpoint.part("model").values())
    assert info["metrics"] == checkpoint.state["metrics"]
    assert info["data"] == describe_data(read_dataset(shapes, "train"))
    assert info["versions"]["sais"] == sais.__version__
    assert (info["recipe"], info["input"]) == ("tiny", {"mode": "fixed", "size": [64, 64]})


def test_info_text_has_a_line_for_each_fact_and_the_settings_on_request(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["info", str(trained)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[0] for line in lines]
    assert names[:6] == ["file", "kind", "recipe", "network", "input", "classes (5)"]
    assert {"data", "training", "versions"} <= set(names)
    assert "digest " in next(line for line in lines if line.startswith("data"))
    assert cli.main(["info", str(trained), "--settings"]) == 0
    settings = capsys.readouterr().out.splitlines()
    assert len(settings) > len(lines) + 50
    assert any(line.split() == ["optim.lr", "0.002"] for line in settings)


def test_info_prints_files_with_missing_and_odd_entries(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint(trained / "model.safetensors")
    checkpoint.state = {
        "metrics": {"mask": 3, "box": {"AP": None}},
        "data": [1],
        "seconds": "long",
        "iteration": "\x1b",
    }
    checkpoint.state |= {"versions": {"a\nb": ["\x1b[2J"]}}
    save_checkpoint(tmp_path / "odd.safetensors", checkpoint)
    assert cli.main(["info", str(tmp_path / "odd.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "metrics" not in printed
    checkpoint.state = {}
    save_checkpoint(tmp_path / "bare.safetensors", checkpoint)
    info = info_of(tmp_path / "bare.safetensors", capsys)
    assert [info[name] for name in ("iteration", "images", "seconds", "metrics", "data", "versions")] == [None] * 6
    assert cli.main(["info", str(tmp_path / "bare.safetensors")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_info_states_what_the_thresholds_were_chosen_for(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = load_checkpoint(trained / "model.safetensors")
    checkpoint.state["thresholds"] = ScoreThresholds(0.0444, 0.264, "valid", "masks", {}, "recall >= 0.9").to_dict()
    save_checkpoint(tmp_path / "m.safetensors", checkpoint)
    assert cli.main(["info", str(tmp_path / "m.safetensors")]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("threshold"))
    assert line.split(maxsplit=1)[1] == "score >= 0.0444: recall >= 0.9 of masks on valid, F1 0.264"


def test_info_refuses_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.safetensors").write_text("no model")
    for path in (tmp_path / "a.safetensors", tmp_path / "missing", tmp_path):
        assert cli.main(["info", str(path)]) == 2
        assert capsys.readouterr().err.startswith("sais: error: ")


def test_graph_metadata_passes_the_origin_of_the_model(trained: Path) -> None:
    model = load_model(trained)
    assert set(model.origin) == {"iteration", "images", "seconds", "metrics", "data", "versions"}
    metadata = GraphMetadata("raw", Experiment(), ("a",), (1,), origin=model.origin)
    assert metadata_from_text(metadata.to_text(), "m.onnx").origin == json.loads(json.dumps(model.origin))
    for origin in ("[1]", "null"):
        assert metadata_from_text(metadata.to_text() | {"origin": origin}, "m.onnx").origin == {}
    text = metadata.to_text()
    del text["origin"]
    assert metadata_from_text(text, "m.onnx").origin == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masks.onnx", "detections.xml"])
def test_info_of_an_exported_file_states_the_training_of_its_model(
    trained: Path, exported: Callable[[str], Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino" if name.endswith("xml") else "onnxruntime")
    graph, model = info_of(exported(name), capsys), info_of(trained, capsys)
    assert graph["kind"] == ("OpenVINO graph" if name.endswith("xml") else "ONNX graph")
    assert graph["graph"] == name.partition(".")[0]
    for entry in ("classes", "iteration", "images", "metrics", "data", "versions", "recipe", "thresholds"):
        assert graph[entry] == model[entry], entry
