"""The peers beside SAIS: what is injected comes out of each, their memory is split into parts, accuracy is compared."""

from __future__ import annotations

import json
from dataclasses import replace
from html import escape
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import torch
import torchvision

from peers.__main__ import main
from peers.candidates import few, other_yolacts, paper, yolact_candidate
from peers.torchvision_peers.candidates import injected_boxes, mask_rcnn_candidate, shipped_mask_rcnn_candidate
from sais.benchmark import timing
from sais.benchmark.candidates import Candidate, find_candidates
from sais.benchmark.timing import run_once
from sais.benchmark.workload import make_workload, overlap
from sais.config import to_dict
from sais.data.paths import DataPaths
from sais.engine.activation_memory import saved_bytes_per_image
from sais.errors import SaisError
from sais.paper import table4
from sais.paper.runs import RunPlan, RunResult, run_plans
from sais.paper.sweep import plan_runs
from tests.paper.test_reproduce import TINY

LITE = "tf_efficientnet_lite0.in1k"
WORKLOAD = make_workload(6, (120, 160), 5)


def small() -> list[Candidate]:
    """Both peers on a small backbone and input."""
    return [yolact_candidate("yolact", 200, LITE), mask_rcnn_candidate("mask-rcnn", 192, LITE)]


@pytest.mark.parametrize("which", [0, 1], ids=["yolact", "mask-rcnn"])
def test_what_is_planted_comes_out(which: int) -> None:
    prepared = small()[which].prepare(WORKLOAD, "cpu")
    with torch.inference_mode():
        raw = prepared.inject(prepared.network(prepared.preprocess(WORKLOAD.image)))
        masks = prepared.dense_masks(prepared.postprocess(raw))
    assert tuple(masks.shape) == (6, 120, 160)
    assert masks.dtype == torch.bool
    # No mask leaves the box it was injected in by more than a cell of its grid; untrained masks may be empty inside.
    for mask in masks:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            extent = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).numpy()
            inside = [(extent[:2] >= box[:2] - 9).all() and (extent[2:] <= box[2:] + 9).all() for box in WORKLOAD.boxes]
            assert any(inside)


@pytest.mark.slow
def test_torchvisions_own_model_finds_what_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    build = torchvision.models.detection.maskrcnn_resnet50_fpn
    asked = {}

    def noticed(**options: object) -> object:
        asked.update(options)
        return build(**options)

    monkeypatch.setattr(torchvision.models.detection, "maskrcnn_resnet50_fpn", noticed)
    prepared = shipped_mask_rcnn_candidate("shipped", 192).prepare(WORKLOAD, "cpu")
    assert asked["fixed_size"] == (192, 192)
    _, count = run_once(prepared, WORKLOAD)
    assert count == 6
    with torch.inference_mode():
        found, _ = prepared.network(prepared.preprocess(WORKLOAD.image))
    boxes = found[0]["boxes"].numpy() / 192 * [160, 120, 160, 120]
    for box, label in zip(WORKLOAD.boxes, WORKLOAD.labels, strict=True):
        same = boxes[found[0]["labels"].numpy() == label + 1]
        assert overlap(box, same).max() > 0.7  # the box coder's weights differ by class; offsets are zero


def test_decoys_lie_on_their_objects() -> None:
    boxes, labels, logits = injected_boxes(WORKLOAD, (2.0, 3.0), num_proposals=40)
    assert len(boxes) == len(labels) == len(logits) == 40
    for i in range(6):
        assert (boxes[i] == torch.from_numpy(WORKLOAD.boxes[i]) * torch.tensor([3.0, 2.0, 3.0, 2.0])).all()
        assert logits[i] > logits[6:].max()
    for i in range(6, 40):
        assert labels[i] == WORKLOAD.labels[i % 6]
        assert overlap(boxes[i % 6].numpy(), boxes[i : i + 1].numpy())[0] > 0.6


def test_memory_of_each_part() -> None:
    wanted = ({"backbone", "fpn", "head", "protonet", "semantic"}, {"backbone", "fpn", "rpn", "box head", "mask head"})
    for one, parts in zip(small(), wanted, strict=True):
        assert one.train is not None
        training = one.train(make_workload(12, (120, 160), 5), "cpu")
        torch.manual_seed(0)
        saved = saved_bytes_per_image(training.model, training.losses, training.parts)
        assert set(saved.per_image) == parts | {"losses"}
        # The semantic layer reads P3, which the head has saved already: once.
        assert all(saved.per_image[part] > 0 for part in parts - {"semantic"})
        assert saved.per_image.get("semantic", 0) == 0
        assert saved.total == sum(saved.per_image.values())


def test_who_is_measured() -> None:
    names = [one.name for one in paper()]
    assert {one.name for one in few()} <= set(names)
    assert len({*names, *(one.name for one in other_yolacts())}) == len(names) + 2


@pytest.mark.parametrize(
    ("words", "key"), [(["speed"], "table4"), (["speed", "--lite"], "lite"), (["memory"], "memory")]
)
def test_what_is_to_be_known_of_a_system_stands_below_its_table(
    words: list[str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures are made up here; who is in the tables and what is said of them is real."""
    notes: dict[str, str] = {}

    def times(sources: list[str], names: list[str], conditions: timing.Conditions) -> list[timing.Timing]:
        found = [one for source in sources for one in find_candidates(source) if one.name in names]
        notes.update({one.name: one.note for one in found})
        return [timing.Timing(one.name, 1, 2, 3, 4, conditions.num_objects) for one in found]

    def memory(sources: list[str], names: list[str], conditions: object, inference: bool = True) -> list[object]:
        found = [one for source in sources for one in find_candidates(source) if one.name in names or not names]
        notes.update({one.name: one.note for one in found if one.train})
        return [timing.Memory(one.name, 1, {"all": 1} if one.train else None, 1) for one in found]

    for module in (table4, timing):
        monkeypatch.setattr(module, "measure_times", times)
        monkeypatch.setattr(module, "measure_memory", memory)
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert len(notes) >= 3
    text, page = ((tmp_path / name).read_text(encoding="utf-8") for name in (f"{key}.md", "index.html"))
    told = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("- "))
    assert told == notes
    assert all(notes.values())
    for name, note in notes.items():
        assert f"<dt>{escape(name)}</dt><dd>{escape(note)}</dd>" in page


def test_accuracy_needs_data(tmp_path: Path) -> None:
    with pytest.raises(SaisError, match="needs --data"):
        main(["accuracy", "--out", str(tmp_path)])


def test_a_rate_at_which_a_peer_diverges_ends_no_search(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are made up here; the search, the choice and the table are the real ones."""
    from peers import accuracy

    (made,) = run_plans(plan_runs(["sais"], [0], TINY), DataPaths(shapes), tmp_path)

    def run(plans: list[RunPlan], data: DataPaths, out: Path) -> list[RunResult]:
        results = []
        for plan in plans:
            if plan.row == "yolact" and plan.experiment.optim.lr > 0.001:
                raise SaisError("the loss is nan at iteration 3")
            ap = 0.2 if plan.row == "yolact" and plan.experiment.optim.lr < 0.001 else 0.1
            metrics = {kind: made.metrics[kind] | {"AP": ap} for kind in ("box", "mask")}
            settings = to_dict(plan.experiment)
            results.append(replace(made, row=plan.row, metrics=metrics, experiment=settings))
        return results

    monkeypatch.setattr(accuracy, "run_plans", run)
    text = accuracy.compare(accuracy.Comparison(DataPaths(shapes), tmp_path, TINY, peers=("yolact",)))
    assert "| YOLACT, search | 0.002 | diverged |" in text
    assert "| YOLACT | 0.0005 | 0 | 20.0 | 20.0 |" in text
    monkeypatch.setattr(accuracy, "run_plans", lambda *_: (_ for _ in ()).throw(SaisError("disk full")))
    with pytest.raises(SaisError, match="disk full"):
        accuracy.compare(accuracy.Comparison(DataPaths(shapes), tmp_path, TINY))


@pytest.mark.slow
def test_accuracy_at_its_tiniest(shapes: Path, tmp_path: Path) -> None:
    words = [
        "--base",
        "tests.paper.test_reproduce:smallest",
        "--iterations",
        "2",
        "--factors",
        "0.5",
        "1",
        "--seeds",
        "0",
        "1",
    ]
    assert main(["accuracy", "--data", str(shapes), "--out", str(tmp_path), *words]) == 0
    state = json.loads((tmp_path / "peers.json").read_text())
    compared, searched = (rows for _, rows in state["tables"])
    assert [row[0] for row in compared] == ["SAIS", "YOLACT", "Mask R-CNN"]
    assert compared[0][2] == "0 1"
    assert [row[1] for row in searched[:2]] == ["0.0005", "0.001"]
    assert len(list((tmp_path / "results").glob("*.json"))) == 6
    assert "SAIS and its peers" in (tmp_path / "index.html").read_text()


@pytest.mark.slow
def test_memory_by_command(tmp_path: Path) -> None:
    name = "YOLACT at 768, R50, batch-norm frozen"
    assert main(["memory", "--out", str(tmp_path), "--only", name]) == 0
    ((columns, rows),) = json.loads((tmp_path / "memory.json").read_text())["tables"]
    assert [row[0] for row in rows] == [name]
    figures = dict(zip(columns, rows[0], strict=True))
    assert float(figures["an image, all parts"]) > float(figures["backbone"]) > 100


@pytest.mark.slow
def test_speed_of_the_small_models_by_command(tmp_path: Path) -> None:
    words = ["--lite", "--objects", "4", "--image", "192", "256", "--repeats", "1"]
    assert main(["speed", "--out", str(tmp_path), *words]) == 0
    ((columns, rows),) = json.loads((tmp_path / "lite.json").read_text())["tables"]
    assert [row[0].partition(",")[0] for row in rows] == ["SAIS", "YOLACT", "Mask R-CNN"]
    assert columns[:4] == ["system", "network ms", "post ms", "end to end ms"]
    for row in rows:
        network, post, whole = (float(cell) for cell in row[1:4])
        assert whole >= network + post - 1
    assert "speed of the small models" in (tmp_path / "index.html").read_text()
