"""The bench of whole systems: injected workloads come out, memory is counted once, times are taken in turns."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from sais.benchmark import timing
from sais.benchmark.candidates import Candidate, find_candidates, own_candidates, recipe_candidate
from sais.benchmark.memory import in_fresh_process
from sais.benchmark.timing import Conditions, measure_memory, measure_times, run_once
from sais.benchmark.workload import make_workload, overlap, training_batch
from sais.engine.activation_memory import saved_bytes, saved_bytes_per_image
from sais.errors import SaisError
from sais.recipes import recipe

SMALL = Conditions(objects=12, size=(120, 160), classes=5, repeats=1)


def small() -> list[Candidate]:
    """The frozen lite recipe; measured in processes of their own, which import this file."""
    return [recipe_candidate("lite", recipe("paper-lite0"))]


def nothing() -> str:
    """No list of candidates."""
    return "nothing"


def test_scenes_are_the_same_each_time_and_their_classes_apart() -> None:
    first, second = make_workload(40), make_workload(40)
    assert (first.boxes == second.boxes).all()
    assert (first.image == second.image).all()
    assert first.size == (960, 1280)
    assert (first.boxes[:, 2:] > first.boxes[:, :2]).all()
    assert (first.boxes.max(0) <= (1280, 960, 1280, 960)).all()
    for i, box in enumerate(first.boxes):
        same = first.boxes[:i][first.labels[:i] == first.labels[i]]
        assert not len(same) or overlap(box, same).max() < 0.5


def test_overlap_by_hand() -> None:
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], float)
    assert np.allclose(overlap(np.array([0, 0, 10, 10.0]), others), [1, 1 / 3, 0])


@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_planted_comes_out(seed: int) -> None:
    workload = make_workload(SMALL.num_objects, SMALL.image_size, SMALL.num_classes, seed)
    prepared = small()[0].prepare(workload, "cpu")
    with torch.inference_mode():
        (found,) = everything = prepared.postprocess(prepared.inject(prepared.network(prepared.preprocess(workload.image))))
    assert len(found) == SMALL.num_objects
    for box, label in zip(workload.boxes, workload.labels, strict=True):
        alike = found.boxes[found.labels == label]
        assert overlap(box, alike).max() > 0.99
    assert prepared.dense_masks(everything).shape == (SMALL.num_objects, *SMALL.image_size)


def test_the_stations_of_one_run() -> None:
    ticks = iter(range(100))
    workload = make_workload(SMALL.num_objects, SMALL.image_size, SMALL.num_classes)
    seconds, count = run_once(small()[0].prepare(workload, "cpu"), workload, lambda: float(next(ticks)))
    assert seconds == {"preprocess": 1.0, "network": 1.0, "postprocess": 1.0, "dense_masks": 1.0}
    assert count == SMALL.num_objects


def test_bytes_saved_by_hand() -> None:
    """relu saves its output, the square its input, which is the same storage: once. The linear's input is the batch."""
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU())
    rows = torch.zeros(3, 10)

    def losses() -> dict[str, torch.Tensor]:
        return {"square": (model(rows) ** 2).sum()}

    counted = saved_bytes(model, losses, {"first": model[0], "second": model[1]})
    assert counted == {"first": 3 * 10 * 4, "second": 3 * 20 * 4, "losses": 0}


def test_per_image_and_per_step_by_hand() -> None:
    scale = nn.Parameter(torch.ones(50))
    model = nn.Module()
    model.scale = scale

    def losses(images: int) -> dict[str, torch.Tensor]:
        made_once = scale.exp()  # saved, and the same for any number of images
        return {"sum": (torch.ones(images, 50).cumsum(0) * made_once).sum()}

    saved = saved_bytes_per_image(model, losses, {})
    assert saved.per_image == {"losses": 200}
    assert saved.total == 200
    assert saved.per_step == 200


def test_masks_in_boxes_keep_little_for_backward() -> None:
    """The mask loss of ten objects keeps far less than 4 bytes for each positive and prototype cell."""
    train = small()[0].train
    assert train is not None
    training = train(make_workload(12, (120, 160), 5), "cpu")
    saved = saved_bytes_per_image(training.model, training.losses, training.parts)
    assert set(saved.per_image) == {"backbone", "fpn", "head", "protonet", "losses"}
    assert all(value > 0 for value in saved.per_image.values())
    assert saved.per_image["losses"] < saved.total / 3


def test_training_batches_need_no_multiple_of_32() -> None:
    batch = training_batch(make_workload(12), (550, 550), images=2, objects=3)
    assert batch.images.shape == (2, 3, 550, 550)
    assert [len(o.boxes) for o in batch.objects] == [3, 3]
    assert int(batch.objects[0].mask_values.max()) == 255


def test_contestants_by_name() -> None:
    assert [one.name for one in own_candidates()] == [
        "SAIS-640, R50",
        "SAIS-768, R50",
        "SAIS-768, R101",
        "SAIS-768, X101",
    ]
    assert [one.name for one in find_candidates("tests.benchmark.test_timing:small")] == ["lite"]
    with pytest.raises(SaisError, match="does not return a list"):
        find_candidates("tests.benchmark.test_timing:nothing")
    with pytest.raises(SaisError, match="module:function"):
        find_candidates("peers.absent:candidates")


def test_a_failure_elsewhere_is_said_here() -> None:
    with pytest.raises(SaisError, match="no_such_name"):
        in_fresh_process("sais.benchmark.memory:no_such_name")


@pytest.mark.slow
def test_measured_in_processes_of_their_own() -> None:
    source = ["tests.benchmark.test_timing:small"]
    (timing,) = measure_times(source, [], SMALL)
    assert timing.num_detections == SMALL.num_objects
    assert min(timing.network, timing.postprocess, timing.preprocess, timing.dense_masks) > 0
    assert timing.end_to_end == timing.preprocess + timing.network + timing.postprocess
    (memory,) = measure_memory(source, [], SMALL)
    assert memory.training is not None
    assert memory.training["protonet"] > 0
    assert memory.inference is None or memory.inference > 0
    with pytest.raises(SaisError, match="nobody to measure"):
        measure_times(source, ["somebody else"], SMALL)


def test_blocks_are_kept_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(timing, "keep_big_blocks", lambda: asked.append(True))
    settings = {"size": (120, 160), "objects": 12, "classes": 5, "repeats": 1, "device": "cpu"}
    assert timing.conditions_of(settings | {"retain_memory": False}).size == (120, 160)
    assert not asked
    timing.conditions_of(settings | {"retain_memory": True})
    assert asked
