"""Tests of the peers from installed packages: the injected objects pass each package's own post-processing.

Without these packages, all tests but the first four are skipped; `peers/installed.py` describes the installation.
"""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from peers import installed
from sais.benchmark.timing import run_once
from sais.benchmark.workload import Workload, make_workload
from sais.errors import InputError
from sais.ops.numpy_boxes import box_iou


def none_installed(package: str) -> str:
    raise importlib.metadata.PackageNotFoundError(package)


def need(package: str) -> Any:
    """Return the package, or skip the test if it is not installed or too old."""
    with installed.restored_process_settings():
        module = pytest.importorskip(package)
    if not installed.usable(package):
        pytest.skip(f"{package} is too old")
    return module


def run_stages(prepared: Any, workload: Workload) -> tuple[Any, Any, Any]:
    """Return the injected outputs, the results and the masks."""
    with torch.inference_mode():
        injected = prepared.inject(prepared.network(prepared.preprocess(workload.image)))
        results = prepared.postprocess(injected)
        return injected, results, prepared.dense_masks(results)


def check(workload: Workload, boxes: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor) -> None:
    """All objects with the scene's boxes and classes, and masks of the image's size."""
    assert len(boxes) == len(labels) == len(masks) == len(workload.boxes)
    assert tuple(masks.shape[1:]) == workload.size
    assert masks.dtype in (torch.bool, torch.uint8)
    overlaps = np.stack([box_iou(box, boxes.cpu().numpy()) for box in workload.boxes])
    assert (overlaps.max(1) > 0.9).sum() >= 0.95 * len(workload.boxes)
    assert (labels.cpu().numpy()[overlaps.argmax(1)] == workload.labels).mean() >= 0.95


def test_candidates_reports_missing_packages(capsys: pytest.CaptureFixture[str]) -> None:
    threads, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    candidates = installed.candidates()
    stderr = capsys.readouterr().err
    names = [candidate.name for candidate in candidates]
    for package, begin in (("ultralytics", "YOLO"), ("rfdetr", "RF-DETR")):
        missing = package in stderr
        assert missing != any(name.startswith(begin) for name in names)
    assert len(set(names)) == len(names)
    assert all(candidate.train is None and candidate.note for candidate in candidates)
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == (threads, variable)


def test_candidates_without_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.metadata, "version", none_installed)
    assert installed.candidates() == []
    stderr = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in stderr] == ["ultralytics", "rfdetr"]
    assert all("pip install" in line for line in stderr)


def test_candidates_skips_old_versions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1.9.3")
    assert installed.candidates() == []
    assert "ultralytics 1.9.3 is older than 8.4" in capsys.readouterr().err


def test_restored_process_settings_restores_threads_and_environment() -> None:
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), dict(os.environ)
    with installed.restored_process_settings():
        torch.set_num_threads(3)
        torch.set_float32_matmul_precision("high")
        os.environ["OMP_NUM_THREADS"] = "7"
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision(), dict(os.environ)) == before


@pytest.mark.parametrize("size", [(960, 1280), (300, 500), (333, 250)])
def test_yolo_returns_injected_objects(size: tuple[int, int]) -> None:
    need("ultralytics")
    workload = make_workload(100, size)
    prepared = installed.PreparedYolo("yolo11n-seg.yaml", workload, "cpu")
    injected, results, masks = run_stages(prepared, workload)
    scores = injected[0][0][0, 4:84].amax(0)
    assert int((scores > prepared.predictor.args.conf).sum()) == 100 * (1 + installed.DUPLICATES)
    check(workload, results.boxes.xyxy, results.boxes.cls, masks)
    for mask, box in zip(masks.bool(), results.boxes.xyxy, strict=True):
        assert mask.any()
        x1, y1, x2, y2 = (int(v) for v in box.round())
        mask[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = False
        assert not mask.any()


@pytest.mark.parametrize("settings", [{}, {"nms": False}])
def test_yolo26_returns_injected_objects_with_either_head(settings: dict[str, Any]) -> None:
    need("ultralytics")
    workload = make_workload(100)
    prepared = installed.PreparedYolo("yolo26n-seg.yaml", workload, "cpu", **settings)
    assert bool(prepared.predictor.model.end2end) == bool(settings)
    _, results, masks = run_stages(prepared, workload)
    check(workload, results.boxes.xyxy, results.boxes.cls, masks)


def test_yolo_stages_are_those_of_predict() -> None:
    ultralytics = need("ultralytics")
    workload = make_workload(20, (300, 500))
    with installed.restored_process_settings():
        model = ultralytics.YOLO("yolo11n-seg.yaml")
        model.predict(workload.image, retina_masks=True, verbose=False, device="cpu")
    prepared = installed.PreparedYolo("yolo11n-seg.yaml", workload, "cpu")
    prepared_settings, predict_settings = vars(prepared.predictor.args), vars(model.predictor.args)
    assert {k: v for k, v in prepared_settings.items() if v != predict_settings[k] and k != "model"} == {}
    assert torch.equal(prepared.preprocess(workload.image), model.predictor.preprocess([workload.image]))
    assert prepared.predictor.model.backend.model.is_fused()


def test_rfdetr_returns_injected_objects() -> None:
    need("rfdetr")
    workload = make_workload(100)
    prepared = installed.PreparedRfDetr("RFDETRSegNano", workload, "cpu")
    _, results, masks = run_stages(prepared, workload)
    check(workload, results["boxes"], results["labels"], masks)
    with pytest.raises(InputError, match="at most 100 objects"):
        installed.PreparedRfDetr("RFDETRSegNano", make_workload(101), "cpu")


def test_rfdetr_stages_are_those_of_predict() -> None:
    need("rfdetr")
    workload = make_workload(10, (300, 500))
    prepared = installed.PreparedRfDetr("RFDETRSegNano", workload, "cpu")
    with torch.inference_mode():
        raw = prepared.network(prepared.preprocess(workload.image))
        outputs = dict(zip(("pred_boxes", "pred_logits", "pred_masks"), raw, strict=True))
        sizes = torch.tensor([workload.size])
        staged = prepared.detector.model.postprocess(outputs, target_sizes=sizes, score_threshold=0.0)[0]
        predicted = prepared.detector.predict(workload.image, threshold=0.0)
    assert len(predicted) == len(staged["boxes"]) > 0
    assert np.abs(predicted.xyxy - staged["boxes"].numpy()).max() < 0.05
    assert (predicted.mask == staged["masks"][:, 0].numpy()).mean() > 0.999


def test_installed_candidates_return_a_hundred_masks() -> None:
    candidates = installed.candidates()
    if not candidates:
        pytest.skip("neither ultralytics nor rfdetr is installed")
    workload = make_workload(100)
    for candidate in candidates:
        seconds, number = run_once(candidate.prepare(workload, "cpu"), workload)
        assert number == 100, candidate.name
        assert torch.get_float32_matmul_precision() == "highest", candidate.name
        print(candidate.name, {stage: round(1000 * value) for stage, value in seconds.items()})
