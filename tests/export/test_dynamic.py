"""Exports with a dynamic shape, and of models that keep the aspect ratio: the detections of PyTorch at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sais
from sais.data.synthetic import make_scene
from sais.export.checks import is_installed
from sais.export.openvino import write_openvino
from sais.export.parity import ParityReport
from sais.inference.backends.exported import open_exported
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.inference.trained_model import TrainedModel
from sais.ops.letterbox import CanvasMap
from tests.export.export_samples import random_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

MIN_SCORE = 0.1
CPU = InferenceOptions(score=MIN_SCORE, device="cpu")
IMAGE_SIZES = [(70, 50), (96, 128), (128, 96), (20, 200), (150, 150)]
CANVAS_SIZES = [(64, 64), (96, 160), (160, 96), (128, 128), (32, 256)]
SUFFIXES = pytest.mark.parametrize("suffix", [".onnx", ".xml"])


def export(model: TrainedModel, path: Path, **options: object) -> None:
    """Export to ONNX, and from there to OpenVINO where it is installed."""
    metadata = sais.export(model, path, **options)
    assert metadata.dynamic_shape
    if is_installed("openvino"):
        write_openvino(path, metadata, path.with_suffix(".xml"))


@pytest.fixture(scope="module")
def keep_ratio(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Path]:
    """Return a model that keeps the aspect ratio, and the path of its export, graph masks."""
    model, path = random_model("keep_ratio"), tmp_path_factory.mktemp("keep-ratio") / "model.onnx"
    export(model, path, graph="masks")
    return model, path


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Path]:
    """Return a model with a fixed input and all options, and the path of its dynamic export, graph detections."""
    model = random_model(backbone="resnet10t.c3_in1k", options=True)
    path = tmp_path_factory.mktemp("dynamic") / "model.onnx"
    export(model, path, graph="detections", dynamic_shape=True, max_detections=40, opset=18)
    return model, path


def predictor_of(path: Path, suffix: str) -> Predictor:
    """Return a predictor of an exported file, or skip the test where its runtime is not installed."""
    if suffix == ".xml":
        pytest.importorskip("openvino")
    return Predictor(path.with_suffix(suffix), CPU)


def check(report: ParityReport) -> None:
    """The limits of every other exported file."""
    assert report.images == 5
    assert report.objects > 50
    assert report.unmatched == 0
    assert report.max_score_difference < 1e-3
    assert report.max_box_difference < 0.1
    assert report.min_mask_iou >= 0.995


@pytest.mark.slow
@SUFFIXES
def test_export_that_keeps_the_ratio_equals_torch_at_five_image_sizes(
    suffix: str, keep_ratio: tuple[TrainedModel, Path]
) -> None:
    model, path = keep_ratio
    expected, actual, report = Predictor(model, CPU), predictor_of(path, suffix), ParityReport()
    for number, size in enumerate(IMAGE_SIZES):
        image = make_scene(5, "valid", number, size=size).image
        report.add(expected(image), actual(image), MIN_SCORE)
    check(report)


@pytest.mark.slow
@SUFFIXES
def test_dynamic_export_equals_torch_at_five_canvas_sizes(suffix: str, dynamic: tuple[TrainedModel, Path]) -> None:
    model, path = dynamic
    expected, actual, report = Predictor(model, CPU, max_detections=40), predictor_of(path, suffix), ParityReport()
    for number, size in enumerate(CANVAS_SIZES):
        image = make_scene(5, "valid", number, size=size).image
        canvases = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
        canvas_map = CanvasMap(size, size, (1.0, 1.0))
        (reference,), (detections,) = (p.detect(canvases, [canvas_map]) for p in (expected, actual))
        report.add(reference, detections, MIN_SCORE)
        assert len(detections) <= 40
    check(report)


@pytest.mark.slow
def test_export_stores_opset_category_ids_and_settings(dynamic: tuple[TrainedModel, Path]) -> None:
    onnx = pytest.importorskip("onnx")
    opsets = onnx.load(str(dynamic[1]), load_external_data=False).opset_import
    assert [entry.version for entry in opsets if not entry.domain] == [18]
    backend = open_exported(dynamic[1], CPU)
    assert (backend.class_names, backend.category_ids) == (("a", "b", "c"), (1, 5, 9))
    assert backend.experiment.postprocess.max_detections == 40
    assert backend.fixed_canvas is None
