"""Detections: the objects found in one image, as a user holds them after a prediction. Numpy only, no torch.

Masks are box-local bitmaps (`CroppedMask`). Areas, run-length encodings and polygons are computed from them; a dense
stack (D, H, W) exists only when `masks()` or `to_supervision()` is called. Each format that leaves the package has a
module of its own, imported by the method that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sais.errors import InputError
from sais.ops.numpy_boxes import box_area
from sais.results.cropped_mask import CroppedMask
from sais.text import short_name

if TYPE_CHECKING:
    from sais.results.omitted import Omitted

DetectFunction = Callable[[list[np.ndarray]], "Sequence[Detections]"]
"""Images (H, W, 3) uint8 RGB -> the detections of each image."""


@dataclass(eq=False)
class Detections:
    """The D objects detected in one image, sorted by score.

    `len(detections)` is D. `detections[index]` selects with an integer array, a boolean array or a slice;
    `detections[3]` is a `Detections` of length 1, so that a loop over detections yields one object at a time.

    Raises:
        ValueError: The fields have different lengths, a label has no name, or a mask extends beyond the image.
    """

    image_size: tuple[int, int]
    """(H, W) of the image."""
    boxes: np.ndarray
    """(D, 4) float32 x1 y1 x2 y2, image pixels."""
    scores: np.ndarray
    """(D,) float32, descending."""
    labels: np.ndarray
    """(D,) int64, index into `class_names`."""
    class_names: tuple[str, ...]
    """C names, label 0 first."""
    cropped_masks: list[CroppedMask] = field(default_factory=list)
    """D masks; empty if the model has no masks."""
    omitted: Omitted | None = None
    """Note of the predictor about what it left out; None for a selection of the detections."""

    def __post_init__(self) -> None:
        self.image_size = (int(self.image_size[0]), int(self.image_size[1]))
        self.boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        self.scores = np.asarray(self.scores, dtype=np.float32).reshape(-1)
        self.labels = np.asarray(self.labels, dtype=np.int64).reshape(-1)
        self.class_names = tuple(self.class_names)
        from sais.results.detection_checks import check_detections

        check_detections(self)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | Sequence[int] | Sequence[bool] | np.ndarray) -> Detections:
        """Return the selected objects, in the order of the index.

        Raises:
            IndexError: The index is out of range, or a boolean array has another length.
        """
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"detections: index {index} of {len(self)}")
            indices = np.array([index])
        else:
            key = index if isinstance(index, slice) else np.asarray(index)
            if isinstance(key, np.ndarray) and key.size == 0 and key.dtype != bool:
                key = key.astype(np.int64)  # numpy makes an empty list an array of floats
            indices = np.arange(len(self))[key]
        boxes, scores, labels = self.boxes[indices], self.scores[indices], self.labels[indices]
        masks = [self.cropped_masks[i] for i in indices] if self.cropped_masks else []
        return Detections(self.image_size, boxes, scores, labels, self.class_names, masks)

    def __repr__(self) -> str:
        height, width = self.image_size
        masks = "with masks" if self.cropped_masks else "boxes only"
        best = f", best score {self.scores.max():.2f}" if len(self) else ""
        return f"Detections({self.summary()}; {masks}{best}; image {width} x {height})"

    @property
    def area(self) -> np.ndarray:
        """(D,) float64 mask areas in pixels; box areas if there are no masks."""
        if self.cropped_masks:
            return np.array([mask.area for mask in self.cropped_masks], dtype=np.float64)
        return box_area(self.boxes.astype(np.float64))

    def above(self, score: float) -> Detections:
        """Return the objects with a score of at least `score`."""
        return self[self.scores >= score]

    def summary(self) -> str:
        """Return the number of objects of each class, most frequent class first: "3 bear, 1 deer", or "nothing".

        A note of the predictor follows: "nothing at score >= 0.42; 3 detections between 0.21 and 0.42".
        """
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        order = np.argsort(-counts, kind="stable")
        text = ", ".join(f"{counts[label]} {short_name(self.class_names[label])}" for label in order if counts[label])
        return (text or "nothing") if self.omitted is None else self.omitted.describe(text)

    def masks(self) -> np.ndarray:
        """Return all masks at image size, (D, H, W) bool; D x H x W bytes of memory.

        Raises:
            InputError: The model has no masks.
        """
        self._require_masks()
        from sais.results.mask_ops import dense_masks

        return dense_masks(self.cropped_masks, self.image_size)

    def rle(self) -> list[dict[str, Any]]:
        """Return D compressed COCO run-length encodings ``{"size": [H, W], "counts": str}``.

        Raises:
            InputError: The model has no masks.
        """
        from sais.ops.rle import encode_cropped

        self._require_masks()
        return [encode_cropped(mask.bits, mask.x, mask.y, self.image_size) for mask in self.cropped_masks]

    def polygons(self) -> list[list[np.ndarray]]:
        """Return the rings of each of the D objects, float64 (P, 2) x y in image pixels, exactly along pixel edges.

        Outer rings run clockwise as seen on the screen, holes counterclockwise; an object of several parts has several
        outer rings.

        Raises:
            InputError: The model has no masks.
        """
        from sais.ops.contours import contours

        self._require_masks()
        return [[ring + np.array([mask.x, mask.y]) for ring in contours(mask.bits)] for mask in self.cropped_masks]

    def _require_masks(self) -> None:
        if len(self) and not self.cropped_masks:
            raise InputError("detections: no masks. Use a model that predicts masks (model.masks=True).")

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return D results in the COCO results format: image_id, category_id, bbox x y w h, score, segmentation.

        Args:
            image_id: Id of the image in the data set.
            category_ids: C category ids, label 0 first; None writes the label, which starts at 0.
        """
        from sais.results.coco import to_coco

        return to_coco(self, image_id, category_ids)

    def to_labelme(self, image_path: str, tolerance: float = 1.0) -> dict[str, Any]:
        """Return the content of a LabelMe file; see `sais.results.labels.to_labelme`."""
        from sais.results.labels import to_labelme

        return to_labelme(self, image_path, tolerance)

    def to_yolo(self, tolerance: float = 1.0) -> str:
        """Return the content of a YOLO segmentation file; see `sais.results.labels.to_yolo`."""
        from sais.results.labels import to_yolo

        return to_yolo(self, tolerance)

    def to_geojson(self, image_path: str = "", tolerance: float = 1.0) -> dict[str, Any]:
        """Return a GeoJSON feature collection; see `sais.results.labels.to_geojson`."""
        from sais.results.labels import to_geojson

        return to_geojson(self, image_path, tolerance)

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections` with masks (D, H, W) and class names as ``data["class_name"]``.

        Raises:
            MissingDependencyError: The package supervision is not installed.
        """
        from sais.results.supervision import to_supervision

        return to_supervision(self)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write a JSON file that `Detections.load` reads; the write is atomic.

        Args:
            path: File to write.
            overwrite: Whether a file that sais has not written is replaced.

        Raises:
            InputError: The file exists, and sais has not written it.
            ResourceError: The file cannot be written.
        """
        from sais.results.json_file import save

        save(self, path, overwrite)

    @staticmethod
    def load(path: str | Path) -> Detections:
        """Read a file written by `save`.

        Raises:
            InputError: The file cannot be read or is not a detections file.
        """
        from sais.results.json_file import load

        return load(Detections, path)
