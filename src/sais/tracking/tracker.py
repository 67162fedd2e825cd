"""The tracker: ByteTrack (Zhang et al., 2022) with the IoU of masks, or of boxes as in the paper.

Kalman filters predict where each track's object is. Detections with a high score are assigned to the tracks first, then
those with a low score, which are often objects partly hidden, to the tracks that remain; what remains of the former
starts tracks. Differences to the paper: the mask of a track moves with the prediction and is compared as a mask; an
object that is partly hidden is followed as a whole (`sais.tracking.occlusion`) and found again by the part of it that
reappears; a change of the class costs similarity, but does not end a track. Legend: D detections of a frame, T tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sais.errors import ConfigError
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.mask_ops import mask_window
from sais.tracking.association import assign, assignment_solver, box_similarity, mask_similarity
from sais.tracking.kalman import BoxFilters
from sais.tracking.occlusion import HiddenObject, find_hidden

OTHER_CLASS = 0.5
"""Factor of the similarity of a track and a detection of another class than the track's most frequent one."""
LOW_SCORE_IOU = 0.4
"""Minimum IoU of a track and a detection with a low score."""
MIN_AREA_RATIO = 0.5
"""Minimum ratio of the areas of two masks whose boxes are compared: the box of a part resembles that of a neighbor."""
MAX_HIDDEN_FRAMES = 30.0
"""Number of frames of partly hidden detections after which they are taken for the whole object."""


@dataclass
class _Track:
    """One object that is followed."""

    number: int | None
    """Its id; None until it is confirmed."""
    mask: CroppedMask | None
    """Its mask, with the pixels that are hidden; None without masks."""
    center: np.ndarray
    """(2,) x y of the filter when `mask` was detected."""
    hidden: float = 0.0
    """Number of frames since it was last detected as a whole."""
    hits: int = 1
    """Number of frames in which it was detected."""
    age: float = 0.0
    """Number of frames since it was last detected."""
    labels: dict[int, float] = field(default_factory=dict)
    """Label -> sum of the scores with it."""

    @property
    def label(self) -> int:
        """The label with the highest sum of scores."""
        return max(self.labels, key=self.labels.__getitem__)

    def add_label(self, label: int, score: float) -> None:
        """Add the class of a detection."""
        self.labels[label] = self.labels.get(label, 0.0) + score


class Tracker:
    """Gives the same number to the detections of an object in successive frames.

        tracker = Tracker()
        for image in frames:
            detections = tracker.update(predictor(image))
            print(detections.track_ids)

    Args:
        masks: Whether the IoU of masks is compared, where the detections have masks; else that of boxes.
        score: Minimum score of a detection that starts a track: a number, or one for each class. Lower ones only
            continue tracks. None: every detection may start a track.
        min_iou: Minimum IoU of a track, moved to where it is expected, and a detection.
        max_lost: Number of frames that a track without detections is remembered.
        min_frames: Number of frames in which an object must be detected to become a track, except in the first frame
            of a video: single false detections become none.

    Raises:
        ConfigError: A value is out of range.
        MissingDependencyError: scipy is not installed.
    """

    def __init__(
        self,
        masks: bool = True,
        score: float | Sequence[float] | None = None,
        min_iou: float = 0.2,
        max_lost: float = 30.0,
        min_frames: int = 2,
    ) -> None:
        if not 0 < min_iou <= 1 or max_lost < 0 or min_frames < 1:
            raise ConfigError(
                f"tracker: min_iou {min_iou}, max_lost {max_lost}, min_frames {min_frames}. Give an IoU above 0 and "
                "at most 1, a number of frames of 0 or more, and of 1 or more."
            )
        assignment_solver()
        self.masks, self.min_iou, self.max_lost, self.min_frames = masks, min_iou, max_lost, min_frames
        self._score = None if score is None else np.asarray(score, np.float64)
        self.reset()

    def reset(self) -> None:
        """Forget all tracks, for another video; ids start at 1 again."""
        self._filters = BoxFilters()
        self._tracks: list[_Track] = []
        self._next_number = 1
        self._is_first_frame = True

    def update(self, detections: Detections, steps: float = 1.0) -> Detections:
        """Follow the tracks into the next frame.

        Args:
            detections: D detections of the frame.
            steps: Number of frames since the last call: more than 1 where frames were left out.

        Returns:
            The detections that belong to a track, with `track_ids`.
        """
        strong = self._is_strong(detections)
        for track in self._tracks:
            track.age += steps
            track.hidden += steps
        seen = np.array([track.age <= steps for track in self._tracks], bool)
        confirmed = np.array([track.number is not None for track in self._tracks], bool)
        self._filters.predict(steps, seen)
        similarities = self._similarities(detections)
        track_of = np.full(len(detections), -1)
        for similarity in similarities:
            _assign(track_of, similarity, confirmed, strong, self.min_iou)
        for similarity in similarities:
            _assign(track_of, similarity, confirmed & seen, ~strong, max(self.min_iou, LOW_SCORE_IOU))
        for similarity in similarities:
            _assign(track_of, similarity, ~confirmed, strong, self.min_iou)
        self._continue(track_of, detections)
        numbers = np.array([0 if k < 0 else self._tracks[k].number or 0 for k in track_of.tolist()], np.int64)
        self._forget()
        new = np.flatnonzero(strong & (track_of < 0))
        numbers[new] = [self._start(detections, int(i)) for i in new]
        self._is_first_frame = False
        tracked = detections[numbers > 0]
        tracked.track_ids, tracked.omitted = numbers[numbers > 0], detections.omitted
        return tracked

    def _is_strong(self, detections: Detections) -> np.ndarray:
        """Return which detections may start a track, (D,) bool."""
        if self._score is None:
            return np.ones(len(detections), bool)
        minimum = self._score if self._score.ndim == 0 else self._score[detections.labels]
        return detections.scores >= minimum.astype(np.float32)

    def _similarities(self, detections: Detections) -> list[np.ndarray]:
        """Return the similarities (T, D) of the tracks, where they are expected, and the detections.

        Those of masks come first, where there are masks, then those of boxes: thin masks that are expected a few pixels
        off share nothing, but their boxes do.
        """
        similarities = [box_similarity(self._filters.boxes, detections.boxes)]
        if self.masks and detections.cropped_masks and all(track.mask is not None for track in self._tracks):
            masks = [self._expected_mask(k) for k in range(len(self._tracks))]
            areas = [np.array([mask.area for mask in group]) for group in (masks, detections.cropped_masks)]
            smaller, larger = np.minimum(areas[0][:, None], areas[1]), np.maximum(areas[0][:, None], areas[1])
            similarities[0] = np.where(smaller >= MIN_AREA_RATIO * larger, similarities[0], 0.0)
            similarities.insert(0, mask_similarity(masks, detections.cropped_masks))
        labels = np.array([track.label for track in self._tracks], np.int64)
        factor = np.where(labels[:, None] == detections.labels, 1.0, OTHER_CLASS)
        return [similarity * factor for similarity in similarities]

    def _expected_mask(self, k: int) -> CroppedMask:
        """Return the mask of track k, which has one, where it is expected."""
        track = self._tracks[k]
        assert track.mask is not None
        return track.mask.shift(*np.rint(self._filters.position[k, :2] - track.center).astype(int).tolist())

    def _continue(self, track_of: np.ndarray, detections: Detections) -> None:
        """Add the detections to the tracks that they were assigned to; `track_of` (D,) is -1 for none."""
        indices = np.flatnonzero(track_of >= 0).tolist()
        masks = detections.cropped_masks
        hidden = {i: found for i in indices if (found := self._find_hidden(int(track_of[i]), i, detections))}
        boxes = detections.boxes.astype(np.float64)
        for i, found in hidden.items():
            if found.mask is None:
                boxes[i] = self._filters.boxes[track_of[i]] + np.tile(found.move, 2)
            else:
                boxes[i] = mask_window(found.mask)
        self._filters.update(track_of[indices], boxes[indices])
        for i in indices:
            k = int(track_of[i])
            track = self._tracks[k]
            track.hits, track.age = track.hits + 1, 0.0
            track.add_label(int(detections.labels[i]), float(detections.scores[i]))
            mask = hidden[i].mask if i in hidden else masks[i] if masks else None
            if i not in hidden:
                track.hidden = 0.0
            if i not in hidden or mask is not None:
                track.mask, track.center = mask, self._filters.position[k, :2].copy()
            if track.number is None and track.hits >= self.min_frames:
                track.number = self._new_number()

    def _find_hidden(self, k: int, i: int, detections: Detections) -> HiddenObject | None:
        """Return where the object of track k is if detection i is a part of it, else None."""
        track, masks = self._tracks[k], detections.cropped_masks
        if not self.masks or not masks or track.mask is None or track.hidden > MAX_HIDDEN_FRAMES:
            return None
        return find_hidden(self._expected_mask(k), masks[i], [*masks[:i], *masks[i + 1 :]], detections.image_size)

    def _start(self, detections: Detections, i: int) -> int:
        """Start a track with a detection; return its id, 0 if it has none yet."""
        self._filters.add(detections.boxes[i : i + 1])
        number = self._new_number() if self._is_first_frame or self.min_frames == 1 else None
        mask = detections.cropped_masks[i] if detections.cropped_masks else None
        labels = {int(detections.labels[i]): float(detections.scores[i])}
        self._tracks.append(_Track(number, mask, self._filters.position[-1, :2].copy(), labels=labels))
        return number or 0

    def _new_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _forget(self) -> None:
        """Remove tracks that were lost for too long, or in the frame after their first."""
        remaining = [k for k, t in enumerate(self._tracks) if t.age <= (0 if t.number is None else self.max_lost)]
        self._filters.select(np.array(remaining, np.int64))
        self._tracks = [self._tracks[k] for k in remaining]


def _assign(
    track_of: np.ndarray, similarity: np.ndarray, tracks: np.ndarray, detections: np.ndarray, minimum: float
) -> None:
    """Assign detections to tracks, both without a partner yet, in `track_of` (D,).

    Args:
        track_of: (D,) index of each detection's track, -1 for none; changed in place.
        similarity: (T, D).
        tracks: (T,) bool, the tracks that take part.
        detections: (D,) bool, the detections that take part.
        minimum: Minimum similarity of a pair.
    """
    rows = np.setdiff1d(np.flatnonzero(tracks), track_of)
    columns = np.flatnonzero(detections & (track_of < 0))
    for row, column in assign(similarity[np.ix_(rows, columns)], minimum):
        track_of[columns[column]] = rows[row]
