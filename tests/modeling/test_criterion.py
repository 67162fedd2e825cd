"""The criterion: its terms by hand, its normalizers over parts, soft targets, quality branches, settings."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou_loss

from sais.config import CriterionConfig, Experiment, ModelConfig
from sais.errors import ConfigError
from sais.modeling.assigners import LocationGrid, ObjectAssignment, assign_center, sample_mask_positives
from sais.modeling.criterion import (
    Assignment,
    SaisCriterion,
    build_criterion,
    count_normalizers,
    sum_normalizers,
)
from sais.modeling.losses import BOX_LOSSES, focal_loss, iou_quality
from sais.ops.boxes import boxes_from_distances
from sais.structures import Batch, DenseOutputs, DenseTargets, GroundTruth
from tests.modeling.dense_samples import (
    CANVAS,
    LOCATIONS,
    SIZES,
    leaves,
    random_objects,
    random_outputs,
    targets_of,
    whole_map_loss,
)


def batch_of(ground_truths: list[GroundTruth]) -> Batch:
    """A batch of black images with these objects; image ids are counted from 0."""
    count = len(ground_truths)
    return Batch(torch.zeros(count, 3, *CANVAS, dtype=torch.uint8), ground_truths, list(range(count)), [])


def assignment_of(targets: DenseTargets, ground_truths: list[GroundTruth], limit: int = 100) -> Assignment:
    """The assignment of a batch that is a whole step."""
    samples = sample_mask_positives(targets, ground_truths, list(range(len(ground_truths))), limit)
    return Assignment(targets, count_normalizers(targets, samples), samples)


def total(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum of the terms."""
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("kind", ["iou", "giou"])
def test_losses_by_hand(kind: str) -> None:
    objects = [random_objects(1, 4), random_objects(2, 2)]
    outputs, targets = random_outputs(3, 2, torch.float64), targets_of(objects)
    assignment = assignment_of(targets, objects, limit=15)
    criterion = SaisCriterion(box_loss=BOX_LOSSES[kind], weights=(1.0, 2.0, 3.0, 4.0))
    terms = criterion.losses(outputs, batch_of(objects), assignment)
    assert list(terms) == ["classification", "box", "centerness", "mask"]
    assert targets.quality is not None
    assert outputs.quality_logits is not None
    positives, centers = 0, 0.0
    box = centerness = mask = 0.0
    for image in range(2):
        for place in (targets.object_index[image] >= 0).nonzero().squeeze(1).tolist():
            weight = float(targets.quality[image, place])
            positives, centers = positives + 1, centers + weight
            owner = int(targets.object_index[image, place])
            predicted = boxes_from_distances(LOCATIONS.points[place], outputs.distances[image, place].detach())
            truth = objects[image].boxes[owner].double()
            if kind == "iou":
                box += weight * -math.log(float(box_iou(predicted[None], truth[None])))
            else:
                box += weight * float(generalized_box_iou_loss(predicted[None], truth[None], reduction="sum"))
            p = 1 / (1 + math.exp(-float(outputs.quality_logits[image, place].detach())))
            centerness -= weight * math.log(p) + (1 - weight) * math.log(1 - p)
        samples = assignment.mask_positives[image]
        mask += float(whole_map_loss(outputs, targets, objects, image, samples, 0.0).detach())
    assert positives > 20
    count = sum(len(samples) for samples in assignment.mask_positives)
    assert float(assignment.normalizers["positives"]) == positives
    assert float(assignment.normalizers["box"]) == pytest.approx(centers, rel=1e-5)
    assert float(assignment.normalizers["mask"]) == count
    focal = float(focal_loss(outputs.class_logits.detach(), targets.labels))
    assert float(terms["classification"].detach()) == pytest.approx(focal / positives, rel=1e-5)
    assert float(terms["box"].detach()) == pytest.approx(2 * box / centers, rel=1e-5)
    assert float(terms["centerness"].detach()) == pytest.approx(3 * centerness / positives, rel=1e-5)
    assert float(terms["mask"].detach()) == pytest.approx(4 * mask / count, rel=1e-5)


def test_losses_without_objects_are_finite_with_all_gradients() -> None:
    objects = [random_objects(0, 0), random_objects(0, 0)]
    outputs = random_outputs(1, 2)
    terms = SaisCriterion().losses(outputs, batch_of(objects), assignment_of(targets_of(objects), objects))
    assert terms["box"] == terms["centerness"] == terms["mask"] == 0
    loss = total(terms)
    assert torch.isfinite(loss)
    assert loss > 0
    loss.backward()
    for i, leaf in enumerate(leaves(outputs)):
        assert leaf.grad is not None, i  # DistributedDataParallel waits for every parameter's gradient
        assert torch.isfinite(leaf.grad).all()
        assert (leaf.grad.abs().max() == 0) == (i > 0)


def test_losses_of_extreme_outputs_are_finite() -> None:
    objects = [random_objects(1, 4)]
    outputs, targets = random_outputs(3, 1), targets_of(objects)
    with torch.no_grad():
        outputs.class_logits *= 1e4
        assert outputs.quality_logits is not None
        outputs.quality_logits *= 1e4
        outputs.distances[:, ::2] = 1e-20
        outputs.distances[:, 1::2] = math.exp(12)
        assert outputs.coefficients is not None
        outputs.coefficients *= 1e4
    for kind in ("iou", "giou"):
        criterion = SaisCriterion(box_loss=BOX_LOSSES[kind])
        loss = total(criterion.losses(outputs, batch_of(objects), assignment_of(targets, objects)))
        loss.backward()
        assert torch.isfinite(loss)
        assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in leaves(outputs))


def test_losses_of_two_halves_with_summed_normalizers_equal_the_whole() -> None:
    objects = [random_objects(1, 4), random_objects(2, 0), random_objects(7, 6), random_objects(8, 1)]
    criterion = SaisCriterion(mask_positives=25)
    whole = random_outputs(9, 4, torch.float64)
    batch = batch_of(objects)
    loss = total(criterion.losses(whole, batch, criterion.assign(batch, None, 0)))
    loss.backward()
    halves = random_outputs(9, 4, torch.float64)
    assert halves.coefficients is not None
    assert halves.prototypes is not None
    assert halves.quality_logits is not None
    batches = [
        dataclasses.replace(batch_of(objects[r]), image_ids=batch.image_ids[r]) for r in (slice(0, 2), slice(2, 4))
    ]
    assignments = sum_normalizers([criterion.assign(part, None, 0) for part in batches])
    value = 0.0
    for r, part, assignment in zip((slice(0, 2), slice(2, 4)), batches, assignments, strict=True):
        outputs = DenseOutputs(
            halves.class_logits[r], halves.quality_logits[r], halves.distances[r], halves.coefficients[r],
            halves.prototypes[r], SIZES,
        )  # fmt: skip
        partial = total(criterion.losses(outputs, part, assignment))
        partial.backward()
        value += float(partial.detach())
    assert value == pytest.approx(float(loss.detach()), rel=1e-6)
    for half, full in zip(leaves(halves), leaves(whole), strict=True):
        torch.testing.assert_close(half.grad, full.grad, rtol=1e-6, atol=1e-9)


def test_losses_without_masks() -> None:
    objects = [random_objects(1, 4)]
    outputs = random_outputs(3, 1)
    outputs.prototypes = outputs.coefficients = None
    terms = SaisCriterion().losses(outputs, batch_of(objects), assignment_of(targets_of(objects), objects))
    assert list(terms) == ["classification", "box", "centerness"]
    assert terms["box"] > 0


def test_losses_without_quality_branch_weigh_all_positives_equally() -> None:
    objects = [random_objects(1, 4)]
    outputs = random_outputs(3, 1, torch.float64)
    outputs.quality_logits = None
    criterion = SaisCriterion(quality=None)
    assignment = criterion.assign(batch_of(objects), None, 0)
    targets: DenseTargets = assignment.targets
    assert targets.quality is None
    assert assignment.normalizers["box"] == assignment.normalizers["positives"]
    terms = criterion.losses(outputs, batch_of(objects), assignment)
    assert list(terms) == ["classification", "box", "mask"]
    positive = targets.object_index >= 0
    expected = criterion.box_loss(outputs.distances[positive], targets.distances[positive]).mean()
    torch.testing.assert_close(terms["box"], expected)


def test_losses_with_iou_quality_learn_the_iou_of_the_predicted_boxes() -> None:
    objects = [random_objects(1, 4)]
    outputs = random_outputs(3, 1, torch.float64)
    criterion = SaisCriterion(quality=iou_quality, quality_name="iou")
    assignment = criterion.assign(batch_of(objects), None, 0)
    targets: DenseTargets = assignment.targets
    assert targets.quality is None
    terms = criterion.losses(outputs, batch_of(objects), assignment)
    positive = targets.object_index >= 0
    iou = iou_quality(targets.distances[positive], outputs.distances[positive])
    assert outputs.quality_logits is not None
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs.quality_logits[positive], iou.double())
    torch.testing.assert_close(terms["iou"], expected)


def test_losses_with_soft_targets_and_weights() -> None:
    """Score targets normalize the classification; weights scale each location's share of the box loss."""
    objects = [random_objects(1, 4)]
    outputs = random_outputs(3, 1, torch.float64)

    def assigner(ground_truths: list[GroundTruth], grid: LocationGrid) -> ObjectAssignment:
        index = assign_center(ground_truths, grid).object_index
        scores = torch.where(index >= 0, 0.5, 0.0)
        weights = torch.linspace(0, 1, index.numel()).view(index.shape)
        return ObjectAssignment(index, scores, weights)

    criterion = SaisCriterion(assigner=assigner, quality=None)
    assignment = criterion.assign(batch_of(objects), None, 0)
    targets: DenseTargets = assignment.targets
    positive = targets.object_index >= 0
    assert targets.score_targets is not None
    assert targets.weights is not None
    assert float(assignment.normalizers["positives"]) == 0.5 * int(positive.sum())
    torch.testing.assert_close(assignment.normalizers["box"], targets.weights[positive].sum())
    terms = criterion.losses(outputs, batch_of(objects), assignment)
    weights = targets.weights[positive].double()
    box = criterion.box_loss(outputs.distances[positive], targets.distances[positive])
    torch.testing.assert_close(terms["box"], (box * weights).sum() / weights.sum().clamp(min=1), rtol=1e-5, atol=1e-7)
    focal = focal_loss(outputs.class_logits, targets.labels, targets.score_targets, targets.weights)
    divisor = assignment.normalizers["positives"].clamp(min=1)
    torch.testing.assert_close(terms["classification"], focal / divisor, rtol=1e-5, atol=1e-7)


def test_assign_gives_detached_outputs_to_an_assigner_that_needs_them() -> None:
    objects = [random_objects(1, 4)]
    outputs = random_outputs(3, 1)
    received: list[DenseOutputs] = []

    def assigner(ground_truths: list[GroundTruth], grid: LocationGrid, outputs: DenseOutputs) -> ObjectAssignment:
        received.append(outputs)
        return assign_center(ground_truths, grid)

    assigner.needs_predictions = True  # type: ignore[attr-defined]
    criterion = SaisCriterion(assigner=assigner)
    assert criterion.needs_predictions
    assert not SaisCriterion().needs_predictions
    criterion.assign(batch_of(objects), outputs, 0)
    assert torch.equal(received[0].class_logits, outputs.class_logits)
    assert not received[0].class_logits.requires_grad


@pytest.mark.parametrize(
    "criterion",
    [
        CriterionConfig(assigner="centre"),
        CriterionConfig(box_loss="diou"),
        CriterionConfig(classification_loss="bce"),
        CriterionConfig(extra_losses=("nothing:here",)),
        CriterionConfig(level_ranges=(64.0, 128.0, 256.0)),
        CriterionConfig(level_ranges=(64.0, 32.0, 256.0, 512.0)),
        CriterionConfig(extra_losses=("os.path:join", "posixpath:join")),
        CriterionConfig(extra_losses=("os.path:box",)),
    ],
)
def test_build_criterion_rejects_bad_settings(criterion: CriterionConfig) -> None:
    with pytest.raises(ConfigError):
        build_criterion(Experiment(criterion=criterion))


def test_build_criterion_reads_every_setting() -> None:
    settings = CriterionConfig(
        assigner="area",
        level_ranges=(32.0, 64.0, 128.0, 256.0),
        focal_alpha=0.5,
        focal_gamma=1.0,
        box_loss="giou",
        class_weight=2.0,
        box_weight=3.0,
        quality_weight=4.0,
        mask_weight=5.0,
        mask_positives=7,
        mask_margin=0.1,
        dice_weight=0.5,
    )
    criterion = build_criterion(Experiment(criterion=settings, model=ModelConfig(quality="iou")))
    assert criterion.weights == (2.0, 3.0, 4.0, 5.0)
    assert (criterion.focal_alpha, criterion.focal_gamma, criterion.mask_positives, criterion.mask_margin) == (
        0.5,
        1,
        7,
        0.1,
    )
    assert criterion.dice_weight == 0.5
    assert criterion.level_ranges == (32.0, 64.0, 128.0, 256.0)
    assert (criterion.quality, criterion.quality_name) == (iou_quality, "iou")
    assert criterion.box_loss is BOX_LOSSES["giou"]
    assert criterion.assigner.__name__ == "assign_area"
