"""A sheet of augmented samples with their boxes and masks: what the network will see (`sais draw-augmented`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sais.data.dataset import AugmentedSamples, SampleKey
from sais.errors import SaisError
from sais.ops.rasterize import inside
from sais.results.cropped_mask import CroppedMask
from sais.results.draw import contact_sheet, draw_objects
from sais.structures import Sample


def draw_samples(
    samples: AugmentedSamples, keys: Sequence[SampleKey], class_names: Sequence[str], columns: int = 4
) -> tuple[np.ndarray, list[str]]:
    """Samples as training reads them, each canvas drawn at its own size.

    Args:
        samples: of a data set.
        keys: which of them.
        class_names: of the data set.
        columns: images in a row.

    Returns:
        (H, W, 3) uint8 RGB, and a line for each image that could not be read.

    Raises:
        SaisError: not one of them can be read.
    """
    images, captions, broken = [], [], []
    for key in keys:
        try:
            sample, unreadable = samples.read(key)
        except SaisError as error:
            broken.append(str(error))
            continue
        broken += unreadable
        height, width = sample.image.shape[:2]
        images.append(draw_sample(sample, class_names))
        name = samples.records[key.position].path.name
        captions.append(f"{name}: {len(sample.boxes)} objects, {width} x {height}")
    if not images:
        raise SaisError(f"none of the images can be read: {broken[0]}")
    tile = max(p.shape[0] for p in images), max(p.shape[1] for p in images)
    return contact_sheet(images, columns, tile, captions), list(dict.fromkeys(broken))


def draw_sample(sample: Sample, class_names: Sequence[str]) -> np.ndarray:
    """A sample's image with its boxes, classes and masks: (H, W, 3) uint8 RGB."""
    height, width = sample.image.shape[:2]
    patches = []
    for box, mask in zip(sample.boxes.astype(np.float64), sample.masks, strict=True):
        low = np.floor(box[:2]).astype(int).clip(0, [width - 1, height - 1])
        high = np.ceil(box[2:]).astype(int).clip(low + 1, [width, height])
        shown = np.zeros((high - low)[::-1], bool) if mask is None else inside(mask, (*low, *high))
        patches.append(CroppedMask(int(low[0]), int(low[1]), shown))
    return draw_objects(sample.image, sample.boxes, sample.labels, class_names, patches)
