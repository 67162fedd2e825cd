"""Figures 2 and 3: target maps of both assigners on an image of any data set, and a contact sheet of predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sais.config import InputConfig
from sais.data.annotations import DatasetSplit, ImageRecord
from sais.errors import InputError
from sais.inference.predictor import Predictor
from sais.io.image_writer import write_image
from sais.paper.target_maps import draw_scene, draw_target_maps
from sais.results.draw import contact_sheet, draw

WRITER = "sais reproduce"

SEARCHED_IMAGES = 2000
"""Number of images among which Figure 2 chooses."""
SCORE = 0.3
"""Minimum score of a detection in Figure 3."""


def figure2(
    split: DatasetSplit, settings: InputConfig, out: Path, image_id: int | None = None
) -> list[tuple[Path, str]]:
    """Write target maps of both assigners for the paper's own scene and for an image of the data set.

    Args:
        split: split of the data set.
        settings: size and mode of the network's input.
        out: folder of the images.
        image_id: id of the image; by default that of the image, among the first 2000, in which the most boxes cover
            the center of a larger box, so that the assigners differ.

    Returns:
        (file, caption) of each image.

    Raises:
        InputError: no such image.
    """
    if image_id is None:
        record = max(split.images[:SEARCHED_IMAGES], key=_count_covered_centers)
    else:
        records = [record for record in split.images if record.id == image_id]
        if not records:
            raise InputError(f"{split.name}: no image with id {image_id}. Give an id of the annotation file.")
        record = records[0]
    assigners = ("area", "center")
    scene, maps = draw_scene("figure2", assigners), draw_target_maps(record, settings, assigners)
    figures = []
    for name, image, caption in (
        ("figure2-scene.png", scene, "The paper's scene: a small object over the center of a large one."),
        ("figure2.png", maps, f"Image {record.id} of {split.name}."),
    ):
        figures.append((write_image(out / name, image, writer=WRITER), caption))
    return figures


def _count_covered_centers(record: ImageRecord) -> int:
    """The number of pairs of boxes in which the smaller one covers the center of the larger one."""
    boxes = np.array([a.box for a in record.annotations if not a.crowd]).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centers[None] > boxes[:, None, :2]).all(2) & (centers[None] < boxes[:, None, 2:]).all(2)  # (small, large)
    return int((inside & (areas[:, None] < areas[None])).sum())


def figure3(
    split: DatasetSplit, model: Path, out: Path, device: str = "auto", count: int = 12
) -> list[tuple[Path, str]]:
    """Write a contact sheet of a model's detections in images spread over the split.

    Args:
        split: split of the data set.
        model: model file, or folder of a run.
        out: folder of the image.
        device: device of the model.
        count: number of images.

    Returns:
        (file, caption) of the contact sheet.

    Raises:
        CheckpointError: the model cannot be read.
    """
    predictor = Predictor(model, device=device, score=SCORE)
    count = min(count, len(split.images))
    records = [split.images[i] for i in np.linspace(0, len(split.images) - 1, count).astype(int)]
    images, captions = [], []
    for record in records:
        image = record.read()
        detections = predictor(image)
        images.append(draw(image, detections))
        captions.append(detections.summary())
    sheet = contact_sheet(images, columns=4, captions=captions)
    path = write_image(out / "figure3.jpg", sheet, quality=90, writer=WRITER)
    return [(path, f"{predictor.experiment.name} on {split.name}, minimum score {SCORE}; a color for each object.")]
