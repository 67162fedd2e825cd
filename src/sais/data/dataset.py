"""Samples of a split by key: read, and in training augmented. No torch.

A sample is a function of (seed, epoch, position, batch) and readers have no state: workers may live through several
epochs, and a resumed run draws the same samples as an uninterrupted run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sais.config import AugmentConfig, InputConfig
from sais.data.annotations import DatasetSplit, ImageRecord, object_masks, trainable
from sais.data.packed_records import pack_records
from sais.data.transforms.augment import augment, resolve_augmentation
from sais.data.transforms.geometric import resize_sample
from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.ops.letterbox import letterbox
from sais.structures import Sample

PARTNER_TRIES = 10
"""Number of unreadable images skipped in search of a partner for mosaic or copy-paste."""


class SampleKey(NamedTuple):
    """The key of a sample."""

    epoch: int
    """Epoch number."""
    position: int
    """Position of the image in the split."""
    batch: int = 0
    """Batch number in the epoch; the images of a batch have one input size."""


class AugmentedSamples:
    """Augmented samples of a split.

    Args:
        split: The split.
        settings: Mode and size of the canvas.
        options: Augmentation options.
        seed: Seed of the run.

    Raises:
        ConfigError: An augmentation of `options.extra` or a class of `options.flip_pairs` does not exist.
    """

    def __init__(self, split: DatasetSplit, settings: InputConfig, options: AugmentConfig, seed: int) -> None:
        from sais.data.flip_pairs import flip_labels
        from sais.data.packed_annotations import object_columns

        self.records = pack_records(split.images)
        self.settings = settings
        self.options = options
        self.seed = seed
        for name in options.extra:
            resolve_augmentation(name)
        self._flip_labels = flip_labels(options.flip_pairs, split.class_names)
        positions = np.arange(len(split.images))
        objects = object_columns(split.images)
        with_masks = np.unique(objects.images[objects.outlined & ~objects.crowds])
        self._partners = {False: positions, True: with_masks}
        """Whether a partner needs objects -> positions of possible partners."""

    def read(self, key: SampleKey) -> tuple[Sample, list[str]]:
        """Read the sample of a key on its canvas.

        Returns:
            The sample, and an error message for each partner image that could not be read.

        Raises:
            SaisError: The image itself cannot be read.
        """
        from sais.data.transforms.multi_scale import batch_input_size

        white_level = self.settings.white_level
        sample = read_sample(self.records[key.position], white_level=white_level)
        random = np.random.default_rng([self.seed, key.epoch, key.position])
        size = batch_input_size(self.settings, self.options, self.seed, key.epoch, key.batch)
        options = self.options
        if options.mosaic_copy_paste_epochs is not None and key.epoch >= options.mosaic_copy_paste_epochs:
            options = replace(options, mosaic=0.0, copy_paste=0.0)
        errors: list[str] = []

        def draw_sample(random: np.random.Generator, with_objects: bool) -> Sample | None:
            positions = self._partners[with_objects]
            for _ in range(PARTNER_TRIES if len(positions) else 0):
                try:
                    record = self.records[int(positions[random.integers(len(positions))])]
                    return read_sample(record, white_level=white_level)
                except OutOfMemoryError:
                    raise
                except SaisError as error:
                    errors.append(str(error))
            return None

        settings = replace(self.settings, size=size)
        return augment(sample, settings, options, random, draw_sample, self._flip_labels), errors


def canvas_batches(split: DatasetSplit, settings: InputConfig, batch_size: int) -> list[list[int]]:
    """Return the positions of the images of each batch; all canvases of a batch have one size.

    Args:
        split: Dataset split.
        settings: Mode and size of the canvas.
        batch_size: Maximum number of images in a batch.
    """
    from sais.data.packed_annotations import image_sizes

    groups: dict[tuple[int, int], list[int]] = {}
    for position, (height, width) in enumerate(image_sizes(split.images).tolist()):
        canvas = letterbox((height, width), settings.mode, settings.size).canvas_size
        groups.setdefault(canvas, []).append(position)
    return [g[i : i + batch_size] for g in groups.values() for i in range(0, len(g), batch_size)]


def read_resized_sample(record: ImageRecord, settings: InputConfig) -> Sample:
    """Read an image on its canvas, without its objects.

    Raises:
        SaisError: As for `read_sample`.
    """
    return resize_sample(read_sample(record, with_objects=False, white_level=settings.white_level), settings)


def read_sample(
    record: ImageRecord, with_objects: bool = True, max_pixels: int | None = None, white_level: int | None = None
) -> Sample:
    """Read an image and its objects without crowd regions.

    Args:
        record: The image.
        with_objects: Whether boxes, labels and masks are included.
        max_pixels: As for `sais.io.images.read_image`.
        white_level: As for `sais.io.images.read_image`.

    Raises:
        InputError: The image or a mask cannot be read, or the image has another size than the annotations state.
        ResourceError: The image has too many pixels.
        OutOfMemoryError: Memory does not suffice.
    """
    image = record.read(max_pixels, white_level)
    if image.shape[:2] != tuple(record.size):
        raise InputError(
            f"{record.location}: {image.shape[1]} x {image.shape[0]} pixels, but {record.size[1]} x {record.size[0]} "
            "in the annotations. Fix the annotation file."
        )
    annotations = trainable(record) if with_objects else ()
    try:
        masks = object_masks(record, annotations)
    except InputError as error:
        raise InputError(f"{record.location}: {error}") from error
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{record.location}: not enough memory for its masks. Free memory, or read images in fewer processes."
        ) from error
    return Sample(
        image_id=record.id,
        image=image,
        boxes=np.array([a.box for a in annotations], np.float32).reshape(-1, 4),
        labels=np.array([a.label for a in annotations], np.int64),
        masks=masks,
    )
