"""Detections as `supervision.Detections`, and from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sais.errors import InputError, MissingDependencyError
from sais.results.cropped_mask import CroppedMask

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
        tracker_id=None if detections.track_ids is None else detections.track_ids.copy(),
        data={"class_name": np.array([detections.class_names[label] for label in detections.labels], dtype=str)},
    )


def from_supervision(
    kind: type[Detections],
    source: Any,
    image_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
) -> Detections:
    """Return a `supervision.Detections` as detections, sorted by score. The package need not be installed.

    Args:
        kind: The class `Detections`; passed in, because that module imports this one.
        source: The detections: `xyxy` (D, 4), `mask` (D, H, W) or None, `confidence` (D,) or None (score 1), `class_id`
            (D,) or None (one class), `tracker_id` (D,) or None, and class names in ``data["class_name"]``.
        image_size: (H, W) of the image; None for that of the masks.
        class_names: C names, label 0 first; None for those in `source`, and numbers for other labels.

    Raises:
        InputError: The image size or the name of a class is missing, the masks have another size than the image, or a
            box or score is not finite.
    """
    masks = source.mask
    if image_size is None:
        if masks is None or not len(masks):
            raise InputError("from_supervision: no masks that state the size of the image. Give image_size=(H, W).")
        image_size = np.shape(masks[0])
    elif masks is not None and len(masks) and np.shape(masks[0]) != tuple(image_size):
        raise InputError(
            f"from_supervision: masks of {np.shape(masks[0])} in an image of {tuple(image_size)}. Use its (H, W)."
        )
    count = len(source.xyxy)
    scores = np.ones(count) if source.confidence is None else np.asarray(source.confidence, np.float64)
    labels = np.zeros(count, np.int64) if source.class_id is None else np.asarray(source.class_id, np.int64)
    if class_names is None:
        names = {int(label): str(label) for label in range(int(labels.max(initial=-1)) + 1)}
        stated = (source.data or {}).get("class_name", [])
        names |= {int(label): str(name) for label, name in zip(labels, stated, strict=False)}
        class_names = [names[label] for label in sorted(names)]
    if count and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise InputError(
            f"from_supervision: labels {labels.min()} to {labels.max()} with {len(class_names)} class names. Give a "
            "name for each label from 0."
        )
    cropped = [] if masks is None else [_crop(np.asarray(mask, bool)) for mask in masks]
    try:
        ids = getattr(source, "tracker_id", None)
        found = kind(image_size, source.xyxy, scores, labels, tuple(class_names), cropped, track_ids=ids)
    except ValueError as error:
        raise InputError(f"from_supervision: {error}. Fix it or leave it out.") from None
    return found[np.argsort(-found.scores, kind="stable")]


def _crop(mask: np.ndarray) -> CroppedMask:
    """Return the crop of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return CroppedMask(0, 0, np.zeros((0, 0), bool))
    x, y = int(columns[0]), int(rows[0])
    return CroppedMask(x, y, mask[y : rows[-1] + 1, x : columns[-1] + 1])
