"""The report of a training run: one HTML file in its folder that any browser opens, without a network or scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sais.evaluation.coco_metrics import IouType
from sais.evaluation.error_analysis import ErrorAnalysis, analyze_errors
from sais.evaluation.evaluate import Evaluation
from sais.io.atomic import write_text
from sais.reports import error_sections, example_images, precision_recall, run_sections
from sais.reports.advice import advise
from sais.reports.html import render_page
from sais.reports.run_record import RunRecord, format_date, read_run

FILE_NAME = "report.html"
ADVICE_INTRO = "What to try next, recognized from the log and the errors. Options are those of `sais train`."
CLASSES_INTRO = "Average precision of each class as a fraction of 1, best first."
RECALL_INTRO = (
    "Precision is the fraction of the detections that are correct, recall the fraction of the objects that are found. "
    "A detection is correct at an IoU of 0.50, or of 0.75, with an object of its class."
)
BUDGET_INTRO = (
    "What limits AP: what it would be if the errors of one kind were put right (TIDE, Bolya et al. 2020), or one part "
    "of the detections replaced by the truth. docs/evaluation.md defines the kinds and parts."
)
CONFUSION_INTRO = (
    "Rows: class of the object. Columns: class of the detection that matches it, at a score of at least {score:.3g} "
    "and an IoU of at least 0.5. Last row: detections that match no object. Last column: objects that no detection "
    "matches. The color shows the fraction of the row."
)


@dataclass(frozen=True)
class ReportSection:
    """A section of the report."""

    title: str
    macro: str
    """Macro of templates/run_sections.html.jinja that renders the content."""
    content: Any
    intro: str = ""

    @property
    def id(self) -> str:
        """The id of the section on the page."""
        return self.title.lower().replace(" ", "-")


def write_report(
    folder: Path,
    evaluation: Evaluation | None = None,
    missing: str = "",
    out: Path | None = None,
    weights: str = "final weights",
) -> Path:
    """Write the report of a run atomically and return its path.

    Args:
        folder: folder of the run.
        evaluation: evaluation of the run's weights; None: the report is made from the log only.
        missing: reason why there is no evaluation, as a sentence for the page.
        out: file to write; report.html in the folder by default.
        weights: description of the evaluated weights.

    Raises:
        CheckpointError: the folder contains no run.
        MissingDependencyError: jinja2 or matplotlib is not installed.
        ResourceError: the file cannot be written.
    """
    record = read_run(folder)
    path = folder / FILE_NAME if out is None else out
    write_text(path, render_report(record, evaluation, missing, weights))
    return path


def render_report(record: RunRecord, evaluation: Evaluation | None, missing: str = "", weights: str = "") -> str:
    """Render the report as HTML.

    Args:
        record: record of the run.
        evaluation: evaluation of the run's weights; None: the report is made from the log only.
        missing: reason why there is no evaluation, as a sentence for the page.
        weights: description of the evaluated weights.
    """
    sections = [
        ReportSection("Training", "training", run_sections.training_charts(record), "Losses and speed, smoothed.")
    ]
    metrics, rates, analysis = None, None, None
    if evaluation is not None and evaluation.metrics is not None:
        metrics = evaluation.metrics
        kind: IouType = "segm" if metrics.mask is not None else "bbox"
        analysis = analyze_errors(evaluation.dataset_split, evaluation.results, kind, evaluation.score)
        rates = error_sections.found_and_correct(metrics.mask or metrics.box, analysis)
        sections = _with_evaluation(sections, evaluation, analysis, weights)
    elif evaluation is not None:
        missing = f"{evaluation.dataset_split.name}: the images have no annotations, so that nothing can be evaluated."
    advice = advise(record, evaluation, analysis)
    if advice:
        sections.insert(int(analysis is not None), ReportSection("Advice", "summary", advice, ADVICE_INTRO))
    environment = (run_sections.environment_notes(record), run_sections.next_commands(record))
    sections.append(ReportSection("Settings", "settings", run_sections.settings_section(record)))
    sections.append(ReportSection("Environment", "environment", environment))
    subtitle = (f"{record.recipe} on {record.data}", record.describe_state(), format_date(record.started))
    return render_page(
        "run_report.html.jinja",
        ("run_report.css",),
        record=record,
        subtitle=" · ".join(subtitle),
        warnings=_warnings(record, missing),
        key_figures=run_sections.key_figures(record, None if metrics is None else metrics.to_dict(), rates),
        sections=sections,
    )


def _with_evaluation(
    sections: list[ReportSection], evaluation: Evaluation, analysis: ErrorAnalysis, weights: str
) -> list[ReportSection]:
    """The sections in the order of the page, with those about the evaluation."""
    metrics = evaluation.metrics
    assert metrics is not None
    all_scores = analyze_errors(evaluation.dataset_split, evaluation.results, analysis.iou_type, score=0.0)
    summary = error_sections.summarize(metrics, analysis, all_scores)
    curves = precision_recall.precision_recall(metrics, all_scores)
    counts = error_sections.error_counts(analysis)
    examples = example_images.example_images(analysis)
    budget = []
    if len(evaluation.results) <= error_sections.MAX_BUDGET_DETECTIONS:
        tables = error_sections.error_budget_tables(evaluation, analysis)
        budget = [ReportSection("Error budget", "tables", tables, BUDGET_INTRO)]
    return [
        ReportSection("Summary", "summary", summary, _evaluation_intro(evaluation, analysis, weights)),
        *sections,
        ReportSection("Classes", "classes", error_sections.class_table(metrics, analysis), CLASSES_INTRO),
        ReportSection("Precision and recall", "precision_recall", curves, RECALL_INTRO),
        *budget,
        ReportSection("Errors", "errors", counts, f"Detections with a score of at least {analysis.score:.3g}."),
        ReportSection(
            "Confusion",
            "confusion",
            error_sections.confusion_matrix(analysis),
            CONFUSION_INTRO.format(score=analysis.score),
        ),
        ReportSection("Worst and best images", "images", examples, example_images.INTRO.format(score=analysis.score)),
    ]


def _warnings(record: RunRecord, missing: str) -> list[str]:
    warnings = []
    if record.state == "running":
        warnings.append("The run is in progress; the report shows its current state.")
    elif record.state == "stopped":
        reason = f" ({record.reason})" if record.reason else ""
        warnings.append(f"The run did not finish{reason}; it can be resumed.")
    return [*warnings, missing] if missing else warnings


def _evaluation_intro(evaluation: Evaluation, analysis: ErrorAnalysis, weights: str) -> str:
    metrics = evaluation.metrics
    assert metrics is not None
    kind = "masks" if metrics.mask is not None else "boxes (there are no masks)"
    split = f"{metrics.images} images of {evaluation.dataset_split.name} with {metrics.objects} objects"
    sentences = [f"Evaluated{f': {weights},' if weights else ''} on {split}, by {kind}."]
    if not metrics.detections:
        sentences.append("The model detected nothing in them.")
    if evaluation.unreadable_images:
        sentences.append(f"{len(evaluation.unreadable_images)} images could not be read and are not counted.")
    if analysis.iou_type == "segm" and metrics.without_mask:
        sentences.append(f"{metrics.without_mask} objects have no mask and count for boxes only.")
    return " ".join(sentences)
