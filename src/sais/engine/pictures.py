"""Pictures for a person to judge by: what is there beside what was found, drawn from the results of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sais.data.index import ImageRecord, Index, object_mask, trainable
from sais.detections import Detections, Patch
from sais.draw import draw, draw_objects
from sais.geometry.raster import inside
from sais.geometry.rle import decode_patch
from sais.images import read_picture
from sais.structures import SaisError

HANDFUL = 8
"""Pictures shown after each evaluation."""
SHOWN = 0.3
"""Least score of a detection that a person is shown."""
SIDE = 384
"""Longest side in pixels of each of the two."""
GAP = 8
"""Pixels between the two."""


def handful(index: Index, count: int = HANDFUL) -> list[ImageRecord]:
    """The same few pictures of an index every time, spread over all of it; those without objects only where the others
    are not enough."""
    some = [record for record in index.images if trainable(record)]
    if len(some) < count:
        some += [record for record in index.images if not trainable(record)][: count - len(some)]
    count = min(count, len(some))
    return [some[round(place * (len(some) - 1) / max(1, count - 1))] for place in range(count)]


def judged_pictures(
    records: Sequence[ImageRecord], index: Index, results: Iterable[dict[str, Any]], side: int = SIDE
) -> list[np.ndarray]:
    """For each picture what is there (left) beside what was found at score 0.3 and above (right).

    Args:
        records: pictures of the index; one that cannot be read is left out, as the evaluation has said already.
        index: for its classes.
        results: of an evaluation, in the COCO submission format.
        side: longest side of each of the two, in pixels.

    Returns:
        (H, W, 3) uint8 RGB each, of sizes of their own.
    """
    wanted = {record.id for record in records}
    by_picture: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        if result["image_id"] in wanted and result["score"] >= SHOWN:
            by_picture.setdefault(result["image_id"], []).append(result)
    pairs = []
    for record in records:
        try:
            picture = read_picture(record.path)
        except SaisError:
            continue
        found = detections_of(by_picture.get(record.id, []), record.size, index)
        pairs.append(side_by_side(picture, objects_of(record, index), found, side))
    return pairs


def objects_of(record: ImageRecord, index: Index) -> Detections:
    """What is there, as if it had been found with certainty; crowds left out. A box-only object has an empty mask."""
    objects = trainable(record)
    patches = []
    for one in objects:
        mask = object_mask(one, record.size)
        x1, y1 = (int(v) for v in np.floor(one.box[:2]))
        x2, y2 = (int(v) for v in np.ceil(one.box[2:]))
        bits = np.zeros((0, 0), bool) if mask is None else inside(mask, (x1, y1, x2, y2))
        patches.append(Patch(x1, y1, bits))
    boxes = np.array([one.box for one in objects], np.float32).reshape(-1, 4)
    labels = np.array([one.label for one in objects], np.int64)
    return Detections(record.size, boxes, np.ones(len(objects)), labels, index.class_names, patches)


def detections_of(results: Sequence[dict[str, Any]], size: tuple[int, int], index: Index) -> Detections:
    """The results of one picture, in the COCO submission format, as detections: best score first."""
    label = {category: place for place, category in enumerate(index.category_ids)}
    ordered = sorted(results, key=lambda result: -result["score"])
    corners = [(x, y, x + w, y + h) for x, y, w, h in (result["bbox"] for result in ordered)]
    patches = []
    for result in ordered:
        if "segmentation" in result:
            bits, x, y = decode_patch(result["segmentation"])
            patches.append(Patch(x, y, bits))
    return Detections(
        size,
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([result["score"] for result in ordered]),
        np.array([label[result["category_id"]] for result in ordered], np.int64),
        index.class_names,
        patches,
    )


def side_by_side(
    picture: np.ndarray,
    there: Detections,
    found: Detections,
    side: int = SIDE,
    colours: Sequence[int] | None = None,
) -> np.ndarray:
    """What is there (left) and what was found (right), drawn on the picture.

    Args:
        picture: (H, W, 3) uint8 RGB, of the detections' size or another one than its annotations state.
        there: in the colours 0, 1, 2 ..
        found: drawn whatever their score.
        side: longest side of each of the two, in pixels.
        colours: of each of `found`, such as that of the object it is; by default as for `there`.
    """
    if picture.shape[:2] != there.size:  # `sais check` tells; here it is stretched
        picture = np.asarray(Image.fromarray(picture).resize((there.size[1], there.size[0])))
    left = draw_objects(picture, there.boxes, there.labels, there.class_names, there.patches)
    right = draw(picture, found, 0.0, colours=colours)
    share = min(1.0, side / max(picture.shape[:2]))
    size = max(1, round(picture.shape[1] * share)), max(1, round(picture.shape[0] * share))
    small = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.LANCZOS)) for one in (left, right)]
    return np.concatenate([small[0], np.full((size[1], GAP, 3), 255, np.uint8), small[1]], axis=1)
