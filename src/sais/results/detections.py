"""Detections: what a user holds after a prediction. Numpy throughout; no torch.

Masks are kept as patches: the few pixels around an object and where they lie. Everything a patch can answer (area,
run lengths, polygons) is computed from it; a whole (D, H, W) stack exists only when `masks()` or `to_supervision()`
is called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sais.errors import SaisError
from sais.io.atomic import write_text
from sais.ops import rle as run_lengths
from sais.ops.contours import contours
from sais.results.cropped_mask import CroppedMask

_FORMAT = "sais-detections-1"


DetectFunction = Callable[[list[np.ndarray]], "Sequence[Detections]"]
"""What finds: images (H, W, 3) uint8 -> for each what is on it."""


@dataclass(eq=False)
class Detections:
    """The objects found in one image, numpy throughout. Masks are patches, never an (N, H, W) stack unless asked.

    `len(d)` is D; `d[index]` selects with an integer array, a boolean array or a slice, and `d[3]` gives the one
    object as Detections of length 1, so that ``for one in d`` works.

    Raises:
        ValueError: lengths that differ, a label without a name, a patch that reaches beyond the image.
    """

    image_size: tuple[int, int]
    """(H, W) of the image."""
    boxes: np.ndarray
    """(D, 4) float32, image pixels."""
    scores: np.ndarray
    """(D,) float32, descending."""
    labels: np.ndarray
    """(D,) int64, index into `class_names`."""
    class_names: tuple[str, ...]
    cropped_masks: list[CroppedMask] = field(default_factory=list)
    """D patches, or none where the model has no masks."""

    def __post_init__(self) -> None:
        self.image_size = (int(self.image_size[0]), int(self.image_size[1]))
        self.boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        self.scores = np.asarray(self.scores, dtype=np.float32).reshape(-1)
        self.labels = np.asarray(self.labels, dtype=np.int64).reshape(-1)
        self.class_names = tuple(self.class_names)
        lengths = {len(self.boxes), len(self.scores), len(self.labels)}
        if len(lengths) > 1 or len(self.cropped_masks) not in {0, len(self.scores)}:
            raise ValueError(
                f"{len(self.boxes)} boxes, {len(self.scores)} scores, {len(self.labels)} labels and "
                f"{len(self.cropped_masks)} patches do not belong together"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise ValueError(
                f"labels {self.labels.min()} to {self.labels.max()} for {len(self.class_names)} class names"
            )
        for patch in self.cropped_masks:
            (h, w), (height, width) = patch.shape, self.image_size
            if patch.x < 0 or patch.y < 0 or patch.x + w > width or patch.y + h > height:
                raise ValueError(
                    f"a patch of {h} x {w} at row {patch.y}, column {patch.x} in an image of {height} x {width}"
                )

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | np.ndarray) -> Detections:
        """The selected objects, in the order of the index.

        Raises:
            IndexError: a place that does not exist, or a boolean array of another length.
        """
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"object {index} of {len(self)}")
            chosen = np.array([index])
        else:
            key = index if isinstance(index, slice) else np.asarray(index)
            if isinstance(key, np.ndarray) and key.size == 0 and key.dtype != bool:
                key = key.astype(np.int64)  # an empty list is an array of floats
            chosen = np.arange(len(self))[key]
        patches = [self.cropped_masks[i] for i in chosen] if self.cropped_masks else []
        return Detections(
            self.image_size, self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.class_names, patches
        )

    def __repr__(self) -> str:
        height, width = self.image_size
        masks = "with masks" if self.cropped_masks else "boxes only"
        best = f", best score {self.scores.max():.2f}" if len(self) else ""
        return f"Detections({self.summary()}; {masks}{best}; image {width} x {height})"

    @property
    def area(self) -> np.ndarray:
        """(D,) float64: pixels of each mask; without masks the areas of the boxes."""
        if self.cropped_masks:
            return np.array([patch.area for patch in self.cropped_masks], dtype=np.float64)
        x1, y1, x2, y2 = self.boxes.astype(np.float64).T
        return (x2 - x1) * (y2 - y1)

    def above(self, score: float) -> Detections:
        """The objects whose score is at least `score`."""
        return self[self.scores >= score]

    def summary(self) -> str:
        """How many of which class, the most frequent first: '3 bear, 1 deer', or 'nothing'."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        order = np.argsort(-counts, kind="stable")
        return ", ".join(f"{counts[label]} {self.class_names[label]}" for label in order if counts[label]) or "nothing"

    def masks(self) -> np.ndarray:
        """(D, H, W) bool: every mask in full. D x H x W bytes: ask for it only where you need it.

        Raises:
            SaisError: the model that found these has no masks.
        """
        self._need_masks()
        stack = np.zeros((len(self), *self.image_size), dtype=bool)
        for full, patch in zip(stack, self.cropped_masks, strict=True):
            h, w = patch.shape
            full[patch.y : patch.y + h, patch.x : patch.x + w] = patch.bits
        return stack

    def rle(self) -> list[dict[str, Any]]:
        """D COCO run lengths, compressed: ``{"size": [H, W], "counts": str}``.

        Raises:
            SaisError: the model that found these has no masks.
        """
        self._need_masks()
        return [run_lengths.encode_cropped(patch.bits, patch.x, patch.y, self.image_size) for patch in self.cropped_masks]

    def polygons(self) -> list[list[np.ndarray]]:
        """For each object its rings, float64 (P, 2) x y in image pixels, exactly along the pixels' edges.

        Outer rings run clockwise as seen on the screen, holes the other way; an object in parts has several.

        Raises:
            SaisError: the model that found these has no masks.
        """
        self._need_masks()
        return [[ring + np.array([patch.x, patch.y]) for ring in contours(patch.bits)] for patch in self.cropped_masks]

    def _need_masks(self) -> None:
        if len(self) and not self.cropped_masks:
            raise SaisError("these detections have no masks: they come from a model of boxes only (model.masks=False)")

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """D results in the COCO submission format: image_id, category_id, bbox x y w h, score and segmentation.

        Args:
            image_id: the image's id in the data set.
            category_ids: the data set's category id of each label; without it the label itself is written (from 0).
        """
        segmentations = self.rle() if self.cropped_masks else []
        results = []
        for i, (x1, y1, x2, y2) in enumerate(self.boxes.tolist()):
            label = int(self.labels[i])
            result: dict[str, Any] = {
                "image_id": int(image_id),
                "category_id": label if category_ids is None else int(category_ids[label]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(self.scores[i]),
            }
            if segmentations:
                result["segmentation"] = segmentations[i]
            results.append(result)
        return results

    def to_supervision(self) -> Any:
        """These as `supervision.Detections`, masks in full, class names under ``data["class_name"]``.

        Raises:
            SaisError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise SaisError("to_supervision() needs the supervision package: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            mask=self.masks() if self.cropped_masks else None,
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            data={"class_name": np.array([self.class_names[label] for label in self.labels], dtype=str)},
        )

    def save(self, path: str | Path) -> None:
        """Write everything to a JSON file that `Detections.load` reads back; whole or not at all.

        Raises:
            SaisError: the file cannot be written.
        """
        objects = []
        segmentations = self.rle() if self.cropped_masks else [None] * len(self)
        for i, segmentation in enumerate(segmentations):
            label = int(self.labels[i])
            one = {"class": self.class_names[label], "label": label, "score": float(self.scores[i])}
            objects.append(one | {"box": self.boxes[i].tolist(), "segmentation": segmentation})
        content = {"format": _FORMAT, "size": self.image_size, "class_names": self.class_names, "detections": objects}
        write_text(Path(path), json.dumps(content))

    @staticmethod
    def load(path: str | Path) -> Detections:
        """The detections that `save` wrote.

        Raises:
            SaisError: the file cannot be read or is not one of ours.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SaisError(f"{path}: cannot be read: {error.strerror}") from None
        except ValueError:
            raise SaisError(f"{path}: not JSON; expected a file written by Detections.save") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise SaisError(f"{path}: not detections; expected a file written by Detections.save")
        try:
            return _from_content(content)
        except (KeyError, TypeError, ValueError) as error:
            raise SaisError(f"{path}: damaged detections ({error}); save them again") from None


def _from_content(content: dict[str, Any]) -> Detections:
    objects = content["detections"]
    patches = []
    for one in objects:
        if one["segmentation"] is not None:
            if tuple(one["segmentation"]["size"]) != tuple(content["size"]):
                raise ValueError("a mask of another size than the image")
            bits, x, y = run_lengths.decode_cropped(one["segmentation"])
            patches.append(CroppedMask(x, y, bits))
    boxes, scores, labels = ([one[key] for one in objects] for key in ("box", "score", "label"))
    return Detections(
        tuple(content["size"]), np.array(boxes), np.array(scores), np.array(labels), content["class_names"], patches
    )
