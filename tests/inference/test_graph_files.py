"""Exported files of strangers and of damaged disks: metadata, outputs and checksum are checked, with our errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.config import Experiment, InputConfig, to_dict
from sais.errors import CheckpointError, ConfigError, SaisError
from sais.inference.backends.exported import ExportedBackend
from sais.inference.graph_checksum import ENTRY, check_seal, placeholder, seal
from sais.inference.metadata import GraphMetadata, metadata_from_text
from sais.inference.predictor import Predictor

EXPERIMENT = Experiment(input=InputConfig(size=(64, 64)))
TEXT = GraphMetadata("detections", EXPERIMENT, ("cat", "dog"), (3, 7)).to_text()
LOCATIONS = 64 + 16 + 4 + 1 + 1


def settings(**groups: dict[str, Any]) -> str:
    """Return the entry `experiment` with changed settings."""
    values = to_dict(EXPERIMENT)
    for name, changes in groups.items():
        values[name] = values[name] | changes
    return json.dumps(values)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("experiment", settings(input={"size": [10**6, 10**6]}), r"input\.size 1000000 1000000: must be between"),
        ("experiment", settings(input={"size": [65, 64]}), r"input\.size 65 64: a fixed input needs multiples"),
        ("experiment", settings(postprocess={"max_detections": -1}), r"postprocess\.max_detections -1"),
        ("experiment", settings(postprocess={"nms_iou": float("nan")}), r"postprocess\.nms_iou nan"),
        ("experiment", settings(model={"backbone": "hf-hub:a/b"}), r"model\.backbone 'hf-hub:a/b': not a plain name"),
        ("experiment", "[" * 100_000, "damaged metadata"),
        ("experiment", "[]", "expected a group of settings"),
        *((("class_names"), text, "class_names is not a list of texts") for text in ("[1, 2]", "{}", "[]", '"ab"')),
        *((("category_ids"), text, "category_ids is not a list") for text in ("[1]", "[1, null]", "3")),
        *((("strides"), text, "strides is not a list") for text in ("[]", "[0]", "[-8]", "[1e9]", "[4096]", "7")),
        *((("mask_stride"), text, "mask_stride is not a number") for text in ("0", "null", "true", "1e999")),
        *((("thresholds"), text, "damaged score thresholds") for text in ("[]", '{"overall": 2}', '{"overall": NaN}')),
        ("strides", "1" * 5000, "damaged metadata"),
    ],
)
def test_impossible_metadata_is_refused(entry: str, value: str, message: str) -> None:
    assert metadata_from_text(TEXT, "m.onnx").class_names == ("cat", "dog")
    with pytest.raises((CheckpointError, ConfigError), match=f"^m.onnx: {message}"):
        metadata_from_text(TEXT | {entry: value}, "m.onnx")


class OddSession:
    """A session whose graph returns what it is told to."""

    def __init__(self, graph: str, outputs: dict[str, Any] | Exception) -> None:
        self.metadata = metadata_from_text(TEXT | {"graph": graph}, "m.onnx")
        self.outputs = outputs

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if isinstance(self.outputs, Exception):
            raise self.outputs
        return self.outputs


DETECTIONS: dict[str, np.ndarray] = {
    "boxes": np.array([[[0, 0, 9, 9], [20, 0, 30, 9]]], np.float32),
    "scores": np.array([[0.9, 0.5]], np.float32),
    "labels": np.array([[0, 1]]),
    "coefficients": np.ones((1, 2, 4), np.float32),
    "prototypes": np.ones((1, 4, 16, 16), np.float32),
}
RAW: dict[str, np.ndarray] = {
    "class_logits": np.zeros((1, LOCATIONS, 2), np.float32),
    "distances": np.ones((1, LOCATIONS, 4), np.float32),
}
ODD: list[tuple[str, dict[str, Any]]] = [
    *(
        ("detections", {name: array})
        for name, array in [("labels", np.array([[0, 2]])), ("labels", np.array([[-1, 0]]))]
    ),
    *(("detections", {name: array[:, :1]}) for name, array in DETECTIONS.items()),
    *(("detections", {name: array[0]}) for name, array in DETECTIONS.items()),
    *(("detections", {name: array.repeat(2, 0)}) for name, array in DETECTIONS.items()),
    *(("detections", {name: None}) for name in ("boxes", "scores", "labels", "prototypes")),
    ("detections", {"labels": DETECTIONS["labels"].astype(np.float32)}),
    ("detections", {"boxes": DETECTIONS["boxes"].astype(np.int64)}),
    ("raw", {"class_logits": np.zeros((1, LOCATIONS, 3), np.float32)}),
    ("raw", {"class_logits": RAW["class_logits"][:, 1:], "distances": RAW["distances"][:, 1:]}),
    ("raw", {"distances": RAW["distances"][..., :3]}),
    ("raw", {"quality_logits": np.zeros((1, LOCATIONS, 1), np.float32)}),
    ("raw", {"coefficients": np.zeros((1, LOCATIONS, 4), np.float32)}),
]


@pytest.mark.parametrize(("graph", "changes"), ODD)
def test_outputs_that_do_not_fit_are_refused(graph: str, changes: dict[str, Any]) -> None:
    outputs: dict[str, Any] = (RAW if graph == "raw" else DETECTIONS) | changes
    outputs = {name: array for name, array in outputs.items() if array is not None}
    backend = ExportedBackend(OddSession(graph, outputs), Path("m.onnx"))
    with pytest.raises(CheckpointError, match=r"^m\.onnx: .*graph"):
        Predictor(backend, score=0.0)(np.zeros((64, 64, 3), np.uint8))


def test_errors_of_the_runtime_are_checkpoint_errors() -> None:
    backend = ExportedBackend(OddSession("raw", RuntimeError("bad\n alloc")), Path("m.onnx"))
    with pytest.raises(CheckpointError, match=r"m\.onnx: the graph cannot run \(bad alloc\)"):
        Predictor(backend)(np.zeros((64, 64, 3), np.uint8))


def test_boxes_that_are_no_numbers_are_dropped() -> None:
    boxes = DETECTIONS["boxes"].copy()
    boxes[0, 0, 2] = np.nan
    backend = ExportedBackend(OddSession("detections", DETECTIONS | {"boxes": boxes}), Path("m.onnx"))
    assert Predictor(backend, score=0.0)(np.zeros((64, 64, 3), np.uint8)).labels.tolist() == [1]


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_seal_detects_each_changed_byte(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    weights = path.with_suffix(".bin")
    weights.write_bytes(b"weights")
    path.write_bytes(b"graph " + placeholder(suffix).encode() + b" end")
    seal(path)
    assert b"0" * 64 not in path.read_bytes()
    check_seal(path)
    for file in (path, weights) if suffix == ".xml" else (path,):
        content = file.read_bytes()
        for position in range(0, len(content), 3):
            file.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            has_checksum = placeholder(suffix)[:-64].encode() in path.read_bytes()
            with pytest.raises(CheckpointError, match="checksum mismatch" if has_checksum else "no checksum"):
                check_seal(path)
        file.write_bytes(content)


@pytest.mark.slow
def test_a_graph_that_another_program_wrote_is_opened_only_if_trusted(exported: Any, tmp_path: Path) -> None:
    import onnx

    graph = onnx.load(exported("masks.onnx"))
    expected = Predictor(exported("masks.onnx"), score=0.0)(np.zeros((64, 64, 3), np.uint8))
    path = tmp_path / "m.onnx"
    graph.doc_string = "changed"
    onnx.save(graph, path)
    with pytest.raises(CheckpointError, match="checksum mismatch"):
        Predictor(path)
    (checksum,) = (entry for entry in graph.metadata_props if entry.key == ENTRY)
    graph.metadata_props.remove(checksum)
    onnx.save(graph, path)
    with pytest.raises(CheckpointError, match=r"no checksum of sais.*trust=True"):
        Predictor(path)
    assert Predictor(path, score=0.0, trust=True)(np.zeros((64, 64, 3), np.uint8)).rle() == expected.rle()


@pytest.mark.parametrize("name", ["masks.onnx", "detections.xml"])
@pytest.mark.slow
def test_damaged_exports_are_refused_before_a_runtime_opens_them(name: str, exported: Any, tmp_path: Path) -> None:
    source = exported(name)
    for file in source.parent.glob(f"{source.stem}.[xbo]*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / name
    Predictor(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SaisError, match="checksum mismatch"):
        Predictor(path)
