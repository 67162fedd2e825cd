"""Samples of an index by number: read from their files, fitted, in training augmented. No torch.

A sample is asked for by (epoch, position, batch), so that whoever reads has no state: workers may live through epochs,
and a resumed run draws the very samples the uninterrupted one would have drawn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sais.config import AugmentConfig, InputConfig
from sais.data.annotations import DatasetSplit, ImageRecord, object_mask, trainable
from sais.data.packed_records import PackedRecords
from sais.data.transforms.augment import augment, resolve_augmentation
from sais.data.transforms.geometric import resize_sample
from sais.data.transforms.multi_scale import batch_input_size
from sais.errors import SaisError
from sais.io.images import read_image
from sais.structures import Sample

PARTNERS_TRIED = 10
"""Broken images that are passed over in search of one to put beside another; then that one stays alone."""


class SampleKey(NamedTuple):
    """Which sample is meant."""

    epoch: int
    position: int
    """Of the image in the index."""
    batch: int = 0
    """Number of its batch in the epoch: images of one batch have one input size."""


class AugmentedSamples:
    """Augmented samples of an index.

    Args:
        index: the data set.
        settings: how images are fitted.
        options: how they are augmented.
        seed: of the run.
    """

    def __init__(self, index: DatasetSplit, settings: InputConfig, options: AugmentConfig, seed: int) -> None:
        self.records = PackedRecords(index.images)
        self.settings = settings
        self.options = options
        self.seed = seed
        for name in options.extra:
            resolve_augmentation(name)  # an unknown name is an error at the start of training
        everywhere = np.arange(len(index.images))
        full = [any(not a.crowd and a.segmentation is not None for a in r.annotations) for r in index.images]
        self._partners = {False: everywhere, True: everywhere[np.array(full, bool)]}
        """Whether it has to have objects -> positions of images to compose with."""

    def read(self, key: SampleKey) -> tuple[Sample, list[str]]:
        """The sample of a key on its canvas, and a line for each image that could not be read to go with it.

        Raises:
            SaisError: the image itself cannot be read.
        """
        sample = read_sample(self.records[key.position])
        random = np.random.default_rng([self.seed, key.epoch, key.position])
        size = batch_input_size(self.settings, self.options, self.seed, key.epoch, key.batch)
        options = self.options
        if options.mosaic_copy_paste_epochs is not None and key.epoch >= options.mosaic_copy_paste_epochs:
            options = replace(options, mosaic=0.0, copy_paste=0.0)
        broken: list[str] = []

        def another(random: np.random.Generator, with_objects: bool) -> Sample | None:
            positions = self._partners[with_objects]
            for _ in range(PARTNERS_TRIED if len(positions) else 0):
                try:
                    return read_sample(self.records[int(positions[random.integers(len(positions))])])
                except SaisError as error:
                    broken.append(str(error))
            return None

        return augment(sample, replace(self.settings, size=size), options, random, another), broken


def read_resized_sample(record: ImageRecord, settings: InputConfig) -> Sample:
    """The image of a record on its canvas, without its objects.

    Raises:
        SaisError: as `read_sample`.
    """
    return resize_sample(read_sample(record, with_objects=False), settings)


def read_sample(record: ImageRecord, with_objects: bool = True, max_pixels: int | None = None) -> Sample:
    """The image of a record and its objects, crowds left out.

    Raises:
        SaisError: the image or a mask cannot be read, or the size is not the one the annotations were made for.
    """
    image = read_image(record.path, max_pixels)
    if image.shape[:2] != tuple(record.size):
        raise SaisError(
            f"{record.path}: the image is {image.shape[1]} x {image.shape[0]} pixels, its annotations say "
            f"{record.size[1]} x {record.size[0]}; mend the annotation file"
        )
    annotations = trainable(record) if with_objects else ()
    try:
        masks = [object_mask(a, record.size) for a in annotations]
    except SaisError as error:
        raise SaisError(f"{record.path}: {error}") from error
    return Sample(
        image_id=record.id,
        image=image,
        boxes=np.array([a.box for a in annotations], np.float32).reshape(-1, 4),
        labels=np.array([a.label for a in annotations], np.int64),
        masks=masks,
    )
