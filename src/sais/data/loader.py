"""Data loading: worker processes read, transform and rasterize samples; batches depend on (seed, epoch) only.

Legend: B images, N objects of one image, H W a canvas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sais.config import AugmentConfig, InputConfig
from sais.data.annotations import DatasetSplit
from sais.data.dataset import AugmentedSamples, SampleKey, canvas_batches, read_resized_sample, read_sample
from sais.data.packed_records import pack_records
from sais.errors import ConfigError, InputError, OutOfMemoryError, SaisError
from sais.io.images import LARGE_IMAGE_PIXELS
from sais.ops.letterbox import PADDING, CanvasMap
from sais.ops.rasterize import coverages
from sais.structures import MASK_STRIDE, Batch, GroundTruth, Sample

PREFETCHED_BATCHES = 2
"""Number of batches that each worker holds ready in shared memory, of which a container may have as little as 64 MB: a
batch of 16 at 768 x 768 takes 28 MB."""

FullImage = Sample | str | OutOfMemoryError
"""An image, or the message about an unreadable image, or the error to raise where memory ran out in a worker."""


@dataclass
class LoadedBatch:
    """A batch and its unreadable images."""

    batch: Batch | None
    """None if no image of the batch could be read."""
    unreadable_images: list[str] = field(default_factory=list)
    """One line for each unreadable image."""
    out_of_memory: str = ""
    """Error message if memory ran out while an image was read."""

    def pin_memory(self) -> LoadedBatch:
        """Return the same batch in page-locked memory; called by a `DataLoader` that pins memory."""
        return LoadedBatch(self.batch and self.batch.pin_memory(), self.unreadable_images, self.out_of_memory)

    def check_memory(self) -> None:
        """Raise OutOfMemoryError if memory ran out: the image may be sound and must not be skipped."""
        if self.out_of_memory:
            raise OutOfMemoryError(self.out_of_memory)


@dataclass
class LoadedSample:
    """A sample with its ground truth on the prototype grid, and the images that could not be read for it."""

    sample: Sample | None
    """None if the image could not be read."""
    ground_truth: GroundTruth | None
    """None if the image could not be read."""
    unreadable_images: list[str] = field(default_factory=list)
    """One line for each unreadable image: this one, or partners for mosaic and copy-paste."""
    out_of_memory: str = ""
    """Error message if memory ran out."""


class TrainingDataset(Dataset[LoadedSample]):
    """Augmented samples with ground truth on the prototype grid; an unreadable image gives its error message.

    Args:
        samples: Source of the samples.
        mask_margin: Margin of the mask targets around the box, as a fraction of the box's sides.
    """

    def __init__(self, samples: AugmentedSamples, mask_margin: float = 0.0) -> None:
        self.samples = samples
        self.mask_margin = mask_margin

    def __len__(self) -> int:
        return len(self.samples.records)

    def __getitem__(self, key: SampleKey) -> LoadedSample:
        try:
            sample, unreadable = self.samples.read(key)
        except ConfigError:  # an augmentation of the user's own, not the image
            raise
        except OutOfMemoryError as error:
            return LoadedSample(None, None, [], str(error))
        except SaisError as error:
            return LoadedSample(None, None, [str(error)])
        return LoadedSample(sample, rasterize_ground_truth(sample, self.mask_margin), unreadable)


class EvaluationDataset(Dataset[LoadedSample]):
    """Images on their canvases, without randomness and objects; an unreadable image gives its error message."""

    def __init__(self, split: DatasetSplit, settings: InputConfig) -> None:
        self.records = pack_records(split.images, with_annotations=False)
        self.settings = settings

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> LoadedSample:
        try:
            sample = read_resized_sample(self.records[position], self.settings)
        except OutOfMemoryError as error:
            return LoadedSample(None, None, [], str(error))
        except SaisError as error:
            return LoadedSample(None, None, [str(error)])
        return LoadedSample(sample, rasterize_ground_truth(sample))


class FullImageDataset(Dataset[FullImage]):
    """Images at their own size, without objects; an unreadable image gives its error message."""

    def __init__(self, split: DatasetSplit, white_level: int | None = None) -> None:
        self.records = pack_records(split.images, with_annotations=False)
        self.white_level = white_level

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> FullImage:
        try:
            record = self.records[position]
            return read_sample(record, False, LARGE_IMAGE_PIXELS, self.white_level)
        except OutOfMemoryError as error:
            return error
        except SaisError as error:
            return str(error)


def rasterize_ground_truth(sample: Sample, margin: float = 0.0) -> GroundTruth:
    """Rasterize the N objects of a sample on the prototype grid, each only inside its box.

    Args:
        sample: The sample on its canvas.
        margin: Margin around the box, as a fraction of the box's sides.
    """
    grid = np.array([sample.image.shape[1] // MASK_STRIDE, sample.image.shape[0] // MASK_STRIDE])
    boxes = sample.boxes.astype(np.float64)
    margins = margin * (boxes[:, 2:] - boxes[:, :2])
    low = np.floor((boxes[:, :2] - margins) / MASK_STRIDE).astype(np.int64).clip(0, grid - 1)
    high = np.ceil((boxes[:, 2:] + margins) / MASK_STRIDE).astype(np.int64).clip(low + 1, grid)
    has_mask = [mask is not None for mask in sample.masks]
    windows = np.concatenate([low, high], 1) * np.array(has_mask, np.int64).reshape(-1, 1)
    masks = [mask for mask in sample.masks if mask is not None]
    values = [window.reshape(-1) for window in coverages(masks, windows[has_mask].tolist(), float(MASK_STRIDE))]
    return GroundTruth(
        boxes=torch.from_numpy(sample.boxes),
        labels=torch.from_numpy(sample.labels),
        mask_windows=torch.from_numpy(windows),
        mask_values=torch.from_numpy(np.concatenate([np.zeros(0, np.uint8), *values])),
    )


def collate(items: list[LoadedSample]) -> LoadedBatch:
    """Collate samples to a batch; canvases are padded right and below to the size of the largest."""
    unreadable = list(dict.fromkeys(line for item in items for line in item.unreadable_images))
    pairs = [(i.sample, i.ground_truth) for i in items if i.sample is not None and i.ground_truth is not None]
    out_of_memory = next((item.out_of_memory for item in items if item.out_of_memory), "")
    if not pairs or out_of_memory:
        return LoadedBatch(None, unreadable, out_of_memory)
    height = max(sample.image.shape[0] for sample, _ in pairs)
    width = max(sample.image.shape[1] for sample, _ in pairs)
    images = torch.stack([pad_image(sample.image, height, width) for sample, _ in pairs])
    canvas_maps = [sample.canvas_map for sample, _ in pairs]
    batch = Batch(
        images=images.permute(0, 3, 1, 2),
        ground_truths=[ground_truth for _, ground_truth in pairs],
        image_ids=[sample.image_id for sample, _ in pairs],
        canvas_maps=[canvas_map for canvas_map in canvas_maps if isinstance(canvas_map, CanvasMap)],
    )
    return LoadedBatch(batch, unreadable)


def pad_image(image: np.ndarray, height: int, width: int) -> Tensor:
    """Pad an image (H, W, 3) uint8 right and below to (height, width, 3)."""
    if image.shape[:2] == (height, width):
        return torch.from_numpy(np.ascontiguousarray(image))
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = PADDING
    canvas[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(canvas)


class EpochBatches:
    """Batches of sample keys, shuffled by (seed, epoch), without the incomplete last batch.

    Each rank receives its share of every batch, so that all ranks together process the batches of a single process.
    `epoch` and `first` (number of batches to skip when an interrupted epoch is resumed) are set before each iteration.

    Args:
        groups: (length,) group of each image. A batch is drawn from one group, except the last batches.
        batch_size: Number of images in a batch over all ranks; a smaller data set is one batch.
        seed: Seed of the run.
        share: (rank, world size).

    Raises:
        ConfigError: The batch size is not a multiple of the world size.
        InputError: There are fewer images than ranks.
    """

    def __init__(self, groups: np.ndarray, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        self.groups = groups
        self.rank, world_size = share
        if batch_size % world_size:
            raise ConfigError(
                f"optim.batch_size {batch_size}: not divisible by {world_size} processes. "
                f"Set a multiple of {world_size}."
            )
        self.batch_size = min(batch_size, len(groups) // world_size * world_size)
        if self.batch_size == 0:
            raise InputError(f"training split: {len(groups)} images for {world_size} processes. Use fewer processes.")
        self.rank_batch_size = self.batch_size // world_size
        self.seed = seed
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return len(self.groups) // self.batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.groups))
        full, remainders = [], []
        for group in np.unique(self.groups):
            members = order[self.groups[order] == group]
            full_length = len(members) // self.batch_size * self.batch_size
            full.append(members[:full_length])
            remainders.append(members[full_length:])
        batches = np.concatenate(full + remainders)[: len(self) * self.batch_size].reshape(-1, self.batch_size)
        if len(full) > 1:
            batches = random.permutation(batches)
        start, end = self.rank * self.rank_batch_size, (self.rank + 1) * self.rank_batch_size
        for number in range(self.first, len(self)):
            yield [SampleKey(self.epoch, int(position), number) for position in batches[number][start:end]]


def training_loader(
    split: DatasetSplit,
    settings: InputConfig,
    options: AugmentConfig,
    batch_size: int,
    seed: int,
    workers: int,
    mask_margin: float = 0.0,
    share: tuple[int, int] = (0, 1),
    pin_memory: bool = False,
) -> tuple[DataLoader[LoadedBatch], EpochBatches]:
    """Return a loader of shuffled, augmented batches, and its sampler, whose `epoch` is set before each pass.

    With "keep_ratio", portrait and landscape images are batched separately, to reduce padding.

    Args:
        split: Training split.
        settings: Mode and size of the canvas.
        options: Augmentation options.
        batch_size: Number of images in a batch over all ranks.
        seed: Seed of the run.
        workers: Number of worker processes; 0 reads in the main process.
        mask_margin: Margin of the mask targets around the box, as a fraction of the box's sides.
        share: (rank, world size).
        pin_memory: Whether batches are copied to page-locked memory, which makes sense for CUDA only.
    """
    from sais.data.packed_annotations import image_sizes

    height, width = image_sizes(split.images).T
    portrait = (height > width) & (settings.mode == "keep_ratio")
    batches = EpochBatches(portrait, batch_size, seed, share)
    samples = AugmentedSamples(split, settings, options, seed)
    return _batch_loader(TrainingDataset(samples, mask_margin), batches, workers, pin_memory), batches


def evaluation_loader(
    split: DatasetSplit,
    settings: InputConfig,
    batch_size: int,
    workers: int,
    share: tuple[int, int] = (0, 1),
    pin_memory: bool = False,
) -> DataLoader[LoadedBatch]:
    """Return a loader of all images on their canvases, without objects.

    All canvases of a batch have one size, because padding to the largest would change the predictions of the others.

    Args:
        split: Split to evaluate on.
        settings: Mode and size of the canvas.
        batch_size: Maximum number of images in a batch.
        workers: Number of worker processes; 0 reads in the main process.
        share: (rank, world size); each rank receives a part of the batches.
        pin_memory: Whether batches are copied to page-locked memory, which makes sense for CUDA only.
    """
    batches = canvas_batches(split, settings, batch_size)
    return _batch_loader(EvaluationDataset(split, settings), batches[share[0] :: share[1]], workers, pin_memory)


def full_image_loader(
    split: DatasetSplit, batch_size: int, workers: int, white_level: int | None = None
) -> DataLoader[list[FullImage]]:
    """Return a loader of all images at their own size, for sliced inference and test-time augmentation."""
    from sais.data.workers import init_worker, worker_context

    dataset = FullImageDataset(split, white_level)
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_size,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=init_worker,
        multiprocessing_context=worker_context(dataset, workers),
    )


def _batch_loader(
    dataset: TrainingDataset | EvaluationDataset,
    batches: EpochBatches | list[list[int]],
    workers: int,
    pin_memory: bool,
) -> DataLoader[LoadedBatch]:
    from sais.data.workers import init_worker, worker_context

    return DataLoader(
        dataset,  # type: ignore[arg-type]  # collate converts LoadedSample to LoadedBatch
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=init_worker,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCHED_BATCHES if workers else None,
        pin_memory=pin_memory,
        multiprocessing_context=worker_context(dataset, workers),
    )
