"""Training: it learns, accepts empty images and box-only objects, writes its files and refuses wrong input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sais.engine.trainer as engine
from sais.checkpoint import load_checkpoint
from sais.config import AugmentConfig, Experiment, InputConfig, from_dict
from sais.data.formats import read_dataset
from sais.data.paths import DataPaths
from sais.engine.train_step import DivergedLossError
from sais.engine.trainer import train
from sais.errors import CheckpointError, InputError
from sais.evaluation.evaluate import evaluate
from sais.inference.predictor import Predictor
from sais.ops.rle import encode_cropped

LOSSES = ("total", "classification", "box", "centerness", "mask")


def log_of(out: Path, kind: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["kind"] == kind]


def changed(shapes: Path, folder: Path, change: Callable[[dict[str, Any]], None], *splits: str) -> DataPaths:
    """Return a data set with changed annotations and the images of `shapes`."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to(shapes / "images")
    for split in splits or ("train", "valid"):
        document = json.loads((shapes / "annotations" / f"{split}.json").read_text())
        change(document)
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return DataPaths(folder)


def discs_and_squares(folder: Path) -> DataPaths:
    """Four images with one large object each: a red disc with a hole or a green square."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    y, x = np.mgrid[:96, :96] + 0.5
    images, annotations = [], []
    for i, (center_y, center_x) in enumerate([(34, 30), (60, 50), (40, 62), (48, 44)]):
        distance = np.hypot(x - center_x, y - center_y)
        square = np.maximum(abs(x - center_x), abs(y - center_y)) < 26
        bits = square if i % 2 else (distance < 28) & (distance > 8)
        image = np.full((96, 96, 3), (60, 60, 90), np.uint8)
        image[bits] = (40, 200, 60) if i % 2 else (220, 50, 40)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 96, "width": 96})
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1 + i % 2})
        annotations[-1]["segmentation"] = encode_cropped(bits, 0, 0, bits.shape)
    categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "train.json").write_text(json.dumps(document))
    return DataPaths(folder)


@pytest.mark.slow
def test_train_memorizes_four_images(tiny: Experiment, tmp_path: Path) -> None:
    data = discs_and_squares(tmp_path / "four")
    experiment = replace(
        tiny,
        augment=replace(tiny.augment, flip=0.0),
        model=replace(tiny.model, distance_unit="stride"),
        optim=replace(tiny.optim, lr=3e-3),
        schedule=replace(tiny.schedule, epochs=60),
    )
    result = train(experiment, data, tmp_path / "run")
    steps = log_of(tmp_path / "run", "iteration")
    assert result.iterations == len(steps) == 60
    assert result.metrics is None  # no validation split
    first, last = steps[0], steps[-1]
    assert last["total"] < 0.5 * first["total"]
    assert all(last[name] < 0.5 * first[name] for name in ("classification", "box", "mask"))
    metrics = evaluate(Predictor(tmp_path / "run"), read_dataset(tmp_path / "four", "train"), workers=0).metrics
    assert metrics is not None
    assert metrics.box is not None
    assert metrics.mask is not None
    assert metrics.box.AR1 > 0.8
    assert metrics.mask.AR1 > 0.6
    assert min(metrics.box.AP50, metrics.mask.AP50) > 0.5


def test_train_writes_logs_and_checkpoints(trained: Path, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "experiment.json",
        "log.jsonl",
        "log.txt",
        "run.lock",
        "tensorboard",
        "last.safetensors",
        "best.safetensors",
        "model.safetensors",
    }
    steps = log_of(trained, "iteration")
    assert [s["iteration"] for s in steps] == list(range(1, 25))
    assert [s["epoch"] for s in steps] == [i // 3 for i in range(24)]
    assert all(torch.tensor([s[name] for name in LOSSES]).isfinite().all() for s in steps)
    assert all(s["total"] == pytest.approx(sum(s[n] for n in LOSSES[1:]), abs=1e-4) for s in steps)
    assert len(log_of(trained, "start")) == len(log_of(trained, "end")) == 1
    evaluations = log_of(trained, "evaluation")
    assert [e["epoch"] for e in evaluations] == [7]  # evaluate_every 0: only after the last epoch
    assert {"box", "mask"} <= evaluations[0]["metrics"].keys()
    settings = from_dict(Experiment, json.loads((trained / "experiment.json").read_text()))
    for name in ("last", "best", "model"):
        stored = load_checkpoint(trained / f"{name}.safetensors")
        assert stored.experiment == settings
        assert stored.class_names == ("ring", "star", "triangle", "crescent", "cross")
        assert stored.category_ids == (1, 2, 3, 4, 5)
        detections = Predictor(trained / f"{name}.safetensors")(shapes / "images" / "valid" / "valid_00000.jpg")
        assert detections.image_size == (96, 128)
    assert load_checkpoint(trained / "last.safetensors").part("optimizer")
    assert not load_checkpoint(trained / "model.safetensors").part("optimizer")


def test_train_accepts_images_without_objects(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    def emptied(document: dict[str, Any]) -> None:
        document["annotations"] = []

    result = train(tiny, changed(shapes, tmp_path / "empty", emptied), tmp_path / "run")
    steps = log_of(tmp_path / "run", "iteration")
    assert len(steps) == 6
    assert all(s["box"] == s["centerness"] == s["mask"] == 0 for s in steps)
    assert steps[-1]["classification"] < steps[0]["classification"]
    assert result.metrics is None
    assert all(t.isfinite().all() for t in load_checkpoint(tmp_path / "run" / "model.safetensors").tensors.values())


def test_train_with_box_only_objects_trains_no_masks(
    shapes: Path, tiny: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_masks(document: dict[str, Any]) -> None:
        for annotation in document["annotations"]:
            del annotation["segmentation"]

    result = train(tiny, changed(shapes, tmp_path / "boxes", without_masks), tmp_path / "run")
    steps = log_of(tmp_path / "run", "iteration")
    assert all("mask" not in s and s["box"] > 0 for s in steps)
    assert result.metrics is not None
    assert result.metrics["box"] is not None
    assert result.metrics["mask"] is None
    assert "objects without a mask" in capsys.readouterr().out


def test_max_iterations_stops_a_run_that_can_be_resumed(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(tiny, DataPaths(shapes), out, max_iterations=2).iterations == 2
    assert not (out / "model.safetensors").exists()
    assert load_checkpoint(out / "last.safetensors").state["iteration"] == 2
    Predictor(out)  # an unfinished run can be predicted with
    assert train(tiny, DataPaths(shapes), out, max_iterations=5, resume=True).iterations == 5
    assert train(tiny, DataPaths(shapes), out, max_iterations=500, resume=True).iterations == 6
    assert (out / "model.safetensors").exists()
    assert [s["iteration"] for s in log_of(out, "iteration")] == [1, 2, 3, 4, 5, 6]


def test_random_init_freezes_no_layers_and_reports_it(
    shapes: Path, tiny: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []
    step = engine.train_step
    monkeypatch.setattr(
        engine, "train_step", lambda run, *arguments: (models.append(run.model), step(run, *arguments))[1]
    )
    train(tiny, DataPaths(shapes), tmp_path / "run", max_iterations=1, random_init=True)
    assert all(p.requires_grad for p in models[0].parameters())
    assert "none of its layers are frozen" in capsys.readouterr().out
    stored = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert not stored.experiment.model.pretrained
    assert not load_checkpoint(tmp_path / "run" / "last.safetensors").experiment.model.pretrained
    # A resumed run trains all layers as well.
    train(tiny, DataPaths(shapes), tmp_path / "run", max_iterations=2, resume=True)
    assert all(p.requires_grad for p in models[1].parameters())
    train(tiny, DataPaths(shapes), tmp_path / "other", max_iterations=1)
    assert any(not p.requires_grad for p in models[2].backbone.parameters())


def test_train_with_the_paper_settings_and_keep_ratio(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    """SGD, -log IoU, area assigner, mask margin, gradient clipping, zoom: the losses stay finite."""
    optim = replace(Experiment().optim, batch_size=4, grad_clip_norm=35.0)
    experiment = replace(
        tiny,
        optim=optim,
        input=InputConfig(mode="keep_ratio", size=(64, 100)),
        augment=AugmentConfig(scale_jitter=(0.6, 1.5), color_jitter=0.2),
        criterion=replace(tiny.criterion, assigner="area", box_loss="iou", mask_margin=0.1),
        model=replace(tiny.model, coefficients_from="classification"),
    )
    train(experiment, DataPaths(shapes, valid=""), tmp_path / "run", max_iterations=2)
    assert all(s["mask"] > 0 for s in log_of(tmp_path / "run", "iteration"))
    boxes_only = replace(tiny, model=replace(tiny.model, masks=False), schedule=replace(tiny.schedule, epochs=1))
    result = train(boxes_only, DataPaths(shapes), tmp_path / "fcos")
    assert result.metrics is not None
    assert result.metrics["mask"] is None
    assert not Predictor(tmp_path / "fcos", score=0.01)(shapes / "images/valid/valid_00000.jpg").cropped_masks


def test_weights_start_from_another_run(trained: Path, shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    frozen = replace(tiny, optim=replace(tiny.optim, lr=1e-12, weight_decay=0.0))
    train(frozen, DataPaths(shapes), tmp_path / "run", max_iterations=1, weights=trained / "model.safetensors")
    start, end = (
        load_checkpoint(trained / "model.safetensors").part("model"),
        load_checkpoint(tmp_path / "run/last.safetensors").part("model"),
    )
    assert all(torch.allclose(start[name].float(), end[name].float(), atol=1e-6) for name in start)


def test_weights_for_other_classes_keep_shared_classes(
    trained: Path, shapes: Path, tiny: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classes ring, star, triangle, crescent, cross are replaced by cross, star and hoop."""

    def renamed(document: dict[str, Any]) -> None:
        document["categories"] = [{"id": i, "name": n} for i, n in ((1, "cross"), (2, "star"), (3, "hoop"))]
        document["annotations"] = [a for a in document["annotations"] if a["category_id"] < 4]

    frozen = replace(tiny, optim=replace(tiny.optim, lr=1e-12, weight_decay=0.0))
    weights = trained / "model.safetensors"
    train(frozen, changed(shapes, tmp_path / "three", renamed), tmp_path / "run", max_iterations=1, weights=trained)
    output = capsys.readouterr().out
    assert "head.class_logits re-initialized; classes that keep their weights: cross, star; new classes: hoop" in output
    old, new = load_checkpoint(weights).part("model"), load_checkpoint(tmp_path / "run/last.safetensors").part("model")
    for name in ("head.class_logits.weight", "head.class_logits.bias"):
        assert torch.allclose(new[name][:2], old[name][[4, 1]], atol=1e-6)
        assert new[name].shape[0] == 3
    prior = -float(np.log(99))  # logit of an untrained class
    assert new["head.class_logits.bias"][2].item() == pytest.approx(prior, abs=1e-5)
    others = [name for name in old if "class_logits" not in name]
    assert all(torch.allclose(old[name].float(), new[name].float(), atol=1e-6) for name in others)
    wider = replace(frozen, model=replace(frozen.model, channels=32))
    with pytest.raises(CheckpointError, match="do not fit"):
        train(wider, DataPaths(tmp_path / "three"), tmp_path / "other", weights=weights)
    assert not (tmp_path / "other").exists()


def test_train_refuses_folders_and_data_that_do_not_fit(
    trained: Path, shapes: Path, tiny: Experiment, tmp_path: Path
) -> None:
    before = (trained / "log.jsonl").read_bytes()
    with pytest.raises(InputError, match="contains a run already"):
        train(tiny, DataPaths(shapes), trained)
    renamed = changed(shapes, tmp_path / "renamed", lambda d: d["categories"][0].update(name="hoop"))
    with pytest.raises(CheckpointError, match="trained on the classes ring"):
        train(tiny, renamed, trained, resume=True)
    assert (trained / "log.jsonl").read_bytes() == before
    with pytest.raises(CheckpointError, match="no run to resume"):
        train(tiny, DataPaths(shapes), tmp_path / "none", resume=True)
    split = changed(shapes, tmp_path / "split", lambda d: d["categories"][0].update(name="hoop"), "valid")
    (tmp_path / "split/annotations/train.json").write_bytes((shapes / "annotations/train.json").read_bytes())
    with pytest.raises(InputError, match="ring"):
        train(tiny, split, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_train_stops_if_the_loss_is_not_finite(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    wild = replace(tiny, optim=replace(tiny.optim, name="sgd", lr=1e9))
    with pytest.raises(
        DivergedLossError, match=r"iteration \d, images \[.*the loss is (nan|inf).*optim.grad_clip_norm"
    ):
        train(wild, DataPaths(shapes), tmp_path / "run")
    assert not (tmp_path / "run").exists()  # without a checkpoint no files are left


def test_train_with_datasets_in_memory_equals_files(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    train_split, valid_split = read_dataset(shapes, "train"), read_dataset(shapes, "valid")
    in_memory = replace(
        train_split, images=tuple(replace(record, source=record.read()) for record in train_split.images)
    )
    once = replace(tiny, schedule=replace(tiny.schedule, epochs=1))
    result = train(once, out=tmp_path / "memory", dataset=in_memory, valid_dataset=valid_split)
    expected = train(once, shapes, tmp_path / "files")
    assert result.metrics == expected.metrics
    first, second = (load_checkpoint(tmp_path / name / "model.safetensors").tensors for name in ("memory", "files"))
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert log_of(tmp_path / "memory", "start")[0]["paths"] == {}
    other = replace(valid_split, class_names=("hoop", *valid_split.class_names[1:]))
    with pytest.raises(InputError, match="its classes are not those of"):
        train(once, out=tmp_path / "other", dataset=in_memory, valid_dataset=other)
    with pytest.raises(InputError, match="no data"):
        train(once, out=tmp_path / "other")
