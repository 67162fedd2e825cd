"""How good detections are: the twelve COCO numbers for boxes and for masks, and AP per class. No torch.

The counting is done by faster-coco-eval; the tests hold it to pycocotools at 1e-6. As in the evaluations of the known
libraries, small, medium and large go by the mask's own area when masks are judged (by the box's when boxes are).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.errors import SaisError
from sais.ops.rle import parse

IouType = Literal["bbox", "segm"]

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers in COCO's order."""


@dataclass(frozen=True)
class CocoScores:
    """The COCO numbers of one kind, fractions 0 to 1; NaN where there is no object to find (`None` in JSON)."""

    AP: float
    """Average precision, mean over IoU 0.50, 0.55 .. 0.95 and over classes."""
    AP50: float
    AP75: float
    APs: float
    """Objects under 32 x 32 pixels."""
    APm: float
    """32 x 32 to 96 x 96 pixels."""
    APl: float
    """Larger."""
    AR1: float
    """Average recall with at most one detection per image."""
    AR10: float
    AR100: float
    ARs: float
    ARm: float
    ARl: float
    per_class: dict[str, float] = field(default_factory=dict)
    """AP of each class by name; a name that several categories share is followed by the category's id."""
    curves: np.ndarray = field(default_factory=lambda: np.zeros((2, 101, 0)), repr=False, compare=False)
    """(2, 101, C) precision at recall 0, 0.01 .. 1, at IoU 0.50 and 0.75, of each class in the order of `per_class`;
    NaN where a class has no object. Their means are AP50 and AP75. Not written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: NaN becomes None."""
        numbers: dict[str, Any] = {name: _json(getattr(self, name)) for name in COLUMNS}
        return numbers | {"per_class": {name: _json(value) for name, value in self.per_class.items()}}


@dataclass(frozen=True)
class Metrics:
    """The outcome of one evaluation."""

    box: CocoScores | None
    """None where boxes were not asked for."""
    mask: CocoScores | None
    """None where masks were not asked for."""
    images: int
    """Images evaluated."""
    objects: int
    """Objects to find; crowds are not among them."""
    detections: int
    """Results given."""
    without_mask: int = 0
    """Objects with a box only: the mask numbers neither reward nor punish what lies in their boxes."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: NaN becomes None."""
        counts = ("images", "objects", "detections", "without_mask")
        kinds = {"box": self.box and self.box.to_dict(), "mask": self.mask and self.mask.to_dict()}
        return kinds | {name: getattr(self, name) for name in counts}

    def table(self, per_class: bool = True) -> str:
        """The numbers as aligned text, the classes below; '-' where there is nothing to find."""
        scores = {name: found for name, found in (("box", self.box), ("mask", self.mask)) if found is not None}
        rows = [["", *COLUMNS]]
        rows += [[kind, *(_shown(getattr(found, name)) for name in COLUMNS)] for kind, found in scores.items()]
        text = _aligned(rows)
        if per_class and scores:
            names = next(iter(scores.values())).per_class
            rows = [["class", *(f"{kind} AP" for kind in scores)]]
            rows += [[name, *(_shown(found.per_class[name]) for found in scores.values())] for name in names]
            text += "\n\n" + _aligned(rows)
        text += f"\n\n{self.images} images, {self.objects} objects, {self.detections} detections"
        if self.without_mask and self.mask is not None:
            text += f"; {self.without_mask} objects have no mask and count for boxes only"
        return text


def _json(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join(lines)


def coco_dict(index: DatasetSplit) -> dict[str, Any]:
    """The COCO ground truth of an index: its own image and category ids, areas, crowds and segmentations.

    Annotations are numbered anew from 1, since the COCO matching takes an annotation of id 0 for "no match" and several
    exporters begin at 0. An annotation without a mask has no 'segmentation'.
    """
    annotations: list[dict[str, Any]] = []
    for record in index.images:
        for annotation in record.annotations:
            x1, y1, x2, y2 = (float(edge) for edge in annotation.box)
            one = {
                "id": len(annotations) + 1,
                "image_id": record.id,
                "category_id": index.category_ids[annotation.label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(annotation.area),
                "iscrowd": int(annotation.crowd),
            }
            if annotation.segmentation is not None:
                one["segmentation"] = annotation.segmentation
            annotations.append(one)
    categories = zip(index.category_ids, index.class_names, strict=True)
    return {
        "images": [
            {"id": r.id, "file_name": r.path.name, "height": r.size[0], "width": r.size[1]} for r in index.images
        ],
        "categories": [{"id": category_id, "name": name} for category_id, name in categories],
        "annotations": annotations,
    }


def coco_metrics(
    index: DatasetSplit, results: Sequence[dict[str, Any]], kinds: Iterable[IouType] = ("bbox", "segm")
) -> Metrics:
    """Judge results in the COCO submission format (`Detections.to_coco`) against the objects of an index.

    Args:
        index: one split.
        results: image_id, category_id, score, bbox x y w h for 'bbox', segmentation (run lengths) for 'segm'. None at
            all gives zeros. Not changed.
        kinds: 'bbox', 'segm' or both.

    Raises:
        SaisError: a result of an unknown image or category, or without a bbox or segmentation where it is judged by
            that; masks asked for where no object of the index has one.
        ValueError: an unknown kind.
    """
    kinds = set(kinds)
    if kinds - {"bbox", "segm"}:
        raise ValueError(f"kinds are 'bbox' and 'segm', got {sorted(kinds)}")
    _check(index, results, kinds)
    truth = coco_dict(index)
    if "segm" in kinds:
        _check_masks(index)
    # The evaluator takes no negative or very large image ids; ranks keep its order.
    rank = {image_id: number for number, image_id in enumerate(sorted(record.id for record in index.images), 1)}
    for image in truth["images"]:
        image["id"] = rank[image["id"]]
    for one in truth["annotations"]:
        one["image_id"] = rank[one["image_id"]]
    results = [result | {"image_id": rank[result["image_id"]]} for result in results]
    objects = [one for one in truth["annotations"] if not one["iscrowd"]]
    without_mask = sum("segmentation" not in one for one in objects)
    if "segm" in kinds and objects and without_mask == len(objects):
        raise SaisError(f"{index.name}: no object has a mask, so masks cannot be judged; evaluate boxes only")
    return Metrics(
        box=_evaluate(truth, results, "bbox") if "bbox" in kinds else None,
        mask=_evaluate(truth, results, "segm") if "segm" in kinds else None,
        images=len(index.images),
        objects=len(objects),
        detections=len(results),
        without_mask=without_mask,
    )


def _check(index: DatasetSplit, results: Sequence[dict[str, Any]], kinds: set[IouType]) -> None:
    images, categories = {record.id for record in index.images}, set(index.category_ids)
    needed = {"bbox": "bbox", "segm": "segmentation"}
    for i, result in enumerate(results):
        for key in ("image_id", "category_id", "score", *(needed[kind] for kind in sorted(kinds))):
            if key not in result:
                raise SaisError(f"result {i} has no '{key}'; write it, or do not ask for what needs it")
        if result["image_id"] not in images:
            raise SaisError(
                f"result {i} is of image {result['image_id']!r}, not in '{index.name}'; evaluate on its own split"
            )
        if result["category_id"] not in categories:
            raise SaisError(
                f"result {i} is of category {result['category_id']!r}, not in '{index.name}'; "
                "use the category ids of the data"
            )


def _check_masks(index: DatasetSplit) -> None:
    """Raise SaisError for run lengths that are malformed: the evaluator would count them, or crash."""
    for record in index.images:
        for annotation in record.annotations:
            if isinstance(annotation.segmentation, dict):
                try:
                    parse(annotation.segmentation)
                except ValueError as error:
                    raise SaisError(
                        f"{record.path}: annotation {annotation.id}: its RLE is malformed ({error}); export it again"
                    ) from error


def _evaluate(truth: dict[str, Any], results: Sequence[dict[str, Any]], kind: IouType) -> CocoScores:
    from faster_coco_eval import COCO, COCOeval_faster

    frame = {"images": truth["images"], "categories": truth["categories"]}
    silent = {"print_function": _silent}
    judged = COCO(frame | {"annotations": _found(results, kind)}, **silent)
    wanted = COCO(frame | {"annotations": _wanted(truth["annotations"], kind)}, **silent)
    evaluation = COCOeval_faster(wanted, judged, kind, **silent)
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
    order = {category_id: place for place, category_id in enumerate(evaluation.params.catIds)}
    names = _unique_names(truth["categories"])
    per_class = {names[key]: _mean(precision[:, :, order[key], 0, 2]) for key in names}
    curves = precision[:, :, [order[key] for key in names], 0, 2][[0, 5]]
    curves = np.where(curves > -1, curves, math.nan)
    return CocoScores(**dict(zip(COLUMNS, numbers, strict=True)), per_class=per_class, curves=curves)


def _wanted(annotations: list[dict[str, Any]], kind: IouType) -> list[dict[str, Any]]:
    """Fresh dicts, since the evaluator writes into them. For masks, box-only objects become regions to ignore."""
    made = []
    for one in annotations:
        if kind == "segm" and "segmentation" not in one:
            x, y, w, h = one["bbox"]
            one = one | {"iscrowd": 1, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        elif kind == "bbox":
            one = {key: value for key, value in one.items() if key != "segmentation"}
        made.append(dict(one))
    return made


def _found(results: Sequence[dict[str, Any]], kind: IouType) -> list[dict[str, Any]]:
    """The results as annotations with the area by which the kind goes."""
    from faster_coco_eval.core import mask

    made = []
    for i, result in enumerate(results):
        one = {"id": i + 1, "iscrowd": 0} | {key: result[key] for key in ("image_id", "category_id", "score")}
        if kind == "bbox":
            one |= {"bbox": list(result["bbox"]), "area": result["bbox"][2] * result["bbox"][3]}
        else:
            one |= {"segmentation": dict(result["segmentation"])}
        made.append(one)
    if kind == "segm" and made:
        for one, area in zip(made, mask.area([one["segmentation"] for one in made]), strict=True):
            one["area"] = float(area)
    return made


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined (the evaluator writes -1 where there is no object to find)."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def _unique_names(categories: list[dict[str, Any]]) -> dict[int, str]:
    """Category id -> name, in the order of the labels."""
    names = [category["name"] for category in categories]
    return {c["id"]: c["name"] if names.count(c["name"]) == 1 else f"{c['name']} ({c['id']})" for c in categories}


def _silent(*_: object) -> None:
    """The evaluator talks on stdout, which belongs to the command."""
