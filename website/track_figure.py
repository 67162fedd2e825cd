"""The figure of docs/video.md: tracks of a synthetic video, from its exact masks.

python -m website.track_figure OUT.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sais.data.synthetic import SyntheticScene
from sais.data.synthetic_outlines import CLASS_NAMES
from sais.data.synthetic_video import moving_shapes
from sais.io.image_writer import write_image
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.tracking import Line, PlaceCounter, TrackDrawer, Tracker, Zone

FRAMES = 75


def detections_of(scene: SyntheticScene) -> Detections:
    """Return the visible objects of a scene as detections with a score of 1."""
    masks, labels = [], []
    for bits, label in zip(scene.visible, scene.labels, strict=True):
        rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
        if bits.sum() > 200:
            crop = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            masks.append(CroppedMask(columns[0], rows[0], crop))
            labels.append(int(label))
    boxes = [[m.x, m.y, m.x + m.shape[1], m.y + m.shape[0]] for m in masks]
    size = scene.image.shape[:2]
    return Detections(size, np.array(boxes), np.ones(len(masks)), np.array(labels), CLASS_NAMES, masks)


def main(out: Path) -> None:
    """Draw the last frame."""
    line = Line((430, 20), (430, 340), "gate")
    zone = Zone(((40, 180), (260, 180), (260, 340), (40, 340)), "yard")
    tracker, counter = Tracker(), PlaceCounter([line], [zone])
    drawer = TrackDrawer([line], [zone], 30, "instance")
    for frame, scene in enumerate(moving_shapes(12, FRAMES, 9, (360, 640), 4.0, (64, 100))):
        detections = tracker.update(detections_of(scene))
        counter.update(detections, frame)
        drawing = drawer.draw(scene.image, detections, counter.counts)
    write_image(out, drawing, quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
