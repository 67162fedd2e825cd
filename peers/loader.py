"""Throughput per core of the data loader, next to the standard torchvision pipeline with the same JPEG decoder.

The standard pipeline follows torchvision's references for detection: `CocoDetection`, a full-frame mask of every object
by pycocotools, transforms v2 on tensors (`Resize` to a fixed size, random flip, conversion to float). The loader of
SAIS reads the same files with Pillow, keeps outlines as polygons and rasterizes each only in its cells of the prototype
grid; images remain uint8 and are converted on the device.

Both are measured in one process with one thread, in turns, by CPU time, with the allocator that `sais train` sets,
which benefits the standard pipeline most. Files are read from the page cache.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Sequence
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
from sais.errors import InputError
from sais.ops.rasterize import coverage, hflip_mask, transform_mask
from sais.structures import MASK_STRIDE

SAIS, TENSORS, PILLOW = "sais", "torchvision", "torchvision, resized with Pillow"
EXACT_SAMPLES = 16
"""Sample points along each side of a cell for coverage that is considered exact."""

Target = dict[str, Any]
Pipeline = Callable[[int], Any]
"""Position of an image in the data set -> the sample that the pipeline returns."""


def coco_file(data: Path) -> Path:
    """Return the COCO annotation file of the training split of the folder `data`.

    Raises:
        InputError: there is none in the folder `annotations`.
    """
    for pattern in ("train.json", "instances_train*.json"):
        for path in sorted((data / "annotations").glob(pattern)):
            return path
    raise InputError(f"{data}: no annotations/train.json or instances_train*.json. Give a data set in COCO format.")


class StandardPipeline:
    """The pipeline of torchvision's references.

    Args:
        split: the data set, whose images are requested by position.
        annotations: the COCO file of the same images.
        size: the height and width of the input in pixels.
        backend: tensor resizes uint8 tensors (faster); pil resizes with Pillow, with the pixels of SAIS.
        flip: the probability of a horizontal flip.
    """

    def __init__(
        self,
        split: DatasetSplit,
        annotations: Path,
        size: tuple[int, int],
        backend: Literal["tensor", "pil"],
        flip: float,
    ) -> None:
        from torchvision.datasets import CocoDetection
        from torchvision.transforms import v2

        with contextlib.redirect_stdout(io.StringIO()):
            self.images = CocoDetection(split.images[0].path.parent, annotations)
        positions = {image_id: i for i, image_id in enumerate(self.images.ids)}
        self.positions = [positions[record.id] for record in split.images]
        to_tensor = [v2.PILToTensor()]
        resize = [v2.Resize(size), v2.RandomHorizontalFlip(flip)]
        steps = [*to_tensor, *resize] if backend == "tensor" else [*resize, *to_tensor]
        self.transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()])

    def __call__(self, position: int) -> tuple[torch.Tensor, Target]:
        """Return the image (3, height, width) float32 in [0, 1] and boxes, labels and masks (N, height, width)."""
        from torchvision import tv_tensors

        image, annotations = self.images[self.positions[position]]
        width, height = image.size
        annotations = [annotation for annotation in annotations if not annotation.get("iscrowd", 0)]
        boxes = torch.as_tensor([annotation["bbox"] for annotation in annotations], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=width)
        boxes[:, 1::2].clamp_(min=0, max=height)
        masks = full_frame_masks([annotation["segmentation"] for annotation in annotations], height, width)
        labels = torch.tensor([annotation["category_id"] for annotation in annotations], dtype=torch.int64)
        valid = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes[valid], format="XYXY", canvas_size=(height, width)),
            "masks": tv_tensors.Mask(masks[valid]),
            "labels": labels[valid],
        }
        image, target = self.transform(image, target)
        return image, target


def full_frame_masks(segmentations: Sequence[Any], height: int, width: int) -> torch.Tensor:
    """Rasterize COCO segmentations with pycocotools, the polygons of an object merged: (N, H, W) uint8."""
    from pycocotools import mask as coco_mask

    masks = []
    for segmentation in segmentations:
        is_encoded = isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list)
        bits = coco_mask.decode(segmentation if is_encoded else coco_mask.frPyObjects(segmentation, height, width))
        masks.append(torch.as_tensor(bits.reshape(height, width, -1), dtype=torch.uint8).any(2))
    return torch.stack(masks) if masks else torch.zeros((0, height, width), dtype=torch.uint8)


def sais_pipeline(split: DatasetSplit, size: tuple[int, int], flip: float) -> Callable[[int], LoadedSample]:
    """Return the pipeline of SAIS with horizontal flip as the only augmentation, as in the paper."""
    samples = AugmentedSamples(split, InputConfig(size=size), AugmentConfig(flip=flip), 0)
    reader = TrainingDataset(samples)
    return lambda position: reader[SampleKey(0, position)]


def measure(pipelines: dict[str, Pipeline], num_images: int, repeats: int) -> dict[str, list[float]]:
    """Measure images per second of CPU time of each pipeline in each turn; each turn reads other images."""
    throughputs: dict[str, list[float]] = {name: [] for name in pipelines}
    groups = [group.tolist() for group in np.array_split(np.random.default_rng(0).permutation(num_images), repeats)]
    for read in pipelines.values():
        for position in groups[0][:3]:  # warm-up: imports, tables, first allocations
            read(position)
    for group in groups:
        for name, read in pipelines.items():
            start = time.process_time()
            for position in group:
                read(position)
            throughputs[name].append(len(group) / (time.process_time() - start))
    return throughputs


@dataclass
class Agreement:
    """Differences between the samples of the two pipelines, summed over objects."""

    num_objects: int = 0
    max_box_difference: float = 0.0
    """Maximum difference of two box coordinates in canvas pixels."""
    mask_difference: float = 0.0
    """Sum over objects of the mean absolute difference of coverage (0 to 1) in the object's mask window."""
    num_cells: int = 0
    """Number of prototype cells of all mask windows."""
    cell_difference: float = 0.0
    """Sum over cells of the absolute difference of coverage."""
    outside: float = 0.0
    """Sum over objects of the fraction of the standard mask outside the mask window."""
    sais_error: float = 0.0
    """As `mask_difference`, between SAIS and the coverage at 16 x 16 points of each cell."""
    standard_error: float = 0.0
    """As `mask_difference`, between the standard pipeline and that coverage."""

    def add_mask(self, sais_coverage: np.ndarray, standard: np.ndarray, exact: np.ndarray, outside: float) -> None:
        """Add the coverage (h, w) of an object's window by SAIS, the standard pipeline and exactly."""
        self.num_objects += 1
        self.mask_difference += float(np.abs(sais_coverage - standard).mean())
        self.num_cells += sais_coverage.size
        self.cell_difference += float(np.abs(sais_coverage - standard).sum())
        self.outside += outside
        self.sais_error += float(np.abs(sais_coverage - exact).mean())
        self.standard_error += float(np.abs(standard - exact).mean())


def compare(split: DatasetSplit, annotations: Path, size: tuple[int, int], num_images: int) -> Agreement:
    """Compare boxes, classes and masks of both pipelines; every second image is flipped.

    Args:
        split: the data set.
        annotations: the COCO file of the same images.
        size: the height and width of the input in pixels.
        num_images: the number of images to compare: the first ones.

    Raises:
        ValueError: the pipelines return different numbers of objects, or different classes.
    """
    agreement = Agreement()
    pipelines = [
        (sais_pipeline(split, size, flip), StandardPipeline(split, annotations, size, "tensor", flip))
        for flip in (0.0, 1.0)
    ]
    for position in range(num_images):
        read_sais, read_standard = pipelines[position % 2]
        item, (_, target) = read_sais(position), read_standard(position)
        assert item.sample is not None
        assert item.ground_truth is not None
        categories = [split.category_ids[label] for label in item.ground_truth.labels.tolist()]
        if categories != target["labels"].tolist():
            raise ValueError(f"{split.images[position].path.name}: the two pipelines return different objects.")
        if categories:
            difference = float((item.ground_truth.boxes - target["boxes"]).abs().max())
            agreement.max_box_difference = max(agreement.max_box_difference, difference)
        exact_coverages = _exact_coverages(split.images[position], size, position % 2 == 1)
        values = item.ground_truth.mask_values.numpy().astype(np.float64) / 255
        windows, offset = item.ground_truth.mask_windows.tolist(), 0
        for window, mask, exact_coverage in zip(windows, target["masks"], exact_coverages, strict=True):
            x1, y1, x2, y2 = window
            count = (x2 - x1) * (y2 - y1)
            sais_coverage = values[offset : offset + count].reshape(y2 - y1, x2 - x1)
            offset += count
            cells = functional.avg_pool2d(mask[None].to(torch.float64), MASK_STRIDE)[0].numpy()
            standard = cells[y1:y2, x1:x2]
            outside = float(1 - standard.sum() / cells.sum()) if cells.sum() else 0.0
            agreement.add_mask(sais_coverage, standard, exact_coverage(window), outside)
    return agreement


def _exact_coverages(
    record: ImageRecord, size: tuple[int, int], flip: bool
) -> Sequence[Callable[[list[int]], np.ndarray]]:
    """Return for each object a function from a window of cells to their coverage (h, w) at 16 x 16 points each."""
    height, width = record.size
    functions = []
    for annotation in trainable(record):
        mask = object_mask(annotation, record.size)
        assert mask is not None
        mask = transform_mask(hflip_mask(mask, width) if flip else mask, size[1] / width, size[0] / height, 0, 0)

        def exact(window: list[int], mask: Any = mask) -> np.ndarray:
            return coverage(mask, window, MASK_STRIDE, EXACT_SAMPLES).astype(np.float64) / 255

        functions.append(exact)
    return functions


def throughput_rows(throughputs: dict[str, list[float]]) -> list[list[str]]:
    """Format table rows: pipeline, median images per second and core, minimum and maximum, speed-up of SAIS."""
    rows = []
    for name, values in throughputs.items():
        speedups = [throughput / other for throughput, other in zip(throughputs[SAIS], values, strict=True)]
        spread = f"{min(values):.1f} - {max(values):.1f}"
        rows.append([name, f"{statistics.median(values):.1f}", spread, f"{statistics.median(speedups):.2f}"])
    return rows


def agreement_rows(agreement: Agreement) -> list[list[str]]:
    """Format table rows: what is compared, and the difference."""
    n, cells = max(agreement.num_objects, 1), max(agreement.num_cells, 1)
    return [
        ["objects compared, all with equal classes", str(agreement.num_objects)],
        ["boxes: maximum difference, canvas pixels", f"{agreement.max_box_difference:.1e}"],
        ["masks: mean absolute difference of coverage, SAIS - standard", f"{agreement.mask_difference / n:.4f}"],
        ["masks: the same, averaged over cells instead of objects", f"{agreement.cell_difference / cells:.4f}"],
        ["masks: fraction of the standard mask outside the window", f"{agreement.outside / n:.4f}"],
        ["masks: SAIS - coverage at 16 x 16 points per cell", f"{agreement.sais_error / n:.4f}"],
        ["masks: standard - coverage at 16 x 16 points per cell", f"{agreement.standard_error / n:.4f}"],
    ]


def timed_pipelines(split: DatasetSplit, annotations: Path, size: tuple[int, int]) -> dict[str, Pipeline]:
    """Return the pipelines whose throughput is measured, by name."""
    return {
        SAIS: sais_pipeline(split, size, 0.5),
        TENSORS: StandardPipeline(split, annotations, size, "tensor", 0.5),
        PILLOW: StandardPipeline(split, annotations, size, "pil", 0.5),
    }
