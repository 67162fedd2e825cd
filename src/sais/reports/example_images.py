"""The best and the worst images of a run's report: what is there beside what was found, inside the page as JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from sais.data.annotations import trainable
from sais.errors import SaisError
from sais.evaluation.error_analysis import RIGHT, SCORE, ErrorAnalysis, ImageAnalysis
from sais.evaluation.visualize import detections_of, objects_of, side_by_side
from sais.io.images import read_image

COUNT = 6
"""Of the best, and of the worst."""
SIDE = 460
"""Longest side in pixels of each of the two in a pair."""
QUALITY = 82
MOST = 2_400_000
"""Letters that all images of a page may take; beyond that they are left out, and that is said."""


def select_best_and_worst(
    judgement: ErrorAnalysis, count: int = COUNT
) -> tuple[list[ImageAnalysis], list[ImageAnalysis]]:
    """The best and the worst images; of equals those with more objects. None is in both."""
    some = [one for one in judgement.images if one.quality is not None]
    some.sort(key=lambda one: (-(one.quality or 0.0), -len(one.objects), one.record.id))
    half = min(count, -(-len(some) // 2))
    best, others = some[:half], some[half:]
    return best, sorted(others, key=lambda one: (one.quality or 0.0, -len(one.objects), one.record.id))[:count]


def best_and_worst(judgement: ErrorAnalysis) -> str:
    """Both, each with its quality and counts."""
    best, worst = select_best_and_worst(judgement)
    if not best:
        return "<p>There is neither an object nor a detection in any image.</p>"
    parts, left, unread, too_big = [], MOST, 0, 0
    for title, images in (("The worst", worst), ("The best", best)):
        figures = []
        for one in images:
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


def _figure(one: ImageAnalysis, judgement: ErrorAnalysis) -> str:
    record = one.record
    found = detections_of(one.results, record.size, judgement.index)
    there = objects_of(record, judgement.index)
    pair = side_by_side(read_image(record.path), there, found, SIDE, _colors(one, len(there)))
    right, objects, detections = one.count(RIGHT), len(one.objects), len(one.results)
    said = f"{right} of {objects} object{'s' if objects != 1 else ''} found"
    if detections > right:
        said += f", {detections - right} other detection{'s' if detections - right != 1 else ''}"
    caption = f"<b>{one.quality or 0:.2f}</b><span>{escape(said)}</span><span>{escape(record.path.name)}</span>"
    alt = escape(f"{record.path.name}: what is there, and what was found")
    return f'<figure><img src="{_jpeg(pair)}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'


def _colors(one: ImageAnalysis, there: int) -> Sequence[int]:
    """A detection wears the color of the object it took; the others colors that no object has."""
    drawn = {annotation.id: place for place, annotation in enumerate(trainable(one.record))}
    free = there
    colors = []
    for partner in one.verdict.partners:
        if partner >= 0:
            colors.append(drawn[one.objects[partner].id])
        else:
            colors.append(free)
            free += 1
    return colors


def _jpeg(image: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


HOW = (
    f"Left: what is there. Right: what was found at score {SCORE} or more; a detection wears the color of the object "
    "it took. The number is the image's quality: the overlaps (IoU) of its right detections, summed, over the mean "
    "of its numbers of objects and detections. 1 is perfect."
)
