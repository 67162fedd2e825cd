"""Images of a data set's findings: a thumbnail around the objects concerned with their labels drawn, as JPEG.

A case about a whole image shows all of its labels; a case about two images, such as near-duplicates, shows both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.doctor.findings import Case, ImageReference
from sais.errors import OutOfMemoryError, SaisError
from sais.evaluation.label_suggestions import read_labels
from sais.evaluation.visualize import resize_detections
from sais.ops.numpy_boxes import Window, intersect_windows, is_empty
from sais.reports.embedded_images import jpeg_url
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.draw import overlay
from sais.results.fonts import drawable_names
from sais.results.mask_ops import mask_window
from sais.text import short_name

SIDE = 320
"""Longest side of a thumbnail, in pixels."""
QUALITY = 76
"""JPEG quality."""
MARGIN = 0.4
"""Distance around the objects concerned, as a fraction of their size."""
MIN_WINDOW = 48
"""Minimum side of the part of the image that is shown, in pixels."""
MAX_NAMED = 6
"""Number of objects above which class names are left out, since they would cover the image."""
THREADS = 2
"""Number of images that are read at once."""

Place = tuple[str, int]
"""Name of a split and id of an image."""


@dataclass(frozen=True)
class Thumbnail:
    """A part of an image with labels."""

    source: str
    """Data URL."""
    alt: str
    width: int
    height: int


def choose_cases(cases: Sequence[Case], count: int) -> list[int]:
    """Return the positions of the cases to show: the first of each image, then the second of each, and so on.

    Args:
        cases: cases of a finding; those without an image are left out.
        count: maximum number of positions.
    """
    seen: Counter[Place | None] = Counter()
    order = []
    for position, case in enumerate(cases):
        if case.image is not None:
            place = (case.image.split, case.image.image_id)
            order.append((seen[place], position))
            seen[place] += 1
    return [position for _, position in sorted(order)[:count]]


def draw_cases(cases: Sequence[Case], splits: Mapping[str, DatasetSplit]) -> list[list[Thumbnail]]:
    """Draw the images of cases; every image is read once.

    Args:
        cases: cases of any findings.
        splits: splits by name.

    Returns:
        The thumbnails of each case: of its image, then of the others; none of an image that cannot be read.
    """
    tasks: dict[Place, list[tuple[int, int]]] = {}  # image -> (case, place in the case) of each thumbnail
    for number, case in enumerate(cases):
        for place, reference in enumerate(_references(case)):
            tasks.setdefault((reference.split, reference.image_id), []).append((number, place))
    records = {
        (split.name, record.id): (record, split)
        for split in splits.values()
        for record in split.images
        if (split.name, record.id) in tasks
    }
    drawn: dict[tuple[int, int], Thumbnail] = {}

    def draw(place: Place) -> None:
        """Draw all thumbnails of an image."""
        record, split = records[place]
        try:
            image = record.read()
        except OutOfMemoryError:
            raise
        except SaisError:
            return
        for number, position in tasks[place]:
            case = cases[number]
            drawn[number, position] = draw_case(image, record, split, case if position == 0 else Case(case.text))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(draw, [place for place in tasks if place in records]))
    return [
        [drawn[number, place] for place in range(len(_references(case))) if (number, place) in drawn]
        for number, case in enumerate(cases)
    ]


def draw_case(image: np.ndarray, record: ImageRecord, split: DatasetSplit, case: Case) -> Thumbnail:
    """Draw the part of an image that a case is about.

    Args:
        image: (H, W, 3) uint8 RGB, of any size.
        record: the image's record, for its labels.
        split: split of the image, for its class names.
        case: the case; the whole image is drawn if it names no objects.
    """
    chosen = tuple(a for a in record.annotations if a.id in case.annotation_ids)
    is_local = bool(chosen) or case.detections is not None
    objects = read_labels(record, split, chosen if is_local else record.annotations)
    if case.detections is not None:
        objects = _join(objects, case.detections)
    height, width = image.shape[:2]
    window = window_around(objects, (height, width)) if is_local else (0, 0, width, height)
    part = cut_out(objects, window)
    x1, y1, x2, y2 = window
    ratio = SIDE / max(x2 - x1, y2 - y1)
    size = max(1, round(ratio * (y2 - y1))), max(1, round(ratio * (x2 - x1)))
    resized = Image.fromarray(image[y1:y2, x1:x2]).resize(size[::-1], Image.Resampling.LANCZOS)
    shown = resize_detections(part, size)
    names = drawable_names(shown.class_names, shown.labels)
    texts = [f"{name} {score:.2f}" if score < 1 else name for name, score in zip(names, shown.scores, strict=True)]
    drawing = overlay(
        np.asarray(resized),
        shown.boxes,
        texts if len(texts) <= MAX_NAMED else [],
        shown.cropped_masks,
        shown.labels.tolist(),
    )
    what = ", ".join(dict.fromkeys(short_name(split.class_names[label]) for label in objects.labels[:MAX_NAMED]))
    alt = f"{short_name(record.name)} with its labels: {what or 'no objects'}"
    return Thumbnail(jpeg_url(drawing, QUALITY), alt, size[1], size[0])


def _references(case: Case) -> list[ImageReference]:
    return [] if case.image is None else [case.image, *case.others]


def _join(labels: Detections, detections: Detections) -> Detections:
    """Return labels and detections as one, the detections last."""
    masks = detections.cropped_masks or [CroppedMask(0, 0, np.zeros((0, 0), bool))] * len(detections)
    return Detections(
        labels.image_size,
        np.concatenate([labels.boxes, detections.boxes]),
        np.concatenate([labels.scores, detections.scores]),
        np.concatenate([labels.labels, detections.labels]),
        labels.class_names,
        [*labels.cropped_masks, *masks],
    )


def window_around(objects: Detections, size: tuple[int, int]) -> Window:
    """Return a square around boxes and masks, or the part of it that is inside of the image.

    Args:
        objects: N objects, at least one.
        size: (H, W) of the image.
    """
    masks = [mask_window(mask) for mask in objects.cropped_masks if mask.area]
    boxes = np.concatenate([objects.boxes, np.array(masks, np.float32).reshape(-1, 4)])
    x1, y1 = boxes[:, :2].min(0).tolist()
    x2, y2 = boxes[:, 2:].max(0).tolist()
    side = max(MIN_WINDOW, (1 + 2 * MARGIN) * max(x2 - x1, y2 - y1))
    edges = []
    for low, high, length in ((x1, x2, size[1]), (y1, y2, size[0])):
        extent = min(length, round(side))
        first = min(max(0, round((low + high) / 2 - extent / 2)), length - extent)
        edges.append((first, first + extent))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def cut_out(objects: Detections, window: Window) -> Detections:
    """Return objects in the pixels of a window, outside of which their masks are cut off.

    Args:
        objects: N objects.
        window: part of the image.
    """
    masks = []
    for mask in objects.cropped_masks:
        common = intersect_windows(mask_window(mask), window)
        if is_empty(common):
            masks.append(CroppedMask(0, 0, np.zeros((0, 0), bool)))
            continue
        x1, y1, x2, y2 = common
        bits = mask.bits[y1 - mask.y : y2 - mask.y, x1 - mask.x : x2 - mask.x]
        masks.append(CroppedMask(x1 - window[0], y1 - window[1], bits))
    boxes = objects.boxes - np.array([window[0], window[1]] * 2, np.float32)
    size = window[3] - window[1], window[2] - window[0]
    return Detections(size, boxes, objects.scores, objects.labels, objects.class_names, masks)
