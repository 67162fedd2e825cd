"""Maskness: how sure a model is of the pixels of a mask. It ranks detections by their masks, at no cost. Numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def compute_maskness(logits: NDArray[np.float32]) -> float:
    """Compute the mean foreground probability inside a mask, its maskness (SOLO, Wang et al. 2020).

    Args:
        logits: logits of the cells of the grid, from which the mask is interpolated; any shape.

    Returns:
        The mean probability of the cells with a positive logit, 0.5 to 1; 0.5 for an empty mask.
    """
    positive = logits[logits > 0]
    return float((1 / (1 + np.exp(-positive))).mean()) if positive.size else 0.5
