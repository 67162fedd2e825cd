"""The report of a run: one HTML file in its folder that opens in any browser, without a network and without scripts."""

from __future__ import annotations

from html import escape
from pathlib import Path

from sais.evaluation.coco_metrics import IouType
from sais.evaluation.error_analysis import SCORE, ErrorAnalysis, analyze_errors
from sais.evaluation.evaluate import Evaluation
from sais.io.atomic import write_text
from sais.reports import error_sections, example_images, run_sections
from sais.reports.html import document
from sais.reports.run_record import RunRecord, date, read_run
from sais.reports.style import RUN_STYLE

NAME = "report.html"


def write_report(
    folder: Path,
    evaluation: Evaluation | None = None,
    missing: str = "",
    out: Path | None = None,
    weights: str = "the weights it ended with",
) -> Path:
    """Write the report of a run, whole or not at all, and return its path.

    Args:
        folder: of the run.
        evaluation: of its weights. None: the report has what the log tells.
        missing: why there is no evaluation, a sentence for the page.
        out: the file; report.html in the folder by default.
        weights: what was evaluated, for the page.

    Raises:
        SaisError: the folder holds no run, or the file cannot be written.
    """
    record = read_run(folder)
    path = folder / NAME if out is None else out
    write_text(path, report_page(record, evaluation, missing, weights))
    return path


def report_page(record: RunRecord, evaluation: Evaluation | None, missing: str = "", weights: str = "") -> str:
    """The HTML of the report. See `write_report`."""
    judgement, every, metrics, found = None, None, None, None
    if evaluation is not None and evaluation.metrics is not None:
        metrics = evaluation.metrics
        kind: IouType = "segm" if metrics.mask is not None else "bbox"
        judgement = analyze_errors(evaluation.dataset_split, evaluation.results, kind)
        every = analyze_errors(evaluation.dataset_split, evaluation.results, kind, score=0.0)
        found = error_sections.share_found(metrics.mask or metrics.box, judgement)
    elif evaluation is not None:
        missing = f"{evaluation.dataset_split.name}: its images have no annotations, so nothing can be judged."
    sections = []
    if judgement and every and metrics and evaluation:
        said = error_sections.in_short(metrics, judgement, every)
        sections.append(("In short", _judged_on(evaluation, judgement, weights), said))
    sections.append(("Training", "Losses and speed are smoothed.", run_sections.training(record)))
    if judgement and every and metrics:
        sections += [
            ("Classes", CLASSES, error_sections.classes(metrics, judgement)),
            ("Precision and recall", RECALL, error_sections.precision_recall(metrics, every)),
            ("Errors", f"Detections of score {SCORE} and more.", error_sections.errors(judgement)),
            ("Confusion", CONFUSION, error_sections.confusion(judgement)),
            ("Worst and best images", example_images.HOW, example_images.best_and_worst(judgement)),
        ]
    sections.append(("Settings", "", run_sections.settings(record)))
    sections.append(("Where it was made", "", run_sections.surroundings(record)))
    metrics_shown = None if metrics is None else metrics.to_dict()
    head = _head(record, missing, run_sections.glance(record, metrics_shown, found), [title for title, *_ in sections])
    return document(f"{record.name} · sais", head, "\n".join(map(_section, sections)), RUN_STYLE)


CLASSES = "Average precision of each class, in percent, the best first."
RECALL = (
    "How many of the objects are found (recall) against how many of the detections are right (precision), as the score "
    "that is asked for falls; a detection is right at an overlap (IoU) of 0.50, or of 0.75."
)
CONFUSION = (
    f"A row for the objects of each class, a column for what they were called, at score {SCORE} and an overlap of 0.5. "
    "The last row are detections that took no object, the last column objects that no detection took. The stronger the "
    "color, the more of its row."
)


def _head(record: RunRecord, missing: str, glance: str, titles: list[str]) -> str:
    words = [f"{record.recipe} on {record.data}", record.in_words(), date(record.began)]
    parts = ['<p class="eyebrow">Report of a training run</p>', f"<h1>{escape(record.name)}</h1>"]
    parts.append(f'<p class="intro">{escape(" · ".join(words))}</p>')
    if record.state == "running":
        parts.append('<p class="warn">The run is still going on; this is what is known so far.</p>')
    elif record.state == "stopped":
        reason = f" ({record.reason})" if record.reason else ""
        parts.append(f'<p class="warn">The run did not finish{escape(reason)}; it can be resumed.</p>')
    if missing:
        parts.append(f'<p class="warn">{escape(missing)}</p>')
    links = "".join(f'<li><a href="#{_slug(title)}">{escape(title)}</a></li>' for title in titles)
    return "\n".join([*parts, glance, f'<nav class="inline" aria-label="Contents"><ol>{links}</ol></nav>'])


def _section(section: tuple[str, str, str]) -> str:
    title, intro, inside = section
    said = f'<p class="intro">{escape(intro)}</p>' if intro else ""
    slug = _slug(title)
    return f'<section id="{slug}">\n<h2><a href="#{slug}">{escape(title)}</a></h2>\n{said}{inside}\n</section>'


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def _judged_on(evaluation: Evaluation, judgement: ErrorAnalysis, weights: str) -> str:
    metrics = evaluation.metrics
    assert metrics is not None
    kind = "masks" if metrics.mask is not None else "boxes (there are no masks to judge)"
    place = f"{metrics.images} images of {evaluation.dataset_split.name} with {metrics.objects} objects"
    said = f"Judged{f': {weights},' if weights else ''} on {place}, by {kind}."
    if not metrics.detections:
        said += " The model found nothing at all in them."
    if evaluation.unreadable_images:
        said += f" {len(evaluation.unreadable_images)} images that cannot be read are left out."
    if judgement.kind == "segm" and metrics.without_mask:
        said += f" {metrics.without_mask} objects have no mask and count for boxes only."
    return said
