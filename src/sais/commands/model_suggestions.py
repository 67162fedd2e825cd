"""The option `--model` of `sais doctor`: what a trained model contradicts in the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sais.commands.arguments import progress_bar
from sais.commands.open_predictor import open_predictor
from sais.inference.options import InferenceOptions
from sais.text import short_name

if TYPE_CHECKING:
    from sais.data.doctor.report import CheckReport


def add_suggestions(reports: Sequence[CheckReport], model: Path, device: str, trust: bool = False) -> None:
    """Predict every image of the splits and add what contradicts the labels to their reports.

    Args:
        reports: report of each split.
        model: model file, folder of a training run, or exported file.
        device, trust: as of `InferenceOptions`.
    """
    from sais.evaluation.label_suggestions import LOW_SCORE, suggest_labels

    predictor = open_predictor("doctor", model, InferenceOptions(score=LOW_SCORE, device=device, trust=trust))
    for report in reports:
        with progress_bar(f"predicting {short_name(report.split.name)}", len(report.split.images)) as progress:
            for finding in suggest_labels(predictor, report.split, progress):
                report.add_finding(finding)
