"""The speed of a video against the network: injected objects, and the table of costs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from peers import video_speed
from peers.video_speed import Arguments, Cost, KnownObjects
from sais.config import Experiment
from sais.inference.assemble import assemble
from sais.ops.letterbox import letterbox
from sais.structures import Instances


def test_known_objects_replace_the_detections_of_a_network() -> None:
    experiment = replace(Experiment(), input=replace(Experiment().input, size=(288, 512)))

    def run(canvases: Any) -> Instances:
        calls.append(len(canvases))
        return Instances(*(np.zeros((len(canvases), 32, 72, 128), np.float32) for _ in range(5)))

    calls: list[int] = []
    network: Any = SimpleNamespace(run=run, experiment=experiment, mask_stride=4)
    scenes = video_speed.film(3)
    backend = KnownObjects(network, scenes, {})
    canvas_map = letterbox(video_speed.SIZE, "fixed", (288, 512))
    names = tuple("abcde")
    batches = [np.zeros((2, 3, 288, 512), np.uint8), np.zeros((1, 3, 288, 512), np.uint8)]
    found = [one for batch in batches for one in assemble(backend.run(batch), [canvas_map] * len(batch), names)]
    assert calls == [2, 1]
    for scene, detections in zip(scenes, found, strict=True):
        visible = np.flatnonzero(scene.visible.sum((1, 2)) >= video_speed.MIN_PIXELS)
        assert detections.labels.tolist() == scene.labels[visible].tolist()
        truth, masks = scene.visible[visible], detections.masks()
        iou = (truth & masks).sum((1, 2)) / (truth | masks).sum((1, 2))
        assert np.median(iou) > 0.95
        assert iou[truth.sum((1, 2)) > 2000].min() > 0.7  # the visible rest of a hidden object is narrow


def test_ratios_are_medians_over_rounds_that_alternate() -> None:
    costs = {
        "network alone": [Cost(0.1, 0.2), Cost(0.2, 0.2), Cost(0.1, 0.3)],
        "sais predict": [Cost(0.2, 0.4), Cost(0.25, 0.25), Cost(0.1, 0.4)],
    }
    assert video_speed.table(costs).splitlines()[3] == "| sais predict | 5.00 | 0.80 | 400.0 | 0.75 |"


@pytest.mark.slow
def test_command_and_network_are_measured_with_random_weights() -> None:
    pytest.importorskip("av")
    costs = video_speed.measure(Arguments(input_size=64, frames=4, rounds=1))
    assert set(costs) == set(video_speed.RUNS)
    assert all(len(runs) == 1 and runs[0].processor_seconds > 0 for runs in costs.values())
