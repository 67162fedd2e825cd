"""Images for a person to judge by: what is there beside what was found, drawn from the results of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sais.data.annotations import DatasetSplit, ImageRecord, object_mask, trainable
from sais.errors import SaisError
from sais.io.images import read_image
from sais.ops.rasterize import inside
from sais.ops.rle import decode_cropped
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.draw import overlay

HANDFUL = 8
"""Images shown after each evaluation."""
SHOWN = 0.3
"""Least score of a detection that a person is shown."""
SIDE = 384
"""Longest side in pixels of each of the two."""
GAP = 6
"""Pixels between the two, in a gray that is quiet on white and on black."""
GREY = 136
ENLARGED = 2.0
"""At most: names on a small image would hide it."""
NAMED = 8
"""Objects in an image above which their names would hide them, and are left out."""
LETTERS = 1.5
"""How much larger than usual the names are written: these images are shown small."""


def select_examples(index: DatasetSplit, count: int = HANDFUL) -> list[ImageRecord]:
    """The same few images of an index every time, spread over all of it; those without objects only where the others
    are not enough."""
    some = [record for record in index.images if trainable(record)]
    if len(some) < count:
        some += [record for record in index.images if not trainable(record)][: count - len(some)]
    count = min(count, len(some))
    return [some[round(place * (len(some) - 1) / max(1, count - 1))] for place in range(count)]


def comparison_images(
    records: Sequence[ImageRecord], index: DatasetSplit, results: Iterable[dict[str, Any]], side: int = SIDE
) -> list[np.ndarray]:
    """For each image what is there (left) beside what was found at score 0.3 and above (right).

    Args:
        records: images of the index; one that cannot be read is left out, as the evaluation has said already.
        index: for its classes.
        results: of an evaluation, in the COCO submission format.
        side: longest side of each of the two, in pixels.

    Returns:
        (H, W, 3) uint8 RGB each, of sizes of their own.
    """
    wanted = {record.id for record in records}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        if result["image_id"] in wanted and result["score"] >= SHOWN:
            by_image.setdefault(result["image_id"], []).append(result)
    pairs = []
    for record in records:
        try:
            image = read_image(record.path)
        except SaisError:
            continue
        found = detections_of(by_image.get(record.id, []), record.size, index)
        pairs.append(side_by_side(image, objects_of(record, index), found, side))
    return pairs


def objects_of(record: ImageRecord, index: DatasetSplit) -> Detections:
    """What is there, as if it had been found with certainty; crowds left out. A box-only object has an empty mask."""
    objects = trainable(record)
    patches = []
    for one in objects:
        mask = object_mask(one, record.size)
        x1, y1 = (int(v) for v in np.floor(one.box[:2]))
        x2, y2 = (int(v) for v in np.ceil(one.box[2:]))
        bits = np.zeros((0, 0), bool) if mask is None else inside(mask, (x1, y1, x2, y2))
        patches.append(CroppedMask(x1, y1, bits))
    boxes = np.array([one.box for one in objects], np.float32).reshape(-1, 4)
    labels = np.array([one.label for one in objects], np.int64)
    return Detections(record.size, boxes, np.ones(len(objects)), labels, index.class_names, patches)


def detections_of(results: Sequence[dict[str, Any]], size: tuple[int, int], index: DatasetSplit) -> Detections:
    """The results of one image, in the COCO submission format, as detections: best score first."""
    label = {category: place for place, category in enumerate(index.category_ids)}
    ordered = sorted(results, key=lambda result: -result["score"])
    corners = [(x, y, x + w, y + h) for x, y, w, h in (result["bbox"] for result in ordered)]
    patches = []
    for result in ordered:
        if "segmentation" in result:
            bits, x, y = decode_cropped(result["segmentation"])
            patches.append(CroppedMask(x, y, bits))
    return Detections(
        size,
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([result["score"] for result in ordered]),
        np.array([label[result["category_id"]] for result in ordered], np.int64),
        index.class_names,
        patches,
    )


def side_by_side(
    image: np.ndarray,
    there: Detections,
    found: Detections,
    side: int = SIDE,
    colors: Sequence[int] | None = None,
) -> np.ndarray:
    """What is there (left) and what was found (right), drawn on the image.

    Args:
        image: (H, W, 3) uint8 RGB, of the detections' size; of another it is stretched (`sais check` tells).
        there: in the colors 0, 1, 2 ..
        found: drawn whatever their score.
        side: longest side of each of the two, in pixels.
        colors: of each of `found`, such as that of the object it is; by default as for `there`.
    """
    share = min(ENLARGED, side / max(there.image_size))
    height, width = (max(1, round(edge * share)) for edge in there.image_size)
    small = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    there, found = resized(there, (height, width)), resized(found, (height, width))
    named = max(len(there), len(found)) <= NAMED
    texts = [there.class_names[label] for label in there.labels] if named else []
    left = overlay(small, there.boxes, texts, there.cropped_masks, font_scale=LETTERS)
    texts = [f"{found.class_names[label]} {score:.2f}" for label, score in zip(found.labels, found.scores, strict=True)]
    right = overlay(small, found.boxes, texts if named else [], found.cropped_masks, colors, LETTERS)
    return np.concatenate([left, np.full((height, GAP, 3), GREY, np.uint8), right], axis=1)


def resized(found: Detections, size: tuple[int, int]) -> Detections:
    """The detections on the image at another size, (H, W); good enough to look at."""
    if size == found.image_size:
        return found
    down, across = size[0] / found.image_size[0], size[1] / found.image_size[1]
    patches = []
    for patch in found.cropped_masks:
        x1, y1 = min(int(patch.x * across), size[1] - 1), min(int(patch.y * down), size[0] - 1)
        w, h = (max(1, round(n * share)) for n, share in ((patch.shape[1], across), (patch.shape[0], down)))
        w, h = min(w, size[1] - x1), min(h, size[0] - y1)
        bits = np.zeros((0, 0), bool)
        if patch.area:
            whole = Image.fromarray(patch.bits.astype(np.uint8) * 255)
            bits = np.asarray(whole.resize((w, h), Image.Resampling.BOX)) > 127
        patches.append(CroppedMask(x1, y1, bits))
    boxes = found.boxes * np.array([across, down, across, down], np.float32)
    return Detections(size, boxes, found.scores, found.labels, found.class_names, patches)
