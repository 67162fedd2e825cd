"""One object of an image as all writers of labels take it: from a detection, or from an annotation of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sais.ops.rasterize import Bitmap, Polygons

if TYPE_CHECKING:
    from sais.results.detections import Detections


@dataclass(frozen=True, eq=False)
class LabeledObject:
    """One object of one image."""

    class_name: str
    """Name of the class."""
    label: int
    """0 to C - 1, index of the class."""
    box: np.ndarray
    """(4,) float32 x1 y1 x2 y2, image pixels."""
    shape: Polygons | Bitmap | None = None
    """The mask in image pixels; None if the object has only a box."""
    crowd: bool = False
    """Whether this is a region of many objects."""
    score: float | None = None
    """Score of a detection, 0 to 1; None for ground truth."""
    area: float | None = None
    """Area in pixels as a data set states it; None for that of the mask or box."""


def objects_of(detections: Detections) -> list[LabeledObject]:
    """Return the D detections as objects, with empty masks left out as masks."""
    objects = []
    for i, label in enumerate(detections.labels.tolist()):
        shape = None
        if detections.cropped_masks:
            mask = detections.cropped_masks[i]
            (height, width), bits = mask.shape, mask.bits
            if bits.any():
                shape = Bitmap(bits, (float(mask.x), float(mask.y), float(mask.x + width), float(mask.y + height)))
        name, score = detections.class_names[label], float(detections.scores[i])
        objects.append(LabeledObject(name, label, detections.boxes[i], shape, score=score))
    return objects
