"""Advice in a run's report: what went wrong, recognized from its log and its errors, and the option that helps.

Each function looks for one cause and returns sentences; `advise` collects them, the most likely cause first.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sais.data.annotations import DatasetSplit
from sais.evaluation.error_analysis import FOUND, ErrorAnalysis
from sais.evaluation.evaluate import Evaluation
from sais.recipes.from_data import CLASS_PIXELS, LEARNING_STEPS, MIN_STEPS, choose_side, measure
from sais.recipes.settings_file import format_options
from sais.reports.run_record import RunRecord
from sais.text import short_names

MIN_OBJECTS = 3
"""Number of objects of a class in the evaluated images below which there is no advice about it."""
MISSED_RECALL = 0.2
"""Fraction of the objects of a class that are found, below which the class counts as missed."""
SHORT_RUN = 1_000
"""Number of steps below which a longer run helps if AP was highest at the end."""
MIN_DROP = 0.02
"""Fall of AP after its maximum that is more than its noise."""
MAX_NAMES = 4
"""Maximum number of classes in a sentence."""


@dataclass(frozen=True)
class ClassRecall:
    """How many objects of a class are found, and how large they are."""

    name: str
    objects: int
    found: int
    pixels: float
    """Median size of the objects in the network's input: sqrt(width x height) in pixels."""

    @property
    def is_missed(self) -> bool:
        """Whether nearly all objects are missed, of at least `MIN_OBJECTS`."""
        return self.objects >= MIN_OBJECTS and self.found < MISSED_RECALL * self.objects

    def __str__(self) -> str:
        number = f"all {self.objects}" if not self.found else f"{self.objects - self.found} of {self.objects}"
        return f"{number} {self.name} ({self.pixels:.0f} px)"


def advise(record: RunRecord, evaluation: Evaluation | None, analysis: ErrorAnalysis | None) -> list[str]:
    """Return sentences about what to try next; empty where nothing stands out.

    Args:
        record: record of the run.
        evaluation: evaluation of its weights; None without one.
        analysis: error analysis of this evaluation; None without one.
    """
    settings = record.experiment
    advice = [*missing_validation(record, evaluation), *too_few_steps(record.total, record.epochs)]
    if analysis is not None:
        advice += missed_objects(class_recalls(analysis, settings["input"]), analysis.split, settings)
    curve = [(int(entry["epoch"]) + 1, _ap(entry["metrics"], record.kind)) for entry in record.evaluations]
    scores = [(epoch, score) for epoch, score in curve if score is not None]
    losses = {epoch: loss_of_epoch(record.iterations, epoch) for epoch, _ in scores}
    advice += overfitting(scores, losses, settings)
    if record.state == "finished" and not advice:
        advice += still_rising(scores, record.total, record.epochs)
    return advice


def missing_validation(record: RunRecord, evaluation: Evaluation | None) -> list[str]:
    """Advise on a run without validation images, or with validation images without objects.

    Args:
        record: record of the run.
        evaluation: evaluation of its weights; None without one.
    """
    if evaluation is None:
        if record.evaluations or record.state != "finished":  # it may have ended before its first evaluation
            return []
        return ["The run had no validation images, so that nothing shows how good it is: `sais split` creates a split."]
    split = evaluation.dataset_split
    if any(not annotation.crowd for image in split.images for annotation in image.annotations):
        return []
    count = len(split.images)
    return [f"The {count} images of {split.name} have no objects, so that AP is undefined: evaluate on another split."]


def too_few_steps(total: int, epochs: int) -> list[str]:
    """Advise on a run that was too short to learn anything.

    Args:
        total: number of steps of the whole run.
        epochs: number of its epochs.
    """
    if total >= MIN_STEPS or not epochs or not total:
        return []
    needed = math.ceil(LEARNING_STEPS / max(1, total // epochs))
    return [f"{total} steps are too few to learn anything: train with {_option('schedule.epochs', needed)} or more."]


def class_recalls(analysis: ErrorAnalysis, settings: dict[str, Any]) -> list[ClassRecall]:
    """Count the found objects of each class that has any.

    Args:
        analysis: error analysis of the evaluation.
        settings: the run's settings of the group `input`, as `to_dict` returns them.
    """
    found: dict[int, int] = defaultdict(int)
    sizes: dict[int, list[float]] = defaultdict(list)
    for image in analysis.images:
        for annotation, outcome in zip(image.objects, image.match.objects, strict=True):
            found[annotation.label] += int(outcome == FOUND)
            sizes[annotation.label].append(canvas_pixels(annotation.box.tolist(), image.record.size, settings))
    names = short_names(analysis.split.class_names)
    return [
        ClassRecall(names[label], len(values), found[label], statistics.median(values))
        for label, values in sorted(sizes.items())
    ]


def canvas_pixels(box: Sequence[float], size: tuple[int, int], settings: dict[str, Any]) -> float:
    """Return the size of an object in the network's input: sqrt(width x height) in pixels.

    Args:
        box: x1 y1 x2 y2 in image pixels.
        size: (H, W) of the image.
        settings: settings of the group `input`.
    """
    (height, width), (first, second) = size, settings["size"]
    area = max(0.0, (box[2] - box[0]) * (box[3] - box[1]))
    if settings["mode"] == "fixed":
        return math.sqrt(area * first * second / (height * width))
    return math.sqrt(area) * min(first / min(height, width), second / max(height, width))


def missed_objects(recalls: Sequence[ClassRecall], split: DatasetSplit, settings: dict[str, Any]) -> list[str]:
    """Advise on classes of which nearly all objects are missed: a larger input for small objects, else more of them.

    Args:
        recalls: found objects of each class.
        split: the evaluated split.
        settings: settings of the run.
    """
    missed = sorted((recall for recall in recalls if recall.is_missed), key=lambda recall: recall.pixels)
    if missed and len(missed) == sum(recall.objects >= MIN_OBJECTS for recall in recalls):
        return ["Nearly all objects are missed: check the labels, then train longer." + _longer(settings)]
    height, width = settings["input"]["size"]
    small = [recall for recall in missed if recall.pixels < 1.5 * CLASS_PIXELS]
    others = [recall for recall in missed if recall not in small]
    advice = []
    if small:
        side = _larger_side(split, settings["input"])
        remedy = "train with a larger input" if side is None else f"train with {_option('input.size', side)}"
        advice.append(
            f"Missed at an input of {height}x{width}: {_names(small)}. These objects are small: {remedy}, or predict "
            "in tiles."
        )
    if others:
        advice.append(f"Missed: {_names(others)}. Label more of them, or train longer." + _longer(settings))
    return advice


def overfitting(
    scores: Sequence[tuple[int, float]], losses: dict[int, float | None], settings: dict[str, Any]
) -> list[str]:
    """Advise on a run whose AP fell while its training loss fell as well.

    Args:
        scores: (epoch, AP) of each evaluation, epochs from 1.
        losses: epoch -> mean training loss in it; None where none is logged.
        settings: settings of the run.
    """
    if len(scores) < 3:
        return []
    epoch, best = max(scores, key=lambda pair: pair[1])
    last_epoch, last = scores[-1]
    first_loss, last_loss = losses.get(epoch), losses.get(last_epoch)
    if best - last < MIN_DROP or first_loss is None or last_loss is None or last_loss >= first_loss:
        return []
    remedies = [f"fewer epochs ({_option('schedule.epochs', epoch)})"]
    if settings["augment"]["scale_jitter"] == [1.0, 1.0]:
        remedies.append(f"a random zoom ({_option('augment.scale_jitter', (0.6, 1.5))})")
    remedies.append("more images")
    fall = f"AP fell from {best:.3f} after epoch {epoch} to {last:.3f}"
    loss = f"the training loss fell from {first_loss:.2f} to {last_loss:.2f}"
    return [f"{fall}, while {loss}: the model overfits. Use best.safetensors, and try {' or '.join(remedies)}."]


def still_rising(scores: Sequence[tuple[int, float]], total: int, epochs: int) -> list[str]:
    """Advise on a short run whose AP was highest at its end.

    Args:
        scores: (epoch, AP) of each evaluation, epochs from 1.
        total: number of steps of the whole run.
        epochs: number of its epochs.
    """
    if len(scores) < 2 or not MIN_STEPS <= total < SHORT_RUN:
        return []
    *earlier, (last_epoch, last) = scores
    if last_epoch < epochs or last <= max(score for _, score in earlier):
        return []
    longer = _option("schedule.epochs", 2 * epochs)
    return [f"AP was highest at the end of a short run ({total} steps): a longer one with {longer} may improve it."]


def loss_of_epoch(iterations: Sequence[dict[str, Any]], epoch: int) -> float | None:
    """Return the mean total loss of an epoch; None where none is logged.

    Args:
        iterations: log entry of each iteration.
        epoch: number of the epoch, from 1.
    """
    values = [entry.get("total") for entry in iterations if entry["epoch"] == epoch - 1]
    finite = [float(value) for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def _larger_side(split: DatasetSplit, settings: dict[str, Any]) -> int | None:
    """Return the side of an input in which the objects are large enough; None if no larger one is known."""
    if settings["mode"] != "fixed":
        return None
    side = max(settings["size"])
    larger = choose_side(measure(split), side)
    return larger if larger > side else None


def _longer(settings: dict[str, Any]) -> str:
    return f" Twice the epochs: {_option('schedule.epochs', 2 * settings['schedule']['epochs'])}."


def _option(setting: str, value: Any) -> str:
    return format_options({setting: value})


def _names(recalls: Sequence[ClassRecall]) -> str:
    names = ", ".join(map(str, recalls[:MAX_NAMES]))
    return names + (f" and {len(recalls) - MAX_NAMES} more classes" if len(recalls) > MAX_NAMES else "")


def _ap(metrics: dict[str, Any], kind: str) -> float | None:
    value = (metrics.get(kind) or {}).get("AP")
    return float(value) if isinstance(value, (int, float)) else None
