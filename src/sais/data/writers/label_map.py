"""Objects painted into one map: a pixel has one object, so that objects hide each other.

H, W is the size of the image.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sais.ops.outlines import crop_shape
from sais.results import not_written as kinds
from sais.results.labeled_object import LabeledObject


def paint_objects(
    objects: Sequence[LabeledObject], size: tuple[int, int], notes: Counter[str]
) -> tuple[np.ndarray, list[LabeledObject]]:
    """Return a map of the objects of an image.

    Small objects hide large ones, and all hide crowds. Objects without a mask are left out.

    Args:
        objects: The objects of the image.
        size: (H, W).
        notes: Counter of what the map cannot hold.

    Returns:
        (H, W) int32 with 0 for background and n for the n-th of the objects returned; the objects that have a pixel, in
        the order given.
    """
    crops = [(i, item, *crop_shape(item.shape, size)) for i, item in enumerate(objects) if item.shape is not None]
    areas = {i: int(bits.sum()) for i, _, bits, _, _ in crops}
    owners = np.zeros(size, np.int32)
    for i, _, bits, x, y in sorted(crops, key=lambda crop: (not crop[1].crowd, -areas[crop[0]])):
        owners[y : y + bits.shape[0], x : x + bits.shape[1]][bits] = i + 1
    visible = np.bincount(owners.reshape(-1), minlength=len(objects) + 1)[1:]
    for i, area in areas.items():
        if not area:
            notes[kinds.NO_PIXEL] += 1
        else:
            notes[kinds.ALL_HIDDEN] += int(visible[i] == 0)
            # Parts of crowds below objects are expected.
            notes[kinds.HIDDEN] += int(0 < visible[i] < area and not objects[i].crowd)
    present = np.flatnonzero(visible)
    numbers = np.zeros(len(objects) + 1, np.int32)
    numbers[present + 1] = np.arange(1, len(present) + 1)
    return numbers[owners], [objects[i] for i in present.tolist()]


def number_objects(objects: Sequence[LabeledObject], limit: int, notes: Counter[str]) -> list[int]:
    """Return a number for each object: 1, 2, ... among those of its class, and 0 for all crowds of the class.

    Args:
        objects: N objects.
        limit: Maximum number; objects beyond it get -1 and are counted.
        notes: Counter of what is left out.
    """
    counts: Counter[int] = Counter()
    crowds: set[int] = set()
    numbers = []
    for item in objects:
        if item.crowd:
            notes[kinds.CROWDS_JOINED] += item.label in crowds
            crowds.add(item.label)
        counts[item.label] += not item.crowd
        number = 0 if item.crowd else counts[item.label]
        notes[kinds.TOO_MANY] += number > limit
        numbers.append(number if number <= limit else -1)
    return numbers


def encode_png(ids: np.ndarray, bits: int, palette: Sequence[int] = ()) -> bytes:
    """Return a map as a PNG file.

    Args:
        ids: (H, W) whole numbers of 0 or more.
        bits: 8 or 16 for gray values; 24 for color, R + 256 G + 65536 B.
        palette: Red, green and blue of each value for 8 bits; empty for gray values.
    """
    if bits == 24:
        channels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1)
        image = Image.fromarray(channels.astype(np.uint8))
    else:
        image = Image.fromarray(ids.astype(np.uint8 if bits == 8 else np.uint16))
    if palette:
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette(list(palette))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def voc_palette() -> list[int]:
    """Return the 256 colors of Pascal VOC as red, green, blue: bit 3 k + c of a value is bit 7 - k of channel c."""
    return [
        sum(((value >> (3 * k + channel)) & 1) << (7 - k) for k in range(8))
        for value in range(256)
        for channel in range(3)
    ]
