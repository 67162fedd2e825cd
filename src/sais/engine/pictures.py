"""Pictures for a person to judge by: what is there beside what was found, drawn from the results of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from sais.data.index import ImageRecord, Index, object_mask, trainable
from sais.detections import Detections, Patch
from sais.draw import paint
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
GAP = 6
"""Pixels between the two, in a grey that is quiet on white and on black."""
GREY = 136
ENLARGED = 2.0
"""At most: names on a small picture would hide it."""
NAMED = 8
"""Objects in a picture above which their names would hide them, and are left out."""
LETTERS = 1.5
"""How much larger than usual the names are written: these pictures are shown small."""


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
        picture: (H, W, 3) uint8 RGB, of the detections' size; of another it is stretched (`sais check` tells).
        there: in the colours 0, 1, 2 ..
        found: drawn whatever their score.
        side: longest side of each of the two, in pixels.
        colours: of each of `found`, such as that of the object it is; by default as for `there`.
    """
    share = min(ENLARGED, side / max(there.size))
    height, width = (max(1, round(edge * share)) for edge in there.size)
    small = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    there, found = resized(there, (height, width)), resized(found, (height, width))
    named = max(len(there), len(found)) <= NAMED
    texts = [there.class_names[label] for label in there.labels] if named else []
    left = paint(small, there.boxes, texts, there.patches, letters=LETTERS)
    texts = [f"{found.class_names[label]} {score:.2f}" for label, score in zip(found.labels, found.scores, strict=True)]
    right = paint(small, found.boxes, texts if named else [], found.patches, colours, LETTERS)
    return np.concatenate([left, np.full((height, GAP, 3), GREY, np.uint8), right], axis=1)


def resized(found: Detections, size: tuple[int, int]) -> Detections:
    """The detections on the picture at another size, (H, W); good enough to look at."""
    if size == found.size:
        return found
    down, across = size[0] / found.size[0], size[1] / found.size[1]
    patches = []
    for patch in found.patches:
        x1, y1 = min(int(patch.x * across), size[1] - 1), min(int(patch.y * down), size[0] - 1)
        w, h = (max(1, round(n * share)) for n, share in ((patch.shape[1], across), (patch.shape[0], down)))
        w, h = min(w, size[1] - x1), min(h, size[0] - y1)
        bits = np.zeros((0, 0), bool)
        if patch.area:
            whole = Image.fromarray(patch.bits.astype(np.uint8) * 255)
            bits = np.asarray(whole.resize((w, h), Image.Resampling.BOX)) > 127
        patches.append(Patch(x1, y1, bits))
    boxes = found.boxes * np.array([across, down, across, down], np.float32)
    return Detections(size, boxes, found.scores, found.labels, found.class_names, patches)
