"""Post-processing in fixed shapes equals post-processing with shapes that depend on values, to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sais.modeling.postprocess import postprocess
from sais.modeling.postprocess_fixed import FixedInstances, postprocess_fixed
from sais.ops.boxes import locations
from sais.ops.fixed_nms import suppress
from sais.structures import DenseOutputs, Instances
from tests.simulated_device import DeviceTensor, SimulatedDevice, to_host

STRIDES = (8, 16, 32, 64, 128)
SIZES = ((24, 32), (12, 16), (6, 8), (3, 4), (2, 2))
"""Of a canvas of 192 x 256."""
POINTS = locations(SIZES, STRIDES)
CONTENTS = [(192.0, 256.0), (171.3, 256.0), (40.0, 33.3)]
BATCH = len(CONTENTS)


def random_outputs(
    seed: int, classes: int = 5, shift: float = -3.0, levels: int = 0, quality: bool = True, masks: bool = True
) -> DenseOutputs:
    """Return dense outputs of three images; with `levels`, logits have that number of values for each unit: ties."""
    generator = torch.Generator().manual_seed(seed)
    length = len(POINTS)

    def normal(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator)
        return (values * levels).round() / levels if levels else values

    return DenseOutputs(
        class_logits=2 * normal(BATCH, length, classes + 1)[..., :classes] + shift,  # a part of a map, as in the head
        quality_logits=normal(BATCH, length, 3)[..., 1] if quality else None,
        distances=(0.5 * normal(BATCH, length, 4) + 2.5).exp(),
        coefficients=normal(BATCH, length, 4).tanh() if masks else None,
        prototypes=None,
        level_sizes=SIZES,
    )


def both(
    outputs: DenseOutputs, candidates: int = 1000, repetitions: int = 64, **settings: float
) -> tuple[FixedInstances, Instances]:
    """Return the instances of both ways."""
    fixed = postprocess_fixed(
        outputs, POINTS, torch.tensor(CONTENTS), candidates=candidates, repetitions=repetitions, **settings
    )
    return fixed, postprocess(outputs, POINTS, CONTENTS, **settings)


def in_fixed_order(instances: Instances) -> Instances:
    """Return the instances of each image in an order by location and class: equal scores have no order of their own."""
    number = torch.arange(instances.boxes.shape[1])
    for image in range(len(instances.boxes)):
        key = [
            (float(score) == 0, box, int(label))
            for score, box, label in zip(
                instances.scores[image], instances.boxes[image].tolist(), instances.labels[image], strict=True
            )
        ]
        order = torch.tensor(sorted(number.tolist(), key=key.__getitem__))
        for values in (instances.scores, instances.labels, instances.boxes, instances.coefficients):
            if values is not None:
                values[image] = values[image, order]
    return instances


def assert_equal(actual: Instances, expected: Instances) -> None:
    """Compare to the bit, except for the last bit of scores: vector and scalar instructions round them differently."""
    for name in ("scores", "labels", "boxes", "coefficients"):
        values, wanted = getattr(actual, name), getattr(expected, name)
        assert (values is None) == (wanted is None), name
        if values is not None:
            assert values.dtype == wanted.dtype, name
            torch.testing.assert_close(values, wanted, rtol=2e-7 if name == "scores" else 0, atol=0, msg=name)


@pytest.mark.parametrize("topk", [1000, 100])
@pytest.mark.parametrize(("classes", "shift", "candidates"), [(1, -1.0, 1000), (5, -5.0, 1000), (80, -7.0, 1500)])
@pytest.mark.parametrize("seed", range(3))
def test_fixed_shapes_equal_shapes_by_value(seed: int, classes: int, shift: float, candidates: int, topk: int) -> None:
    fixed, expected = both(random_outputs(seed, classes, shift), candidates, pre_nms_topk=topk)
    assert fixed.candidates[0] > (100 if topk == 100 else candidates / 3)
    assert fixed.enough.all()
    assert fixed.converged.all()
    assert_equal(fixed.instances, expected)


@pytest.mark.parametrize(("classes", "shift", "candidates"), [(1, -1.0, 1000), (5, -5.0, 1000), (80, -7.0, 1500)])
def test_equal_scores_are_suppressed_in_the_order_of_locations(classes: int, shift: float, candidates: int) -> None:
    outputs = random_outputs(4, classes, shift, levels=1)
    fixed, expected = both(outputs, candidates, max_detections=candidates)
    assert fixed.enough.all()
    assert (expected.scores[:, 1:] == expected.scores[:, :-1])[expected.scores[:, 1:] > 0].float().mean() > 0.5
    assert_equal(in_fixed_order(fixed.instances), in_fixed_order(expected))


@pytest.mark.parametrize(
    "settings",
    [
        {"score_threshold": 0.0, "max_detections": 1200},
        {"score_threshold": 1.0},
        {"score_threshold": 0.999},
        {"nms_iou": 0.6},
        {"nms_iou": 0.0},
        {"nms_iou": 1.0},
        {"max_detections": 1},
        {"pre_nms_topk": 3},
    ],
)
def test_settings_at_their_limits(settings: dict[str, float]) -> None:
    fixed, expected = both(random_outputs(7, 2), 2200, **settings)
    assert fixed.enough.all()
    assert fixed.converged.all()
    assert_equal(fixed.instances, expected)


def test_heads_without_quality_or_masks_and_classes_left_out() -> None:
    outputs = random_outputs(3, shift=-4.0, quality=False, masks=False)
    outputs.class_logits[..., [0, 2]] = -torch.inf
    fixed, expected = both(outputs, candidates=1500)
    assert fixed.enough.all()
    assert fixed.instances.coefficients is None
    assert set(fixed.instances.labels[fixed.instances.scores > 0].tolist()) == {1, 3, 4}
    assert_equal(fixed.instances, expected)


def test_boxes_of_equal_score_and_boxes_without_area() -> None:
    outputs = random_outputs(1, 2)
    outputs.class_logits[:] = 0.25
    assert outputs.quality_logits is not None
    outputs.quality_logits[:] = 1.0
    outputs.distances[:, ::3] = 0.0
    outputs.distances[:, 1::3] = -5.0
    fixed, expected = both(outputs, candidates=2200, max_detections=2200)
    assert fixed.enough.all()
    assert_equal(in_fixed_order(fixed.instances), in_fixed_order(expected))


def test_too_few_candidates_are_reported() -> None:
    """Where fewer than D of the best candidates remain, one beyond them might."""
    outputs = random_outputs(2, classes=80, shift=-4.0)
    fixed, expected = both(outputs, max_detections=1000)
    assert fixed.candidates.min() > 1000
    assert not fixed.enough.any()
    assert not torch.equal(fixed.instances.scores, expected.scores)
    fixed, expected = both(outputs, max_detections=20)
    assert fixed.enough.all()
    assert_equal(fixed.instances, expected)


def test_candidates_beyond_the_best_with_the_same_score_are_reported() -> None:
    outputs = random_outputs(2, classes=5)
    outputs.class_logits[:] = 0.0
    assert outputs.quality_logits is not None
    outputs.quality_logits[:] = 0.0
    fixed, _ = both(outputs, max_detections=20)
    assert fixed.candidates.tolist()[0] > 1000
    assert not fixed.enough[0]


def chain(length: int) -> torch.Tensor:
    """Return boxes in a row, each of which overlaps only its neighbors: every second one remains."""
    left = torch.arange(length, dtype=torch.float32) * 2
    return torch.stack([left, torch.zeros(length), left + 10, torch.full((length,), 10.0)], 1)[None]


@pytest.mark.parametrize(("repetitions", "certain"), [(8, False), (40, True)])
def test_repetitions_of_nms_are_checked(repetitions: int, certain: bool) -> None:
    boxes = chain(30)
    labels, valid = torch.zeros(1, 30, dtype=torch.int64), torch.ones(1, 30, dtype=torch.bool)
    result = suppress(boxes, labels, valid, 0.5, repetitions, 100)
    assert result.converged.tolist() == [certain]
    assert (result.remaining[0].tolist() == [i % 2 == 0 for i in range(30)]) == certain
    # The first boxes are certain after a few repetitions already.
    first = suppress(boxes, labels, valid, 0.5, repetitions, 4)
    assert first.converged.tolist() == [True]
    assert first.remaining[0, :8].tolist() == [True, False] * 4


def test_half_precision_of_a_device_decides_as_the_host() -> None:
    """Boxes that a thousand others suppress are counted in half precision."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 1500, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 30 + torch.rand(2, 1500, 2, generator=generator)], 2)
    boxes[1, 3:] = boxes[1, 2]
    labels, valid = torch.zeros(2, 1500, dtype=torch.int64), torch.ones(2, 1500, dtype=torch.bool)
    valid[0, 1400:] = False
    expected = suppress(boxes, labels, valid, 0.3, 40, 100)
    assert expected.converged.all()
    with SimulatedDevice():
        copies = [DeviceTensor(tensor) for tensor in (boxes, labels, valid)]
        result = suppress(*copies, 0.3, 40, 100)
        assert torch.equal(to_host(result.remaining), expected.remaining)
        assert to_host(result.converged).all()


def test_a_threshold_between_two_floats_is_compared_as_float64() -> None:
    """The IoU of 3 / 5 is above 0.6 as a float32, which torchvision compares with a float64."""
    boxes = torch.tensor([[0.0, 0.0, 4.0, 1.0], [1.0, 0.0, 5.0, 1.0]])
    outputs = DenseOutputs(
        class_logits=torch.tensor([[[2.0], [1.0]]]),
        quality_logits=None,
        distances=torch.cat([-boxes[:, :2], boxes[:, 2:]], 1)[None],
        coefficients=None,
        prototypes=None,
        level_sizes=((1, 2),),
    )
    for iou, number in ((0.6, 1), (float(torch.tensor(0.6)), 2), (0.61, 2)):
        points = torch.zeros(2, 2)
        fixed = postprocess_fixed(outputs, points, torch.tensor([[8.0, 8.0]]), nms_iou=iou)
        expected = postprocess(outputs, points, [(8.0, 8.0)], nms_iou=iou)
        assert (expected.scores > 0).sum() == number
        assert_equal(fixed.instances, replace(expected, prototypes=None))
