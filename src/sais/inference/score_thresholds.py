"""Score thresholds: the best ones of a model, which are stored in its file, and the minimum scores of a prediction.

Legend: B images, C classes, D detections of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sais.config import PostprocessConfig
from sais.errors import CheckpointError, ConfigError
from sais.inference.options import InferenceOptions
from sais.resolve import suggest
from sais.results.detections import Detections
from sais.results.omitted import Omitted

DEFAULT_SCORE = 0.3
"""Minimum score of a detection where the model has no threshold of its own."""


@dataclass(frozen=True)
class ScoreThresholds:
    """The best score thresholds on a data set split, at an IoU of 0.5; stored with the model."""

    overall: float
    """Threshold for all classes."""
    f1: float
    """F1 at that threshold, over the objects of all classes; a fraction of 1."""
    split: str
    """Name of the split, such as valid."""
    kind: str = "masks"
    """masks or boxes: what was compared with the ground truth."""
    per_class: dict[str, float] = field(default_factory=dict)
    """Class name -> threshold, of classes with enough objects."""
    criterion: str = "best F1"
    """What the thresholds were chosen for: "best F1", "precision >= 0.9" or "recall >= 0.9"."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary for JSON."""
        return dict(vars(self))


def thresholds_from_dict(values: dict[str, Any] | None, where: str) -> ScoreThresholds | None:
    """Return the thresholds that `ScoreThresholds.to_dict` wrote; None for None.

    Raises:
        CheckpointError: the entries are damaged.
    """
    if values is None:
        return None
    try:
        return ScoreThresholds(
            _fraction(values["overall"]),
            _fraction(values["f1"]),
            str(values["split"]),
            str(values["kind"]),
            {str(name): _fraction(score) for name, score in values["per_class"].items()},
            str(values.get("criterion", "best F1")),  # files of version 0.1 lack it
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CheckpointError(f"{where}: damaged score thresholds ({error}). Evaluate the model again.") from error


def _fraction(value: Any) -> float:
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{value!r:.50} is not between 0 and 1")
    return float(value)


@dataclass(frozen=True)
class DetectionFilter:
    """Minimum score, classes and maximum number of the detections of a model, from its thresholds and the options."""

    minimum: np.ndarray | None
    """(C,) float32 minimum score of each class; None: all above the model's class threshold."""
    wanted: np.ndarray | None
    """(C,) bool, the classes to detect; None: all."""
    max_detections: int
    """Maximum number of detections of an image."""
    origin: str
    """Where the minimum scores come from."""
    keep_class_threshold: bool = False
    """Whether classes without a minimum score remain limited by the model's class threshold."""

    @property
    def score(self) -> float:
        """The lowest minimum score; 0 if there is none."""
        return 0.0 if self.minimum is None else float(self.minimum.min())

    @property
    def labels(self) -> list[int] | None:
        """Labels of the classes to detect; None: all."""
        return None if self.wanted is None else np.flatnonzero(self.wanted).tolist()

    def __str__(self) -> str:
        if self.minimum is None:
            return f"every score: {self.origin}"
        low, high = float(self.minimum.min()), float(self.minimum.max())
        value = f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g} by class"
        return f"score >= {value}: {self.origin}"

    def early_settings(self, settings: PostprocessConfig) -> PostprocessConfig:
        """Return post-processing settings that drop candidates below half of the minimum score.

        No score exceeds its class probability. Detections above half are counted (`Omitted.below`).
        """
        if self.minimum is None or self.keep_class_threshold:
            return settings
        return replace(settings, score_threshold=self.score / 2)

    def drop(
        self, scores: np.ndarray, labels: np.ndarray, before_maskness: bool = False
    ) -> tuple[np.ndarray, list[Omitted]]:
        """Set the scores of unwanted detections to 0.

        Args:
            scores: (B, D), each row descending; 0 in empty slots.
            labels: (B, D).
            before_maskness: whether maskness will lower the scores: those that `select` counts or keeps then remain.

        Returns:
            (B, D) scores, and B notes about what was left out.
        """
        minimum = np.zeros_like(scores) if self.minimum is None else self.minimum[labels]
        minimum = minimum / 2 if before_maskness else minimum
        above = (scores > 0) & (scores >= minimum)
        is_wanted = np.ones_like(above) if self.wanted is None else self.wanted[labels]
        below = (scores > 0) & ~above & (scores >= minimum / 2) & is_wanted
        reached = above.sum(1) >= self.max_detections
        remaining = above & is_wanted
        remaining &= np.cumsum(remaining, axis=1) <= self.max_detections
        notes = [
            Omitted(self.score, int(count), self.max_detections if limited else None)
            for count, limited in zip(below.sum(1), reached, strict=True)
        ]
        return np.where(remaining, scores, scores.dtype.type(0)), notes

    def select(self, detections: Detections) -> Detections:
        """Return the wanted objects of D detections, with a note about what was left out."""
        scores, notes = self.drop(detections.scores[None], detections.labels[None])
        selected = detections[scores[0] > 0]
        selected.omitted = notes[0]
        return selected


def make_filter(
    options: InferenceOptions,
    class_names: Sequence[str],
    thresholds: ScoreThresholds | None,
    settings: PostprocessConfig,
) -> DetectionFilter:
    """Return the filter of a model's detections.

    Args:
        options: inference options.
        class_names: C names.
        thresholds: thresholds stored in the model, if any.
        settings: post-processing settings in use.

    Raises:
        ConfigError: an option names a class that the model does not have.
    """
    scores, origin = _scores(options, class_names, thresholds)
    keep_class_threshold = scores is None
    for text in options.class_scores:
        name, _, number = text.rpartition("=")
        _check_name(name, class_names, "class_scores")
        scores = [0.0] * len(class_names) if scores is None else scores
        scores = [float(number) if other == name else score for other, score in zip(class_names, scores, strict=True)]
        origin = f"{origin}, except for the classes with a given score" if "classes" not in origin else origin
    for name in options.classes:
        _check_name(name, class_names, "classes")
    wanted = np.array([name in options.classes for name in class_names]) if options.classes else None
    minimum = None if scores is None else np.array(scores, np.float32)
    return DetectionFilter(minimum, wanted, settings.max_detections, origin, keep_class_threshold)


def override_settings(settings: PostprocessConfig, options: InferenceOptions) -> PostprocessConfig:
    """Return a model's post-processing settings with the changes of the options.

    A higher maximum number of detections raises the number of candidates before NMS in proportion.
    """
    if options.nms_iou is not None:
        settings = replace(settings, nms_iou=options.nms_iou)
    limit = options.max_detections
    if limit is not None:
        candidates = -(-settings.pre_nms_topk * limit // settings.max_detections)
        settings = replace(settings, max_detections=limit, pre_nms_topk=max(settings.pre_nms_topk, candidates))
    return settings


def _scores(
    options: InferenceOptions, class_names: Sequence[str], thresholds: ScoreThresholds | None
) -> tuple[list[float] | None, str]:
    """Return the minimum score of each class, and where it comes from."""
    count = len(class_names)
    if options.score is None:
        return None, "all above the class threshold of the model"
    if not isinstance(options.score, str):
        return [options.score] * count, "as given"
    if thresholds is None:
        return [DEFAULT_SCORE] * count, "default, no threshold is stored in the model"
    origin = f"{thresholds.criterion} of {thresholds.kind} on {thresholds.split}, stored in the model"
    if options.score == "auto":
        return [thresholds.overall] * count, origin
    return [thresholds.per_class.get(name, thresholds.overall) for name in class_names], origin


def _check_name(name: str, class_names: Sequence[str], option: str) -> None:
    if name not in class_names:
        raise ConfigError(f"{option}: the model has no class {name!r}{suggest(name, list(class_names))}")
