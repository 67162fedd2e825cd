"""Time of an evaluation outside the network: masks created, encoded and matched, by SAIS and by the standard method.

Both get the same boxes, coefficients and prototypes. The standard method creates full-frame masks, encodes and
evaluates them with pycocotools. So that nothing else differs, it interpolates logits and crops at pixels of the image,
as SAIS does; AP must therefore be equal.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sais.benchmark.workload import Workload, make_workload
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.evaluation.coco_metrics import coco_dict, coco_metrics
from sais.inference.assemble import assemble_detections
from sais.ops.letterbox import CanvasMap, letterbox
from sais.ops.masks import pixel_window
from sais.results.detections import Detections

SIZE, NUM_CLASSES, NUM_PROTOTYPES, NUM_OBJECTS = (480, 640), 80, 32, 8
"""Height and width of the images, C, K, and the number of ground-truth objects of an image."""
CLASS_NAMES = tuple(f"class {i}" for i in range(NUM_CLASSES))
SAIS, STANDARD = "sais", "pycocotools, full-frame masks"


@dataclass(frozen=True)
class ImageCase:
    """The D detections of an image before mask assembly."""

    workload: Workload
    scores: np.ndarray
    """(D,) float32, descending."""
    coefficients: np.ndarray
    """(D, K) float32."""
    prototypes: np.ndarray
    """(K, h, w) float32."""


@dataclass(frozen=True)
class EvaluationCost:
    """The time of an evaluation in seconds, and the AP it computes."""

    assembly: float
    """Creating and encoding masks."""
    matching: float
    box_ap: float
    mask_ap: float

    @property
    def total(self) -> float:
        """Seconds of both steps."""
        return self.assembly + self.matching


def canvas_map() -> CanvasMap:
    """Return the map of an image to a canvas of its own size."""
    return letterbox(SIZE, "fixed", SIZE)


def make_case(index: int, num_detections: int) -> ImageCase:
    """Create the detections of image number `index`; deterministic."""
    random = np.random.default_rng(index)
    workload = make_workload(num_detections, SIZE, NUM_CLASSES, index)
    coarse = torch.from_numpy(random.normal(0, 3, (1, NUM_PROTOTYPES, 12, 16)).astype(np.float32))
    grid = (SIZE[0] // 4, SIZE[1] // 4)
    smooth = functional.interpolate(coarse, size=grid, mode="bicubic", align_corners=False)[0].relu()
    coefficients = np.tanh(random.normal(0.1, 1, (num_detections, NUM_PROTOTYPES))).astype(np.float32)
    scores = np.sort(random.uniform(0.05, 1, num_detections))[::-1].astype(np.float32)
    return ImageCase(workload, scores, coefficients, smooth.numpy())


def box_local_detections(case: ImageCase) -> Detections:
    """Assemble the masks of D detections inside their boxes."""
    workload = case.workload
    return assemble_detections(
        workload.boxes, case.scores, workload.labels, case.coefficients, case.prototypes, canvas_map(), CLASS_NAMES
    )


def full_frame_results(case: ImageCase, image_id: int) -> list[dict[str, Any]]:
    """Assemble full-frame masks, crop them to the boxes and encode them with pycocotools: D COCO results."""
    from pycocotools import mask as coco_mask

    boxes, labels = case.workload.boxes, case.workload.labels
    coefficients, prototypes = torch.from_numpy(case.coefficients), torch.from_numpy(case.prototypes)
    logits = (coefficients @ prototypes.flatten(1)).view(1, -1, *prototypes.shape[1:])
    frames = functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)[0] > 0
    windows = torch.tensor([pixel_window(box, SIZE) for box in boxes])
    x, y = torch.arange(SIZE[1]), torch.arange(SIZE[0])[:, None]
    x1, y1, x2, y2 = (edge[:, None, None] for edge in windows.unbind(1))
    frames &= (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    encoded = coco_mask.encode(np.asfortranarray(frames.numpy().transpose(1, 2, 0).astype(np.uint8)))
    return [
        {
            "image_id": image_id,
            "category_id": int(labels[i]) + 1,
            "bbox": [left, top, right - left, bottom - top],
            "score": float(case.scores[i]),
            "segmentation": encoded[i],
        }
        for i, (left, top, right, bottom) in enumerate(boxes.tolist())
    ]


def make_ground_truth(num_images: int, num_detections: int) -> DatasetSplit:
    """Create ground truth: the first objects of each image, with masks of slightly perturbed coefficients."""
    records, annotation_id = [], 0
    for i in range(num_images):
        case = make_case(i, num_detections)
        random = np.random.default_rng(10_000 + i)
        perturbed = case.coefficients + random.normal(0, 0.1, case.coefficients.shape).astype(np.float32)
        detections = box_local_detections(replace(case, coefficients=perturbed))
        truth = detections[np.arange(min(NUM_OBJECTS, num_detections))]
        annotations = []
        for box, label, mask, area in zip(truth.boxes, truth.labels, truth.rle(), truth.area, strict=True):
            if area:
                annotation_id += 1
                annotations.append(Annotation(annotation_id, box, int(label), mask, False, float(area)))
        records.append(ImageRecord(i + 1, Path(f"{i}.jpg"), SIZE, tuple(annotations)))
    return DatasetSplit("synthetic", CLASS_NAMES, tuple(range(1, NUM_CLASSES + 1)), tuple(records))


def pycocotools_ap(split: DatasetSplit, results: list[dict[str, Any]]) -> tuple[float, float]:
    """Evaluate COCO results with pycocotools: box AP and mask AP."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    scores = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_dict(split)
        truth.createIndex()
        for kind, unused in (("bbox", "segmentation"), ("segm", "bbox")):
            of_kind = [{key: value for key, value in result.items() if key != unused} for result in results]
            evaluation = COCOeval(truth, truth.loadRes(of_kind), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            scores.append(float(evaluation.stats[0]))
    return scores[0], scores[1]


def measure(
    num_images: int = 500, num_detections: int = 100, progress: Callable[[int], None] = lambda done: None
) -> dict[str, EvaluationCost]:
    """Measure both methods, image by image in turns for masks, then matching.

    Args:
        num_images: the number of images.
        num_detections: the number of detections of an image.
        progress: called with the number of images done since the last call.
    """
    split = make_ground_truth(num_images, num_detections)
    results: dict[str, list[dict[str, Any]]] = {SAIS: [], STANDARD: []}
    seconds = dict.fromkeys(results, 0.0)
    for i in range(num_images):
        case = make_case(i, num_detections)
        start = time.perf_counter()
        results[SAIS] += box_local_detections(case).to_coco(i + 1, split.category_ids)
        seconds[SAIS] += time.perf_counter() - start
        start = time.perf_counter()
        results[STANDARD] += full_frame_results(case, i + 1)
        seconds[STANDARD] += time.perf_counter() - start
        progress(1)
    start = time.perf_counter()
    metrics = coco_metrics(split, results[SAIS])
    matching = time.perf_counter() - start
    assert metrics.box is not None
    assert metrics.mask is not None
    start = time.perf_counter()
    box_ap, mask_ap = pycocotools_ap(split, results[STANDARD])
    standard_matching = time.perf_counter() - start
    return {
        SAIS: EvaluationCost(seconds[SAIS], matching, metrics.box.AP, metrics.mask.AP),
        STANDARD: EvaluationCost(seconds[STANDARD], standard_matching, box_ap, mask_ap),
    }


def table_rows(costs: dict[str, EvaluationCost]) -> list[list[str]]:
    """Format the costs as table rows: method, seconds of each step and both, ratio, box AP, mask AP."""
    base = costs[STANDARD].total
    return [
        [
            method,
            *(f"{value:.1f}" for value in (cost.assembly, cost.matching, cost.total)),
            f"{cost.total / base:.3f}",
            f"{cost.box_ap:.7f}",
            f"{cost.mask_ap:.7f}",
        ]
        for method, cost in costs.items()
    ]
