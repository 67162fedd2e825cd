"""Near-duplicate images: copies in another size or quality, mirrored ones, and successive frames of a video.

Legend: I images, J reference images, h w sides of the thumbnails. Candidates have nearly the same pattern of light and
dark in 8 x 8 cells, a perceptual hash of 64 numbers; their product is the correlation, computed for blocks of images at
once. Candidates are confirmed by the differences of their thumbnails' pixels. The time grows with the square of the
number of images: 100,000 take about 20 s on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CELLS = 8
"""Rows and columns of the pattern that candidates share."""
MIN_CORRELATION = 0.97
"""Correlation of two patterns from which images are candidates."""
MAX_CANDIDATES = 3
"""Number of candidates of an image that are confirmed."""
MAX_MEAN_DIFFERENCE = 4.0
"""Mean difference of the pixels of two thumbnails, 0 to 255, up to which images are nearly the same."""
MAX_DIFFERENCE = 24.0
"""Difference that 98 % of the pixels do not exceed."""
MAX_ASPECT_CHANGE = 1.1
"""Ratio of the aspect ratios of two images up to which they are compared."""
MIN_DEVIATION = 6.0
"""Standard deviation of a thumbnail's pixels below which an image shows too little to be compared."""
_CHUNK = 4_096
"""Number of thumbnails whose patterns are computed at once."""
_BLOCK = 2**22
"""Number of pairs of images that are compared at once."""


class SimilarImage(NamedTuple):
    """A reference image that is nearly the same as another image."""

    position: int
    """Position of the reference, from 0."""
    mirrored: bool
    """Whether it is the mirror image."""


class Signatures:
    """Signatures of I images, by which they are compared.

    Args:
        thumbnails: (h, w) uint8 gray of each image, h and w multiples of 8; None for an image without one.
        sizes: (H, W) of each image.
    """

    def __init__(self, thumbnails: Sequence[np.ndarray | None], sizes: Sequence[tuple[int, int]]) -> None:
        shape = next((t.shape for t in thumbnails if t is not None), (CELLS, CELLS))
        empty = np.zeros(shape, np.uint8)
        self.thumbnails = np.array([empty if t is None else t for t in thumbnails], np.uint8).reshape(-1, *shape)
        """(I, h, w) uint8."""
        heights, widths = np.array(sizes, np.float64).reshape(-1, 2).T
        self.aspects = np.maximum(widths, 1) / np.maximum(heights, 1)
        """(I,) width / height."""
        patterns = [_patterns(self.thumbnails[i : i + _CHUNK]) for i in range(0, len(self.thumbnails), _CHUNK)]
        self.patterns = np.concatenate([np.zeros((0, CELLS**2), np.float32), *patterns])
        """(I, 64) float32 of length 1; zeros for an image that is not compared."""

    def mirrored_patterns(self, rows: slice) -> np.ndarray:
        """Return the patterns of mirror images of some of the images, (rows, 64) float32."""
        patterns = self.patterns[rows]
        return patterns.reshape(-1, CELLS, CELLS)[:, :, ::-1].reshape(patterns.shape)


def _patterns(thumbnails: np.ndarray) -> np.ndarray:
    """Return the patterns of thumbnails (n, h, w) uint8: (n, 64) float32."""
    count, height, width = thumbnails.shape
    cells = thumbnails.reshape(count, CELLS, height // CELLS, CELLS, width // CELLS).mean((2, 4))
    pattern = (cells - cells.mean((1, 2), keepdims=True)).reshape(count, CELLS**2)
    length = np.linalg.norm(pattern, axis=1, keepdims=True)
    flat = thumbnails.reshape(count, height * width).std(1, keepdims=True) < MIN_DEVIATION
    return np.where(flat, 0, pattern / np.maximum(length, 1e-6)).astype(np.float32)


def similar_images(images: Signatures, references: Signatures | None = None) -> list[list[SimilarImage]]:
    """Return for each image the reference images that are nearly the same, the most similar first.

    Args:
        images: Signatures of I images.
        references: Signatures of J images; None to compare each image with those before it.

    Returns:
        I lists with at most `MAX_CANDIDATES` references in each.
    """
    others = images if references is None else references
    count, total = len(images.patterns), len(others.patterns)
    similar: list[list[SimilarImage]] = []
    step = max(1, _BLOCK // max(1, total))
    for start in range(0, count, step):
        block = slice(start, min(start + step, count))
        end = block.stop if references is None else total
        scores = images.patterns[block] @ others.patterns[:end].T
        np.maximum(scores, images.mirrored_patterns(block) @ others.patterns[:end].T, out=scores)
        if references is None:
            scores[:, start:][np.triu_indices(end - start)] = 0  # itself and those after it
        best = scores.max(1, initial=0)
        for row in range(block.stop - block.start):
            similar.append(_confirm(images, start + row, others, scores[row]) if best[row] >= MIN_CORRELATION else [])
    return similar


def _confirm(images: Signatures, index: int, references: Signatures, scores: np.ndarray) -> list[SimilarImage]:
    """Return the references that are nearly the same as an image, of those with the highest scores (J,)."""
    candidates = np.flatnonzero(scores >= MIN_CORRELATION)
    if len(candidates) > MAX_CANDIDATES:
        candidates = candidates[np.argpartition(-scores[candidates], MAX_CANDIDATES)[:MAX_CANDIDATES]]
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
    change = references.aspects[candidates] / images.aspects[index]
    candidates = candidates[np.maximum(change, 1 / change) <= MAX_ASPECT_CHANGE]
    own = images.thumbnails[index]
    similar = []
    for candidate in candidates.tolist():
        other = references.thumbnails[candidate]
        for mirrored in (False, True):
            if nearly_equal(own, other[:, ::-1] if mirrored else other):
                similar.append(SimilarImage(candidate, mirrored))
                break
    return similar


def nearly_equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Return whether two thumbnails show the same, apart from brightness and contrast.

    Args:
        first: (h, w) uint8 gray.
        second: (h, w) uint8 gray.
    """
    own, other = first.astype(np.float64), second.astype(np.float64)
    deviations = max(own.std(), 1e-6), max(other.std(), 1e-6)
    if not 1 / 1.5 <= deviations[0] / deviations[1] <= 1.5:
        return False
    aligned = (other - other.mean()) * (deviations[0] / deviations[1]) + own.mean()
    differences = np.abs(own - aligned)
    return bool(differences.mean() <= MAX_MEAN_DIFFERENCE and np.quantile(differences, 0.98) <= MAX_DIFFERENCE)


def group_similar(similar: Sequence[Sequence[SimilarImage]]) -> list[int]:
    """Return the number of the group of each image: that of the first image of its chain of similar ones.

    Args:
        similar: For each image the similar images before it, as `similar_images` returns them.
    """
    groups = list(range(len(similar)))

    def first(index: int) -> int:
        while groups[index] != index:
            groups[index] = groups[groups[index]]
            index = groups[index]
        return index

    for index, others in enumerate(similar):
        for other in others:
            own, found = first(index), first(other.position)
            groups[max(own, found)] = min(own, found)
    return [first(index) for index in range(len(similar))]
