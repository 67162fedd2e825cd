"""The sections of a run's report that need its detections: classes, precision and recall, errors, confusions."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from html import escape

import numpy as np

from sais.evaluation.coco_metrics import CocoScores, Metrics
from sais.evaluation.error_analysis import (
    BACKGROUND,
    CLASS,
    DUPLICATE,
    FOUND,
    IGNORED,
    MASK,
    MISSED,
    RIGHT,
    SCORE,
    ErrorAnalysis,
)
from sais.reports.charts import ChartLine, chart, figure, legend
from sais.reports.html_tables import plain_table
from sais.reports.run_record import percent

MANY = 24
"""Classes above which a table or a grid of all of them is cut or folded."""
CONFUSED = 16
"""Classes of a confusion matrix that cannot show all."""

DETECTION_KINDS = (
    (RIGHT, "right", "overlaps an object of its class by half (IoU 0.5) or more, and no better detection took it"),
    (CLASS, "wrong class", "overlaps an object by half or more, but calls it something else"),
    (MASK, "poor {shape}", "of an object of its class, but overlaps it by a tenth to a half only"),
    (DUPLICATE, "duplicate", "of an object that another detection has taken"),
    (BACKGROUND, "background", "there is no object of its class"),
)
OBJECT_KINDS = (
    (FOUND, "found", "taken by a right detection"),
    (CLASS, "found as another class", "taken by a detection of another class"),
    (MASK, "found poorly", "there is a detection of it, but its {shape} is poor"),
    (MISSED, "missed", "nothing was found there"),
)


def in_short(metrics: Metrics, judgement: ErrorAnalysis, every: ErrorAnalysis) -> str:
    """A few sentences: what stands out. `every` judges the detections of all scores."""
    scores, said = metrics.mask or metrics.box, []
    assert scores is not None
    known = sorted((value, name) for name, value in scores.per_class.items() if not math.isnan(value))
    if len(known) > 1:
        (low, worst), (high, best) = known[0], known[-1]
        said.append(f"Best class: {best} (AP {percent(high)}). Worst: {worst} ({percent(low)}).")
    shape = "mask" if metrics.mask is not None else "box"
    wrong = {name.format(shape=shape): judgement.detections(kind) for kind, name, _ in DETECTION_KINDS if kind != RIGHT}
    wrong["missed objects"] = judgement.objects(MISSED)
    counted = ", ".join(f"{count} {name}" for name, count in sorted(wrong.items(), key=lambda one: -one[1]) if count)
    said.append(f"Errors at score {SCORE}, the commonest first: {counted or 'none'}.")
    pairs = confusions(judgement)
    if pairs:
        count, row, column = pairs[0]
        names = judgement.index.class_names
        said.append(f"Most often confused: {names[row]} called {names[column]}, {count} of {_counts(judgement)[row]}.")
    threshold = best_score(every)
    if threshold is not None:
        score, f1 = threshold
        said.append(f"Precision and recall balance best (F1 {percent(f1)} %) at a score of {score:.2f}.")
    return f'<ul class="said">{"".join(f"<li>{escape(one)}</li>" for one in said)}</ul>'


def classes(metrics: Metrics, judgement: ErrorAnalysis) -> str:
    """AP of each class as bars; the middle of a long list folded."""
    main = metrics.mask or metrics.box
    assert main is not None
    counts = _counts(judgement)
    halves = main.curves.mean(axis=1)  # (2, C) AP50 and AP75; NaN, as the curve, where a class has no object
    rows, absent = [], []
    for place, (name, value) in enumerate(main.per_class.items()):
        if math.isnan(value):
            absent.append(name)
            continue
        box = metrics.box.per_class[name] if metrics.mask is not None and metrics.box is not None else None
        numbers = [str(counts[place]), _shown(value), _shown(halves[0, place]), _shown(halves[1, place])]
        numbers += [] if box is None else [_shown(box)]
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        bar = f'<td class="bar"><div style="width:{100 * value:.1f}%"></div></td>' if value else "<td></td>"
        rows.append((value, f'<tr><th scope="row">{escape(name)}</th>{bar}{cells}</tr>'))
    rows.sort(key=lambda row: -row[0])
    kind = "mask" if metrics.mask is not None else "box"
    heads = ["objects", f"{kind} AP", "AP50", "AP75", *(["box AP"] if kind == "mask" and metrics.box else [])]
    head = '<th scope="col">class</th><th></th>' + "".join(f'<th scope="col" class="number">{h}</th>' for h in heads)

    def table(part: Sequence[tuple[float, str]]) -> str:
        body = "".join(html for _, html in part)
        inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        return f'<div class="scroll" tabindex="0"><table class="wide">{inside}</table></div>'

    without = ""
    if absent:
        names = escape(", ".join(absent))
        summary = f"{len(absent)} class{'es' if len(absent) != 1 else ''} without an object to find"
        without = f"<details><summary>{summary}</summary><p>{names}</p></details>"
    if len(rows) <= MANY:
        return (table(rows) if rows else "") + without
    edge = MANY // 2
    return (
        f"<h3>The best {edge} of {len(rows)}</h3>{table(rows[:edge])}<h3>The worst {edge}</h3>{table(rows[-edge:])}"
        f"<details><summary>The {len(rows) - 2 * edge} between</summary>{table(rows[edge:-edge])}</details>{without}"
    )


def precision_recall(metrics: Metrics, every: ErrorAnalysis) -> str:
    """Precision over recall of all classes together and of each, and what a score threshold does.

    Args:
        every: judges the detections of all scores.
    """
    drawn = []
    for kind, scores in (("masks", metrics.mask), ("boxes", metrics.box)):
        if scores is not None and scores.curves.size and not np.isnan(scores.curves).all():
            mean = np.nanmean(scores.curves, axis=2)
            names = (f"IoU 0.50, AP50 {percent(scores.AP50)}", f"IoU 0.75, AP75 {percent(scores.AP75)}")
            drawn.append(_recall_chart(f"{kind}, mean of the classes", mean, names))
    drawn += _by_score(every)
    whole = f'<div class="charts">{"".join(drawn)}</div>'
    main = metrics.mask or metrics.box
    assert main is not None
    each = [
        _recall_chart(name, main.curves[:, :, place], ("IoU 0.50", "IoU 0.75"))
        for place, name in enumerate(main.per_class)
        if not np.isnan(main.curves[:, :, place]).all()
    ]
    if len(each) > 100:
        return whole + f'<p class="intro">{len(each)} classes are too many for a curve of each.</p>'
    if not each:
        return whole
    kind = "masks" if metrics.mask is not None else "boxes"
    inside = f'<div class="charts">{"".join(each)}</div>'
    opened = " open" if len(each) <= 12 else ""
    return whole + f"<details{opened}><summary>Each class ({kind})</summary>{inside}</details>"


def errors(judgement: ErrorAnalysis) -> str:
    """What became of the objects, and of the detections."""
    shape = "mask" if judgement.kind == "segm" else "box"
    objects = [(name, judgement.objects(kind), text.format(shape=shape)) for kind, name, text in OBJECT_KINDS]
    found = [
        (name.format(shape=shape), judgement.detections(kind), text.format(shape=shape))
        for kind, name, text in DETECTION_KINDS
    ]
    ignored = judgement.detections(IGNORED)
    note = f" {ignored} more lie in crowds, or in objects without a mask, and are not counted." if ignored else ""
    return (
        _kinds(f"What became of the {sum(count for _, count, _ in objects)} objects", objects)
        + _kinds(f"What became of the {sum(count for _, count, _ in found)} detections", found)
        + (f'<p class="intro">{note.strip()}</p>' if note else "")
    )


def confusion(judgement: ErrorAnalysis) -> str:
    """The matrix of all classes, or of those confused most where there are many."""
    matrix, names = judgement.confusion(), judgement.index.class_names
    size = len(names)
    if size > MANY:
        pairs = confusions(judgement)
        chosen = sorted(list(dict.fromkeys(place for _, *two in pairs for place in two))[:CONFUSED])
        if not chosen:
            return f'<p class="intro">None of the {size} classes was taken for another.</p>'
        text = f"The {len(chosen)} of {size} classes that are confused most; the columns of the others are left out."
    else:
        chosen, text = list(range(size)), ""
    shown = [*chosen, size]
    rows = []
    for row in shown:
        total = int(matrix[row].sum())
        cells = []
        for column in shown:
            count = int(matrix[row, column])
            if row == column == size:
                cells.append('<td class="edge"></td>')
                continue
            words = ["right"] if row == column else []
            words += ["none"] if not count else []
            words += ["edge"] if column == size else []
            share = count / total if total else 0.0
            title = f"{_name(names, row)}: {count} of {total} {_called(names, column)}"
            attributes = f' class="{" ".join(words)}"' if words else ""
            style = f' style="--share:{share:.2f}"' if count else ""
            cells.append(f'<td{attributes}{style} title="{escape(title)}">{count or "·"}</td>')
        edge = ' class="last"' if row == size else ""
        rows.append(f'<tr{edge}><th scope="row">{escape(_name(names, row))}</th>{"".join(cells)}</tr>')
    heads = "".join(f'<th scope="col">{escape(names[c] if c < size else "not found")}</th>' for c in shown)
    note = f'<p class="intro">{text}</p>' if text else ""
    table = f'<table class="confusion"><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f'{note}<div class="beside"><div class="scroll" tabindex="0">{table}</div>{_most_confused(judgement)}</div>'


def _most_confused(judgement: ErrorAnalysis, count: int = 8) -> str:
    """The commonest pairs in words."""
    names, pairs, objects = judgement.index.class_names, confusions(judgement), _counts(judgement)
    rows = [[names[row], names[column], f"{often} of {objects[row]}"] for often, row, column in pairs[:count]]
    return plain_table(["objects", "called", "how often"], rows, caption="Most often confused") if rows else ""


def confusions(judgement: ErrorAnalysis) -> list[tuple[int, int, int]]:
    """(how often, class of the object, class it was called), the most frequent first."""
    matrix = judgement.confusion()[:-1, :-1]
    rows, columns = np.nonzero(matrix * (1 - np.eye(len(matrix), dtype=np.int64)))
    return sorted(((int(matrix[r, c]), int(r), int(c)) for r, c in zip(rows, columns, strict=True)), reverse=True)


def by_score(judgement: ErrorAnalysis) -> list[tuple[float, float, float]]:
    """(score, precision, recall) if all detections below the score were left out, for each score there is."""
    # Which detections are right hangs on better ones alone, so that leaving out the lower ones changes nothing. (Only
    # what a crowd swallows may hang on a lower one, whose object it would have been called a duplicate of.)
    found = sorted(
        (-result["score"], kind == RIGHT)
        for one in judgement.images
        for result, kind in zip(one.results, one.verdict.detections, strict=True)
        if kind != IGNORED
    )
    objects = sum(len(one.objects) for one in judgement.images)
    points, right = [], 0
    for number, (score, is_right) in enumerate(found, 1):
        right += is_right
        if number == len(found) or found[number][0] != score:
            points.append((-score, right / number, right / objects if objects else 0.0))
    return points[::-1]


def best_score(judgement: ErrorAnalysis) -> tuple[float, float] | None:
    """The score at which F1, the harmonic mean of precision and recall, is greatest, and F1; None if it is 0."""
    scored = [(2 * p * r / (p + r) if p + r else 0.0, score) for score, p, r in by_score(judgement)]
    f1, score = max(scored, default=(0.0, 0.0))
    return (score, f1) if f1 else None


def _by_score(judgement: ErrorAnalysis) -> list[str]:
    points = by_score(judgement)
    if not points:
        return []
    grid = [points[0][0] + (points[-1][0] - points[0][0]) * i / 200 for i in range(201)]
    places = sorted({min(bisect_left(points, (score,)), len(points) - 1) for score in grid})
    thinned = [points[place] for place in places]
    lines = [
        ChartLine("precision", [(score, 100 * p) for score, p, _ in thinned], 0),
        ChartLine("recall", [(score, 100 * r) for score, _, r in thinned], 1),
        ChartLine("F1", [(s, 100 * (2 * p * r / (p + r) if p + r else 0.0)) for s, p, r in thinned], 2, dashed=True),
    ]
    title = "at which score? (all objects, IoU 0.50)"
    svg = chart(lines, title, "score", lambda v: f"{v:.0f}", (0.0, 1.0), (0.0, 100.0))
    return [figure(title, svg, legend(lines))]


def _recall_chart(title: str, curves: np.ndarray, names: tuple[str, str]) -> str:
    """(2, 101) precision at IoU 0.50 and 0.75."""
    recall = np.linspace(0, 100, 101)
    lines = [
        ChartLine(name, list(zip(recall.tolist(), (100 * curve).tolist(), strict=True)), 0, dashed=bool(place))
        for place, (name, curve) in enumerate(zip(names, curves, strict=True))
    ]
    svg = chart(lines, f"precision over recall: {title}", "recall", lambda v: f"{v:.0f}", (0.0, 100.0), (0.0, 100.0))
    return figure(title, svg, legend(lines))


def _kinds(title: str, kinds: Sequence[tuple[str, int, str]]) -> str:
    total = sum(count for _, count, _ in kinds) or 1
    rows = []
    for place, (name, count, meaning) in enumerate(kinds):
        weak = ' class="weak"' if place else ""
        inside = f'<div{weak} style="width:{100 * count / total:.1f}%"></div>' if count else ""
        bar = f'<td class="bar">{inside}</td>'
        numbers = f'<td class="number">{count}</td><td class="number">{100 * count / total:.0f} %</td>'
        rows.append(f'<tr><th scope="row">{name}</th>{numbers}{bar}<td class="text">{meaning}</td></tr>')
    return f'<h3>{title}</h3><div class="scroll" tabindex="0"><table class="wide kinds">{"".join(rows)}</table></div>'


def _counts(judgement: ErrorAnalysis) -> list[int]:
    counts = [0] * len(judgement.index.class_names)
    for one in judgement.images:
        for annotation in one.objects:
            counts[annotation.label] += 1
    return counts


def _name(names: Sequence[str], place: int) -> str:
    return names[place] if place < len(names) else "no object"


def _called(names: Sequence[str], place: int) -> str:
    return f"called {names[place]}" if place < len(names) else "not found"


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else percent(value)


def share_found(scores: CocoScores | None, judgement: ErrorAnalysis) -> tuple[float, float] | None:
    """The share of the objects found and of the detections right; None where there is nothing to find."""
    objects = sum(len(one.objects) for one in judgement.images)
    counted = sum(judgement.detections(kind) for kind, _, _ in DETECTION_KINDS)
    if scores is None or not objects:
        return None
    return judgement.objects(FOUND) / objects, judgement.detections(RIGHT) / counted if counted else 0.0
