"""Tests of `sais bench models` and `sais bench scaling`: candidates, measurements and errors."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from sais.benchmark import scaling
from sais.benchmark.exported import PreparedExport
from sais.benchmark.masks import BOX_LOCAL, CHUNKED, MaskCase
from sais.benchmark.memory import in_fresh_process
from sais.benchmark.models import ModelsRequest, bench_models, experiment_of, model_candidates, num_classes_of
from sais.benchmark.recipe_candidates import PreparedSais
from sais.benchmark.timing import Conditions, run_once
from sais.benchmark.workload import make_workload
from sais.checkpoint import load_checkpoint
from sais.cli import main
from sais.config import Experiment
from sais.errors import ConfigError, InputError
from sais.inference.backends.torch import TorchBackend
from sais.inference.on_device import DeviceRoute
from sais.inference.options import InferenceOptions
from sais.ops.numpy_boxes import box_iou
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings
from tests.conftest import Export

TINY = "tests.benchmark.test_models:tiny_recipe"
SMALL = Conditions(num_objects=12, image_size=(120, 160), repeats=2)


def tiny_recipe() -> Experiment:
    """Return a recipe with a small input."""
    return replace_settings(recipe("sais-lite"), "input", size=(128, 160))


def test_model_candidates_covers_precisions_and_batch_sizes(tmp_path: Path) -> None:
    graph = tmp_path / "a.onnx"
    graph.write_bytes(b"not opened here")
    request = ModelsRequest(("sais-lite", str(graph)), ("fp32", "bf16", "fp16"), True, (1, 4))
    names = [candidate.name for candidate in model_candidates(request, "cpu")]
    both = [f"sais-lite{middle}{last}" for middle in ("", ", bf16") for last in ("", ", batch 4")]
    compiled = [name.replace("sais-lite", "sais-lite, compiled") for name in both]
    assert sorted(names) == sorted([*both, *compiled, "a.onnx", "a.onnx, batch 4"])
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "a.onnx"
    other.write_bytes(b"not opened here")
    names = [
        candidate.name for candidate in model_candidates(ModelsRequest((str(graph), str(other), str(graph))), "cuda")
    ]
    assert names == [f"{graph}, on the CPU", f"{other}, on the CPU"]  # distinct names, each model once
    with pytest.raises(ConfigError, match="fixed input size"):
        model_candidates(ModelsRequest((str(graph),), input_size=(64, 64)), "cpu")
    on_gpu = [candidate.name for candidate in model_candidates(ModelsRequest(("sais-lite",), ("fp16",)), "cuda")]
    assert on_gpu == ["sais-lite, fp16"]


def test_missing_models_are_reported() -> None:
    with pytest.raises(InputError, match="neither a recipe"):
        experiment_of("no-such-model")
    with pytest.raises(InputError, match=r"gone\.onnx: no such file"):
        model_candidates(ModelsRequest(("gone.onnx",)), "cpu")
    assert num_classes_of(ModelsRequest(("sais-lite",))) == 80


def test_num_classes_of_checkpoint(trained: Path) -> None:
    assert (
        num_classes_of(ModelsRequest((str(trained),)))
        == len(load_checkpoint(trained / "model.safetensors").class_names)
        < 80
    )


def test_input_size_replaces_that_of_the_recipe(trained: Path) -> None:
    assert experiment_of(str(trained)).name == "tiny"
    (candidate,) = model_candidates(ModelsRequest((TINY,), input_size=(96, 128)), "cpu")
    workload = make_workload(3, (50, 60))
    assert candidate.prepare(workload, "cpu").preprocess(workload.image).shape == (1, 3, 96, 128)


def test_make_workload_separates_objects_of_one_class() -> None:
    """With one class, no two of a hundred objects overlap so much that NMS would remove one."""
    workload = make_workload(100, (400, 500), num_classes=1)
    for i, box in enumerate(workload.boxes):
        assert not i or box_iou(box, workload.boxes[:i]).max() <= 0.33
    assert (workload.boxes[:, 2:] > workload.boxes[:, :2]).all()
    assert (workload.boxes >= 0).all()
    assert (workload.boxes <= [500, 400, 500, 400]).all()


@pytest.mark.parametrize(("side", "classes", "objects"), [(64, 3, 5), (128, 1, 60), (256, 2, 100)])
def test_inject_detections_survives_nms_at_small_inputs(side: int, classes: int, objects: int) -> None:
    workload = make_workload(objects, (120, 160), classes)
    prepared = PreparedSais(replace_settings(recipe("sais-lite"), "input", size=(side, side)), workload)
    assert run_once(prepared, workload)[1] == objects


def test_run_once_without_masks() -> None:
    workload = make_workload(5, (120, 160), 5)
    experiment = replace_settings(replace_settings(recipe("sais-lite"), "input", size=(128, 160)), "model", masks=False)
    prepared = PreparedSais(experiment, workload)
    _, count = run_once(prepared, workload)
    assert count == 5


def test_batch_returns_all_objects_in_each_image() -> None:
    workload = make_workload(12, (120, 160), 5)
    experiment = replace_settings(recipe("sais-lite"), "input", size=(128, 160))
    prepared = PreparedSais(experiment, workload, InferenceOptions(batch_size=3))
    with torch.inference_mode():
        results = prepared.postprocess(prepared.inject(prepared.network(prepared.preprocess(workload.image))))
    assert [len(detections) for detections in results] == [12, 12, 12]


def test_postprocessing_on_an_accelerator_is_measured_as_the_predictor_does_it() -> None:
    workload = make_workload(12, (120, 160), 5)
    experiment = replace_settings(recipe("sais-lite"), "input", size=(128, 160))
    prepared = PreparedSais(experiment, workload, InferenceOptions(batch_size=2))
    with torch.inference_mode():
        outputs = prepared.inject(prepared.network(prepared.preprocess(workload.image)))
        expected = prepared.postprocess(outputs)
        backend = prepared.backend
        route = Mock(wraps=route_on_cpu(backend))
        backend.device_route = route
        prepared.postprocess(outputs)  # sets the sizes of the fixed shapes
        results = prepared.postprocess(outputs)
    assert route.finish_from.call_count == 2
    for actual, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(actual.boxes, wanted.boxes)
        assert len(actual.cropped_masks) == len(wanted.cropped_masks) == 12


def route_on_cpu(backend: TorchBackend) -> DeviceRoute:
    """Return the route of an accelerator for a backend on a CPU."""
    postprocess = backend.architecture.postprocess_fixed
    assert postprocess is not None
    return DeviceRoute(backend.network, postprocess, backend.device, backend.class_names, backend.mask_stride)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raw.onnx", "masks.onnx"])
def test_prepared_export_returns_injected_objects(name: str, exported: Export) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = exported(name)
    workload = make_workload(12, (120, 160), num_classes_of(ModelsRequest((str(path),))))
    prepared = PreparedExport(path, workload, InferenceOptions(batch_size=2))
    results = prepared.postprocess(prepared.inject(prepared.network(prepared.preprocess(workload.image))))
    assert [len(detections) for detections in results] == [12, 12]
    for box, label in zip(workload.boxes, workload.labels, strict=True):
        assert box_iou(box, results[1].boxes[results[1].labels == label]).max() > 0.99
    assert prepared.dense_masks(results).shape == (12, 120, 160)
    with pytest.raises(InputError, match="9"):
        PreparedExport(path, replace(workload, num_classes=9))


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_bench_models_measures_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = bench_models(ModelsRequest((TINY,)), SMALL, log=lambda text: None)
    assert row.default_allocator.num_detections == 12
    assert 0 < row.default_allocator.network < row.default_allocator.end_to_end <= row.default_allocator.p95 * 1.001
    assert row.memory is None or row.memory >= 0
    words = [
        "bench",
        "models",
        TINY,
        "--objects",
        "5",
        "--image-size",
        "60",
        "80",
        "--repeats",
        "1",
        "--batch-sizes",
        "2",
    ]
    assert main([*words, "--device", "cpu", "--no-memory", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"{TINY}, batch 2" in printed
    assert "images/s" in printed
    measurements = json.loads((tmp_path / "models.json").read_text())
    assert measurements["rows"][0]["default_allocator"]["num_detections"] == 5
    assert measurements["conditions"]["num_objects"] == 5


def test_bench_scaling_writes_points_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    words = [
        "bench",
        "scaling",
        "--object-counts",
        "1",
        "20",
        "--megapixels",
        "0.01",
        "0.04",
        "--repeats",
        "1",
        "--no-memory",
    ]
    assert main([*words, "--out", str(tmp_path)]) == 0
    points = json.loads((tmp_path / "scaling.json").read_text())["curves"]
    assert [(p["method"], p["num_objects"]) for p in points["objects"]] == [
        (method, count) for count in (1, 20) for method in (BOX_LOCAL, CHUNKED)
    ]
    assert points["image"][0]["megapixels"] == pytest.approx(0.01, rel=0.05)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote" in capsys.readouterr().out


def test_measure_scaling_skips_full_frames_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "MAX_PIXELS", 10 * 100 * 100)
    chosen = [("objects", MaskCase(10, (100, 100), (8, 8))), ("objects", MaskCase(11, (100, 100), (8, 8)))]
    points = scaling.measure_scaling(chosen, 1, memory=False)["objects"]
    assert [(p.num_objects, p.method) for p in points] == [(10, BOX_LOCAL), (10, CHUNKED), (11, BOX_LOCAL)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models"], "no MODEL"),
        (["masks", "sais-lite"], "takes no model"),
        (["models", "sais-lite", "--batch-sizes", "0"], "1 or more"),
        (["scaling", "--object-counts", "0"], "1 or more"),
        (["scaling", "--megapixels", "0.0000001"], "0.001 or more"),
        (["scaling", "--objects", "5"], "--objects has no effect"),
        (["masks", "--out", "here"], "--out has no effect"),
        (["models", "sais-lite", "--precisions", "fp16", "--device", "cpu"], "no model runs in fp16"),
        (["models", "sais-lite", "--input-size", "100"], "multiples of 32"),
        (["models", "sais-lite", "--input-size", "0"], "less than the minimum"),
        (["models", "sais-lite", "--peers", "tests.benchmark.test_timing:small", "--only", "light"], "named 'light'"),
        (["models", "sais-lit"], "neither a recipe"),
    ],
)
def test_bench_rejects_invalid_options(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) != 0
    assert message in capsys.readouterr().err


def is_unchanged(settings: dict[str, object]) -> bool:
    """Return whether the settings of a case were transferred unchanged."""
    return MaskCase(**settings) == MaskCase(3, (50, 60), (4, 5), sides=(0.1, 0.2))  # type: ignore[arg-type]


def test_in_fresh_process_transfers_settings() -> None:
    case = MaskCase(3, (50, 60), (4, 5), sides=(0.1, 0.2))
    assert in_fresh_process("tests.benchmark.test_models:is_unchanged", asdict(case)) is True
