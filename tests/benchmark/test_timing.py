"""Tests of `sais.benchmark.timing` and `candidates`: injected objects are returned, saved bytes are counted once."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from sais.benchmark import timing
from sais.benchmark.candidates import Candidate, find_candidates
from sais.benchmark.memory import in_fresh_process
from sais.benchmark.recipe_candidates import own_candidates, recipe_candidate
from sais.benchmark.timing import Conditions, measure_memory, measure_times, run_once
from sais.benchmark.workload import make_workload, training_batch
from sais.engine.activation_memory import saved_bytes, saved_bytes_per_image
from sais.errors import ConfigError, ResourceError
from sais.ops.numpy_boxes import box_iou
from sais.recipes import recipe

SMALL = Conditions(num_objects=12, image_size=(120, 160), num_classes=5, repeats=1)


def small() -> list[Candidate]:
    """Return a small SAIS candidate; fresh processes import it from this file."""
    return [recipe_candidate("lite", recipe("paper-lite0"))]


def no_list() -> str:
    """Return something other than a list of candidates."""
    return "no list"


def test_make_workload_is_deterministic_and_separates_classes() -> None:
    first, second = make_workload(40), make_workload(40)
    assert (first.boxes == second.boxes).all()
    assert (first.image == second.image).all()
    assert first.size == (960, 1280)
    assert (first.boxes[:, 2:] > first.boxes[:, :2]).all()
    assert (first.boxes.max(0) <= (1280, 960, 1280, 960)).all()
    for i, box in enumerate(first.boxes):
        same = first.boxes[:i][first.labels[:i] == first.labels[i]]
        assert not len(same) or box_iou(box, same).max() < 0.5


@pytest.mark.parametrize("seed", [0, 1])
def test_injected_objects_are_returned(seed: int) -> None:
    workload = make_workload(SMALL.num_objects, SMALL.image_size, SMALL.num_classes, seed)
    prepared = small()[0].prepare(workload, "cpu")
    with torch.inference_mode():
        outputs = prepared.network(prepared.preprocess(workload.image))
        (detections,) = results = prepared.postprocess(prepared.inject(outputs))
    assert len(detections) == SMALL.num_objects
    for box, label in zip(workload.boxes, workload.labels, strict=True):
        same_class = detections.boxes[detections.labels == label]
        assert box_iou(box, same_class).max() > 0.99
    assert prepared.dense_masks(results).shape == (SMALL.num_objects, *SMALL.image_size)


def test_run_once_times_each_stage() -> None:
    ticks = iter(range(100))
    workload = make_workload(SMALL.num_objects, SMALL.image_size, SMALL.num_classes)
    seconds, count = run_once(small()[0].prepare(workload, "cpu"), workload, lambda: float(next(ticks)))
    assert seconds == {"preprocess": 1.0, "network": 1.0, "postprocess": 1.0, "dense_masks": 1.0}
    assert count == SMALL.num_objects


def test_saved_bytes_counts_each_storage_once() -> None:
    """ReLU saves its output and the square its input, which share one storage; the linear layer saves the batch."""
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU())
    rows = torch.zeros(3, 10)

    def losses() -> dict[str, torch.Tensor]:
        return {"square": (model(rows) ** 2).sum()}

    counted = saved_bytes(model, losses, {"first": model[0], "second": model[1]})
    assert counted == {"first": 3 * 10 * 4, "second": 3 * 20 * 4, "losses": 0}


def test_saved_bytes_per_image_separates_image_and_step() -> None:
    scale = nn.Parameter(torch.ones(50))
    model = nn.Module()
    model.scale = scale

    def losses(images: int) -> dict[str, torch.Tensor]:
        per_step = scale.exp()  # saved once, whatever the number of images
        return {"sum": (torch.ones(images, 50).cumsum(0) * per_step).sum()}

    saved = saved_bytes_per_image(model, losses, {})
    assert saved.per_image == {"losses": 200}
    assert saved.total == 200
    assert saved.per_step == 200


def test_mask_loss_saves_little_for_backward() -> None:
    """The losses of ten objects save less than a third of all activations."""
    train = small()[0].train
    assert train is not None
    training = train(make_workload(12, (120, 160), 5), "cpu")
    saved = saved_bytes_per_image(training.model, training.losses, training.parts)
    assert set(saved.per_image) == {"backbone", "fpn", "head", "protonet", "losses"}
    assert all(value > 0 for value in saved.per_image.values())
    assert saved.per_image["losses"] < saved.total / 3


def test_training_batch_accepts_any_size() -> None:
    batch = training_batch(make_workload(12), (550, 550), batch_size=2, num_objects=3)
    assert batch.images.shape == (2, 3, 550, 550)
    assert [len(o.boxes) for o in batch.ground_truths] == [3, 3]
    assert int(batch.ground_truths[0].mask_values.max()) == 255


def test_find_candidates_resolves_functions() -> None:
    assert [candidate.name for candidate in own_candidates()] == [
        "SAIS-640, R50",
        "SAIS-768, R50",
        "SAIS-768, R101",
        "SAIS-768, X101",
    ]
    assert [candidate.name for candidate in find_candidates("tests.benchmark.test_timing:small")] == ["lite"]
    with pytest.raises(ConfigError, match="not a list"):
        find_candidates("tests.benchmark.test_timing:no_list")
    with pytest.raises(ConfigError):
        find_candidates("peers.absent:candidates")


def test_in_fresh_process_reports_failures() -> None:
    with pytest.raises(ResourceError, match="no_such_name"):
        in_fresh_process("sais.benchmark.memory:no_such_name")


@pytest.mark.slow
def test_measure_times_and_memory_in_fresh_processes() -> None:
    source = ["tests.benchmark.test_timing:small"]
    (timing,) = measure_times(source, [], SMALL)
    assert timing.num_detections == SMALL.num_objects
    assert min(timing.network, timing.postprocess, timing.preprocess, timing.dense_masks) > 0
    assert timing.end_to_end == timing.preprocess + timing.network + timing.postprocess
    (memory,) = measure_memory(source, [], SMALL)
    assert memory.training is not None
    assert memory.training["protonet"] > 0
    assert memory.inference is None or memory.inference > 0
    with pytest.raises(ResourceError, match="no candidate"):
        measure_times(source, ["another name"], SMALL)


def test_apply_conditions_sets_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(timing, "keep_big_blocks", lambda: calls.append(True))
    settings = {"image_size": (120, 160), "num_objects": 12, "num_classes": 5, "repeats": 1, "device": "cpu"}
    assert timing.apply_conditions(settings | {"retain_memory": False}).image_size == (120, 160)
    assert not calls
    timing.apply_conditions(settings | {"retain_memory": True})
    assert calls
