"""Short runs on the device: training, resuming, also on another device, predictions, evaluation, export."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("torch")
pytest.importorskip("faster_coco_eval")

import torch

import sais
from sais.checkpoint import load_checkpoint
from sais.config import Experiment, OptimConfig, ScheduleConfig
from sais.data.synthetic import make_scene, write_shapes
from sais.evaluation.evaluate import evaluate
from sais.export.parity import ParityReport
from sais.inference.on_device import DeviceRoute
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings
from tests.gpu.exact import exact_arithmetic

pytestmark = pytest.mark.gpu
IMAGE_SIZE = (128, 128)
IMAGES, BATCH_SIZE = 16, 4
MAX_LOSS_DIFFERENCE = 0.1
"""Maximum relative difference of the last loss after resuming on a GPU, which adds in a nondeterministic order."""
MIN_SCORE = 0.01
"""Minimum score of compared detections, which few training steps reach."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of synthetic shapes."""
    folder = tmp_path_factory.mktemp("gpu") / "shapes"
    write_shapes(folder, train=IMAGES, valid=8, size=IMAGE_SIZE)
    return folder


def experiment_on(device: torch.device, epochs: int = 3) -> Experiment:
    """Return the settings of a run of four iterations per epoch at 96 x 96."""
    experiment = replace_settings(recipe("sais-lite"), "input", mode="fixed", size=(96, 96))
    optim = OptimConfig(name="adamw", lr=1e-3, batch_size=BATCH_SIZE)
    schedule = ScheduleConfig(epochs=epochs, kind="cosine", warmup=2, warmup_kind="linear")
    run = replace(experiment.run, device=str(device), workers=0, loggers=(), evaluate_every=0, tf32=False)
    return replace(experiment, optim=optim, schedule=schedule, run=run)


def losses_of(folder: Path) -> list[float]:
    """Return the losses in the log of a run, one per iteration."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry["total"] for entry in entries if entry["kind"] == "iteration"]


@pytest.fixture(scope="module")
def finished(data: Path, device: torch.device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on the device that was not interrupted."""
    out = tmp_path_factory.mktemp("gpu") / "run"
    with exact_arithmetic():
        sais.train(experiment_on(device), data, out, random_init=True)
    return out


def test_losses_decrease(finished: Path) -> None:
    losses = losses_of(finished)
    assert len(losses) == 3 * IMAGES // BATCH_SIZE
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("devices", ["same", "to the cpu", "from the cpu"])
def test_resumed_run_equals_the_uninterrupted_one(
    devices: str, finished: Path, data: Path, device: torch.device, tmp_path: Path
) -> None:
    cpu = torch.device("cpu")
    first, second = {"same": (device, device), "to the cpu": (device, cpu), "from the cpu": (cpu, device)}[devices]
    with exact_arithmetic():
        sais.train(experiment_on(first), data, tmp_path / "run", random_init=True, max_iterations=6)
        sais.train(experiment_on(second), data, tmp_path / "run", resume=True)
    expected, actual = losses_of(finished), losses_of(tmp_path / "run")
    tolerance = 1e-6 if device.type == "cpu" else MAX_LOSS_DIFFERENCE
    assert len(actual) == len(expected)
    assert actual[-1] == pytest.approx(expected[-1], rel=tolerance)


def test_deterministic_runs_have_the_same_weights(data: Path, device: torch.device, tmp_path: Path) -> None:
    experiment = experiment_on(device)
    experiment = replace(experiment, run=replace(experiment.run, deterministic=True, tf32=True))
    for name in ("first", "second"):
        sais.train(experiment, data, tmp_path / name, random_init=True, max_iterations=4)
    assert losses_of(tmp_path / "first") == losses_of(tmp_path / "second")
    first, second = (load_checkpoint(tmp_path / name / "last.safetensors").tensors for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def report_of(expected: Predictor, actual: Predictor) -> ParityReport:
    """Compare the detections of two predictors on synthetic images."""
    report = ParityReport()
    for number in range(6):
        image = make_scene(0, "valid", number, IMAGE_SIZE).image
        report.add(expected(image), actual(image), MIN_SCORE)
    return report


def check(report: ParityReport) -> None:
    """Assert that the differences of detections are those of rounding."""
    assert report.objects > 0
    assert report.unmatched <= 0.02 * report.objects
    assert report.max_score_difference <= 5e-3
    assert report.max_box_difference <= 0.5
    assert report.min_mask_iou >= 0.97


def test_detections_equal_those_of_the_cpu(finished: Path, device: torch.device) -> None:
    options = InferenceOptions(score=MIN_SCORE, device="cpu")
    with exact_arithmetic():
        check(report_of(Predictor(finished, options), Predictor(finished, replace(options, device=str(device)))))


def test_batched_detections_equal_single_ones(finished: Path, device: torch.device) -> None:
    """Images of several sizes, in batches of three and with tiles, on the device."""
    images = [make_scene(0, "valid", i, (96 + 32 * (i % 3), 128)).image for i in range(5)]
    predictor = Predictor(finished, score=MIN_SCORE, device=str(device), batch_size=3)
    with exact_arithmetic():
        together, alone = predictor.batch(images), [predictor(image) for image in images]
    report = ParityReport()
    for expected, actual in zip(alone, together, strict=True):
        report.add(expected, actual, MIN_SCORE)
    check(report)


def test_route_of_the_device_equals_that_of_the_host(finished: Path, device: torch.device) -> None:
    """NMS and masks in fixed shapes on the device, against NMS there and masks in host memory; also as a stream."""
    images = [make_scene(0, "valid", i, (96 + 32 * (i % 2), 128)).image for i in range(5)]
    options: dict[str, Any] = {"score": MIN_SCORE, "device": str(device), "batch_size": 3}
    routed, plain = Predictor(finished, **options), Predictor(finished, **options)
    backend, host = cast(Any, routed.backend), cast(Any, plain.backend)
    host.device_route = None
    if device.type == "cpu":
        postprocess = backend.architecture.postprocess_fixed
        backend.device_route = DeviceRoute(backend.network, postprocess, device, backend.class_names, 4)
    assert backend.device_route is not None
    report = ParityReport()
    with exact_arithmetic():
        expected = plain.batch(images)
        for actual in (routed.batch(images), list(routed.stream(images))):
            for first, second in zip(expected, actual, strict=True):
                report.add(first, second, MIN_SCORE)
    assert report.objects > 0
    assert report.unmatched == 0
    assert report.max_score_difference <= 1e-6
    assert report.max_box_difference <= 1e-3
    assert report.min_mask_iou >= 0.99


def test_evaluation_equals_that_of_the_cpu(finished: Path, data: Path, device: torch.device) -> None:
    scores = []
    for name in ("cpu", str(device)):
        with exact_arithmetic():
            metrics = evaluate(Predictor(finished, device=name), data, workers=0).metrics
        assert metrics is not None
        scores.append([kind.AP for kind in (metrics.box, metrics.mask) if kind is not None])
    assert scores[1] == pytest.approx(scores[0], abs=0.005)


def test_exported_detections_equal_those_of_the_device(finished: Path, device: torch.device, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if device.type == "cpu":
        pytest.skip("tests/export has this comparison on the CPU")
    path = tmp_path / "model.onnx"
    sais.export(finished, path, graph="raw")
    with exact_arithmetic():
        check(report_of(Predictor(finished, score=MIN_SCORE, device=str(device)), Predictor(path, score=MIN_SCORE)))
