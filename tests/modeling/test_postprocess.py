"""Post-processing against slow loops: candidates, ranking, NMS, fixed shapes; then boxes and masks in the image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sais.config import PostprocessConfig
from sais.inference.assemble import assemble
from sais.modeling.postprocess import postprocess
from sais.ops.boxes import locations
from sais.ops.letterbox import CanvasMap, letterbox
from sais.structures import DenseOutputs, Instances

STRIDES = (8, 16, 32, 64, 128)
SIZES = ((12, 16), (6, 8), (3, 4), (2, 2), (1, 1))
"""Of a canvas of 96 x 128."""
POINTS = locations(SIZES, STRIDES)
CANVAS = (SIZES[0][0] * 8, SIZES[0][1] * 8)
CONTENTS = [CANVAS, CANVAS]
CLASSES, PROTOTYPES = 4, 3
Found = list[tuple[float, int, int, list[float]]]
"""Score, label, location and box, best first."""


def random_outputs(seed: int, batch: int = 2, shift: float = -2.0, masks: bool = True) -> DenseOutputs:
    """Outputs of a network that finds something nearly everywhere."""
    generator = torch.Generator().manual_seed(seed)
    length = len(POINTS)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return DenseOutputs(
        class_logits=2 * normal(batch, length, CLASSES) + shift,
        quality_logits=normal(batch, length),
        distances=(0.5 * normal(batch, length, 4) + 2.5).exp(),
        coefficients=normal(batch, length, PROTOTYPES).tanh() if masks else None,
        prototypes=normal(batch, PROTOTYPES, 24, 32).relu() if masks else None,
        level_sizes=SIZES,
    )


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + math.exp(-x))


def iou(first: list[float], second: list[float]) -> float:
    """Intersection over union of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return shared / (sum(areas) - shared)


def oracle(
    outputs: DenseOutputs, image: int, score: float, candidates: int, nms: float, detections: int
) -> tuple[Found, float]:
    """The detections of one image, loop by loop, and how near any IoU came to the threshold of NMS."""
    logits, centers = outputs.class_logits[image].tolist(), outputs.quality_logits[image].tolist()
    distances, points = outputs.distances[image].tolist(), POINTS.tolist()
    pool: Found = []
    first = 0
    for height, width in SIZES:
        ranked = []
        for place_ in range(first, first + height * width):
            values = [sigmoid(logit) for logit in logits[place_]]
            ranked.append((max(values) * sigmoid(centers[place_]), place_))
        for _, place_ in sorted(ranked, reverse=True)[:candidates]:
            (x, y), (left, top, right, bottom) = points[place_], distances[place_]
            box = [max(x - left, 0), max(y - top, 0), min(x + right, CANVAS[1]), min(y + bottom, CANVAS[0])]
            for label, logit in enumerate(logits[place_]):
                if sigmoid(logit) > score:
                    pool.append((sigmoid(logit) * sigmoid(centers[place_]), label, place_, box))
        first += height * width
    selected: Found = []
    nearest = 1.0
    for candidate in sorted(pool, reverse=True):
        rivals = [iou(candidate[3], other[3]) for other in selected if other[1] == candidate[1]]
        nearest = min([nearest, *(abs(r - nms) for r in rivals)])
        if all(r <= nms for r in rivals):
            selected.append(candidate)
    return selected[:detections], nearest


@pytest.mark.parametrize("candidates", [1000, 20])
@pytest.mark.parametrize("detections", [100, 300])
@pytest.mark.parametrize("seed", range(3))
def test_postprocess_equals_plain_loops(seed: int, detections: int, candidates: int) -> None:
    outputs = random_outputs(seed)
    instances = postprocess(outputs, POINTS, CONTENTS, 0.3, candidates, 0.5, detections)
    assert instances.boxes.shape == (2, detections, 4)
    assert instances.scores.shape == instances.labels.shape == (2, detections)
    assert instances.coefficients is not None
    assert outputs.coefficients is not None
    assert instances.coefficients.shape == (2, detections, PROTOTYPES)
    assert instances.prototypes is outputs.prototypes
    for image in range(2):
        wanted, nearest = oracle(outputs, image, 0.3, candidates, 0.5, detections)
        assert nearest > 1e-6  # else the seed would be unfair
        number = len(wanted)
        assert number > 40
        scores, labels, places, boxes = zip(*wanted, strict=True)
        np.testing.assert_allclose(instances.scores[image, :number], scores, rtol=1e-5)
        assert instances.labels[image, :number].tolist() == list(labels)
        np.testing.assert_allclose(instances.boxes[image, :number], boxes, rtol=1e-5, atol=1e-4)
        assert torch.equal(instances.coefficients[image, :number], outputs.coefficients[image, list(places)])
        assert instances.scores[image, number:].abs().sum() == instances.boxes[image, number:].abs().sum() == 0
        assert (instances.scores[image, :number] > 0).all()


def test_postprocess_limits_candidates_of_each_level() -> None:
    outputs = random_outputs(0, 1)
    outputs.distances[:] = 1e-3  # boxes that never meet: NMS removes nothing
    many = postprocess(outputs, POINTS, CONTENTS, score_threshold=0.01, pre_nms_topk=1000, max_detections=5000)
    few = postprocess(outputs, POINTS, CONTENTS, score_threshold=0.01, pre_nms_topk=3, max_detections=5000)
    locations_of = {tuple(box) for box in few.boxes[0, few.scores[0] > 0].round().tolist()}
    assert len(locations_of) == 3 + 3 + 3 + 3 + 1
    assert int((many.scores > 0).sum()) > 500
    # What stays of P3 are its three best by the highest class x centerness.
    value = outputs.class_logits[0, :192].sigmoid().amax(1) * outputs.quality_logits[0, :192].sigmoid()
    best = {tuple(point) for point in POINTS[value.topk(3).indices].tolist()}
    assert best <= {((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in locations_of}


def test_postprocess_applies_the_threshold_to_class_probabilities() -> None:
    outputs = random_outputs(0, 1, shift=-50)
    outputs.class_logits[0, 5, 2] = math.log(0.2 / 0.8)  # probability 0.2
    outputs.quality_logits[0, 5] = math.log(0.1 / 0.9)  # times 0.1: a score of 0.02
    instances = postprocess(outputs, POINTS, CONTENTS, score_threshold=0.19)
    assert instances.scores[0, 0].item() == pytest.approx(0.02, rel=1e-5)
    assert instances.labels[0, 0].item() == 2
    assert (instances.scores[0, 1:] == 0).all()
    assert (postprocess(outputs, POINTS, CONTENTS, score_threshold=0.21).scores == 0).all()
    assert (postprocess(outputs, POINTS, CONTENTS, score_threshold=1.0).scores == 0).all()
    assert int((postprocess(outputs, POINTS, CONTENTS, score_threshold=0.0).scores > 0).sum()) > 1


def test_postprocess_suppresses_within_classes_only() -> None:
    outputs = random_outputs(0, 1, shift=-50)
    outputs.class_logits[0, 5] = torch.tensor([1.0, 2.0, -50, 3.0])
    outputs.class_logits[0, 6] = torch.tensor([0.0, 0.5, -50, -50])
    outputs.distances[0, 5:7] = torch.tensor([[40.0, 40, 48, 40], [48.0, 40, 40, 40]])  # one box from two locations
    outputs.quality_logits[0, 5:7] = 0
    instances = postprocess(outputs, POINTS, CONTENTS)
    assert instances.labels[0, : int((instances.scores[0] > 0).sum())].tolist() == [3, 1, 0]


def test_postprocess_clips_boxes_before_nms() -> None:
    # torchvision keeps classes apart by shifting them, which takes negative coordinates for another class.
    outputs = random_outputs(0, batch=1)
    outputs.class_logits[:] = -9.0
    outputs.class_logits[0, 0, 1] = 3.0
    outputs.class_logits[0, 40, 0] = 4.0
    outputs.distances[0, 0] = torch.tensor([400.0, 400.0, 2.0, 2.0])
    outputs.distances[0, 40] = torch.tensor([1.0, 1.0, 400.0, 400.0])
    instances = postprocess(outputs, POINTS, CONTENTS)
    assert int((instances.scores[0] > 0).sum()) == 2
    assert float(instances.boxes.min()) >= 0


def test_postprocess_drops_boxes_in_the_padding() -> None:
    outputs = random_outputs(0, batch=1)
    outputs.class_logits[:] = -9.0
    outputs.class_logits[0, [0, 191], 1] = torch.tensor([1.0, 4.0])  # first and last location of P3
    outputs.distances[0, [0, 191]] = 3.0
    instances = postprocess(outputs, POINTS, [(64.0, 100.0)])
    assert int((instances.scores[0] > 0).sum()) == 1
    assert instances.boxes[0, 0].tolist() == [1.0, 1.0, 7.0, 7.0]


def test_postprocess_without_detections() -> None:
    outputs = random_outputs(0, 2, shift=-60)
    instances = postprocess(outputs, POINTS, CONTENTS, max_detections=7)
    assert instances.boxes.shape == (2, 7, 4)
    assert instances.scores.abs().sum() == instances.labels.abs().sum() == 0
    canvas_map = letterbox((50, 70), "fixed", (96, 128))
    for detections in assemble(instances, [canvas_map, canvas_map], tuple("abcd")):
        assert len(detections) == 0
        assert detections.image_size == (50, 70)
        assert detections.class_names == tuple("abcd")
        assert detections.masks().shape == (0, 50, 70)


def test_scores_without_quality_branch_are_class_probabilities() -> None:
    outputs = random_outputs(0, 1)
    outputs.quality_logits = torch.full_like(outputs.class_logits[..., 0], 100.0)  # a probability of 1
    expected = postprocess(outputs, POINTS, CONTENTS)
    outputs.quality_logits = None
    instances = postprocess(outputs, POINTS, CONTENTS)
    assert torch.equal(instances.scores, expected.scores)
    assert torch.equal(instances.boxes, expected.boxes)
    assert torch.equal(instances.labels, expected.labels)


def test_postprocess_without_masks() -> None:
    instances = postprocess(random_outputs(0, 1, masks=False), POINTS, CONTENTS)
    assert instances.coefficients is None
    assert instances.prototypes is None
    detections = assemble(instances, [letterbox((50, 70), "fixed", (96, 128))], tuple("abcd"))[0]
    assert len(detections) == 100
    assert detections.cropped_masks == []


PLACEMENTS = (
    letterbox((50, 71), "fixed", (96, 128)),
    letterbox((301, 411), "fixed", (96, 128)),
    letterbox((180, 251), "keep_ratio", (90, 125)),
)


@pytest.mark.parametrize("canvas_map", PLACEMENTS, ids=["small", "large", "padded"])
def test_assemble_brings_boxes_and_masks_to_the_image(canvas_map: CanvasMap) -> None:
    height, width = canvas_map.image_size
    vertical, horizontal = canvas_map.scale
    assert canvas_map.canvas_size == (96, 128)
    # Prototype 0 is positive on a stripe of cells, columns 6 .. 13 of the grid, prototype 1 everywhere.
    prototypes = torch.full((1, 2, 24, 32), 5.0)
    prototypes[0, 0] = -5
    prototypes[0, 0, :, 6:14] = 5
    boxes = torch.tensor([[[20.0, 12, 60, 68], [-30.0, -9, 300, 40], [8.0, 8, 24, 24], [0.0, 0, 0, 0]]])
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.0]])
    coefficients = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0]]])
    instances = Instances(boxes, scores, torch.tensor([[2, 0, 1, 0]]), coefficients, prototypes)
    detections = assemble(instances, [canvas_map], ("cat", "dog", "owl"))[0]
    assert detections.class_names == ("cat", "dog", "owl")
    assert [detections.class_names[label] for label in detections.labels] == ["owl", "cat", "dog"]
    np.testing.assert_allclose(detections.scores, [0.9, 0.8, 0.7], rtol=1e-6)
    factors = np.array([horizontal, vertical, horizontal, vertical])
    np.testing.assert_allclose(detections.boxes[0], np.array([20, 12, 60, 68]) / factors, rtol=1e-5)
    np.testing.assert_allclose(detections.boxes[1], [0, 0, width, min(40 / vertical, height)], rtol=1e-5)  # clipped
    y, x = (np.arange(height)[:, None] + 0.5) * vertical, (np.arange(width) + 0.5) * horizontal  # on the canvas
    masks = detections.masks()
    np.testing.assert_array_equal(masks[0], (x > 24) & (x < 56) & (y > 12) & (y < 68))
    np.testing.assert_array_equal(masks[1], (y < 40) & (x > 0))
    assert not masks[2].any()


def test_margin_lets_a_mask_reach_beyond_its_box() -> None:
    instances = Instances(
        torch.tensor([[[40.0, 20, 80, 60]]]),
        torch.tensor([[0.9]]),
        torch.tensor([[0]]),
        torch.ones(1, 1, 1),
        torch.ones(1, 1, 24, 32),
    )
    canvas_map = letterbox((96, 128), "fixed", (96, 128))
    assert assemble(instances, [canvas_map], ("cat",))[0].area.tolist() == [40 * 40]
    grown = assemble(instances, [canvas_map], ("cat",), PostprocessConfig(mask_margin=0.1))[0]
    assert grown.area.tolist() == [48 * 48]
    assert grown.boxes.tolist() == [[40, 20, 80, 60]]


def test_boxes_from_masks_are_bounding_boxes_of_the_pixels() -> None:
    canvas_map = letterbox((48, 64), "fixed", (96, 128))
    prototypes = torch.zeros(1, 2, 24, 32)
    prototypes[0, 0, 6:12, 10:18] = 1  # pixels 12 to 24 and 20 to 36 of the image
    prototypes[0, 1] = -1
    boxes = torch.tensor([[[30.0, 20, 90, 60], [30.0, 20, 60, 60], [0.0, 0, 40, 40], [0.0, 0, 0, 0]]])
    coefficients = torch.tensor([[[9.0, 4.0], [9.0, 4.0], [0.0, 4.0], [0.0, 0.0]]])
    scores, labels = torch.tensor([[0.9, 0.8, 0.7, 0.0]]), torch.tensor([[0, 0, 0, 0]])
    instances = Instances(boxes, scores, labels, coefficients, prototypes)
    plain = assemble(instances, [canvas_map], ("cat",))[0]
    tight = assemble(instances, [canvas_map], ("cat",), PostprocessConfig(boxes_from_masks=True))[0]
    expected = plain.boxes.copy()  # that of the third remains, because its mask is empty
    for row, mask in enumerate(plain.masks()[:2]):
        rows, columns = np.nonzero(mask)
        expected[row] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert plain.area[:2].min() > 0
    assert plain.area[2] == 0
    np.testing.assert_array_equal(tight.boxes, expected)
    assert (tight.boxes[0] != plain.boxes[0]).any()
    np.testing.assert_array_equal(tight.masks(), plain.masks())
    np.testing.assert_array_equal(tight.scores, plain.scores)


def test_maskness_multiplies_scores_and_sorts_the_detections_again() -> None:
    canvas_map = letterbox((96, 128), "fixed", (96, 128))
    boxes = torch.tensor([[[8.0, 8, 40, 40], [48.0, 8, 80, 40], [88.0, 8, 120, 40], [0.0, 0, 0, 0]]])
    coefficients = torch.tensor([[[0.1], [3.0], [-1.0], [0.0]]])
    scores, labels = torch.tensor([[0.9, 0.8, 0.7, 0.0]]), torch.tensor([[2, 1, 0, 0]])
    instances = Instances(boxes, scores, labels, coefficients, torch.ones(1, 1, 24, 32))
    plain = assemble(instances, [canvas_map], ("cat", "dog", "owl"))[0]
    assert plain.labels.tolist() == [2, 1, 0]
    detections = assemble(instances, [canvas_map], ("cat", "dog", "owl"), PostprocessConfig(maskness=True))[0]
    assert detections.labels.tolist() == [1, 2, 0]
    expected = [0.8 * sigmoid(3.0), 0.9 * sigmoid(0.1), 0.7 * 0.5]  # the mask of the last one is empty
    np.testing.assert_allclose(detections.scores, expected, rtol=1e-6)
    np.testing.assert_array_equal(detections.boxes, plain.boxes[[1, 0, 2]])
    np.testing.assert_array_equal(detections.masks(), plain.masks()[[1, 0, 2]])
