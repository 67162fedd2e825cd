"""Precision and recall: curves over recall for all classes and for each class, and curves over the score threshold."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from sais.evaluation.coco_metrics import Metrics, format_ap
from sais.evaluation.error_analysis import ErrorAnalysis
from sais.evaluation.score_thresholds import by_score_threshold, f1_score
from sais.reports.charts import Chart, Series, format_fraction, line_chart
from sais.text import short_name

MAX_CLASS_CHARTS = 100
"""Maximum number of classes that have curves of their own."""
MAX_OPEN_CHARTS = 12
"""Maximum number of classes whose curves are shown without unfolding them."""


@dataclass(frozen=True)
class PrecisionRecall:
    """The section about precision and recall."""

    overall: list[Chart]
    classes: list[Chart]
    omitted: int
    """Number of classes whose charts are omitted because there are more than `MAX_CLASS_CHARTS`."""
    kind: str
    """"masks" or "boxes", which the charts of the classes are about."""

    @property
    def open(self) -> bool:
        """Whether the charts of the classes are unfolded."""
        return len(self.classes) <= MAX_OPEN_CHARTS


def precision_recall(metrics: Metrics, all_scores: ErrorAnalysis) -> PrecisionRecall:
    """Draw the curves of an evaluation.

    Args:
        metrics: metrics of the evaluation.
        all_scores: error analysis of all detections.
    """
    overall = []
    for kind, scores in (("masks", metrics.mask), ("boxes", metrics.box)):
        if scores is not None and scores.curves.size and not np.isnan(scores.curves).all():
            mean = np.nanmean(scores.curves, axis=2)
            at_50, at_75 = format_ap(scores.AP50), format_ap(scores.AP75)
            names = (f"IoU 0.50, AP50 {at_50}", f"IoU 0.75, AP75 {at_75}")
            overall.append(_recall_chart(f"recall-{kind}", f"{kind}, mean over classes", mean, names))
    overall += _score_charts(all_scores)
    main = metrics.mask or metrics.box
    assert main is not None
    with_objects = [
        (label, name) for label, name in enumerate(main.per_class) if not np.isnan(main.curves[:, :, label]).all()
    ]
    omitted = len(with_objects) if len(with_objects) > MAX_CLASS_CHARTS else 0
    classes = [
        _recall_chart(f"recall-class-{label}", short_name(name), main.curves[:, :, label], ("IoU 0.50", "IoU 0.75"))
        for label, name in ([] if omitted else with_objects)
    ]
    return PrecisionRecall(overall, classes, omitted, "masks" if metrics.mask is not None else "boxes")


def _score_charts(analysis: ErrorAnalysis) -> list[Chart]:
    points = by_score_threshold(analysis)
    if not points:
        return []
    first, last = points[0][0], points[-1][0]
    thresholds = [first + (last - first) * i / 200 for i in range(201)]
    indices = sorted({min(bisect_left(points, (score,)), len(points) - 1) for score in thresholds})
    thinned = [points[index] for index in indices]
    series = (
        Series("precision", [(score, precision) for score, precision, _ in thinned], 0),
        Series("recall", [(score, recall) for score, _, recall in thinned], 1),
        Series("F1", [(score, f1_score(precision, recall)) for score, precision, recall in thinned], 2, dashed=True),
    )
    title = "by score threshold (all objects, IoU 0.50)"
    svg = line_chart("score", series, title, "score", format_fraction, (0.0, 1.0), (0.0, 1.0))
    return [Chart(title, svg, series)]


def _recall_chart(name: str, title: str, curves: np.ndarray, legend: tuple[str, str]) -> Chart:
    """Precision over recall; `curves` is (2, 101), precision at IoU 0.50 and at 0.75."""
    recall = np.linspace(0, 1, 101)
    series = tuple(
        Series(label, list(zip(recall.tolist(), curve.tolist(), strict=True)), 0, dashed=bool(index))
        for index, (label, curve) in enumerate(zip(legend, curves, strict=True))
    )
    label, limits = f"precision over recall: {title}", (0.0, 1.0)
    svg = line_chart(name, series, label, "recall", format_fraction, limits, limits)
    return Chart(title, svg, series)
