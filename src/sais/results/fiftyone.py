"""Detections as `fiftyone.Detections`, the label field of a FiftyOne sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sais.errors import MissingDependencyError
from sais.ops.numpy_boxes import is_empty
from sais.results.mask_ops import mask_window

if TYPE_CHECKING:
    from sais.results.detections import Detections


def to_fiftyone(detections: Detections) -> Any:
    """Return a `fiftyone.Detections` with a label, a confidence, a relative box x y w h and a mask for each object.

    FiftyOne stretches a mask over its box. The box of an object with a mask is therefore the window of the mask, in
    whole pixels, so that the mask remains exact.

    Args:
        detections: D detections.

    Raises:
        MissingDependencyError: The package fiftyone is not installed.
    """
    try:
        import fiftyone
    except ImportError:
        message = "to_fiftyone: the package fiftyone is not installed. Run: pip install fiftyone"
        raise MissingDependencyError(message, "fiftyone") from None
    height, width = detections.image_size
    objects = []
    for i, label in enumerate(detections.labels.tolist()):
        x1, y1, x2, y2 = detections.boxes[i].tolist()
        values: dict[str, Any] = {}
        if detections.cropped_masks and not is_empty(mask_window(detections.cropped_masks[i])):
            mask = detections.cropped_masks[i]
            x1, y1, x2, y2 = mask_window(mask)
            values["mask"] = mask.bits.copy()
        values["bounding_box"] = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
        confidence = float(detections.scores[i])
        objects.append(fiftyone.Detection(label=detections.class_names[label], confidence=confidence, **values))
    return fiftyone.Detections(detections=objects)
