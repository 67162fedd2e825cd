"""Tests of the peers' benchmark candidates and of the accuracy, speed and memory commands."""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import torch
import torchvision

from peers.__main__ import main
from peers.candidates import PreparedYolact, few, other_yolacts, paper, yolact_candidate
from peers.torchvision_peers.candidates import (
    PreparedMaskRcnn,
    injected_boxes,
    mask_rcnn_candidate,
    shipped_mask_rcnn_candidate,
)
from sais.benchmark import timing
from sais.benchmark.candidates import Candidate, find_candidates
from sais.benchmark.timing import run_once
from sais.benchmark.workload import make_workload
from sais.config import Experiment, ModelConfig, to_dict
from sais.data.paths import DataPaths
from sais.engine.activation_memory import saved_bytes_per_image
from sais.engine.train_step import DivergedLossError
from sais.errors import InputError, SaisError
from sais.ops.numpy_boxes import box_iou
from sais.paper import table4
from sais.paper.runs import RunPlan, RunResult, run_plans
from sais.paper.sweep import plan_runs
from tests.paper.test_reproduce import TINY

LITE = "tf_efficientnet_lite0.in1k"
WORKLOAD = make_workload(6, (120, 160), 5)


def small() -> list[Candidate]:
    """Return both peers with a small backbone and input."""
    return [yolact_candidate("yolact", 200, LITE), mask_rcnn_candidate("mask-rcnn", 192, LITE)]


@pytest.mark.parametrize("which", [0, 1], ids=["yolact", "mask-rcnn"])
def test_injected_objects_are_returned(which: int) -> None:
    prepared = small()[which].prepare(WORKLOAD, "cpu")
    with torch.inference_mode():
        raw = prepared.inject(prepared.network(prepared.preprocess(WORKLOAD.image)))
        masks = prepared.dense_masks(prepared.postprocess(raw))
    assert tuple(masks.shape) == (6, 120, 160)
    assert masks.dtype == torch.bool
    # No mask exceeds its box by more than a grid cell; masks of random weights may be empty.
    for mask in masks:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            extent = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).numpy()
            inside = [(extent[:2] >= box[:2] - 9).all() and (extent[2:] <= box[2:] + 9).all() for box in WORKLOAD.boxes]
            assert any(inside)


@pytest.mark.parametrize("kind", [PreparedYolact, PreparedMaskRcnn])
def test_each_image_of_a_batch_returns_the_objects(kind: type[PreparedYolact] | type[PreparedMaskRcnn]) -> None:
    experiment = Experiment(name="small", model=ModelConfig(backbone=LITE, channels=64))
    prepared: Any = kind(experiment, 192, WORKLOAD, "cpu", batch_size=2)
    with torch.inference_mode():
        masks = prepared.postprocess(prepared.inject(prepared.network(prepared.preprocess(WORKLOAD.image))))
    assert [tuple(image.shape) for image in masks] == [(6, 120, 160)] * 2
    assert torch.equal(masks[0], masks[1])


@pytest.mark.slow
def test_torchvision_model_returns_injected_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    build = torchvision.models.detection.maskrcnn_resnet50_fpn
    recorded = {}

    def record(**options: object) -> object:
        recorded.update(options)
        return build(**options)

    monkeypatch.setattr(torchvision.models.detection, "maskrcnn_resnet50_fpn", record)
    prepared = shipped_mask_rcnn_candidate("shipped", 192).prepare(WORKLOAD, "cpu")
    assert recorded["fixed_size"] == (192, 192)
    _, count = run_once(prepared, WORKLOAD)
    assert count == 6
    with torch.inference_mode():
        detections, _ = prepared.network(prepared.preprocess(WORKLOAD.image))
    boxes = detections[0]["boxes"].numpy() / 192 * [160, 120, 160, 120]
    for box, label in zip(WORKLOAD.boxes, WORKLOAD.labels, strict=True):
        same = boxes[detections[0]["labels"].numpy() == label + 1]
        assert box_iou(box, same).max() > 0.7  # offsets are zero, but the box coder's weights are not


def test_injected_boxes_are_near_their_objects() -> None:
    boxes, labels, logits = injected_boxes(WORKLOAD, (2.0, 3.0), num_proposals=40)
    assert len(boxes) == len(labels) == len(logits) == 40
    for i in range(6):
        assert (boxes[i] == torch.from_numpy(WORKLOAD.boxes[i]) * torch.tensor([3.0, 2.0, 3.0, 2.0])).all()
        assert logits[i] > logits[6:].max()
    for i in range(6, 40):
        assert labels[i] == WORKLOAD.labels[i % 6]
        assert box_iou(boxes[i % 6].numpy(), boxes[i : i + 1].numpy())[0] > 0.6


def test_saved_bytes_of_each_part() -> None:
    expected = (
        {"backbone", "fpn", "head", "protonet", "semantic"},
        {"backbone", "fpn", "rpn", "box head", "mask head"},
    )
    for candidate, parts in zip(small(), expected, strict=True):
        assert candidate.train is not None
        training = candidate.train(make_workload(12, (120, 160), 5), "cpu")
        torch.manual_seed(0)
        saved = saved_bytes_per_image(training.model, training.losses, training.parts)
        assert set(saved.per_image) == parts | {"losses"}
        # The semantic layer reads P3, which the head has saved already.
        assert all(saved.per_image[part] > 0 for part in parts - {"semantic"})
        assert saved.per_image.get("semantic", 0) == 0
        assert saved.total == sum(saved.per_image.values())


def test_candidate_names_are_unique() -> None:
    names = [candidate.name for candidate in paper()]
    assert {candidate.name for candidate in few()} <= set(names)
    assert len({*names, *(candidate.name for candidate in other_yolacts())}) == len(names) + 2


@pytest.mark.parametrize(
    ("options", "key"), [(["speed"], "table4"), (["speed", "--lite"], "lite"), (["memory"], "memory")]
)
def test_notes_of_candidates_are_below_their_table(
    options: list[str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurements are invented; the candidates and their notes are real."""
    notes: dict[str, str] = {}

    def times(sources: list[str], names: list[str], conditions: timing.Conditions) -> list[timing.Timing]:
        candidates = [c for source in sources for c in find_candidates(source) if c.name in names]
        notes.update({candidate.name: candidate.note for candidate in candidates})
        return [timing.Timing(candidate.name, 1, 2, 3, 4, conditions.num_objects) for candidate in candidates]

    def memory(sources: list[str], names: list[str], conditions: object, inference: bool = True) -> list[object]:
        candidates = [c for source in sources for c in find_candidates(source) if c.name in names or not names]
        notes.update({candidate.name: candidate.note for candidate in candidates if candidate.train})
        return [timing.Memory(c.name, 1, {"all": 1} if c.train else None, 1) for c in candidates]

    for module in (table4, timing):
        monkeypatch.setattr(module, "measure_times", times)
        monkeypatch.setattr(module, "measure_memory", memory)
    assert main([*options, "--out", str(tmp_path)]) == 0
    assert len(notes) >= 3
    text, page = ((tmp_path / name).read_text(encoding="utf-8") for name in (f"{key}.md", "index.html"))
    listed = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("- "))
    assert listed == notes
    assert all(notes.values())
    for name, note in notes.items():
        assert f"<dt>{escape(name)}</dt><dd>{escape(note)}</dd>" in page


def test_accuracy_without_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data"):
        main(["accuracy", "--out", str(tmp_path)])


def test_search_continues_after_divergence(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results are invented; the search, the selection and the table are real."""
    from peers import accuracy

    (trained,) = run_plans(plan_runs(["sais"], [0], TINY), DataPaths(shapes), tmp_path)

    def run(plans: list[RunPlan], data: DataPaths, out: Path) -> list[RunResult]:
        results = []
        for plan in plans:
            if plan.row == "yolact" and plan.experiment.optim.lr > 0.001:
                raise SaisError("the loss is nan") from DivergedLossError("iteration 3")
            ap = 0.2 if plan.row == "yolact" and plan.experiment.optim.lr < 0.001 else 0.1
            metrics = {kind: trained.metrics[kind] | {"AP": ap} for kind in ("box", "mask")}
            settings = to_dict(plan.experiment)
            results.append(replace(trained, row=plan.row, metrics=metrics, experiment=settings))
        return results

    monkeypatch.setattr(accuracy, "run_plans", run)
    text = accuracy.compare(accuracy.Comparison(DataPaths(shapes), tmp_path, TINY, peers=("yolact",)))
    assert "| YOLACT, search | 0.002 | diverged |" in text
    assert "| YOLACT | 0.0005 | 0 | 20.0 | 20.0 |" in text
    monkeypatch.setattr(accuracy, "run_plans", lambda *_: (_ for _ in ()).throw(SaisError("disk full")))
    with pytest.raises(SaisError, match="disk full"):
        accuracy.compare(accuracy.Comparison(DataPaths(shapes), tmp_path, TINY))


@pytest.mark.slow
def test_accuracy_command(shapes: Path, tmp_path: Path) -> None:
    options = ["--base", "tests.paper.test_reproduce:smallest", "--max-iterations", "2"]
    options += ["--lr-factors", "0.5", "1", "--seeds", "0", "1"]
    assert main(["accuracy", "--data", str(shapes), "--out", str(tmp_path), *options]) == 0
    state = json.loads((tmp_path / "peers.json").read_text())
    compared, searched = (rows for _, rows in state["tables"])
    assert [row[0] for row in compared] == ["SAIS", "YOLACT", "Mask R-CNN"]
    assert compared[0][2] == "0 1"
    assert [row[1] for row in searched[:2]] == ["0.0005", "0.001"]
    assert len(list((tmp_path / "results").glob("*.json"))) == 6
    assert "SAIS and its peers" in (tmp_path / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_memory_command(tmp_path: Path) -> None:
    name = "YOLACT at 768, R50, batch-norm frozen"
    assert main(["memory", "--out", str(tmp_path), "--only", name]) == 0
    ((columns, rows),) = json.loads((tmp_path / "memory.json").read_text())["tables"]
    assert [row[0] for row in rows] == [name]
    values = dict(zip(columns, rows[0], strict=True))
    assert float(values["per image, all parts"]) > float(values["backbone"]) > 100


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_speed_command_with_small_models(tmp_path: Path) -> None:
    options = ["--lite", "--objects", "4", "--image-size", "192", "256", "--repeats", "1"]
    assert main(["speed", "--out", str(tmp_path), *options]) == 0
    ((columns, rows),) = json.loads((tmp_path / "lite.json").read_text())["tables"]
    assert [row[0].partition(",")[0] for row in rows] == ["SAIS", "YOLACT", "Mask R-CNN"]
    assert columns[:4] == ["system", "network ms", "post ms", "end to end ms"]
    for row in rows:
        network, postprocess, end_to_end = (float(cell) for cell in row[1:4])
        assert end_to_end >= network + postprocess - 1
    assert "speed of the small models" in (tmp_path / "index.html").read_text()
