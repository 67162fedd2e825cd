"""The best and the worst pictures of a run's report: what is there beside what was found, inside the page as JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from sais.data.index import trainable
from sais.engine.pictures import detections_of, objects_of, side_by_side
from sais.images import read_picture
from sais.report.judge import RIGHT, SCORE, Judged, Judgement
from sais.structures import SaisError

COUNT = 6
"""Of the best, and of the worst."""
SIDE = 460
"""Longest side in pixels of each of the two in a pair."""
QUALITY = 82
MOST = 2_400_000
"""Letters that all pictures of a page may take; beyond that they are left out, and that is said."""


def chosen(judgement: Judgement, count: int = COUNT) -> tuple[list[Judged], list[Judged]]:
    """The best and the worst pictures; of equals those with more objects. None is in both."""
    some = [one for one in judgement.pictures if one.quality is not None]
    some.sort(key=lambda one: (-(one.quality or 0.0), -len(one.objects), one.record.id))
    half = min(count, -(-len(some) // 2))
    best, others = some[:half], some[half:]
    return best, sorted(others, key=lambda one: (one.quality or 0.0, -len(one.objects), one.record.id))[:count]


def best_and_worst(judgement: Judgement) -> str:
    """Both, each with its quality and counts."""
    best, worst = chosen(judgement)
    if not best:
        return "<p>There is neither an object nor a detection in any picture.</p>"
    parts, left, unread, too_big = [], MOST, 0, 0
    for title, pictures in (("The worst", worst), ("The best", best)):
        figures = []
        for one in pictures:
            try:
                figure = _figure(one, judgement)
            except SaisError:
                unread += 1
                continue
            if len(figure) > left:
                too_big += 1
                continue
            left -= len(figure)
            figures.append(figure)
        if figures:
            parts.append(f'<h3>{title}</h3><div class="pairs">{"".join(figures)}</div>')
    if unread:
        parts.append(f'<p class="warn">Left out, since they could not be read: {unread}.</p>')
    if too_big:
        parts.append(f'<p class="warn">Left out to keep the page small: {too_big}.</p>')
    return "".join(parts)


def _figure(one: Judged, judgement: Judgement) -> str:
    record = one.record
    found = detections_of(one.results, record.size, judgement.index)
    there = objects_of(record, judgement.index)
    pair = side_by_side(read_picture(record.path), there, found, SIDE, _colours(one, len(there)))
    right, objects, detections = one.count(RIGHT), len(one.objects), len(one.results)
    said = f"{right} of {objects} object{'s' if objects != 1 else ''} found"
    if detections > right:
        said += f", {detections - right} other detection{'s' if detections - right != 1 else ''}"
    caption = f"<b>{one.quality or 0:.2f}</b><span>{escape(said)}</span><span>{escape(record.path.name)}</span>"
    alt = escape(f"{record.path.name}: what is there, and what was found")
    return f'<figure><img src="{_jpeg(pair)}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'


def _colours(one: Judged, there: int) -> Sequence[int]:
    """A detection wears the colour of the object it took; the others colours that no object has."""
    drawn = {annotation.id: place for place, annotation in enumerate(trainable(one.record))}
    free = there
    colours = []
    for partner in one.verdict.partners:
        if partner >= 0:
            colours.append(drawn[one.objects[partner].id])
        else:
            colours.append(free)
            free += 1
    return colours


def _jpeg(picture: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


HOW = (
    f"Left: what is there. Right: what was found at score {SCORE} or more; a detection wears the colour of the object "
    "it took. The number is the picture's quality: the overlaps (IoU) of its right detections, summed, over the mean "
    "of its numbers of objects and detections. 1 is perfect."
)
