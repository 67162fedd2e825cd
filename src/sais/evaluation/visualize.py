"""Comparison images: the ground truth next to the detections of an evaluation, for loggers and reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sais import input_limits
from sais.data.annotations import DatasetSplit, ImageRecord, object_mask, trainable
from sais.errors import SaisError
from sais.inference.score_thresholds import DEFAULT_SCORE
from sais.ops.rasterize import inside
from sais.ops.rle import decode_cropped
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.draw import overlay
from sais.results.fonts import drawable_names

NUM_EXAMPLES = 8
"""Number of images shown after each evaluation."""
SIDE = 384
"""Longest side of each of the two images, in pixels."""
GAP = 6
"""Distance between the two images, in pixels."""
GAP_COLOR = 136
"""Gray value between the two images, inconspicuous on white and on black pages."""
MAX_ENLARGEMENT = 2.0
"""Maximum factor by which small images are enlarged, so that class names do not cover them."""
MAX_NAMED_OBJECTS = 8
"""Number of objects above which class names are left out, since they would cover the objects."""
FONT_SCALE = 1.5
"""Factor of the usual size of class names: these images are viewed small."""


def select_examples(split: DatasetSplit, count: int = NUM_EXAMPLES) -> list[ImageRecord]:
    """Select a few images spread over a split, the same ones in every call.

    Images without objects are selected only if there are too few with objects.
    """
    records = [record for record in split.images if trainable(record)]
    if len(records) < count:
        records += [record for record in split.images if not trainable(record)][: count - len(records)]
    count = min(count, len(records))
    return [records[round(i * (len(records) - 1) / max(1, count - 1))] for i in range(count)]


def comparison_images(
    records: Sequence[ImageRecord],
    split: DatasetSplit,
    results: Iterable[dict[str, Any]],
    side: int = SIDE,
    score: float = DEFAULT_SCORE,
) -> list[np.ndarray]:
    """Draw the ground truth (left) next to the detections with a minimum score (right).

    Args:
        records: images of the split; unreadable ones are left out, since the evaluation has reported them.
        split: dataset split, for its classes.
        results: detections of an evaluation in the COCO submission format.
        side: longest side of each of the two images, in pixels.
        score: minimum score of a detection that is shown.

    Returns:
        Images (H, W, 3) uint8 RGB of different sizes.
    """
    ids = {record.id for record in records}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        if result["image_id"] in ids and result["score"] >= score:
            by_image.setdefault(result["image_id"], []).append(result)
    images = []
    for record in records:
        try:
            image = record.read()
        except SaisError:
            continue
        detections = detections_from_coco(by_image.get(record.id, []), record.size, split)
        images.append(draw_comparison(image, ground_truth_detections(record, split), detections, side))
    return images


def ground_truth_detections(record: ImageRecord, split: DatasetSplit) -> Detections:
    """Return the objects of an image as detections with score 1, without crowds.

    Box-only objects have an empty mask, and so have those after the first 500 million pixels of masks.
    """
    objects = trainable(record)
    cropped_masks: list[CroppedMask] = []
    pixels = 0
    for annotation in objects:
        mask = object_mask(annotation, record.size)
        x1, y1 = (int(edge) for edge in np.floor(annotation.box[:2]))
        x2, y2 = (int(edge) for edge in np.ceil(annotation.box[2:]))
        pixels += (y2 - y1) * (x2 - x1)
        is_drawn = mask is not None and pixels <= input_limits.MAX_BITMAP_PIXELS
        bits = inside(mask, (x1, y1, x2, y2)) if mask is not None and is_drawn else np.zeros((0, 0), bool)
        cropped_masks.append(CroppedMask(x1, y1, bits))
    boxes = np.array([annotation.box for annotation in objects], np.float32).reshape(-1, 4)
    labels = np.array([annotation.label for annotation in objects], np.int64)
    return Detections(record.size, boxes, np.ones(len(objects)), labels, split.class_names, cropped_masks)


def detections_from_coco(
    results: Sequence[dict[str, Any]], image_size: tuple[int, int], split: DatasetSplit
) -> Detections:
    """Convert the results of one image from the COCO submission format to detections, scores descending.

    Args:
        results: D results of one image.
        image_size: (H, W) of the image.
        split: dataset split, for its class names and category ids.
    """
    labels = {category_id: label for label, category_id in enumerate(split.category_ids)}
    ordered = sorted(results, key=lambda result: -result["score"])
    corners = [(x, y, x + w, y + h) for x, y, w, h in (result["bbox"] for result in ordered)]
    cropped_masks = []
    for result in ordered:
        if "segmentation" in result:
            bits, x, y = decode_cropped(result["segmentation"])
            cropped_masks.append(CroppedMask(x, y, bits))
    return Detections(
        image_size,
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([result["score"] for result in ordered]),
        np.array([labels[result["category_id"]] for result in ordered], np.int64),
        split.class_names,
        cropped_masks,
    )


def draw_comparison(
    image: np.ndarray,
    ground_truth: Detections,
    detections: Detections,
    side: int = SIDE,
) -> np.ndarray:
    """Draw the ground truth (left) and the detections (right) on an image, in the colors of their classes.

    Args:
        image: (H, W, 3) uint8 RGB; resized if its size is not that of the detections, which `sais doctor` reports.
        ground_truth: objects of the image.
        detections: detections, drawn whatever their score.
        side: longest side of each of the two images, in pixels.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    ratio = min(MAX_ENLARGEMENT, side / max(ground_truth.image_size))
    height, width = (max(1, round(length * ratio)) for length in ground_truth.image_size)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    truth, predicted = (resize_detections(objects, (height, width)) for objects in (ground_truth, detections))
    named = max(len(truth), len(predicted)) <= MAX_NAMED_OBJECTS
    texts = drawable_names(truth.class_names, truth.labels) if named else []
    left = overlay(resized, truth.boxes, texts, truth.cropped_masks, truth.labels.tolist(), FONT_SCALE)
    pairs = zip(drawable_names(predicted.class_names, predicted.labels), predicted.scores, strict=True)
    texts = [f"{name} {score:.2f}" for name, score in pairs]
    right = overlay(
        resized,
        predicted.boxes,
        texts if named else [],
        predicted.cropped_masks,
        predicted.labels.tolist(),
        FONT_SCALE,
    )
    return np.concatenate([left, np.full((height, GAP, 3), GAP_COLOR, np.uint8), right], axis=1)


def resize_detections(detections: Detections, image_size: tuple[int, int]) -> Detections:
    """Resize detections to an image of another size, exact enough for drawing.

    Args:
        detections: D detections.
        image_size: (H, W) of the resized image.
    """
    if image_size == detections.image_size:
        return detections
    height, width = image_size
    ratio_y, ratio_x = height / detections.image_size[0], width / detections.image_size[1]
    cropped_masks = []
    for mask in detections.cropped_masks:
        x1, y1 = min(int(mask.x * ratio_x), width - 1), min(int(mask.y * ratio_y), height - 1)
        w = min(max(1, round(mask.shape[1] * ratio_x)), width - x1)
        h = min(max(1, round(mask.shape[0] * ratio_y)), height - y1)
        bits = np.zeros((0, 0), bool)
        if mask.area:
            bitmap = Image.fromarray(mask.bits.astype(np.uint8) * 255)
            bits = np.asarray(bitmap.resize((w, h), Image.Resampling.BOX)) > 127
        cropped_masks.append(CroppedMask(x1, y1, bits))
    boxes = detections.boxes * np.array([ratio_x, ratio_y, ratio_x, ratio_y], np.float32)
    return Detections(image_size, boxes, detections.scores, detections.labels, detections.class_names, cropped_masks)
