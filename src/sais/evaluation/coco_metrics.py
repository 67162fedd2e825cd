"""COCO metrics: the twelve COCO numbers for boxes and for masks, and AP per class. Needs no torch.

faster-coco-eval computes them; tests compare it with pycocotools at 1e-6. As in the evaluation of other libraries,
small, medium and large refer to the area of the mask for mask metrics, and to the area of the box for box metrics.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.errors import InputError
from sais.ops.rle import parse
from sais.text import pad, short_name, text_width

IouType = Literal["bbox", "segm"]

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve COCO numbers in COCO's order."""
COCO_MAX_DETECTIONS = 100
"""Number of detections of an image that COCO's AP counts."""


@dataclass(frozen=True)
class CocoScores:
    """The COCO numbers for boxes or masks, fractions of 1; NaN if there are no objects (`None` in JSON)."""

    AP: float
    """Average precision, mean over IoU 0.50, 0.55, ..., 0.95 and over classes."""
    AP50: float
    AP75: float
    APs: float
    """AP of objects smaller than 32 x 32 pixels."""
    APm: float
    """AP of objects from 32 x 32 to 96 x 96 pixels."""
    APl: float
    """AP of larger objects."""
    AR1: float
    """Average recall with at most one detection per image."""
    AR10: float
    AR100: float
    """Average recall with all detections that AP counts: at most 100 per image, or `Metrics.max_detections`."""
    ARs: float
    ARm: float
    ARl: float
    per_class: dict[str, float] = field(default_factory=dict)
    """AP of each class by name; names of several categories are followed by the category id."""
    curves: np.ndarray = field(default_factory=lambda: np.zeros((2, 101, 0)), repr=False, compare=False)
    """(2, 101, C) precision at recall 0, 0.01, ..., 1, at IoU 0.50 and 0.75, of each class in the order of `per_class`;
    NaN for classes without objects. The means are AP50 and AP75. Not part of the JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dictionary for JSON, with None for NaN."""
        numbers: dict[str, Any] = {name: _none_if_nan(getattr(self, name)) for name in COLUMNS}
        return numbers | {"per_class": {name: _none_if_nan(value) for name, value in self.per_class.items()}}


@dataclass(frozen=True)
class Metrics:
    """The metrics of one evaluation."""

    box: CocoScores | None
    """None if boxes were not evaluated."""
    mask: CocoScores | None
    """None if masks were not evaluated."""
    images: int
    """Number of images."""
    objects: int
    """Number of objects, without crowds."""
    detections: int
    """Number of detections."""
    without_mask: int = 0
    """Number of box-only objects: mask metrics ignore detections inside their boxes."""
    max_detections: int = COCO_MAX_DETECTIONS
    """Number of detections of an image that AP counts, those with the highest scores. COCO's is 100."""

    def to_dict(self) -> dict[str, Any]:
        """Return metrics and counts as a dictionary for JSON, with None for NaN."""
        counts = ("images", "objects", "detections", "without_mask", "max_detections")
        scores = {"box": self.box and self.box.to_dict(), "mask": self.mask and self.mask.to_dict()}
        return scores | {name: getattr(self, name) for name in counts}

    def table(self, per_class: bool = True) -> str:
        """Format the numbers as a text table, with a table of the classes below; '-' if there are no objects."""
        scores = {kind: numbers for kind, numbers in (("box", self.box), ("mask", self.mask)) if numbers is not None}
        rows = [["", *(f"AR{self.max_detections}" if name == "AR100" else name for name in COLUMNS)]]
        rows += [[kind, *(format_ap(getattr(numbers, name)) for name in COLUMNS)] for kind, numbers in scores.items()]
        text = align_columns(rows, gap=1)  # 77 characters, for a terminal of 80
        if per_class and scores:
            names = next(iter(scores.values())).per_class
            rows = [["class", *(f"{kind} AP" for kind in scores)]]
            rows += [
                [short_name(name), *(format_ap(numbers.per_class[name]) for numbers in scores.values())]
                for name in names
            ]
            text += "\n\n" + align_columns(rows)
        text += f"\n\n{self.images} images, {self.objects} objects, {self.detections} detections"
        if self.max_detections != COCO_MAX_DETECTIONS:
            text += f"; AP counts the best {self.max_detections} of each image (COCO: {COCO_MAX_DETECTIONS})"
        if self.without_mask and self.mask is not None:
            text += f"; {self.without_mask} objects have no mask and count for boxes only"
        return text


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def format_ap(value: float | None) -> str:
    """Format AP, AR, precision or recall as a fraction of 1: "0.384"; "-" if it is undefined (None or NaN)."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def align_columns(rows: list[list[str]], gap: int = 2) -> str:
    """Align cells as the lines of a text table: the first column left, the others right, `gap` spaces between them."""
    widths = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append((" " * gap).join([pad(row[0], widths[0]), *cells]))
    return "\n".join(lines)


def coco_dict(split: DatasetSplit) -> dict[str, Any]:
    """Return the COCO ground truth of a split: its image and category ids, areas, crowds and segmentations.

    Annotations are renumbered from 1, since the COCO matching treats an annotation with id 0 as "no match" and several
    exporters start at 0. An annotation without a mask has no 'segmentation'.
    """
    annotations: list[dict[str, Any]] = []
    for record in split.images:
        for annotation in record.annotations:
            x1, y1, x2, y2 = (float(edge) for edge in annotation.box)
            entry = {
                "id": len(annotations) + 1,
                "image_id": record.id,
                "category_id": split.category_ids[annotation.label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(annotation.area),
                "iscrowd": int(annotation.crowd),
            }
            if annotation.segmentation is not None:
                entry["segmentation"] = annotation.segmentation
            annotations.append(entry)
    categories = zip(split.category_ids, split.class_names, strict=True)
    return {
        "images": [{"id": r.id, "file_name": r.name, "height": r.size[0], "width": r.size[1]} for r in split.images],
        "categories": [{"id": category_id, "name": name} for category_id, name in categories],
        "annotations": annotations,
    }


def coco_metrics(
    split: DatasetSplit,
    results: Sequence[dict[str, Any]],
    iou_types: Iterable[IouType] = ("bbox", "segm"),
    max_detections: int = COCO_MAX_DETECTIONS,
) -> Metrics:
    """Compute the COCO metrics of results in the COCO submission format (`Detections.to_coco`).

    Args:
        split: dataset split with the ground truth.
        results: detections with image_id, category_id, score, bbox (x y w h) for 'bbox', segmentation (RLE) for 'segm'.
            They are not changed. Without any results all metrics are 0.
        iou_types: 'bbox', 'segm' or both.
        max_detections: number of detections of an image that AP counts, those with the highest scores.

    Raises:
        InputError: a result of an unknown image or category, or without the required bbox or segmentation; mask metrics
            of objects without masks.
        ValueError: an unknown IoU type.
    """
    iou_types = set(iou_types)
    if iou_types - {"bbox", "segm"}:
        raise ValueError(f"IoU types are 'bbox' and 'segm', got {sorted(iou_types)}")
    _check_results(split, results, iou_types)
    truth = coco_dict(split)
    if "segm" in iou_types:
        _check_masks(split)
    # The evaluator rejects negative and very large image ids; consecutive numbers preserve their order.
    numbers = {image_id: number for number, image_id in enumerate(sorted(record.id for record in split.images), 1)}
    for image in truth["images"]:
        image["id"] = numbers[image["id"]]
    for annotation in truth["annotations"]:
        annotation["image_id"] = numbers[annotation["image_id"]]
    results = [result | {"image_id": numbers[result["image_id"]]} for result in results]
    objects = [annotation for annotation in truth["annotations"] if not annotation["iscrowd"]]
    without_mask = sum("segmentation" not in annotation for annotation in objects)
    if "segm" in iou_types and objects and without_mask == len(objects):
        raise InputError(f"{split.name}: no object has a mask, so masks cannot be evaluated. Evaluate boxes only.")
    return Metrics(
        box=_evaluate(truth, results, "bbox", max_detections) if "bbox" in iou_types else None,
        mask=_evaluate(truth, results, "segm", max_detections) if "segm" in iou_types else None,
        images=len(split.images),
        objects=len(objects),
        detections=len(results),
        without_mask=without_mask,
        max_detections=max_detections,
    )


def _check_results(split: DatasetSplit, results: Sequence[dict[str, Any]], iou_types: set[IouType]) -> None:
    images, categories = {record.id for record in split.images}, set(split.category_ids)
    required = {"bbox": "bbox", "segm": "segmentation"}
    for i, result in enumerate(results):
        for key in ("image_id", "category_id", "score", *(required[iou_type] for iou_type in sorted(iou_types))):
            if key not in result:
                raise InputError(f"result {i}: no '{key}'. Add it, or do not evaluate what needs it.")
        if result["image_id"] not in images:
            raise InputError(
                f"result {i}: its image {result['image_id']!r} is not in '{split.name}'. Evaluate on its own split."
            )
        if result["category_id"] not in categories:
            raise InputError(
                f"result {i}: its category {result['category_id']!r} is not in '{split.name}'. Use the category ids of "
                "the data set."
            )


def _check_masks(split: DatasetSplit) -> None:
    """Raise InputError for malformed RLE, with which the evaluator would crash or return wrong numbers."""
    for record in split.images:
        for annotation in record.annotations:
            if isinstance(annotation.segmentation, dict):
                try:
                    parse(annotation.segmentation)
                except ValueError as error:
                    raise InputError(
                        f"{record.location}: the RLE of annotation {annotation.id} is malformed ({error}). "
                        "Export it again."
                    ) from error


def _evaluate(
    truth: dict[str, Any], results: Sequence[dict[str, Any]], iou_type: IouType, max_detections: int
) -> CocoScores:
    from faster_coco_eval import COCO, COCOeval_faster

    frame = {"images": truth["images"], "categories": truth["categories"]}
    silent = {"print_function": _discard}
    detections = COCO(frame | {"annotations": _result_annotations(results, iou_type)}, **silent)
    objects = COCO(frame | {"annotations": _truth_annotations(truth["annotations"], iou_type)}, **silent)
    evaluation = COCOeval_faster(objects, detections, iou_type, **silent)
    if max_detections != COCO_MAX_DETECTIONS:
        evaluation.params.maxDets = [min(1, max_detections), min(10, max_detections), max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"], np.float64)  # (IoU, recall, class, area, limit)
    recall = np.asarray(evaluation.eval["recall"], np.float64)  # (IoU, class, area, limit)
    shape = (len(evaluation.params.iouThrs), len(truth["categories"]), 4, 3)
    precision, recall = precision.reshape(shape[0], -1, *shape[1:]), recall.reshape(shape)
    numbers = [
        *(_mean(part) for part in (precision[..., 0, 2], precision[0, ..., 0, 2], precision[5, ..., 0, 2])),
        *(_mean(precision[..., area, 2]) for area in (1, 2, 3)),
        *(_mean(recall[..., 0, limit]) for limit in (0, 1, 2)),
        *(_mean(recall[..., area, 2]) for area in (1, 2, 3)),
    ]
    order = {category_id: position for position, category_id in enumerate(evaluation.params.catIds)}
    names = _unique_names(truth["categories"])
    per_class = {names[key]: _mean(precision[:, :, order[key], 0, 2]) for key in names}
    curves = precision[:, :, [order[key] for key in names], 0, 2][[0, 5]]
    curves = np.where(curves > -1, curves, math.nan)
    return CocoScores(**dict(zip(COLUMNS, numbers, strict=True)), per_class=per_class, curves=curves)


def _truth_annotations(annotations: list[dict[str, Any]], iou_type: IouType) -> list[dict[str, Any]]:
    """Return copies, since the evaluator changes them. For masks, box-only objects become ignored regions."""
    copies = []
    for annotation in annotations:
        if iou_type == "segm" and "segmentation" not in annotation:
            x, y, w, h = annotation["bbox"]
            box = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotation = annotation | {"iscrowd": 1, "segmentation": box}
        elif iou_type == "bbox":
            annotation = {key: value for key, value in annotation.items() if key != "segmentation"}
        copies.append(dict(annotation))
    return copies


def _result_annotations(results: Sequence[dict[str, Any]], iou_type: IouType) -> list[dict[str, Any]]:
    """Return the results as annotations with the area of their box or mask."""
    from faster_coco_eval.core import mask

    annotations = []
    for i, result in enumerate(results):
        annotation = {"id": i + 1, "iscrowd": 0} | {key: result[key] for key in ("image_id", "category_id", "score")}
        if iou_type == "bbox":
            annotation |= {"bbox": list(result["bbox"]), "area": result["bbox"][2] * result["bbox"][3]}
        else:
            annotation |= {"segmentation": dict(result["segmentation"])}
        annotations.append(annotation)
    if iou_type == "segm" and annotations:
        areas = mask.area([annotation["segmentation"] for annotation in annotations])
        for annotation, area in zip(annotations, areas, strict=True):
            annotation["area"] = float(area)
    return annotations


def _mean(values: np.ndarray) -> float:
    """Return the mean of the defined values; the evaluator writes -1 if there are no objects."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def _unique_names(categories: list[dict[str, Any]]) -> dict[int, str]:
    """Return the name of each category id, in the order of the labels; shared names are followed by the id."""
    counts = Counter(category["name"] for category in categories)
    return {c["id"]: c["name"] if counts[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in categories}


def _discard(*_: object) -> None:
    """Discard messages of the evaluator, which would mix with the output of the command."""
