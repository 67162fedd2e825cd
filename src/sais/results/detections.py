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
from sais.results.cropped_mask import CroppedMask

if TYPE_CHECKING:
    from sais.results.measurements import Measurements
    from sais.results.omitted import Omitted
    from sais.results.selection import Classes, Limits, Region

DetectFunction = Callable[[list[np.ndarray]], "Sequence[Detections]"]
"""Images (H, W, 3) uint8 RGB -> the detections of each image."""


@dataclass(eq=False)
class Detections:
    """The D objects detected in one image, sorted by score.

    `len(detections)` is D. `detections[index]` selects with an integer array, a boolean array or a slice;
    `detections[3]` is a `Detections` of length 1, so that a loop over detections yields one object at a time.

    Raises:
        ValueError: The fields have different lengths, a box or score is not finite, a label has no name, or a mask
            extends beyond the image.
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
    image: Any = None
    """The image, or its path, for drawings: kept where a prediction has ``keep_image=True``, or set by you. No copy."""
    track_ids: np.ndarray | None = None
    """(D,) int64, the tracks that the objects belong to in a video, from 1; None for a single image."""

    def __post_init__(self) -> None:
        self.image_size = (int(self.image_size[0]), int(self.image_size[1]))
        self.boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        self.scores = np.asarray(self.scores, dtype=np.float32).reshape(-1)
        self.labels = np.asarray(self.labels, dtype=np.int64).reshape(-1)
        self.class_names = tuple(self.class_names)
        if self.track_ids is not None:
            self.track_ids = np.asarray(self.track_ids, dtype=np.int64).reshape(-1)
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
        ids = None if self.track_ids is None else self.track_ids[indices]
        return Detections(self.image_size, boxes, scores, labels, self.class_names, masks, None, self.image, ids)

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
        from sais.ops.numpy_boxes import box_area

        return box_area(self.boxes.astype(np.float64))

    def above(self, score: float) -> Detections:
        """Return the objects with a score of at least `score`."""
        return self[self.scores >= score]

    def summary(self) -> str:
        """Return the number of objects of each class, most frequent class first: "3 bear, 1 deer", or "nothing".

        A note of the predictor follows: "nothing at score >= 0.42; 3 detections between 0.21 and 0.42".
        """
        from sais.text import short_name

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

    def contours(self) -> list[list[np.ndarray]]:
        """Return the rings of each of the D objects, float64 (P, 2) x y in image pixels, exactly along pixel edges.

        Outer rings run clockwise as seen on the screen, holes counterclockwise; an object of several parts has several
        outer rings.

        Raises:
            InputError: The model has no masks.
        """
        return self.polygons()

    def polygons(self, tolerance: float = 0.0) -> list[list[np.ndarray]]:
        """Return the `contours`, with fewer points if they may deviate by `tolerance` pixels.

        They have an IoU of at least 0.98 with the mask; see `sais.ops.outlines.mask_rings`. Each ring is (P, 2) x y.

        Raises:
            InputError: The model has no masks.
        """
        from sais.ops.outlines import mask_rings

        self._require_masks()
        masks = self.cropped_masks
        return [[ring + np.array([mask.x, mask.y]) for ring in mask_rings(mask.bits, tolerance)] for mask in masks]

    def _require_masks(self) -> None:
        if len(self) and not self.cropped_masks:
            raise InputError("detections: no masks. Use a model that predicts masks (model.masks=True).")

    def filter(
        self,
        classes: Classes | None = None,
        score: Limits | None = None,
        area: Limits | None = None,
        box: Sequence[float] | None = None,
        region: Region | None = None,
        min_fraction: float = 0.5,
    ) -> Detections:
        """Return the objects that meet all conditions given; see `sais.results.selection.select`.

        Args:
            classes: Names or labels of classes.
            score: Minimum score, or (minimum, maximum); None for no limit.
            area: Minimum area in pixels, or (minimum, maximum).
            box: x1 y1 x2 y2, which contains the object.
            region: Polygon (P, 2), rings of another object, or mask (H, W), which contains the object.
            min_fraction: Minimum fraction of an object's area in `box` and `region`; 0 for any overlap.
        """
        from sais.results.selection import select

        return select(self, classes, score, area, box, region, min_fraction)

    def merge(self, other: Detections, iou: float = 0.5, class_agnostic: bool = False) -> Detections:
        """Return the objects of both sets, of two that are the same the better; see `set_operations.merge`."""
        from sais.results.set_operations import merge

        return merge(self, other, iou, class_agnostic)

    def subtract(self, other: Detections, iou: float = 0.5, class_agnostic: bool = False) -> Detections:
        """Return the objects that another set lacks; see `sais.results.set_operations.subtract`."""
        from sais.results.set_operations import subtract

        return subtract(self, other, iou, class_agnostic)

    def iou(self, other: Detections) -> np.ndarray:
        """Return the IoU of each object with each of the E of another set, (D, E): of masks, else of boxes."""
        from sais.results.set_operations import pairwise_iou

        return pairwise_iou(self, other)

    def measure(self, pixel_size: float = 1.0, unit: str = "px") -> Measurements:
        """Return a table of areas, perimeters, lengths, ...; see `sais.results.measurements.measure`."""
        from sais.results.measurements import measure

        return measure(self, pixel_size, unit)

    def crop(self, image: Any = None, margin: int = 0) -> list[np.ndarray]:
        """Return the part of the image around each object, D arrays (h, w, 3); see `sais.results.crops.crop`."""
        from sais.results.crops import crop

        return crop(self, image, margin)

    def cutouts(self, image: Any = None, margin: int = 0) -> list[np.ndarray]:
        """Return each object on a transparent background, D arrays (h, w, 4); see `sais.results.crops.cutouts`."""
        from sais.results.crops import cutouts

        return cutouts(self, image, margin)

    def draw(self, image: Any = None, style: Any = "filled", **options: Any) -> np.ndarray:
        """Return a drawing (H, W, 3) uint8; see `sais.results.display.draw_detections` for the options."""
        from sais.results.display import draw_detections

        return draw_detections(self, image, style, **options)

    def plot(self, image: Any = None, axes: Any = None, **options: Any) -> Any:
        """Draw on Matplotlib axes and return them; see `sais.results.display.plot`."""
        from sais.results.display import plot

        return plot(self, image, axes, **options)

    def show(self, image: Any = None, **options: Any) -> None:
        """Show a drawing in the notebook or the system's image viewer; see `sais.results.display.show`."""
        from sais.results.display import show

        show(self, image, **options)

    def _repr_html_(self) -> str:
        from sais.results.display import to_html

        return to_html(self)

    def _repr_png_(self) -> bytes:
        from sais.results.display import to_png

        return to_png(self)

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return D results in the COCO results format; see `sais.results.coco.to_coco`."""
        from sais.results.coco import to_coco

        return to_coco(self, image_id, category_ids)

    @staticmethod
    def from_coco(
        entries: Sequence[Any], image_size: tuple[int, int], class_names: Sequence[str], category_ids: Any = None
    ) -> Detections:
        """Return the COCO results or annotations of one image as detections; see `sais.results.coco.from_coco`."""
        from sais.results.coco import from_coco

        return from_coco(Detections, entries, image_size, class_names, category_ids)

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
        """Return a `supervision.Detections`; see `sais.results.supervision.to_supervision`."""
        from sais.results.supervision import to_supervision

        return to_supervision(self)

    @staticmethod
    def from_supervision(
        source: Any, image_size: tuple[int, int] | None = None, class_names: Sequence[str] | None = None
    ) -> Detections:
        """Return a `supervision.Detections` as detections; see `sais.results.supervision.from_supervision`."""
        from sais.results.supervision import from_supervision

        return from_supervision(Detections, source, image_size, class_names)

    def to_fiftyone(self) -> Any:
        """Return a `fiftyone.Detections`; see `sais.results.fiftyone.to_fiftyone`."""
        from sais.results.fiftyone import to_fiftyone

        return to_fiftyone(self)

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
