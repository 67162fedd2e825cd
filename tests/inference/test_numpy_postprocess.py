"""`sais.inference.numpy_postprocess`: equal to the torch implementation, NMS equal to a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sais.config import PostprocessConfig
from sais.inference.numpy_postprocess import level_sizes, locations, nms, postprocess
from sais.modeling.postprocess import postprocess as torch_postprocess
from sais.ops.boxes import locations as torch_locations
from sais.structures import STRIDES, DenseOutputs

CLASSES, PROTOTYPES = 3, 4


def random_outputs(
    random: np.random.Generator, canvas: tuple[int, int], mean_logit: float, quality: bool = True
) -> DenseOutputs:
    """Return random dense outputs of two images; the higher the mean logit, the more candidates."""
    count = sum(height * width for height, width in level_sizes(canvas))
    class_logits, quality_logits, distances, coefficients = (
        torch.from_numpy(array.astype(np.float32))
        for array in (
            random.normal(mean_logit, 2, (2, count, CLASSES)),
            random.normal(0, 2, (2, count)),
            np.exp(random.normal(3, 1, (2, count, 4))),
            np.tanh(random.normal(0, 1, (2, count, PROTOTYPES))),
        )
    )
    return DenseOutputs(
        class_logits, quality_logits if quality else None, distances, coefficients, None, level_sizes(canvas)
    )


def test_locations_equal_the_models() -> None:
    assert level_sizes((96, 352)) == ((12, 44), (6, 22), (3, 11), (2, 6), (1, 3))
    expected = torch_locations(level_sizes((96, 352)), STRIDES)
    np.testing.assert_array_equal(locations((96, 352)), expected.numpy())


@pytest.mark.parametrize("part", range(4))
def test_postprocess_equals_torch_on_400_random_images(part: int) -> None:
    objects = 0
    for number in range(50):
        random = np.random.default_rng([part, number])
        canvas = (32 * int(random.integers(1, 7)), 32 * int(random.integers(1, 7)))
        content = (canvas[0] - float(random.integers(0, 31)), canvas[1] - random.uniform(0, 31))
        sizes = [content, (float(canvas[0]), float(canvas[1]))]
        outputs = random_outputs(random, canvas, float(random.uniform(-6, -1)), quality=number % 5 > 0)
        settings = PostprocessConfig(
            score_threshold=float(random.uniform(0.02, 0.3)),
            pre_nms_topk=int(random.choice([5, 40, 1000])),
            nms_iou=float(random.uniform(0.3, 0.7)),
            max_detections=int(random.choice([3, 100])),
        )
        expected = torch_postprocess(
            outputs,
            torch.from_numpy(locations(canvas)),
            sizes,
            settings.score_threshold,
            settings.pre_nms_topk,
            settings.nms_iou,
            settings.max_detections,
        )
        assert outputs.coefficients is not None
        assert expected.coefficients is not None
        actual = postprocess(
            outputs.class_logits.numpy(),
            None if outputs.quality_logits is None else outputs.quality_logits.numpy(),
            outputs.distances.numpy(),
            outputs.coefficients.numpy(),
            None,
            canvas,
            sizes,
            STRIDES,
            settings,
        )
        np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-6)
        np.testing.assert_array_equal(actual.labels, expected.labels)
        np.testing.assert_allclose(actual.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_array_equal(actual.coefficients, expected.coefficients)
        objects += int((actual.scores > 0).sum())
    assert objects > 500


def loop_nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, nms_iou: float) -> list[int]:
    """Compare boxes one by one, from the highest score, with all that remain."""
    remaining: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        for k in remaining:
            if labels[i] != labels[k]:
                continue
            width = min(boxes[i, 2], boxes[k, 2]) - max(boxes[i, 0], boxes[k, 0])
            height = min(boxes[i, 3], boxes[k, 3]) - max(boxes[i, 1], boxes[k, 1])
            shared = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[k])]
            if shared / (sum(areas) - shared) > nms_iou:
                break
        else:
            remaining.append(i)
    return remaining


def test_nms_equals_a_plain_loop() -> None:
    removed = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        count = int(random.integers(0, 80))
        corners = random.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corners, corners + random.uniform(5, 40, (count, 2))], 1)
        scores, labels = random.permutation(count) / 100, random.integers(0, 2, count)
        expected = loop_nms(boxes, scores, labels, 0.4)
        assert nms(boxes, scores, labels, 0.4, 1000).tolist() == expected
        assert nms(boxes, scores, labels, 0.4, 5).tolist() == expected[:5]
        removed += count - len(expected)
    assert removed > 300
