"""Loggers: what each logs, that missing packages are named before a run starts, that none can stop a run."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.commands.arguments import parse
from sais.commands.train import TrainArguments
from sais.config import Experiment
from sais.data.formats import read_dataset
from sais.data.paths import DataPaths
from sais.engine.logging.loggers import Loggers, check_loggers
from sais.engine.trainer import train
from sais.errors import ConfigError, MissingDependencyError, ResourceError
from sais.evaluation.visualize import (
    GAP,
    SIDE,
    comparison_images,
    detections_from_coco,
    ground_truth_detections,
    resize_detections,
    select_examples,
)
from sais.ops.rle import encode_cropped

SETTINGS = {"name": "sais", "optim": {"lr": 0.1, "grad_clip_norm": None}, "input": {"size": [64, 64]}}
Calls = list[tuple[Any, ...]]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replace the package by a small one that records its calls."""
    calls: Calls = []
    run = types.SimpleNamespace(
        define_metric=lambda *words, **options: calls.append(("define_metric", *words, options)),
        log=lambda values: calls.append(("log", values)),
        finish=lambda exit_code: calls.append(("finish", exit_code)),
    )
    module: Any = types.ModuleType("wandb")
    module.Image = lambda image: ("image", image.shape)
    module.init = lambda **options: calls.append(("init", options)) or run
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replace the package by a small one that records its calls."""
    calls: Calls = []

    class Client:
        def __getattr__(self, name: str) -> Any:
            def called(*words: Any, **options: Any) -> Any:
                calls.append((name, *words, options))
                if name == "get_experiment_by_name":
                    return None
                if name == "create_run":
                    return types.SimpleNamespace(info=types.SimpleNamespace(run_id="run-7"))
                return "experiment-3"

            return called

    module: Any = types.ModuleType("mlflow")
    module.MlflowClient = Client
    entities: Any = types.ModuleType("mlflow.entities")
    entities.Metric = lambda name, value, time, step: (name, value, step)
    entities.Param = lambda name, value: (name, value)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return calls


def image(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


def fail_on_report(text: str) -> None:
    raise AssertionError(f"unexpected report: {text}")


def test_wandb_logger_logs_everything_and_resumes_its_run(wandb: Calls, tmp_path: Path) -> None:
    loggers = Loggers(["wandb"], tmp_path, SETTINGS, 0, fail_on_report)
    loggers.scalars({"loss/total": 1.5}, 1)
    loggers.images("predictions", [image(1), image(2)], 2)
    loggers.end(complete=False)
    options = wandb[0][1]
    assert options["config"] == SETTINGS
    assert options["project"] == "sais"
    assert options["name"] == tmp_path.name
    assert options["resume"] == "allow"
    assert ("define_metric", "*", {"step_metric": "iteration"}) in wandb
    assert ("log", {"loss/total": 1.5, "iteration": 1}) in wandb
    assert ("log", {"predictions": [("image", (4, 6, 3))] * 2, "iteration": 2}) in wandb
    assert wandb[-1] == ("finish", 1)
    Loggers(["wandb"], tmp_path, SETTINGS, 2, fail_on_report)
    Loggers(["wandb"], tmp_path, SETTINGS, 0, fail_on_report)
    first, resumed, fresh = (call[1]["id"] for call in wandb if call[0] == "init")
    assert first == resumed != fresh


def test_mlflow_logger_logs_everything_and_resumes_its_run(mlflow: Calls, tmp_path: Path) -> None:
    loggers = Loggers(["mlflow"], tmp_path, SETTINGS, 0, fail_on_report)
    for iteration in (1, 2):
        loggers.scalars({"loss/total": 1 / iteration, "lr": 0.1}, iteration)
    assert not [call for call in mlflow if "metrics" in call[-1]]  # values are sent in groups
    loggers.images("predictions", [image(1), image(2)], 2)
    loggers.end()
    created = next(call for call in mlflow if call[0] == "create_run")
    assert created[1:] == ("experiment-3", {"run_name": tmp_path.name})
    parameters = next(call[-1]["params"] for call in mlflow if "params" in call[-1])
    assert parameters == [
        ("name", "sais"),
        ("optim.lr", "0.1"),
        ("optim.grad_clip_norm", "None"),
        ("input.size", "[64, 64]"),
    ]
    sent = [metric for call in mlflow if "metrics" in call[-1] for metric in call[-1]["metrics"]]
    assert sent == [("loss/total", 1.0, 1), ("lr", 0.1, 1), ("loss/total", 0.5, 2), ("lr", 0.1, 2)]
    images = [call for call in mlflow if call[0] == "log_image"]
    assert [call[3] for call in images] == ["predictions/0/0000002.png", "predictions/1/0000002.png"]
    assert (images[1][2] == 2).all()
    assert mlflow[-1] == ("set_terminated", "run-7", "FINISHED", {})
    mlflow.clear()
    Loggers(["mlflow"], tmp_path, SETTINGS, 2, fail_on_report).end(complete=False)
    assert mlflow == [
        ("update_run", "run-7", {"status": "RUNNING"}),
        ("set_terminated", "run-7", "KILLED", {}),
    ]


def test_loggers_store_the_ids_of_two_servers(wandb: Calls, mlflow: Calls, tmp_path: Path) -> None:
    Loggers(["wandb", "mlflow"], tmp_path, SETTINGS, 0, fail_on_report)
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"wandb": wandb[0][1]["id"], "mlflow": "run-7"}


def test_tensorboard_logger_writes_curves_and_images(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loggers = Loggers(["tensorboard"], tmp_path, SETTINGS, 0, fail_on_report)
    for iteration in (1, 2):
        loggers.scalars({"loss/total": 1 / iteration}, iteration)
    loggers.images("predictions", [image(1)], 2)
    loggers.end()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss/total")] == [(1, 1.0), (2, 0.5)]
    (shown,) = board.Images("predictions/0")
    assert (shown.step, shown.width, shown.height) == (2, 6, 4)


@pytest.mark.parametrize(("name", "extra"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "train")])
def test_train_names_a_missing_logger_package_before_reading_data(
    name: str, extra: str, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    experiment = replace(tiny, run=replace(tiny.run, loggers=(name,)))
    nowhere = DataPaths(train_annotations=tmp_path / "none.json", train_images=tmp_path)
    with pytest.raises(MissingDependencyError) as caught:
        train(experiment, nowhere, tmp_path / "run")
    assert (caught.value.package, caught.value.extra) == (name, extra)
    assert not (tmp_path / "run").exists()


def test_check_loggers_refuses_unknown_names() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tensorboard'"):
        check_loggers(["tensorbord"])
    with pytest.raises(ConfigError, match="no module 'nowhere_to_be_found'"):
        check_loggers(["nowhere_to_be_found:it"])
    check_loggers([])


OWN = """
import json

class Own:
    def __init__(self, folder, settings, iteration):
        self.path = folder / "own.jsonl"
        self.record("open", iteration)

    def record(self, *words):
        with self.path.open("a") as file:
            file.write(json.dumps(words) + "\\n")

    def scalars(self, values, iteration):
        self.record("scalars", sorted(values), iteration)

    def images(self, name, images, iteration):
        self.record("images", name, [list(p.shape) for p in images], iteration)

    def end(self, complete=True):
        self.record("end", complete)

class Broken(Own):
    def scalars(self, values, iteration):
        if iteration == 3:
            raise ConnectionError("the network\\nis away")
"""


def test_train_continues_without_a_logger_that_fails(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_logger.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_logger", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    names = ("own_logger:Own", "own_logger:Broken")
    experiment = replace(tiny, run=replace(tiny.run, loggers=names, evaluate_every=1))
    assert train(experiment, DataPaths(shapes), tmp_path / "run").iterations == 6
    calls = [json.loads(line) for line in (tmp_path / "run" / "own.jsonl").read_text().splitlines()]
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    logged = next(entry for entry in entries if entry["kind"] == "iteration")
    losses = {"loss/box", "loss/centerness", "loss/classification", "loss/mask", "loss/total"}
    names_of_scalars = losses | {"lr", "images_per_second"} | ({"gradient"} & logged.keys())
    steps = [["scalars", sorted(names_of_scalars), i] for i in range(1, 7)]
    scores = [f"{kind}/{name}" for kind in ("box", "mask") for name in ("AP", "AP50", "AP75")]
    evaluations = [["scalars", scores, i] for i in (3, 6)]
    images = [["images", "predictions", [[2 * 96, 2 * 2 * 128 + GAP, 3]] * 4, i] for i in (3, 6)]
    first = [*steps[:3], evaluations[0], images[0]]
    second = [*steps[3:], evaluations[1], images[1]]
    assert calls == [["open", 0], ["open", 0], *first, *second, ["end", True]]
    assert not (tmp_path / "run" / "tensorboard").exists()
    line = "the logger own_logger:Broken failed and is not used any more: ConnectionError: the network is away"
    assert capsys.readouterr().out.count(line) == 1
    assert line in (tmp_path / "run" / "log.txt").read_text()


def test_loggers_that_cannot_start_stop_only_a_new_run(wandb: Calls, tmp_path: Path) -> None:
    def offline(**options: Any) -> None:
        raise ConnectionError("no login")

    sys.modules["wandb"].init = offline  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match="wandb cannot start"):
        Loggers(["wandb"], tmp_path, SETTINGS, 0, fail_on_report)
    reports: list[str] = []
    loggers = Loggers(["wandb"], tmp_path, SETTINGS, 5, reports.append)
    assert len(loggers) == 0
    assert reports == ["the logger wandb failed and is not used any more: ConnectionError: no login"]


def test_command_line_accepts_several_loggers_and_none() -> None:
    def loggers(*words: str) -> tuple[str, ...]:
        return parse(TrainArguments, words, "sais train").recipe.experiment.run.loggers

    assert loggers() == ("tensorboard",)
    assert loggers("--run.loggers", "wandb", "my.module:open", "--seed", "1") == ("wandb", "my.module:open")
    assert loggers("--run.loggers") == ()


def test_select_examples_is_deterministic_and_prefers_images_with_objects(shapes: Path) -> None:
    split = read_dataset(shapes, "train")
    assert [record.id for record in select_examples(split, 3)] == [split.images[i].id for i in (0, 6, 11)]
    assert [r.id for r in select_examples(split)] == [r.id for r in select_examples(split)]
    bare = replace(split, images=tuple(replace(r, annotations=()) for r in split.images[:10]) + split.images[10:])
    assert [record.id for record in select_examples(bare, 3)] == [bare.images[i].id for i in (10, 11, 0)]
    assert select_examples(replace(split, images=())) == []


def test_comparison_images_show_ground_truth_and_detections(shapes: Path, tmp_path: Path) -> None:
    split = read_dataset(shapes, "valid")
    record = split.images[0]
    truth = ground_truth_detections(record, split)
    assert len(truth) == len(record.annotations)
    for mask, annotation in zip(truth.cropped_masks, record.annotations, strict=True):
        assert mask.area == pytest.approx(annotation.area, rel=0.1)
    bits = np.ones((30, 40), bool)
    result: dict[str, Any] = {"image_id": record.id, "category_id": split.category_ids[2], "bbox": [50, 20, 40, 30]}
    result |= {"segmentation": encode_cropped(bits, 50, 20, record.size)}
    detections = detections_from_coco([result | {"score": 0.4}, result | {"score": 0.8}], record.size, split)
    assert detections.scores.tolist() == pytest.approx([0.8, 0.4])
    assert detections.labels.tolist() == [2, 2]
    assert detections.boxes[0].tolist() == [50, 20, 90, 50]
    assert detections.cropped_masks[0].area == 1200
    (without,) = comparison_images([record], split, [result | {"score": 0.29}])
    (with_detection,) = comparison_images([record], split, [result | {"score": 0.31}])
    height, width = (2 * edge for edge in record.size)  # small images are enlarged
    assert max(height, width) <= SIDE
    assert without.shape == (height, 2 * width + GAP, 3)
    changed = (without != with_detection).any(-1)
    assert not changed[:, : width + GAP].any()  # the ground truth is the same
    assert changed[50:90, width + GAP + 110 : width + GAP + 170].mean() > 0.95
    missing = replace(record, source=tmp_path / "gone.jpg")
    assert comparison_images([missing], split, []) == []


def test_resize_detections_scales_boxes_and_masks(shapes: Path) -> None:
    split = read_dataset(shapes, "valid")
    for record in split.images:
        truth = ground_truth_detections(record, split)
        height, width = record.size
        small = resize_detections(truth, (height // 2, width // 2))
        assert small.boxes == pytest.approx(truth.boxes / 2)
        assert small.labels.tolist() == truth.labels.tolist()
        for mask, original in zip(small.cropped_masks, truth.cropped_masks, strict=True):
            assert mask.area == pytest.approx(original.area / 4, abs=3 + 0.1 * original.area)
            assert abs(mask.x - original.x / 2) < 1
            assert abs(mask.y - original.y / 2) < 1
    assert resize_detections(truth, record.size) is truth
