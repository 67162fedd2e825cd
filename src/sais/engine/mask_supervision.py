"""Masks are trained only where objects have outlines: a detection data set has none."""

from __future__ import annotations

from dataclasses import replace

from sais.config import Experiment
from sais.data.annotations import DatasetSplit


def match_masks(
    experiment: Experiment, split: DatasetSplit, valid_split: DatasetSplit | None = None
) -> tuple[Experiment, list[str]]:
    """Return the experiment without masks if no object of the training split has an outline.

    A mask branch that was never trained would predict arbitrary masks. If only some objects lack an outline, those do
    not take part in the mask loss.

    Args:
        experiment: settings of the run.
        split: training split.
        valid_split: validation split.

    Returns:
        The settings, and remarks for the user.
    """
    outlines = _outlines(split)
    if not experiment.model.masks or not outlines:
        return experiment, []
    if not any(outlines):
        note = (
            f"{split.name}: none of its {len(outlines)} objects has an outline, so the model is trained without masks "
            "and predicts boxes only (model.masks False); for masks, export the data set with outlines"
        )
        return replace(experiment, model=replace(experiment.model, masks=False)), [note]
    notes = []
    if not all(outlines):
        counts = f"{outlines.count(False)} of {len(outlines)}"
        notes.append(f"{split.name}: {counts} objects have no outline: they train class and box, but no mask")
    valid_outlines = [] if valid_split is None else _outlines(valid_split)
    if valid_split is not None and valid_outlines and not any(valid_outlines):
        notes.append(f"{valid_split.name}: no object has an outline: boxes are evaluated, masks are not")
    return experiment, notes


def _outlines(split: DatasetSplit) -> list[bool]:
    """Return whether each object, without crowds, has an outline."""
    from sais.data.packed_annotations import object_columns

    objects = object_columns(split.images)
    outlined: list[bool] = objects.outlined[~objects.crowds].tolist()
    return outlined
