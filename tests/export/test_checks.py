"""Mistakes are reported before the model is read; failures of converters in one line; sizes of what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sais
from sais.cli import main
from sais.commands import export as command
from sais.config import Experiment, InputConfig
from sais.errors import ConfigError, InputError, MissingDependencyError, SaisError
from sais.export import ExportOptions, checks, exporter
from sais.export.conversion import report_failure, root_cause
from sais.export.options import choose_format
from sais.inference.metadata import GraphMetadata


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that reads a model, or for which the command loads PyTorch."""

    def fail(*arguments: Any) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(exporter, "load_model", fail)
    monkeypatch.setattr(command, "prepare_torch", fail)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"graph": "mask"}, "graph 'mask': unknown"),
        ({"precision": "int4"}, "precision 'int4': unknown"),
        ({"format": "onix"}, "did you mean 'onnx'"),
        ({"format": "openvino"}, "ends with .xml"),
        ({"format": "json:dumps", "precision": "int8"}, "not available in format json:dumps"),
        ({"graph": "raw", "score": 0.5}, "drops nothing"),
        ({"score": 2}, "score: 2 is not between"),
        ({"nms_iou": -1}, "nms_iou: -1 is not between"),
        ({"max_detections": 0}, "max_detections: 0 is less"),
        ({"opset": 9}, "opset: 9 is older than 18"),
        ({"format": "json:dumps", "opset": 20}, "no operator set"),
        ({"precision": "int8"}, "no calibration images"),
    ],
)
def test_export_checks_options_before_it_reads_the_model(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        sais.export("model.safetensors", tmp_path / "a.onnx", **changes)


@pytest.mark.usefixtures("unread")
def test_export_checks_the_path_before_it_reads_the_model(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.onnx").mkdir()
    for name, message in (
        ("model.json", r"no format has this suffix\. Give a name that ends with \.onnx, \.xml, \.pt2"),
        ("folder.onnx", "is a folder"),
        ("file/below/a.onnx", "file is not a folder"),
    ):
        with pytest.raises(SaisError, match=message):
            sais.export("model.safetensors", tmp_path / name)
    with pytest.raises(TypeError, match="unknown export option 'grph', did you mean 'graph'"):
        sais.export("model.safetensors", tmp_path / "a.onnx", grph="raw")


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("changes", "package", "extras"),
    [
        ({}, "onnxscript", "export"),
        ({"format": "openvino"}, "openvino", "export,openvino"),
        ({"precision": "int8"}, "onnxruntime", "export"),
    ],
)
def test_export_reports_missing_packages_before_it_reads_the_model(
    changes: dict[str, Any], package: str, extras: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "is_installed", lambda name: name != package)
    suffix = ".xml" if changes.get("format") == "openvino" else ".onnx"
    with pytest.raises(
        MissingDependencyError, match=rf'{package} is not installed\. Run: pip install "sais-seg\[{extras}'
    ):
        sais.export("model.safetensors", tmp_path / f"a{suffix}", **changes)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "int8"], "--calibrate FOLDER"),
        (["--precision", "int8", "--calibrate", "gone"], "gone"),
        (["--calibrate", "."], "no effect without --precision int8"),
        (["--check", "gone"], "gone"),
        (["--format", "torch-export", "--check", "."], "--check has no effect"),
        (["--out", "file/a.onnx"], "is not a folder"),
        (["--out", "a.json"], "no format has this suffix"),
        (["--graph", "raw", "--score", "0.3"], "drops nothing"),
        (["--input-size", "320", "320"], "--input-size has been renamed. Use --size."),
        (["--dynamic-shape", "True"], "unexpected argument 'True'"),
        (["--size", "320", "320", "3"], "3"),
        (["--opset", "9"], "--opset: 9 is older"),
        (["--opset", "1000000000"], "--opset: 1000000000 is newer than "),
    ],
)
def test_export_command_reports_mistakes_before_pytorch_is_loaded(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("model.safetensors").touch()
    assert main(["export", "model.safetensors", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_export_command_refuses_an_exported_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.onnx").touch()
    assert main(["export", str(tmp_path / "a.onnx")]) == 2
    assert "already exported" in capsys.readouterr().err


def test_input_size_accepts_one_number_for_a_fixed_input() -> None:
    fixed, ratio = Experiment(input=InputConfig(size=(64, 96))), Experiment(input=InputConfig("keep_ratio", (64, 107)))
    assert checks.input_size(ExportOptions(), ratio) == (64, 107)
    assert checks.input_size(ExportOptions(size=320), fixed) == (320, 320)
    assert checks.input_size(ExportOptions(size=(320, 64)), fixed) == (320, 64)
    assert checks.input_size(ExportOptions(size=(50, 80)), ratio) == (50, 80)
    for experiment, size, message in ((fixed, 100, "multiples of 32"), (ratio, 320, "maximum long side")):
        with pytest.raises(ConfigError, match=message):
            checks.input_size(ExportOptions(size=size), experiment)


def test_choose_format_follows_the_suffix() -> None:
    assert choose_format(ExportOptions(), None).format == "onnx"
    assert [choose_format(ExportOptions(), Path(f"a{s}")).format for s in (".onnx", ".xml", ".pt2")] == [
        "onnx",
        "openvino",
        "torch-export",
    ]
    assert choose_format(ExportOptions(format="a:b"), Path("a.onnx")).format == "a:b"


def test_export_command_reports_the_size_of_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of another export with the same name does not count."""

    def write(source: Path, path: Path, *rest: Any) -> GraphMetadata:
        path.write_bytes(b"x" * 1_200_000)
        if path.suffix == ".xml":
            path.with_suffix(".bin").write_bytes(b"x" * 2_000_000)
        return GraphMetadata("detections", Experiment(), ("a",), (1,))

    monkeypatch.setattr(exporter, "export_model", write)
    monkeypatch.setattr(command, "_compare", lambda *arguments: None)
    monkeypatch.chdir(tmp_path)
    Path("model.safetensors").touch()
    for name, text in (("a.xml", "wrote a.xml and a.bin, 3.2 MB"), ("a.onnx", "wrote a.onnx, 1.2 MB")):
        assert main(["export", "model.safetensors", "--out", name]) == 0
        assert text in capsys.readouterr().out


def test_report_failure_names_the_first_cause_in_one_line() -> None:
    metadata = GraphMetadata("masks", Experiment(), ("a",), (1,), dynamic_shape=True)
    with pytest.raises(SaisError) as caught, report_failure("ONNX", metadata):
        try:
            raise TypeError("int() argument must be a number\nand a long explanation")
        except TypeError as error:
            raise RuntimeError("84 lines\n" * 84) from error
    message = str(caught.value)
    assert "TypeError: int() argument must be a number)" in message
    assert "graph masks with a dynamic shape" in message
    assert "\n" not in message
    assert len(root_cause(ValueError("x" * 999))) == 200
    with pytest.raises(ConfigError, match="as it is"), report_failure("ONNX", metadata):
        raise ConfigError("as it is")
