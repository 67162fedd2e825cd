"""`sais bench models` and `curves`: who takes part, what comes out, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from sais.benchmark import scaling
from sais.benchmark.candidates import PreparedSais
from sais.benchmark.exported import PreparedExport
from sais.benchmark.masks import MaskCase
from sais.benchmark.memory import in_fresh_process
from sais.benchmark.models import ModelsRequest, bench_models, classes_of, experiment_of, model_candidates
from sais.benchmark.timing import Conditions, run_once
from sais.benchmark.workload import make_workload, overlap
from sais.checkpoint import load_checkpoint
from sais.cli import main
from sais.config import Experiment
from sais.errors import SaisError
from sais.recipes import recipe
from sais.recipes.adjust import changed

TINY = "tests.test_bench_models:tiny_recipe"
SMALL = Conditions(objects=12, size=(120, 160), repeats=2)


def tiny_recipe() -> Experiment:
    """A recipe of a small input."""
    return changed(recipe("sais-lite"), "input", size=(128, 160))


def test_every_precision_and_batch_that_there_is(tmp_path: Path) -> None:
    graph = tmp_path / "a.onnx"
    graph.write_bytes(b"not opened here")
    request = ModelsRequest(("sais-lite", str(graph)), ("fp32", "bf16", "fp16"), True, (1, 4))
    names = [one.name for one in model_candidates(request, "cpu")]
    both = [f"sais-lite{middle}{last}" for middle in ("", ", bf16") for last in ("", ", batch 4")]
    compiled = [name.replace("sais-lite", "sais-lite, compiled") for name in both]
    assert sorted(names) == sorted([*both, *compiled, "a.onnx", "a.onnx, batch 4"])
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "a.onnx"
    other.write_bytes(b"not opened here")
    names = [one.name for one in model_candidates(ModelsRequest((str(graph), str(other), str(graph))), "cuda")]
    assert names == [f"{graph}, on the CPU", f"{other}, on the CPU"]  # told apart, and each only once
    with pytest.raises(SaisError, match="--input"):
        model_candidates(ModelsRequest((str(graph),), input=(64, 64)), "cpu")
    on_gpu = [one.name for one in model_candidates(ModelsRequest(("sais-lite",), ("fp16",)), "cuda")]
    assert on_gpu == ["sais-lite, fp16"]


def test_a_model_that_is_not_there_is_said() -> None:
    with pytest.raises(SaisError, match="neither a recipe"):
        experiment_of("no-such-model")
    with pytest.raises(SaisError, match=r"gone\.onnx: no such file"):
        model_candidates(ModelsRequest(("gone.onnx",)), "cpu")
    assert classes_of(ModelsRequest(("sais-lite",))) == 80


def test_a_trained_model_is_timed_with_its_own_classes(trained: Path) -> None:
    assert (
        classes_of(ModelsRequest((str(trained),)))
        == len(load_checkpoint(trained / "model.safetensors").class_names)
        < 80
    )


def test_the_input_may_be_another(trained: Path) -> None:
    assert experiment_of(str(trained)).name == "tiny"
    (one,) = model_candidates(ModelsRequest((TINY,), input=(96, 128)), "cpu")
    workload = make_workload(3, (50, 60))
    assert one.prepare(workload, "cpu").preprocess(workload.image).shape == (1, 3, 96, 128)


def test_few_classes_are_no_reason_to_lose_objects() -> None:
    """With one class a hundred objects must lie apart, or suppression takes some."""
    workload = make_workload(100, (400, 500), classes=1)
    for i, box in enumerate(workload.boxes):
        assert not i or overlap(box, workload.boxes[:i]).max() <= 0.33
    assert (workload.boxes[:, 2:] > workload.boxes[:, :2]).all()
    assert (workload.boxes >= 0).all()
    assert (workload.boxes <= [500, 400, 500, 400]).all()


@pytest.mark.parametrize(("side", "classes", "objects"), [(64, 3, 5), (128, 1, 60), (256, 2, 100)])
def test_small_inputs_and_few_classes_lose_no_object(side: int, classes: int, objects: int) -> None:
    workload = make_workload(objects, (120, 160), classes)
    prepared = PreparedSais(changed(recipe("sais-lite"), "input", size=(side, side)), workload, "cpu")
    assert run_once(prepared, workload)[1] == objects


def test_models_without_masks_are_timed_too() -> None:
    workload = make_workload(5, (120, 160), 5)
    experiment = changed(changed(recipe("sais-lite"), "input", size=(128, 160)), "model", masks=False)
    prepared = PreparedSais(experiment, workload, "cpu")
    _, found = run_once(prepared, workload)
    assert found == 5


def test_a_batch_finds_the_scene_in_each_image() -> None:
    workload = make_workload(12, (120, 160), 5)
    prepared = PreparedSais(changed(recipe("sais-lite"), "input", size=(128, 160)), workload, "cpu", images=3)
    with torch.inference_mode():
        found = prepared.postprocess(prepared.inject(prepared.network(prepared.preprocess(workload.image))))
    assert [len(one) for one in found] == [12, 12, 12]


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["raw", "detections"])
def test_an_exported_graph_finds_the_scene(graph: str, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from sais.export import ExportOptions, export_model

    path = tmp_path / "a.onnx"
    metadata = export_model(trained / "model.safetensors", path, ExportOptions(graph=graph, size=(128, 160)))  # type: ignore[arg-type]
    workload = make_workload(12, (120, 160), len(metadata.class_names))
    prepared = PreparedExport(path, workload, "cpu", images=2)
    found = prepared.postprocess(prepared.inject(prepared.network(prepared.preprocess(workload.image))))
    assert [len(one) for one in found] == [12, 12]
    for box, label in zip(workload.boxes, workload.labels, strict=True):
        assert overlap(box, found[1].boxes[found[1].labels == label]).max() > 0.99
    assert prepared.dense_masks(found).shape == (12, 120, 160)
    with pytest.raises(SaisError, match="measure it alone"):
        PreparedExport(path, replace(workload, classes=9), "cpu")


@pytest.mark.slow
def test_measured_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = bench_models(ModelsRequest((TINY,)), SMALL, say=lambda text: None)
    assert row.shipped.num_detections == 12
    assert 0 < row.shipped.network < row.shipped.end_to_end <= row.shipped.slow * 1.001
    assert row.memory is None or row.memory > 0
    words = ["bench", "models", TINY, "--objects", "5", "--size", "60", "80", "--repeats", "1", "--batches", "2"]
    assert main([*words, "--device", "cpu", "--no-memory", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"{TINY}, batch 2" in said
    assert "images/s" in said
    figures = json.loads((tmp_path / "models.json").read_text())
    assert figures["rows"][0]["shipped"]["found"] == 5
    assert figures["conditions"]["objects"] == 5


def test_curves_grow_and_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    words = ["bench", "curves", "--counts", "1", "20", "--megapixels", "0.01", "0.04", "--repeats", "1", "--no-memory"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    points = json.loads((tmp_path / "curves.json").read_text())["curves"]
    assert [(p["way"], p["objects"]) for p in points["objects"]] == [
        (way, count) for count in (1, 20) for way in (scaling.OURS, scaling.USUAL)
    ]
    assert points["image"][0]["megapixels"] == pytest.approx(0.01, rel=0.05)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "wrote" in capsys.readouterr().out


def test_the_usual_way_is_left_out_where_it_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "MAX_PIXELS", 10 * 100 * 100)
    chosen = [("objects", MaskCase(10, (100, 100), (8, 8))), ("objects", MaskCase(11, (100, 100), (8, 8)))]
    found = scaling.measure_scaling(chosen, 1, memory=False)["objects"]
    assert [(p.objects, p.way) for p in found] == [(10, scaling.OURS), (10, scaling.USUAL), (11, scaling.OURS)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models"], "needs a MODEL"),
        (["masks", "sais-lite"], "takes no model"),
        (["models", "sais-lite", "--batches", "0"], "1 or more"),
        (["curves", "--counts", "0"], "1 or more"),
        (["curves", "--megapixels", "0.0000001"], "0.001 or more"),
        (["curves", "--objects", "5"], "--counts"),
        (["masks", "--out", "here"], "--out goes with models, curves and training"),
        (["models", "sais-lite", "--precisions", "fp16", "--device", "cpu"], "nobody to measure"),
        (["models", "sais-lite", "--input", "100"], "multiples of 32"),
        (["models", "sais-lite", "--input", "0"], "must be positive"),
        (["models", "sais-lite", "--peers", "tests.benchmark.test_timing:small", "--only", "light"], "no peer"),
        (["models", "sais-lit"], "neither a recipe"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *words]) != 0
    assert said in capsys.readouterr().err


def echoed(settings: dict[str, object]) -> bool:
    """In another process: whether settings arrive as they were."""
    return MaskCase(**settings) == MaskCase(3, (50, 60), (4, 5), sides=(0.1, 0.2))  # type: ignore[arg-type]


def test_settings_arrive_in_a_fresh_process_as_they_were() -> None:
    case = MaskCase(3, (50, 60), (4, 5), sides=(0.1, 0.2))
    assert in_fresh_process("tests.test_bench_models:echoed", asdict(case)) is True
