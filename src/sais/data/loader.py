"""From an index to batches: worker processes read, transform and rasterize; order and chance hang on numbers only."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sais.config import AugmentConfig, InputConfig
from sais.data.annotations import DatasetSplit
from sais.data.dataset import AugmentedSamples, SampleKey, read_resized_sample, read_sample
from sais.data.packed_records import PackedRecords
from sais.errors import SaisError
from sais.io.images import LARGE_IMAGE_PIXELS
from sais.ops.letterbox import PADDING, CanvasMap, letterbox
from sais.ops.rasterize import coverages
from sais.structures import MASK_STRIDE, Batch, GroundTruth, Sample

PREFETCH = 2
"""Batches that each worker has ready. They lie in shared memory, of which a container may have as little as 64 MB: a
batch of 16 at 768 x 768 is 28 MB."""


@dataclass
class LoadedBatch:
    """A batch, and the images of it that could not be read."""

    batch: Batch | None
    """None where no image of the batch could be read."""
    unreadable_images: list[str] = field(default_factory=list)
    """One line for each unreadable image."""

    def pin_memory(self) -> LoadedBatch:
        """The same in memory that a GPU reads by itself; a `DataLoader` that pins asks for it."""
        return LoadedBatch(self.batch and self.batch.pin_memory(), self.unreadable_images)


@dataclass
class LoadedSample:
    """An image with its objects, and the images that could not be read for it."""

    sample: Sample | None
    """None where the image itself could not be read."""
    objects: GroundTruth | None
    broken: list[str] = field(default_factory=list)
    """One line for each unreadable image: this one, or one that was to be put beside it."""


class TrainingDataset(Dataset[LoadedSample]):
    """Augmented samples with their masks on the prototype grid; an unreadable image comes as its error message.

    Args:
        samples: what is read.
        mask_margin: how far beyond the box the mask targets reach, as a share of its sides.
    """

    def __init__(self, samples: AugmentedSamples, mask_margin: float = 0.0) -> None:
        self.samples = samples
        self.mask_margin = mask_margin

    def __len__(self) -> int:
        return len(self.samples.records)

    def __getitem__(self, key: SampleKey) -> LoadedSample:
        try:
            sample, broken = self.samples.read(key)
        except SaisError as error:
            return LoadedSample(None, None, [str(error)])
        return LoadedSample(sample, rasterize_ground_truth(sample, self.mask_margin), broken)


class EvaluationDataset(Dataset[LoadedSample]):
    """Images on their canvases without any randomness and without objects; an unreadable one comes as its message."""

    def __init__(self, index: DatasetSplit, settings: InputConfig) -> None:
        self.records = PackedRecords(index.images, with_annotations=False)
        self.settings = settings

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> LoadedSample:
        try:
            sample = read_resized_sample(self.records[position], self.settings)
        except SaisError as error:
            return LoadedSample(None, None, [str(error)])
        return LoadedSample(sample, rasterize_ground_truth(sample))


def rasterize_ground_truth(sample: Sample, margin: float = 0.0) -> GroundTruth:
    """The objects of a fitted sample with mask patches on the prototype grid, only where their boxes are."""
    grid = np.array([sample.image.shape[1] // MASK_STRIDE, sample.image.shape[0] // MASK_STRIDE])
    boxes = sample.boxes.astype(np.float64)
    grow = margin * (boxes[:, 2:] - boxes[:, :2])
    low = np.floor((boxes[:, :2] - grow) / MASK_STRIDE).astype(np.int64).clip(0, grid - 1)
    high = np.ceil((boxes[:, 2:] + grow) / MASK_STRIDE).astype(np.int64).clip(low + 1, grid)
    shaped = [mask is not None for mask in sample.masks]
    windows = np.concatenate([low, high], 1) * np.array(shaped, np.int64).reshape(-1, 1)
    masks = [mask for mask in sample.masks if mask is not None]
    patches = coverages(masks, windows[shaped].tolist(), float(MASK_STRIDE))
    return GroundTruth(
        boxes=torch.from_numpy(sample.boxes),
        labels=torch.from_numpy(sample.labels),
        mask_windows=torch.from_numpy(windows),
        mask_values=torch.from_numpy(
            np.concatenate([np.zeros(0, np.uint8), *(patch.reshape(-1) for patch in patches)])
        ),
    )


def collate(items: list[LoadedSample]) -> LoadedBatch:
    """Canvases of one batch, padded right and below to the largest of them."""
    broken = list(dict.fromkeys(line for item in items for line in item.broken))
    good = [(item.sample, item.objects) for item in items if item.sample is not None and item.objects is not None]
    if not good:
        return LoadedBatch(None, broken)
    height = max(sample.image.shape[0] for sample, _ in good)
    width = max(sample.image.shape[1] for sample, _ in good)
    images = torch.stack([pad_image(sample.image, height, width) for sample, _ in good])
    canvas_maps = [sample.canvas_map for sample, _ in good]
    batch = Batch(
        images=images.permute(0, 3, 1, 2),
        ground_truths=[objects for _, objects in good],
        image_ids=[sample.image_id for sample, _ in good],
        canvas_maps=[p for p in canvas_maps if isinstance(p, CanvasMap)],
    )
    return LoadedBatch(batch, broken)


def pad_image(image: np.ndarray, height: int, width: int) -> Tensor:
    """(H, W, 3) uint8 -> (height, width, 3), PADDING right and below."""
    if image.shape[:2] == (height, width):
        return torch.from_numpy(np.ascontiguousarray(image))
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = PADDING
    canvas[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(canvas)


class EpochBatches:
    """Batches of keys, shuffled by (seed, epoch); the incomplete last batch is left out. Of several ranks each gets its
    share of every batch, so that together they see what one alone would.

    `epoch` and `first` (batches to pass over, when an interrupted epoch goes on) are set before each iteration.

    Args:
        groups: (length,) which images suit each other; batches are of one group, but for a last few of the rest.
        batch: images in a batch; a smaller data set is one batch.
        seed: of the run.
        share: (rank, ranks).

    Raises:
        SaisError: a batch that the ranks cannot share evenly.
    """

    def __init__(self, groups: np.ndarray, batch: int, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        self.groups = groups
        self.rank, ranks = share
        if batch % ranks:
            raise SaisError(f"--batch {batch}: {ranks} processes cannot share it evenly; give a multiple of {ranks}")
        self.batch = min(batch, len(groups) // ranks * ranks)
        if self.batch == 0:
            raise SaisError(f"{len(groups)} images for {ranks} processes; train with fewer processes")
        self.each = self.batch // ranks
        self.seed = seed
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return len(self.groups) // self.batch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.groups))
        full, rest = [], []
        for group in np.unique(self.groups):
            members = order[self.groups[order] == group]
            whole = len(members) // self.batch * self.batch
            full.append(members[:whole])
            rest.append(members[whole:])
        batches = np.concatenate(full + rest)[: len(self) * self.batch].reshape(-1, self.batch)
        if len(full) > 1:
            batches = random.permutation(batches)
        for number in range(self.first, len(self)):
            share = batches[number][self.rank * self.each : (self.rank + 1) * self.each]
            yield [SampleKey(self.epoch, int(position), number) for position in share]


def training_loader(
    index: DatasetSplit,
    settings: InputConfig,
    options: AugmentConfig,
    batch: int,
    seed: int,
    workers: int,
    mask_margin: float = 0.0,
    share: tuple[int, int] = (0, 1),
) -> tuple[DataLoader[LoadedBatch], EpochBatches]:
    """A loader of shuffled, augmented batches, and the sampler whose `epoch` is to be set before each pass.

    With the ratio kept, upright images go with upright ones, so that little of a batch is padding.
    """
    upright = np.array([settings.mode == "keep_ratio" and r.size[0] > r.size[1] for r in index.images])
    batches = EpochBatches(upright, batch, seed, share)
    samples = AugmentedSamples(index, settings, options, seed)
    return _loader(TrainingDataset(samples, mask_margin), batches, workers), batches


def evaluation_loader(
    index: DatasetSplit, settings: InputConfig, batch: int, workers: int, share: tuple[int, int] = (0, 1)
) -> DataLoader[LoadedBatch]:
    """A loader of all images, fitted, without their objects. A batch holds one size of canvas: padding to the largest
    would change what the network says of the others. Of several ranks (`share`: rank, ranks) each gets some batches."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, record in enumerate(index.images):
        canvas = letterbox(record.size, settings.mode, settings.size).canvas_size
        groups.setdefault(canvas, []).append(position)
    batches = [members[i : i + batch] for members in groups.values() for i in range(0, len(members), batch)]
    return _loader(EvaluationDataset(index, settings), batches[share[0] :: share[1]], workers)


class FullImageDataset(Dataset[Sample | str]):
    """Images as they are in their files, without objects; an unreadable one comes as its error message."""

    def __init__(self, index: DatasetSplit) -> None:
        self.records = PackedRecords(index.images, with_annotations=False)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, position: int) -> Sample | str:
        try:
            return read_sample(self.records[position], with_objects=False, max_pixels=LARGE_IMAGE_PIXELS)
        except SaisError as error:
            return str(error)


def full_image_loader(index: DatasetSplit, batch: int, workers: int) -> DataLoader[list[Sample | str]]:
    """A loader of all images as they are, some at a time: for what looks at an image on more than one canvas."""
    return DataLoader(
        FullImageDataset(index),  # type: ignore[arg-type]
        batch,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=begin_worker,
    )


def begin_worker(worker: int) -> None:
    """A `worker_init_fn`. What came from the parent is no rubbish and need not be looked through for any, which would
    make a copy of it. And Ctrl-C reaches every process of a terminal: a worker that died of it would disturb a run that
    is about to be saved."""
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _loader(
    images: TrainingDataset | EvaluationDataset, batches: EpochBatches | list[list[int]], workers: int
) -> DataLoader[LoadedBatch]:
    return DataLoader(
        images,  # type: ignore[arg-type]  # collate makes Loaded of Items
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=begin_worker,
        persistent_workers=workers > 0,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
