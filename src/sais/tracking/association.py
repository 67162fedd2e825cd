"""The association of tracks with the detections of a frame: similarity of all pairs, and the best assignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sais.errors import MissingDependencyError
from sais.ops.numpy_boxes import box_area, box_intersection, boxes_overlap
from sais.results.cropped_mask import CroppedMask
from sais.results.mask_ops import intersection_area, mask_window


def box_similarity(tracks: np.ndarray, detections: np.ndarray) -> np.ndarray:
    """Return the IoU of each of T predicted boxes (T, 4) with each of D detected boxes (D, 4): (T, D)."""
    first, second = np.asarray(tracks, np.float64)[:, None], np.asarray(detections, np.float64)
    shared = box_intersection(first, second)
    return _ratio(shared, box_area(first) + box_area(second) - shared)


def mask_similarity(tracks: Sequence[CroppedMask], detections: Sequence[CroppedMask]) -> np.ndarray:
    """Return the IoU of each of T predicted masks with each of D detected masks: (T, D) float64.

    The pixels of a predicted mask that belong to other detections are not counted: there an object in front may hide
    the track's object, of which the detection is the visible part.

    Args:
        tracks: Masks of the tracks, moved to where they are expected; parts may be outside of the image.
        detections: Masks of the detections.
    """
    shared = np.zeros((len(tracks), len(detections)))
    if not shared.size:
        return shared
    windows = [np.array([mask_window(mask) for mask in masks]) for masks in (tracks, detections)]
    areas = [np.array([mask.area for mask in masks], np.float64) for masks in (tracks, detections)]
    for i, j in np.argwhere(boxes_overlap(windows[0][:, None], windows[1])).tolist():
        shared[i, j] = intersection_area(tracks[i], detections[j])
    hidden = np.minimum(shared.sum(1, keepdims=True) - shared, areas[0][:, None] - shared)
    return _ratio(shared, areas[0][:, None] + areas[1] - shared - hidden)


def _ratio(shared: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the quotient of two arrays (T, D), 0 where the denominator is 0."""
    return np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)


def assign(similarity: np.ndarray, minimum: float) -> list[tuple[int, int]]:
    """Return pairs of a row and a column of (T, D) similarities, each used at most once, of the highest sum.

    Args:
        similarity: (T, D), 0 to 1.
        minimum: Minimum similarity of a pair. Lower ones count as 0, so that they displace no possible pair.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    if not similarity.size:
        return []
    possible = np.where(similarity >= minimum, similarity, 0.0)
    rows, columns = assignment_solver()(possible, maximize=True)
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(row, column) for row, column in pairs if possible[row, column] > 0]


def assignment_solver():  # type: ignore[no-untyped-def]  # scipy has no types
    """Return scipy's solver of the assignment problem.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingDependencyError(
            'tracking: scipy is not installed. Run: pip install "sais-seg[track]"', package="scipy", extra="track"
        ) from None
    return linear_sum_assignment
