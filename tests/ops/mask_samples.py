"""Random masks for the tests of encodings and contours."""

from __future__ import annotations

import numpy as np


def random_masks(seed: int, count: int) -> list[np.ndarray]:
    """Return masks of many sizes and densities: noise, blocks, empty, full, thin."""
    generator = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        h, w = generator.integers(1, 40, 2)
        mask = generator.random((h, w)) < generator.choice([0.0, 0.02, 0.3, 0.5, 0.9, 1.0])
        masks.append(np.kron(mask, np.ones(generator.integers(1, 9, 2), bool)).astype(bool))
    return [*masks, np.ones((1, 7), bool), np.ones((7, 1), bool), np.zeros((1, 9), bool), np.eye(33, dtype=bool)]
