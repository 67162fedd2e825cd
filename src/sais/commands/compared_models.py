"""The two models of `sais compare`: opened, evaluated on the same images, timed in turns. Files with detections too."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sais.commands.arguments import progress_bar
from sais.commands.open_predictor import open_predictor
from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.inference.options import InferenceOptions
from sais.text import short_names

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit, ImageRecord
    from sais.evaluation.coco_matches import ClassMatches
    from sais.evaluation.coco_metrics import IouType
    from sais.evaluation.evaluate import Evaluation
    from sais.evaluation.prediction_results import PredictionResults
    from sais.inference.predictor import Predictor
    from sais.reports.comparison_report import ComparedModel

WARM_UP = 2
"""Number of images that are predicted once before their time is measured."""


@dataclass
class Candidate:
    """One of the two models, or a file with its detections."""

    path: Path
    predictor: Predictor | None = None
    predictions: PredictionResults | None = None
    evaluation: Evaluation | None = None
    seconds: float | None = None
    """Median time of an image."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of its classes; None if they are those of the data set."""
        if self.predictor is not None:
            return tuple(self.predictor.class_names)
        assert self.predictions is not None
        return self.predictions.class_names


def is_prediction_file(path: Path) -> bool:
    """Return whether a path is that of a file with detections."""
    return path.suffix == ".json"


def open_candidates(paths: Sequence[Path], options: InferenceOptions) -> list[Candidate]:
    """Open models, and read files with detections."""
    candidates = []
    for path in paths:
        if is_prediction_file(path):
            from sais.evaluation.prediction_results import read_predictions

            candidates.append(Candidate(path, predictions=read_predictions(path)))
        else:
            candidates.append(Candidate(path, open_predictor("compare", path, replace(options, classes=()))))
    return candidates


def choose_common_classes(
    candidates: Sequence[Candidate], split: DatasetSplit, wanted: Sequence[str]
) -> tuple[DatasetSplit, list[str]]:
    """Return the split with the classes that it and all models have, and a note if classes are left out.

    Args:
        candidates: models.
        split: labeled split with all of its classes.
        wanted: names of the classes to compare; empty for all.

    Raises:
        InputError: there is no common class.
    """
    from sais.data.class_selection import choose_classes

    chosen = choose_classes(split, wanted)
    known = [candidate.class_names for candidate in candidates]
    names = [name for name in chosen.class_names if all(classes is None or name in classes for classes in known)]
    if not names:
        each = [chosen.class_names, *(classes or chosen.class_names for classes in known)]
        listed = "; ".join(", ".join(short_names(classes[:3])) for classes in each)
        raise InputError(
            f"{split.name}: no class that the data set and both models have ({listed}). Compare models of the same "
            "classes."
        )
    others = dict.fromkeys([*chosen.class_names, *(name for classes in known for name in classes or ())])
    left_out = [] if wanted else [name for name in others if name not in names]
    if not left_out:
        return chosen, []
    listed = ", ".join(short_names(left_out[:5])) + (", ..." if len(left_out) > 5 else "")
    return choose_classes(chosen, names), [
        f"Classes that not both models and the data set have are left out: {listed}."
    ]


def evaluate_candidate(
    candidate: Candidate, split: DatasetSplit, options: InferenceOptions, workers: int, skip_broken: bool
) -> None:
    """Predict the images of a split, unless the candidate is a file with detections, and compute the metrics."""
    from sais.evaluation.evaluate import Evaluation, evaluate

    if candidate.predictions is not None:
        results, image_ids = candidate.predictions.of_split(split)
        images = tuple(record for record in split.images if record.id in image_ids)
        candidate.evaluation = Evaluation(None, results, replace(split, images=images))
        return
    from sais.data.class_selection import with_classes_of_model

    predictor = candidate.predictor
    assert predictor is not None
    if set(predictor.class_names) != set(split.class_names):
        predictor = open_predictor("compare", candidate.path, replace(options, classes=split.class_names))
        candidate.predictor = predictor
    own = with_classes_of_model(split, tuple(predictor.class_names))
    with progress_bar(f"evaluating {candidate.path.name}", len(split.images)) as progress:
        evaluation = evaluate(predictor, own, options.read_batch_size, workers, skip_broken, progress)
    read = {record.id for record in evaluation.dataset_split.images}
    images = tuple(record for record in split.images if record.id in read)
    candidate.evaluation = replace(evaluation, dataset_split=replace(split, images=images))


def common_images(candidates: Sequence[Candidate]) -> tuple[DatasetSplit, list[str]]:
    """Return the split with the images that all candidates have results of, and a note if some are left out."""
    evaluations = [candidate.evaluation for candidate in candidates]
    assert all(evaluation is not None for evaluation in evaluations)
    splits = [evaluation.dataset_split for evaluation in evaluations if evaluation is not None]
    ids = set.intersection(*({record.id for record in split.images} for split in splits))
    all_ids = set.union(*({record.id for record in split.images} for split in splits))
    if not ids:
        raise InputError(f"{splits[0].name}: no image that both have results of. Predict the same images with both.")
    images = tuple(record for record in splits[0].images if record.id in ids)
    note = f"{len(all_ids) - len(ids)} images without results of both are left out."
    return replace(splits[0], images=images), [note] if len(all_ids) > len(ids) else []


def shared_iou_type(candidates: Sequence[Candidate], split: DatasetSplit) -> IouType:
    """Return 'segm' if all objects' masks can be compared: both models and the data set have masks; else 'bbox'."""
    if not any(a.segmentation is not None and not a.crowd for record in split.images for a in record.annotations):
        return "bbox"
    for candidate in candidates:
        assert candidate.evaluation is not None
        has_masks = candidate.predictor is None or candidate.predictor.experiment.model.masks
        if not has_masks or any("segmentation" not in result for result in candidate.evaluation.results):
            return "bbox"
    return "segm"


def summarize_candidate(
    candidate: Candidate, split: DatasetSplit, iou_type: IouType
) -> tuple[ComparedModel, list[ClassMatches]]:
    """Return a model for the page, and its matches; of its detections, only those above the threshold are kept."""
    from sais.evaluation.coco_matches import collect_matches
    from sais.evaluation.error_analysis import analyze_errors
    from sais.evaluation.score_thresholds import best_f1
    from sais.reports.comparison_report import ComparedModel

    evaluation = candidate.evaluation
    assert evaluation is not None
    ids = {record.id for record in split.images}
    results = [result for result in evaluation.results if result["image_id"] in ids]
    matches = collect_matches(split, results, iou_type, evaluation.max_detections)
    score, origin = evaluation.score, "of the model"
    if getattr(candidate.predictor, "thresholds", None) is None:
        best = best_f1(analyze_errors(split, results, iou_type, score=0.0))
        score, origin = (score, "default") if best is None else (best[0], "best F1 here")
    analysis = analyze_errors(split, results, iou_type, score)
    candidate.evaluation = None  # a large data set has millions of detections
    facts = _facts(candidate)
    return ComparedModel(str(candidate.path), analysis, origin, seconds=candidate.seconds, **facts), matches


def time_candidates(candidates: Sequence[Candidate], records: Sequence[ImageRecord], count: int) -> None:
    """Measure the median time of an image of each model, in turns, so that a busy machine slows all of them."""
    predictors = [candidate.predictor for candidate in candidates if candidate.predictor is not None]
    if not predictors or not count:
        return
    seconds: list[list[float]] = [[] for _ in predictors]
    for number, image in enumerate(_readable_images(records[:: max(1, len(records) // count)][:count])):
        for is_timed in (False, True) if number < WARM_UP else (True,):
            for predictor, times in zip(predictors, seconds, strict=True):
                start = time.perf_counter()
                predictor(image)
                if is_timed:
                    times.append(time.perf_counter() - start)
    medians = iter(seconds)
    for candidate in candidates:
        if candidate.predictor is not None and (times := next(medians)):
            candidate.seconds = statistics.median(times)


def _readable_images(records: Sequence[ImageRecord]) -> Iterator[np.ndarray]:
    """Yield the images that can be read, one at a time."""
    for record in records:
        try:
            image = record.read()
        except OutOfMemoryError:
            raise
        except SaisError:
            continue
        yield image


def _facts(candidate: Candidate) -> dict[str, Any]:
    """Return size, parameters and kind of a model's file."""
    if candidate.predictions is not None:
        score = candidate.predictions.score
        return {"kind": "detections" + (f", {json.dumps(score)[1:-1]}" if score else "")}
    from sais.inference.model_info import read_model_info

    info = read_model_info(candidate.path, trust=True)  # it has been opened already
    size = info["size_bytes"]
    weights = Path(info["file"]).with_suffix(".bin")
    if candidate.path.suffix == ".xml" and weights.is_file():
        size += weights.stat().st_size
    shape = " x ".join(map(str, info["input"]["size"]))
    precision = f", {info['precision']}" if "precision" in info else ""
    kind = f"{info['kind']}{precision}, {info['backbone']}, input {shape}"
    return {"size_bytes": size, "parameters": info.get("parameters"), "kind": kind}
