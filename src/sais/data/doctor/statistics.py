"""Statistics of a split: sizes, positions and numbers of its objects, in the image and in the network's input.

Legend: N objects without crowd regions, I images, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.data.packed_annotations import image_sizes, object_columns

SMALL, LARGE = 32.0, 96.0
"""Sides in pixels at which COCO's medium and large objects begin."""
SIZE_CLASSES = (
    ("small, below 8 px", 0.0, 8.0),
    ("small, 8 to 16 px", 8.0, 16.0),
    ("small, 16 to 32 px", 16.0, SMALL),
    ("medium, 32 to 96 px", SMALL, LARGE),
    ("large, 96 px and above", LARGE, np.inf),
)
"""Name, minimum and maximum of the sides of COCO's small, medium and large objects; the maximum is not included."""


@dataclass(frozen=True, eq=False)
class SplitStatistics:
    """Statistics of a split. The side of an object is the root of its area."""

    class_counts: np.ndarray
    """(C,) int64, number of objects of each class."""
    labels: np.ndarray
    """(N,) int64, 0 to C - 1."""
    sides: np.ndarray
    """(N,) float64, root of the area that the data set states, in image pixels."""
    input_sides: np.ndarray
    """(N,) float64, the same in pixels of the network's input."""
    centers: np.ndarray
    """(N, 2) float64, x y of the center of the box as fractions of the image."""
    aspect_ratios: np.ndarray
    """(N,) float64, width / height of the box."""
    objects_per_image: np.ndarray
    """(I,) int64."""
    image_sizes: np.ndarray
    """(I, 2) int64, height and width."""


def measure_split(split: DatasetSplit, input_size: tuple[int, int]) -> SplitStatistics:
    """Compute the statistics of a split from its annotations.

    Args:
        split: The split.
        input_size: (H, W) of the network's input, to which images are resized without keeping the aspect ratio.
    """
    images, objects = image_sizes(split.images), object_columns(split.images)
    counted = ~objects.crowds
    counts = np.bincount(objects.images[counted], minlength=len(images))
    boxes = objects.boxes[counted].astype(np.float64)
    areas, labels = objects.areas[counted], objects.labels[counted]
    sizes = np.maximum(np.repeat(images, counts, axis=0), 1).astype(np.float64)
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    sides = np.sqrt(np.maximum(areas, 0))
    scale = np.sqrt(input_size[0] * input_size[1] / (sizes[:, 0] * sizes[:, 1]))
    return SplitStatistics(
        class_counts=np.bincount(labels, minlength=len(split.class_names)),
        labels=labels,
        sides=sides,
        input_sides=sides * scale,
        centers=(boxes[:, :2] + boxes[:, 2:]) / 2 / sizes[:, ::-1],
        aspect_ratios=width / np.maximum(height, 1e-6),
        objects_per_image=counts,
        image_sizes=images,
    )


def size_shares(sides: np.ndarray) -> list[tuple[str, int, float]]:
    """Return the name, the number and the fraction of the objects in each of `SIZE_CLASSES`.

    Args:
        sides: (N,) sides of the objects in pixels.
    """
    rows = []
    for name, low, high in SIZE_CLASSES:
        count = int(((sides >= low) & (sides < high)).sum())
        rows.append((name, count, count / max(1, len(sides))))
    return rows
