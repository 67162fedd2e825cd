"""What an evaluation spends outside the network: masks made, encoded and matched, in our way and in the usual one.

Both get the same boxes, coefficients and prototypes, 500 images with 100 detections each unless said otherwise. The
usual way makes masks of the whole image, encodes them and judges them with pycocotools; to leave nothing but the way
different, it interpolates logits and cuts at the image's pixels, as ours does, so that AP must be the same.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sais.benchmark.workload import Workload, make_workload
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.evaluation.coco_metrics import coco_dict, coco_metrics
from sais.inference.assemble import assemble_detections
from sais.ops.letterbox import letterbox
from sais.ops.masks import pixel_window
from sais.results.detections import Detections
from sais.structures import CanvasMap

SIZE, CLASSES, PROTOTYPES, OBJECTS = (480, 640), 80, 32, 8
"""(H, W) of the images, C, K, and the labeled objects of an image."""


@dataclass(frozen=True)
class Case:
    """One image's detections before their masks."""

    scene: Workload
    scores: np.ndarray
    coefficients: np.ndarray
    prototypes: np.ndarray


@dataclass(frozen=True)
class Spent:
    """Seconds, and what was found."""

    making: float
    """Masks, and their encoding."""
    matching: float
    box: float
    """AP."""
    mask: float


def canvas_map() -> CanvasMap:
    """Every image lies on a canvas of its own size."""
    return letterbox(SIZE, "fixed", SIZE)


def case(number: int, detections: int) -> Case:
    """The same for the same number."""
    random = np.random.default_rng(number)
    scene = make_workload(detections, SIZE, CLASSES, number)
    coarse = torch.from_numpy(random.normal(0, 3, (1, PROTOTYPES, 12, 16)).astype(np.float32))
    grid = (SIZE[0] // 4, SIZE[1] // 4)
    smooth = functional.interpolate(coarse, size=grid, mode="bicubic", align_corners=False)[0].relu()
    coefficients = np.tanh(random.normal(0.1, 1, (detections, PROTOTYPES))).astype(np.float32)
    return Case(
        scene, np.sort(random.uniform(0.05, 1, detections))[::-1].astype(np.float32), coefficients, smooth.numpy()
    )


def ours(one: Case) -> Detections:
    """Patches in their boxes."""
    labels, names = one.scene.labels, tuple(f"class {i}" for i in range(CLASSES))
    boxes = one.scene.boxes
    return assemble_detections(boxes, one.scores, labels, one.coefficients, one.prototypes, canvas_map(), names)


def usual(one: Case, image_id: int) -> list[dict[str, Any]]:
    """Whole frames, cut at the boxes, encoded by pycocotools."""
    from pycocotools import mask as coder

    coefficients, prototypes = torch.from_numpy(one.coefficients), torch.from_numpy(one.prototypes)
    logits = (coefficients @ prototypes.flatten(1)).view(1, -1, *prototypes.shape[1:])
    frames = functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=False)[0] > 0
    windows = torch.tensor([pixel_window(box, SIZE) for box in one.scene.boxes])
    x, y = torch.arange(SIZE[1]), torch.arange(SIZE[0])[:, None]
    x1, y1, x2, y2 = (edge[:, None, None] for edge in windows.unbind(1))
    frames &= (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    encoded = coder.encode(np.asfortranarray(frames.numpy().transpose(1, 2, 0).astype(np.uint8)))
    results = []
    for i, (left, top, right, bottom) in enumerate(one.scene.boxes.tolist()):
        results.append(
            {
                "image_id": image_id,
                "category_id": int(one.scene.labels[i]) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "score": float(one.scores[i]),
                "segmentation": encoded[i],
            }
        )
    return results


def labeled(images: int, detections: int) -> DatasetSplit:
    """Ground truth: the first objects of each image as found with coefficients a little off."""
    records, number = [], 0
    for i in range(images):
        one = case(i, detections)
        random = np.random.default_rng(10_000 + i)
        off = one.coefficients + random.normal(0, 0.1, one.coefficients.shape).astype(np.float32)
        truth = ours(Case(one.scene, one.scores, off, one.prototypes))[np.arange(min(OBJECTS, detections))]
        annotations = []
        for box, label, mask, area in zip(truth.boxes, truth.labels, truth.rle(), truth.area, strict=True):
            if area:
                number += 1
                annotations.append(Annotation(number, box, int(label), mask, False, float(area)))
        records.append(ImageRecord(i + 1, Path(f"{i}.jpg"), SIZE, tuple(annotations)))
    names = tuple(f"class {i}" for i in range(CLASSES))
    return DatasetSplit("planted", names, tuple(range(1, CLASSES + 1)), tuple(records))


def judged_by_pycocotools(index: DatasetSplit, results: list[dict[str, Any]]) -> tuple[float, float]:
    """Box and mask AP."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = []
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_dict(index)
        truth.createIndex()
        for kind, other in (("bbox", "segmentation"), ("segm", "bbox")):
            kept = [{key: value for key, value in result.items() if key != other} for result in results]
            evaluation = COCOeval(truth, truth.loadRes(kept), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            found.append(float(evaluation.stats[0]))
    return found[0], found[1]


def measure(
    images: int = 500, detections: int = 100, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Spent]:
    """Both ways, image by image in turns; then both judges."""
    index = labeled(images, detections)
    results: dict[str, list[dict[str, Any]]] = {"sais": [], "usual": []}
    seconds = dict.fromkeys(results, 0.0)
    for i in range(images):
        one = case(i, detections)
        makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "sais": lambda one=one, i=i: ours(one).to_coco(i + 1, index.category_ids),  # type: ignore[misc]
            "usual": lambda one=one, i=i: usual(one, i + 1),  # type: ignore[misc]
        }
        for name, make in makers.items():
            then = time.perf_counter()
            results[name] += make()
            seconds[name] += time.perf_counter() - then
        progress(1)
    then = time.perf_counter()
    metrics = coco_metrics(index, results["sais"])
    matching = time.perf_counter() - then
    assert metrics.box is not None
    assert metrics.mask is not None
    then = time.perf_counter()
    box, mask = judged_by_pycocotools(index, results["usual"])
    usual_matching = time.perf_counter() - then
    return {
        "sais": Spent(seconds["sais"], matching, metrics.box.AP, metrics.mask.AP),
        "usual": Spent(seconds["usual"], usual_matching, box, mask),
    }


def lines(found: dict[str, Spent]) -> Iterator[list[str]]:
    """Rows of the table."""
    whole = {name: one.making + one.matching for name, one in found.items()}
    for name, one in found.items():
        ratio = whole[name] / whole["usual"]
        cells = [f"{one.making:.1f}", f"{one.matching:.1f}", f"{whole[name]:.1f}", f"{ratio:.3f}"]
        yield [name, *cells, f"{one.box:.7f}", f"{one.mask:.7f}"]
