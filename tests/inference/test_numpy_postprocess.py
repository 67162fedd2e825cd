"""Decoding in numpy against the one in torch, and its suppression against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sais.inference.numpy_postprocess import level_sizes, locations, nms, postprocess
from sais.modeling.postprocess import postprocess as torch_postprocess
from sais.ops.boxes import locations as torch_locations
from sais.structures import STRIDES, DenseOutputs

CLASSES, PROTOTYPES = 3, 4


def outputs_of(random: np.random.Generator, canvas: tuple[int, int], liveliness: float) -> DenseOutputs:
    """Random dense outputs of one image; the greater the liveliness the more passes."""
    number = sum(height * width for height, width in level_sizes(canvas))
    tensors = (
        random.normal(liveliness, 2, (1, number, CLASSES)),
        random.normal(0, 2, (1, number)),
        np.exp(random.normal(3, 1, (1, number, 4))),
        np.tanh(random.normal(0, 1, (1, number, PROTOTYPES))),
    )
    found = [torch.from_numpy(one.astype(np.float32)) for one in tensors]
    return DenseOutputs(*found, None, level_sizes(canvas))  # type: ignore[arg-type]


def test_levels_and_locations_are_the_models() -> None:
    assert level_sizes((96, 352)) == ((12, 44), (6, 22), (3, 11), (2, 6), (1, 3))
    wanted = torch_locations(level_sizes((96, 352)), STRIDES)
    np.testing.assert_array_equal(locations((96, 352)), wanted.numpy())


@pytest.mark.parametrize("part", range(4))
def test_equal_to_torch_on_200_random_images(part: int) -> None:
    objects = 0
    for number in range(50):
        random = np.random.default_rng([part, number])
        canvas = (32 * int(random.integers(1, 7)), 32 * int(random.integers(1, 7)))
        content = (canvas[0] - float(random.integers(0, 31)), canvas[1] - random.uniform(0, 31))
        outputs = outputs_of(random, canvas, liveliness=float(random.uniform(-6, -1)))
        settings = {
            "score": float(random.uniform(0.02, 0.3)),
            "candidates": int(random.choice([5, 40, 1000])),
            "nms": float(random.uniform(0.3, 0.7)),
            "detections": int(random.choice([3, 100])),
        }
        wanted = torch_postprocess(outputs, torch.from_numpy(locations(canvas)), [content], **settings)  # type: ignore[arg-type]
        arrays = [t[0].numpy() for t in (outputs.class_logits, outputs.quality_logits, outputs.distances)]
        assert outputs.coefficients is not None
        assert wanted.coefficients is not None
        found = postprocess(*arrays, outputs.coefficients[0].numpy(), canvas, content, **settings)  # type: ignore[arg-type]
        filled = int((wanted.scores[0] > 0).sum())
        assert len(found.scores) == filled
        np.testing.assert_allclose(found.scores, wanted.scores[0, :filled], atol=1e-6)
        np.testing.assert_array_equal(found.labels, wanted.labels[0, :filled])
        np.testing.assert_allclose(found.boxes, wanted.boxes[0, :filled], atol=1e-3)
        np.testing.assert_array_equal(found.coefficients, wanted.coefficients[0, :filled])
        objects += filled
    assert objects > 500


def plain_suppression(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, nms: float) -> list[int]:
    """One by one from the highest score, each against all that were kept."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        for k in kept:
            if labels[i] != labels[k]:
                continue
            width = min(boxes[i, 2], boxes[k, 2]) - max(boxes[i, 0], boxes[k, 0])
            height = min(boxes[i, 3], boxes[k, 3]) - max(boxes[i, 1], boxes[k, 1])
            shared = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[k])]
            if shared / (sum(areas) - shared) > nms:
                break
        else:
            kept.append(i)
    return kept


def test_suppression_equals_a_plain_loop() -> None:
    removed = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        number = int(random.integers(0, 80))
        corners = random.uniform(0, 60, (number, 2))
        boxes = np.concatenate([corners, corners + random.uniform(5, 40, (number, 2))], 1)
        scores, labels = random.permutation(number) / 100, random.integers(0, 2, number)
        wanted = plain_suppression(boxes, scores, labels, 0.4)
        assert nms(boxes, scores, labels, 0.4, 1000).tolist() == wanted
        assert nms(boxes, scores, labels, 0.4, 5).tolist() == wanted[:5]
        removed += number - len(wanted)
    assert removed > 300
