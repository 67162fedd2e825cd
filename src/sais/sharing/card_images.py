"""Images of a model card: the training curve, and example images with labels and detections."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.errors import InputError, SaisError
from sais.reports.charts import GRID, SERIES_COLORS, SOFT, smooth

if TYPE_CHECKING:
    import numpy as np

    from sais.data.annotations import DatasetSplit
    from sais.inference.predictor import Predictor
    from sais.reports.run_record import RunRecord

SIDE = 480
"""Longest side of the labels and of the detections in an example image, in pixels."""


def training_curve(record: RunRecord) -> bytes | None:
    """Draw the total loss over the iterations and AP over the epochs as a PNG; None if nothing was logged."""
    losses = [(entry["iteration"], entry["total"]) for entry in record.iterations if "total" in entry]
    scores = {
        kind: [
            (entry["epoch"] + 1, value) for entry in record.evaluations if (value := _score(entry, kind)) is not None
        ]
        for kind in ("mask", "box")
    }
    if not losses and not any(scores.values()):
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 2.6), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    if losses:
        left.plot(*zip(*smooth(losses), strict=True), color=SERIES_COLORS[0], linewidth=1.6)
    for color, (kind, points) in zip(SERIES_COLORS, scores.items(), strict=False):
        if points:
            marker = "o" if len(points) == 1 else None
            right.plot(*zip(*points, strict=True), color=color, label=f"{kind} AP", linewidth=1.6, marker=marker)
            right.legend(frameon=False)
    for axes, title, label in ((left, "total loss", "iteration"), (right, "AP, validation", "epoch")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(label, fontsize=9, color=SOFT)
        axes.grid(color=GRID, linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def valid_split(record: RunRecord, class_names: tuple[str, ...]) -> DatasetSplit:
    """Return the validation split of a run, by its log.

    Raises:
        InputError: the run has none, or its files are not where they were.
    """
    from sais.data.paths import DataPaths

    where = f"{record.folder}: the validation images of the run"
    fix = "Give the data set, or leave out the examples."
    values: dict[str, Any] = {
        name: Path(value) if isinstance(value, str) and name.endswith(("data", "images", "annotations")) else value
        for name, value in record.paths.items()
        if value is not None and name in DataPaths.__dataclass_fields__
    }
    try:
        split = DataPaths(**values).read_valid(class_names) if values else None
    except SaisError as error:
        raise InputError(f"{where} cannot be read ({error}). {fix}") from error
    if split is None:
        raise InputError(f"{where} are not known. {fix}")
    return split


def example_images(predictor: Predictor, split: DatasetSplit, count: int) -> list[np.ndarray]:
    """Draw labels and detections next to each other, of images that are evenly spaced over a split.

    Args:
        predictor: the model.
        split: the images with their labels.
        count: maximum number of images.

    Returns:
        Images (H, W, 3) uint8 of different sizes.
    """
    from sais.evaluation.visualize import comparison_images, select_examples

    records = select_examples(split, count)
    results = [
        result for record in records for result in predictor(record.read()).to_coco(record.id, split.category_ids)
    ]
    return comparison_images(records, split, results, SIDE, score=0.0)


def _score(entry: dict[str, Any], kind: str) -> float | None:
    value = (entry["metrics"].get(kind) or {}).get("AP")
    return value if isinstance(value, float) else None
