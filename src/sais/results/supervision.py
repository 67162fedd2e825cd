"""Detections as `supervision.Detections`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sais.errors import MissingDependencyError

if TYPE_CHECKING:
    from sais.results.detections import Detections


def to_supervision(detections: Detections) -> Any:
    """Return a `supervision.Detections` with masks (D, H, W) bool and class names as ``data["class_name"]``.

    Args:
        detections: D detections.

    Raises:
        MissingDependencyError: The package supervision is not installed.
    """
    try:
        import supervision
    except ImportError:
        raise MissingDependencyError(
            "to_supervision: the package supervision is not installed. Run: pip install supervision", "supervision"
        ) from None
    return supervision.Detections(
        xyxy=detections.boxes.copy(),
        mask=detections.masks() if detections.cropped_masks else None,
        confidence=detections.scores.copy(),
        class_id=detections.labels.copy(),
        data={"class_name": np.array([detections.class_names[label] for label in detections.labels], dtype=str)},
    )
