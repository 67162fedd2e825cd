"""Images a second and core: our loader beside the usual pipeline of torchvision, with the same decoder.

The usual pipeline is written after torchvision's references for detection: `CocoDetection`, a mask of the whole image
for every object by pycocotools, transforms v2 on tensors (`Resize` to a fixed size, a flip by chance, floats).
Ours reads the same files with the same Pillow, leaves outlines as they are and makes of each only its cells of the
prototype grid; images stay bytes, which the network turns into floats on its device.

Both are measured in one process with one thread, in turns, by the time of the processor, with the allocator that
`sais train` sets, which helps the usual way most. Files come from the system's cache.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional

from sais.config import AugmentConfig, InputConfig
from sais.data.annotations import DatasetSplit, ImageRecord, object_mask, trainable
from sais.data.dataset import AugmentedSamples, SampleKey
from sais.data.loader import LoadedSample, TrainingDataset
from sais.errors import SaisError
from sais.ops.rasterize import coverage, hflip_mask, transform_mask
from sais.structures import MASK_STRIDE

OURS, TENSORS, PILLOW = "sais", "torchvision", "torchvision, resized by Pillow"
EXACT = 16
"""Sample points for each side of a cell that count as exact."""

Target = dict[str, Any]
Read = Callable[[int], Any]
"""Position in the index -> whatever the pipeline makes of that image."""


def coco_file(data: Path) -> Path:
    """The COCO annotations of a folder's training split.

    Raises:
        SaisError: there are none in the folder `annotations`.
    """
    for pattern in ("train.json", "instances_train*.json"):
        for path in sorted((data / "annotations").glob(pattern)):
            return path
    raise SaisError(f"{data}: no annotations/train.json or instances_train*.json for the pipeline of torchvision")


class Reference:
    """The usual pipeline.

    Args:
        index: the data set, whose images are asked for by position.
        annotations: the same as a COCO file.
        size: (height, width) of the input.
        backend: tensor resizes torch's bytes (quicker); pil resizes by Pillow, with the pixels of ours.
        flip: probability of a flip.
    """

    def __init__(
        self,
        index: DatasetSplit,
        annotations: Path,
        size: tuple[int, int],
        backend: Literal["tensor", "pil"],
        flip: float,
    ) -> None:
        from torchvision.datasets import CocoDetection
        from torchvision.transforms import v2

        with contextlib.redirect_stdout(io.StringIO()):
            self.images = CocoDetection(index.images[0].path.parent, annotations)
        place = {image_id: i for i, image_id in enumerate(self.images.ids)}
        self.places = [place[record.id] for record in index.images]
        to_tensor = [v2.PILToTensor()]
        resize = [v2.Resize(size), v2.RandomHorizontalFlip(flip)]
        steps = [*to_tensor, *resize] if backend == "tensor" else [*resize, *to_tensor]
        self.transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()])

    def __call__(self, position: int) -> tuple[torch.Tensor, Target]:
        """The image (3, height, width) float32 0 .. 1, and its boxes, labels and masks (N, height, width) uint8."""
        from torchvision import tv_tensors

        image, notes = self.images[self.places[position]]
        width, height = image.size
        notes = [note for note in notes if not note.get("iscrowd", 0)]
        boxes = torch.as_tensor([note["bbox"] for note in notes], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=width)
        boxes[:, 1::2].clamp_(min=0, max=height)
        masks = masks_of_whole_images([note["segmentation"] for note in notes], height, width)
        labels = torch.tensor([note["category_id"] for note in notes], dtype=torch.int64)
        kept = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes[kept], format="XYXY", canvas_size=(height, width)),
            "masks": tv_tensors.Mask(masks[kept]),
            "labels": labels[kept],
        }
        image, target = self.transform(image, target)
        return image, target


def masks_of_whole_images(segmentations: Sequence[Any], height: int, width: int) -> torch.Tensor:
    """(N, H, W) uint8 by pycocotools, the polygons of an object merged."""
    from pycocotools import mask as coder

    masks = []
    for segmentation in segmentations:
        encoded = isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list)
        bits = coder.decode(segmentation if encoded else coder.frPyObjects(segmentation, height, width))
        masks.append(torch.as_tensor(bits.reshape(height, width, -1), dtype=torch.uint8).any(2))
    return torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.uint8)


def ours(index: DatasetSplit, size: tuple[int, int], flip: float) -> Callable[[int], LoadedSample]:
    """Our pipeline with the paper's augmentation: a flip."""
    samples = AugmentedSamples(index, InputConfig(size=size), AugmentConfig(flip=flip), 0)
    reader = TrainingDataset(samples)
    return lambda position: reader[SampleKey(0, position)]


def measure(ways: dict[str, Read], images: int, turns: int) -> dict[str, list[float]]:
    """Images a second of processor time of each way in each turn; a turn is another share of the images."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    groups = [group.tolist() for group in np.array_split(np.random.default_rng(0).permutation(images), turns)]
    for read in ways.values():
        for position in groups[0][:3]:  # imports, tables, first blocks of memory
            read(position)
    for group in groups:
        for name, read in ways.items():
            before = time.process_time()
            for position in group:
                read(position)
            found[name].append(len(group) / (time.process_time() - before))
    return found


@dataclass
class Agreement:
    """How far two pipelines say the same of the same objects."""

    objects: int = 0
    box: float = 0.0
    """Greatest distance of two sides, canvas pixels."""
    difference: float = 0.0
    """Sum over objects of the mean absolute difference of coverage 0 .. 1 in the object's window."""
    cells: int = 0
    """Of all windows."""
    by_cell: float = 0.0
    """Sum over all cells of the absolute difference of coverage."""
    beyond: float = 0.0
    """Sum over objects of the share of the reference's mask outside of that window."""
    ours_off: float = 0.0
    """As `difference`, ours against the outlines measured at 16 x 16 points of each cell."""
    reference_off: float = 0.0
    """As `difference`, the reference against those."""


def compare(index: DatasetSplit, annotations: Path, size: tuple[int, int], images: int) -> Agreement:
    """Boxes, classes and masks of both, every other image flipped.

    Raises:
        ValueError: another number of objects, or other classes.
    """
    found = Agreement()
    ways = [(ours(index, size, p), Reference(index, annotations, size, "tensor", p)) for p in (0.0, 1.0)]
    for position in range(images):
        mine, theirs = ways[position % 2]
        item, (_, target) = mine(position), theirs(position)
        assert item.sample is not None
        assert item.objects is not None
        categories = [index.category_ids[label] for label in item.objects.labels.tolist()]
        if categories != target["labels"].tolist():
            raise ValueError(f"{index.images[position].path.name}: the two pipelines differ in their objects")
        if categories:
            found.box = max(found.box, float((item.objects.boxes - target["boxes"]).abs().max()))
        exact = _exact(index.images[position], size, position % 2 == 1)
        values = item.objects.mask_values.numpy().astype(np.float64) / 255
        at = 0
        for window, mask, measured in zip(item.objects.mask_windows.tolist(), target["masks"], exact, strict=True):
            x1, y1, x2, y2 = window
            number = (x2 - x1) * (y2 - y1)
            patch, at = values[at : at + number].reshape(y2 - y1, x2 - x1), at + number
            cells = functional.avg_pool2d(mask[None].to(torch.float64), MASK_STRIDE)[0].numpy()
            true = measured(window)
            here = cells[y1:y2, x1:x2]
            found.objects += 1
            found.difference += float(np.abs(patch - here).mean())
            found.cells += number
            found.by_cell += float(np.abs(patch - here).sum())
            found.beyond += float(1 - here.sum() / max(cells.sum(), 1e-9)) if cells.sum() else 0.0
            found.ours_off += float(np.abs(patch - true).mean())
            found.reference_off += float(np.abs(here - true).mean())
    return found


def _exact(record: ImageRecord, size: tuple[int, int], flip: bool) -> Sequence[Callable[[list[int]], np.ndarray]]:
    """For each object a function from a window to the coverage of its cells, as exact as makes no difference."""
    height, width = record.size
    functions = []
    for annotation in trainable(record):
        mask = object_mask(annotation, record.size)
        assert mask is not None
        mask = transform_mask(hflip_mask(mask, width) if flip else mask, size[1] / width, size[0] / height, 0, 0)
        functions.append(lambda window, mask=mask: coverage(mask, window, MASK_STRIDE, EXACT).astype(np.float64) / 255)
    return functions


def speed_lines(found: dict[str, list[float]]) -> Iterator[list[str]]:
    """Rows: way, images a second and core, slowest and quickest turn, and how many times as quick ours is."""
    for name, values in found.items():
        ratios = [mine / other for mine, other in zip(found[OURS], values, strict=True)]
        spread = f"{min(values):.1f} - {max(values):.1f}"
        yield [name, f"{statistics.median(values):.1f}", spread, f"{statistics.median(ratios):.2f}"]


def agreement_lines(found: Agreement) -> Iterator[list[str]]:
    """Rows: what is compared, and by how much it differs."""
    n = max(found.objects, 1)
    yield ["objects compared, all of the same class", str(found.objects)]
    yield ["boxes: greatest distance, canvas pixels", f"{found.box:.1e}"]
    yield ["masks: mean absolute difference of coverage, ours - reference averaged", f"{found.difference / n:.4f}"]
    yield ["masks: the same, every cell counted alike, not every object", f"{found.by_cell / max(found.cells, 1):.4f}"]
    yield ["masks: share of the reference outside of our windows", f"{found.beyond / n:.4f}"]
    yield ["masks: ours - outline measured at 16 x 16 points of a cell", f"{found.ours_off / n:.4f}"]
    yield ["masks: reference - outline measured so", f"{found.reference_off / n:.4f}"]


def ways(index: DatasetSplit, annotations: Path, size: tuple[int, int]) -> dict[str, Read]:
    """All that are timed."""
    return {
        OURS: ours(index, size, 0.5),
        TENSORS: Reference(index, annotations, size, "tensor", 0.5),
        PILLOW: Reference(index, annotations, size, "pil", 0.5),
    }
