"""Kalman filters of boxes that move at constant velocity, as in ByteTrack (Zhang et al., 2022) and BoT-SORT.

The state of a box is its center x and y, width and height, and their velocities in pixels per frame. The noise of every
coordinate is independent of the others, so that the 8 x 8 covariance falls into four blocks of 2 x 2, which are
computed for all boxes at once. Legend: N boxes.
"""

from __future__ import annotations

import numpy as np

_POSITION_NOISE = 1 / 20
"""Standard deviation of a position, as a fraction of the box's side: of a measurement, and of a step."""
_VELOCITY_NOISE = 1 / 160
"""Standard deviation of the change of a velocity in a step, as a fraction of the box's side."""


class BoxFilters:
    """The filters of N boxes, at first none."""

    def __init__(self) -> None:
        self.position = np.zeros((0, 4))
        """(N, 4) center x, center y, width, height in pixels."""
        self.velocity = np.zeros((0, 4))
        """(N, 4) change of the position per frame."""
        self._covariance = np.zeros((3, 0, 4))  # position, position with velocity, velocity

    def __len__(self) -> int:
        return len(self.position)

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) x1 y1 x2 y2 in pixels."""
        center, half = self.position[:, :2], np.maximum(self.position[:, 2:], 0) / 2
        return np.concatenate([center - half, center + half], axis=1)

    def add(self, boxes: np.ndarray) -> None:
        """Append filters of boxes (M, 4) seen for the first time, at rest."""
        position = _position(boxes)
        sides = _sides(position)
        deviations = 2 * _POSITION_NOISE * sides, 10 * _VELOCITY_NOISE * sides
        covariance = np.stack([deviations[0] ** 2, np.zeros_like(sides), deviations[1] ** 2])
        self.position = np.concatenate([self.position, position])
        self.velocity = np.concatenate([self.velocity, np.zeros_like(position)])
        self._covariance = np.concatenate([self._covariance, covariance], axis=1)

    def select(self, indices: np.ndarray) -> None:
        """Keep the filters at `indices` (M,) or where they are True (N,)."""
        self.position, self.velocity = self.position[indices], self.velocity[indices]
        self._covariance = self._covariance[:, indices]

    def predict(self, steps: float, seen: np.ndarray) -> None:
        """Move all boxes on.

        Args:
            steps: Number of frames since the last prediction; also fractions, in a stream that loses frames.
            seen: (N,) bool, the boxes that were seen in the last frame. The size of the others stays as it is, since
                the last size before an object disappears is often that of a part.
        """
        self.velocity[~seen, 2:] = 0
        self.position = self.position + steps * self.velocity
        sides = _sides(self.position)
        both, mixed, rate = self._covariance
        both = both + 2 * steps * mixed + steps**2 * rate + steps * (_POSITION_NOISE * sides) ** 2
        mixed = mixed + steps * rate
        rate = rate + steps * (_VELOCITY_NOISE * sides) ** 2
        self._covariance = np.stack([both, mixed, rate])

    def update(self, indices: np.ndarray, boxes: np.ndarray) -> None:
        """Correct the filters at `indices` (M,) by the boxes (M, 4) that were detected."""
        position = self.position[indices]
        both, mixed, rate = self._covariance[:, indices]
        total = both + (_POSITION_NOISE * _sides(position)) ** 2
        gain, rate_gain = both / total, mixed / total
        error = _position(boxes) - position
        self.position[indices] = position + gain * error
        self.velocity[indices] += rate_gain * error
        self._covariance[:, indices] = np.stack([(1 - gain) * both, (1 - gain) * mixed, rate - rate_gain * mixed])


def _position(boxes: np.ndarray) -> np.ndarray:
    """Return center x, center y, width and height (M, 4) of boxes (M, 4)."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def _sides(position: np.ndarray) -> np.ndarray:
    """Return the side that the noise of each coordinate is relative to, (M, 4): width or height, at least a pixel."""
    return np.maximum(position[:, [2, 3, 2, 3]], 1.0)
