"""Contact sheets of augmented samples with boxes and masks, as training reads them (`sais draw-augmented`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sais.data.dataset import AugmentedSamples, SampleKey
from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.ops.rasterize import inside
from sais.results.cropped_mask import CroppedMask
from sais.results.draw import ColorBy, contact_sheet, draw_objects
from sais.structures import Sample


def draw_samples(
    samples: AugmentedSamples, keys: Sequence[SampleKey], class_names: Sequence[str], columns: int = 4
) -> tuple[np.ndarray, list[str]]:
    """Draw samples as training reads them, each canvas at its own size.

    Args:
        samples: Samples of a split.
        keys: Keys of the samples drawn.
        class_names: C names, label 0 first.
        columns: Number of samples in a row.

    Returns:
        (H, W, 3) uint8 RGB, and one line for each unreadable image.

    Raises:
        InputError: No sample can be read.
    """
    images, captions, unreadable = [], [], []
    for key in keys:
        try:
            sample, errors = samples.read(key)
        except OutOfMemoryError:
            raise
        except SaisError as error:
            unreadable.append(str(error))
            continue
        unreadable += errors
        height, width = sample.image.shape[:2]
        images.append(draw_sample(sample, class_names))
        captions.append(f"{samples.records[key.position].name}: {len(sample.boxes)} objects, {width} x {height}")
    if not images:
        raise InputError(f"draw: no image can be read ({unreadable[0]}). Check the data set.")
    tile = max(image.shape[0] for image in images), max(image.shape[1] for image in images)
    return contact_sheet(images, columns, tile, captions), list(dict.fromkeys(unreadable))


def draw_sample(sample: Sample, class_names: Sequence[str], color_by: ColorBy = "class") -> np.ndarray:
    """Draw a sample's image with boxes, class names and masks: (H, W, 3) uint8 RGB."""
    height, width = sample.image.shape[:2]
    masks = []
    for box, mask in zip(sample.boxes.astype(np.float64), sample.masks, strict=True):
        low = np.floor(box[:2]).astype(int).clip(0, [width - 1, height - 1])
        high = np.ceil(box[2:]).astype(int).clip(low + 1, [width, height])
        bits = np.zeros((high - low)[::-1], bool) if mask is None else inside(mask, (*low, *high))
        masks.append(CroppedMask(int(low[0]), int(low[1]), bits))
    return draw_objects(sample.image, sample.boxes, sample.labels, class_names, masks, color_by=color_by)
