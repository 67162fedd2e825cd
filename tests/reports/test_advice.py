"""Advice in the report: each cause is recognized, and nothing is said about a good run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sais.config import to_dict
from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation
from sais.evaluation.error_analysis import ErrorAnalysis, analyze_errors
from sais.evaluation.evaluate import Evaluation
from sais.recipes import recipe
from sais.reports.advice import (
    ClassRecall,
    advise,
    canvas_pixels,
    class_recalls,
    loss_of_epoch,
    missed_objects,
    missing_validation,
    overfitting,
    still_rising,
    too_few_steps,
)
from sais.reports.run_record import RunRecord

SETTINGS = to_dict(recipe("sais-lite"))
FIXED = {"mode": "fixed", "size": [256, 256]}


def record(**changes: Any) -> RunRecord:
    """Return the record of a long and finished run."""
    evaluations = [{"epoch": n, "metrics": {"mask": {"AP": 0.1 + 0.03 * n}, "box": None}} for n in range(15)]
    values: dict[str, Any] = {
        "folder": Path("runs/first"),
        "experiment": SETTINGS,
        "data": "board",
        "paths": {},
        "machine": {},
        "notes": [],
        "state": "finished",
        "reason": "",
        "total": 3000,
        "iterations": [{"iteration": n + 1, "epoch": n, "total": 5.0 - 0.2 * n} for n in range(15)],
        "evaluations": evaluations,
        "started": 0.0,
        "seconds": 60.0,
        "unreadable_images": 0,
    }
    return RunRecord(**values | changes)


@pytest.fixture
def split() -> DatasetSplit:
    """Return images of 512 pixels with five small resistors and five large buttons."""
    objects = [make_annotation(n, 0, box=(40 * n, 0, 40 * n + 24, 24)) for n in range(5)]
    objects += [make_annotation(n + 5, 1, box=(90 * n, 200, 90 * n + 80, 280)) for n in range(5)]
    image = ImageRecord(1, Path("a.jpg"), (512, 512), tuple(objects))
    return DatasetSplit("valid", ("resistor", "button"), images=(image,))


def analysis_of(split: DatasetSplit, labels: tuple[int, ...]) -> ErrorAnalysis:
    """Return the analysis of an evaluation that finds the objects of `labels` exactly."""
    results = []
    for annotation in split.images[0].annotations:
        if annotation.label in labels:
            x1, y1, x2, y2 = annotation.box.tolist()
            box = [x1, y1, x2 - x1, y2 - y1]
            category_id = split.category_ids[annotation.label]
            results.append({"image_id": 1, "category_id": category_id, "score": 0.9, "bbox": box})
    return analyze_errors(split, results, "bbox", 0.3)


def test_advise_is_silent_about_a_good_run(split: DatasetSplit) -> None:
    assert advise(record(), Evaluation(None, [], split, []), analysis_of(split, (0, 1))) == []


def test_advise_names_missed_small_objects_and_a_size(split: DatasetSplit) -> None:
    (advice,) = advise(record(), Evaluation(None, [], split, []), analysis_of(split, (1,)))
    assert advice.startswith("Missed at an input of 320x320: all 5 resistor (15 px).")
    assert "--size 384" in advice


def test_missed_objects_of_large_classes_need_examples(split: DatasetSplit) -> None:
    recalls = class_recalls(analysis_of(split, (0,)), FIXED)
    assert recalls == [ClassRecall("resistor", 5, 5, 12.0), ClassRecall("button", 5, 0, 40.0)]
    (advice,) = missed_objects(recalls, split, SETTINGS)
    assert advice == "Missed: all 5 button (40 px). Label more of them, or train longer. Twice the epochs: --epochs 28."


def test_missed_objects_of_all_classes_are_another_problem(split: DatasetSplit) -> None:
    (advice,) = missed_objects(class_recalls(analysis_of(split, ()), FIXED), split, SETTINGS)
    assert advice.startswith("Nearly all objects are missed")


def test_missed_objects_ignores_rare_classes() -> None:
    recalls = [ClassRecall("rare", 2, 0, 9.0), ClassRecall("fair", 9, 2, 9.0), ClassRecall("good", 9, 9, 9.0)]
    assert missed_objects(recalls, DatasetSplit("valid", ("rare", "fair", "good")), SETTINGS) == []


def test_missed_objects_without_a_larger_input_gives_no_size(split: DatasetSplit) -> None:
    keep_ratio = SETTINGS | {"input": {"mode": "keep_ratio", "size": [256, 512]}}
    recalls = [ClassRecall("resistor", 9, 1, 9.0), ClassRecall("button", 9, 9, 90.0)]
    (advice,) = missed_objects(recalls, split, keep_ratio)
    assert "8 of 9 resistor (9 px)" in advice
    assert "train with a larger input" in advice


def test_canvas_pixels_follow_the_input_mode() -> None:
    box, size = (0, 0, 80, 40), (1024, 2048)
    assert canvas_pixels(box, size, FIXED) == pytest.approx((80 / 8 * 40 / 4) ** 0.5)  # each axis has its own scale
    assert canvas_pixels(box, size, {"mode": "keep_ratio", "size": [512, 600]}) == pytest.approx(
        (80 * 40) ** 0.5 * 600 / 2048
    )


@pytest.mark.parametrize(("total", "epochs", "epochs_needed"), [(24, 3, 38), (100, 3, None), (0, 0, None), (1, 1, 300)])
def test_too_few_steps(total: int, epochs: int, epochs_needed: int | None) -> None:
    advice = too_few_steps(total, epochs)
    assert bool(advice) == (epochs_needed is not None)
    if advice:
        assert f"--epochs {epochs_needed} or more" in advice[0]


def test_overfitting_needs_falling_ap_and_falling_loss() -> None:
    falling = [(1, 0.3), (2, 0.52), (3, 0.5), (4, 0.45)]
    (advice,) = overfitting(falling, {2: 1.5, 4: 0.9}, SETTINGS)
    assert advice.startswith(
        "AP fell from 0.520 after epoch 2 to 0.450, while the training loss fell from 1.50 to 0.90"
    )
    assert "best.safetensors" in advice
    assert "--epochs 2" in advice
    assert "zoom" not in advice
    no_zoom = SETTINGS | {"augment": SETTINGS["augment"] | {"scale_jitter": [1.0, 1.0]}}
    assert "--augment.scale-jitter 0.6 1.5" in overfitting(falling, {2: 1.5, 4: 0.9}, no_zoom)[0]
    assert overfitting(falling, {2: 0.9, 4: 1.5}, SETTINGS) == []  # diverged, not overfitted
    assert overfitting(falling, {2: 0.9, 4: None}, SETTINGS) == []
    assert overfitting([(1, 0.3), (2, 0.52), (3, 0.51)], {2: 1.5, 3: 0.9}, SETTINGS) == []  # noise


def test_still_rising_only_in_a_short_run_that_ended_with_its_best() -> None:
    rising = [(6, 0.3), (7, 0.4), (8, 0.5)]
    assert "--epochs 16" in still_rising(rising, 320, 8)[0]
    assert still_rising(rising, 3000, 8) == []
    assert still_rising(rising[:2], 320, 8) == []  # stopped early
    assert still_rising([(7, 0.5), (8, 0.5)], 320, 8) == []


def test_missing_validation(split: DatasetSplit) -> None:
    assert "no validation images" in missing_validation(record(evaluations=[]), None)[0]
    assert missing_validation(record(), None) == []
    assert missing_validation(replace(record(evaluations=[]), state="stopped"), None) == []  # before an evaluation
    empty = replace(split, images=(replace(split.images[0], annotations=()),))
    assert "have no objects" in missing_validation(record(), Evaluation(None, [], empty, []))[0]
    assert missing_validation(record(), Evaluation(None, [], split, [])) == []


def test_loss_of_epoch_is_the_mean_of_finite_losses() -> None:
    losses = [2.0, 4.0, float("nan"), None, 9.0]
    entries = [{"epoch": int(n == 4), "total": loss} for n, loss in enumerate(losses)]
    assert loss_of_epoch(entries, 1) == 3.0
    assert loss_of_epoch(entries, 3) is None
