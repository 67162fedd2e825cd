"""From an index to batches: worker processes read, transform and rasterise; order and randomness hang on numbers only.

A sample is asked for by (epoch, position), so the dataset has no state: workers may live through epochs, and a resumed
run draws the very samples the uninterrupted one would have drawn.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sais.config import InputConfig
from sais.data.index import ImageRecord, Index, object_mask, trainable
from sais.data.transforms import augmented, fitted
from sais.geometry.raster import coverage
from sais.images import PADDING, place, read_picture
from sais.structures import MASK_STRIDE, Batch, Objects, Placement, SaisError, Sample

Key = tuple[int, int]
"""(epoch, position in the index)."""


@dataclass
class Loaded:
    """A batch, and the pictures of it that could not be read."""

    batch: Batch | None
    """None where no picture of the batch could be read."""
    broken: list[str] = field(default_factory=list)
    """One line for each unreadable picture."""


class Pictures(Dataset[tuple[Sample, Objects] | str]):
    """Samples by (epoch, position); an unreadable picture comes as its error message.

    Args:
        index: the data set.
        settings: how pictures are fitted and, in training, augmented.
        seed: of the run.
        training: augment, and rasterise the objects' masks.
        mask_margin: how far beyond the box the mask targets reach, as a share of its sides.
    """

    def __init__(
        self, index: Index, settings: InputConfig, seed: int = 0, training: bool = False, mask_margin: float = 0.0
    ) -> None:
        self.index = index
        self.settings = settings
        self.seed = seed
        self.training = training
        self.mask_margin = mask_margin

    def __len__(self) -> int:
        return len(self.index.images)

    def __getitem__(self, key: Key) -> tuple[Sample, Objects] | str:
        epoch, position = key
        record = self.index.images[position]
        try:
            sample = read_sample(record, with_objects=self.training)
        except SaisError as error:
            return str(error)
        if not self.training:
            return fitted(sample, self.settings), rasterised(sample)
        random = np.random.default_rng([self.seed, epoch, position])
        sample = augmented(sample, self.settings, random)
        return sample, rasterised(sample, self.mask_margin)


def read_sample(record: ImageRecord, with_objects: bool = True) -> Sample:
    """The picture of a record and its objects, crowds left out.

    Raises:
        SaisError: the picture or a mask cannot be read, or the size is not the one the annotations were made for.
    """
    picture = read_picture(record.path)
    if picture.shape[:2] != tuple(record.size):
        raise SaisError(
            f"{record.path}: the picture is {picture.shape[1]} x {picture.shape[0]} pixels, its annotations say "
            f"{record.size[1]} x {record.size[0]}; mend the annotation file"
        )
    annotations = trainable(record) if with_objects else ()
    try:
        masks = [object_mask(a, record.size) for a in annotations]
    except SaisError as error:
        raise SaisError(f"{record.path}: {error}") from error
    return Sample(
        image_id=record.id,
        picture=picture,
        boxes=np.array([a.box for a in annotations], np.float32).reshape(-1, 4),
        labels=np.array([a.label for a in annotations], np.int64),
        masks=masks,
    )


def rasterised(sample: Sample, margin: float = 0.0) -> Objects:
    """The objects of a fitted sample with mask patches on the prototype grid, only where their boxes are."""
    height, width = sample.picture.shape[0] // MASK_STRIDE, sample.picture.shape[1] // MASK_STRIDE
    windows = np.zeros((len(sample.boxes), 4), np.int64)
    values = [np.zeros(0, np.uint8)]
    for i, (box, mask) in enumerate(zip(sample.boxes.astype(np.float64), sample.masks, strict=True)):
        if mask is None:
            continue
        grow = margin * np.array([box[2] - box[0], box[3] - box[1]])
        low = np.floor((box[:2] - grow) / MASK_STRIDE).astype(int).clip(0, [width - 1, height - 1])
        high = np.ceil((box[2:] + grow) / MASK_STRIDE).astype(int).clip(low + 1, [width, height])
        windows[i] = *low, *high
        values.append(coverage(mask, windows[i].tolist(), float(MASK_STRIDE)).reshape(-1))
    return Objects(
        boxes=torch.from_numpy(sample.boxes),
        labels=torch.from_numpy(sample.labels),
        mask_windows=torch.from_numpy(windows),
        mask_values=torch.from_numpy(np.concatenate(values)),
    )


def collate(items: list[tuple[Sample, Objects] | str]) -> Loaded:
    """Canvases of one batch, padded right and below to the largest of them."""
    broken = [item for item in items if isinstance(item, str)]
    good = [item for item in items if not isinstance(item, str)]
    if not good:
        return Loaded(None, broken)
    height = max(sample.picture.shape[0] for sample, _ in good)
    width = max(sample.picture.shape[1] for sample, _ in good)
    pictures = torch.stack([padded(sample.picture, height, width) for sample, _ in good])
    placements = [sample.placement for sample, _ in good]
    batch = Batch(
        pictures=pictures.permute(0, 3, 1, 2),
        objects=[objects for _, objects in good],
        image_ids=[sample.image_id for sample, _ in good],
        placements=[p for p in placements if isinstance(p, Placement)],
    )
    return Loaded(batch, broken)


def padded(picture: np.ndarray, height: int, width: int) -> Tensor:
    """(H, W, 3) uint8 -> (height, width, 3), PADDING right and below."""
    if picture.shape[:2] == (height, width):
        return torch.from_numpy(np.ascontiguousarray(picture))
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = PADDING
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    return torch.from_numpy(canvas)


class EpochBatches:
    """Batches of keys, shuffled by (seed, epoch); the incomplete last batch is left out. Of several ranks each gets its
    share of every batch, so that together they see what one alone would.

    `epoch` and `first` (batches to pass over, when an interrupted epoch goes on) are set before each iteration.

    Args:
        groups: (length,) which pictures suit each other; batches are of one group, but for a last few of the rest.
        batch: pictures in a batch; a smaller data set is one batch.
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
            raise SaisError(f"{len(groups)} pictures for {ranks} processes; train with fewer processes")
        self.each = self.batch // ranks
        self.seed = seed
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return len(self.groups) // self.batch

    def __iter__(self) -> Iterator[list[Key]]:
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
        for batch in batches[self.first :]:
            share = batch[self.rank * self.each : (self.rank + 1) * self.each]
            yield [(self.epoch, int(position)) for position in share]


def training_loader(
    index: Index,
    settings: InputConfig,
    batch: int,
    seed: int,
    workers: int,
    mask_margin: float = 0.0,
    share: tuple[int, int] = (0, 1),
) -> tuple[DataLoader[Loaded], EpochBatches]:
    """A loader of shuffled, augmented batches, and the sampler whose `epoch` is to be set before each pass.

    With the ratio kept, upright pictures go with upright ones, so that little of a batch is padding.
    """
    upright = np.array([settings.mode == "keep_ratio" and r.size[0] > r.size[1] for r in index.images])
    batches = EpochBatches(upright, batch, seed, share)
    return _loader(Pictures(index, settings, seed, True, mask_margin), batches, workers), batches


def evaluation_loader(
    index: Index, settings: InputConfig, batch: int, workers: int, share: tuple[int, int] = (0, 1)
) -> DataLoader[Loaded]:
    """A loader of all pictures, fitted, without their objects. A batch holds one size of canvas: padding to the largest
    would change what the network says of the others. Of several ranks (`share`: rank, ranks) each gets some batches."""
    groups: dict[tuple[int, int], list[Key]] = {}
    for position, record in enumerate(index.images):
        canvas = place(record.size, settings.mode, settings.size).canvas_size
        groups.setdefault(canvas, []).append((0, position))
    batches = [keys[i : i + batch] for keys in groups.values() for i in range(0, len(keys), batch)]
    return _loader(Pictures(index, settings), batches[share[0] :: share[1]], workers)


class WholePictures(Dataset[Sample | str]):
    """Pictures as they are in their files, without objects; an unreadable one comes as its error message."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index.images)

    def __getitem__(self, position: int) -> Sample | str:
        try:
            return read_sample(self.index.images[position], with_objects=False)
        except SaisError as error:
            return str(error)


def picture_loader(index: Index, batch: int, workers: int) -> DataLoader[list[Sample | str]]:
    """A loader of all pictures as they are, some at a time: for what looks at a picture on more than one canvas."""
    return DataLoader(WholePictures(index), batch, num_workers=workers, collate_fn=list)  # type: ignore[arg-type]


def leave_interrupts_to_the_main_process(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; a worker that died of it would end the run before it is saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _loader(pictures: Pictures, batches: EpochBatches | list[list[Key]], workers: int) -> DataLoader[Loaded]:
    return DataLoader(
        pictures,  # type: ignore[arg-type]  # collate makes Loaded of what Pictures gives
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        worker_init_fn=leave_interrupts_to_the_main_process,
        pin_memory=torch.cuda.is_available(),
    )
