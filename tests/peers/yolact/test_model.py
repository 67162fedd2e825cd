"""Tests of YOLACT as an architecture: shapes, losses, frozen parts, recipes, training runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from peers.yolact import anchors as boxes_and_anchors
from peers.yolact import architecture, losses
from peers.yolact.model import build_yolact
from sais.config import Experiment, from_dict, to_dict
from sais.config_ranges import check_ranges
from sais.data.formats import read_dataset
from sais.data.paths import DataPaths
from sais.data.synthetic import write_shapes
from sais.engine.train_step import compute_losses, micro_batches, total
from sais.engine.trainer import train
from sais.evaluation.evaluate import evaluate
from sais.inference.predictor import Predictor
from sais.modeling.criterion import sum_normalizers
from sais.ops.letterbox import letterbox
from sais.structures import Batch
from tests.peers.yolact.yolact_samples import LITE, no_objects, objects_of, random_boxes, tiny_yolact


@pytest.mark.parametrize(
    ("side", "level_sides"), [(550, (69, 35, 18, 9, 5)), (700, (88, 44, 22, 11, 6)), (192, (24, 12, 6, 3, 2))]
)
@torch.no_grad()
def test_output_shapes(side: int, level_sides: tuple[int, ...]) -> None:
    model = tiny_yolact(num_classes=3).train()
    outputs = model(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    number = 3 * sum(s * s for s in level_sides)
    assert outputs.level_sizes == tuple((s, s) for s in level_sides)
    assert outputs.class_logits.shape == (1, number, 4)
    assert outputs.offsets.shape == (1, number, 4)
    assert outputs.coefficients.shape == (1, number, 32)
    assert outputs.prototypes.shape == (1, 32, 2 * level_sides[0], 2 * level_sides[0])
    assert outputs.semantic_logits.shape == (1, 3, level_sides[0], level_sides[0])
    assert len(boxes_and_anchors.anchor_boxes(outputs.level_sizes, outputs.canvas_size)) == number
    assert model.eval()(torch.zeros(1, 3, 64, 96)).semantic_logits is None


@torch.no_grad()
def test_anchors_and_outputs_have_the_same_order() -> None:
    """The anchor with the highest logit is at the nonzero feature, with the aspect ratio of the nonzero filter."""
    head = tiny_yolact(2).head
    for convolution in (head.shared, head.class_logits):
        torch.nn.init.zeros_(convolution.weight)
    head.shared.weight[0, 0, 1, 1] = 1
    head.class_logits.weight[2 * 3 + 1, 0, 1, 1] = 5  # the third ratio, 2 : 1, and class 0
    sizes = ((6, 8), (3, 4), (2, 2), (1, 1), (1, 1))
    levels = [torch.zeros(1, 32, *size) for size in sizes]
    levels[1][0, 0, 2, 3] = 1
    logits, _, _ = head(levels)
    anchor, label = divmod(int(logits[0].flatten().argmax()), 3)
    x1, y1, x2, y2 = boxes_and_anchors.anchor_boxes(sizes, (550, 550))[anchor].tolist()
    assert label == 1
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((3.5 * 16, 2.5 * 16))
    assert (x2 - x1) / (y2 - y1) == pytest.approx(2)


def test_losses_without_objects() -> None:
    model = tiny_yolact().train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    batch = Batch(images, [no_objects(), no_objects()], [1, 2], [letterbox((64, 64), "fixed", (64, 64))] * 2)
    terms = compute_losses(model, architecture.YOLACT.build_criterion(Experiment()), batch)
    assert list(terms) == ["classification", "box", "mask", "semantic"]
    assert terms["box"] == terms["mask"] == 0
    assert terms["classification"] > 0
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.semantic.weight.grad is not None
    assert model.semantic.weight.grad.any()
    with pytest.raises(ValueError, match="training mode"):
        losses.semantic_loss(model.eval()(images), batch.ground_truths)


def test_build_yolact_freezes_parts_of_pretrained_networks_only() -> None:
    lite = replace(Experiment().model, backbone=LITE, channels=32, prototype_channels=16)
    frozen = build_yolact(lite, 2)
    free = build_yolact(replace(lite, frozen_stages=0, frozen_batch_norm=False), 2)
    random = build_yolact(replace(lite, pretrained=False), 2)
    assert not all(p.requires_grad for p in frozen.backbone.parameters())
    assert all(p.requires_grad for p in [*free.parameters(), *random.parameters()])


def test_recipes_are_valid() -> None:
    for recipe in (architecture.yolact_550_r50(), architecture.yolact_700_r101()):
        check_ranges(recipe)
        assert from_dict(Experiment, to_dict(recipe)) == recipe
        letterbox((480, 640), recipe.input.mode, recipe.input.size)


def test_micro_batches_equal_one_batch() -> None:
    """The gradients of two micro-batches, normalized together, are those of the whole batch."""
    model = tiny_yolact().train()
    model.backbone.eval()  # batch statistics differ between micro-batches
    criterion = architecture.YOLACT.build_criterion(Experiment())
    images = torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8)
    truths = [objects_of(random_boxes(3, seed), [0, 2, 1]) for seed in range(3)] + [no_objects()]
    batch = Batch(images, truths, [1, 2, 3, 4], [letterbox((128, 128), "fixed", (128, 128))] * 4)
    gradients = []
    for size in (4, 2):
        model.zero_grad(set_to_none=True)
        parts = micro_batches(batch, size)
        assignments = sum_normalizers([criterion.assign(part, None, 0) for part in parts])
        for part, assignment in zip(parts, assignments, strict=True):
            total(criterion.losses(model(part.images), part, assignment)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-4)


def test_train_predict_and_evaluate(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    experiment = replace(tiny, model=replace(tiny.model, architecture=architecture.YOLACT_NAME))
    train(experiment, DataPaths(shapes), tmp_path / "run", max_iterations=2)
    train(experiment, DataPaths(shapes), tmp_path / "run", resume=True, max_iterations=3)
    predictor = Predictor(tmp_path / "run" / "last.safetensors", device="cpu")
    assert predictor.experiment.model.architecture == architecture.YOLACT_NAME
    assert predictor(np.zeros((50, 60, 3), np.uint8)).image_size == (50, 60)
    assert evaluate(predictor, shapes, workers=0).metrics is not None


@pytest.mark.slow
def test_overfits_four_images(tiny: Experiment, tmp_path: Path) -> None:
    write_shapes(tmp_path / "four", train=4, valid=1, size=(96, 96), seed=3)
    experiment = replace(
        tiny,
        input=replace(tiny.input, size=(96, 96)),
        augment=replace(tiny.augment, flip=0.0),
        model=replace(tiny.model, architecture=architecture.YOLACT_NAME),
        optim=replace(tiny.optim, lr=1e-3, grad_clip_norm=10.0),
        schedule=replace(tiny.schedule, epochs=80),
    )
    result = train(experiment, DataPaths(tmp_path / "four"), tmp_path / "run")
    assert result.iterations == 80
    predictor = Predictor(tmp_path / "run" / "model.safetensors", device="cpu")
    metrics = evaluate(predictor, read_dataset(tmp_path / "four", "train"), workers=0).metrics
    assert metrics is not None
    assert metrics.mask is not None
    print(f"mask AP50 {metrics.mask.AP50:.3f}, AP {metrics.mask.AP:.3f}, {result.seconds:.1f} s")
    assert metrics.mask.AP50 > 0.9
