"""Figures 2 and 3: target maps of both rules on an image of any data set, and a contact sheet of predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sais.config import InputConfig
from sais.data.annotations import DatasetSplit, ImageRecord
from sais.errors import SaisError
from sais.inference.predictor import Predictor
from sais.io.images import read_image
from sais.paper.target_maps import draw_scene, draw_target_maps
from sais.results.draw import contact_sheet, draw

LOOKED_AT = 2000
"""Images among which Figure 2 looks for its own."""
SCORE = 0.3
"""From which on a detection is drawn."""


def figure2(
    index: DatasetSplit, settings: InputConfig, out: Path, image_id: int | None = None
) -> list[tuple[Path, str]]:
    """Write the paper's own scene and an image of the data set with the target maps of both rules.

    Args:
        index: a split of the data set.
        settings: how the image is fitted to the canvas.
        out: folder to write to.
        image_id: id of the image; by default the one (of the first 2000) in which the most boxes cover the center of a
            larger one, where the rules differ.

    Returns:
        (file, caption) of each image.

    Raises:
        SaisError: no such image.
    """
    if image_id is None:
        record = max(index.images[:LOOKED_AT], key=_covered_centers)
    else:
        found = [record for record in index.images if record.id == image_id]
        if not found:
            raise SaisError(f"{index.name}: no image {image_id}; --image takes an image's id")
        record = found[0]
    rules = ("area", "center")
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name, image, caption in (
        (
            "figure2-scene.png",
            draw_scene("figure2", rules),
            "The paper's scene: a small object over a large one's center.",
        ),
        ("figure2.png", draw_target_maps(record, settings, rules), f"Image {record.id} of {index.name}."),
    ):
        Image.fromarray(image).save(out / name)
        made.append((out / name, caption))
    return made


def _covered_centers(record: ImageRecord) -> int:
    """How often a box holds the center of a larger one."""
    boxes = np.array([a.box for a in record.annotations if not a.crowd]).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centers[None] > boxes[:, None, :2]).all(2) & (centers[None] < boxes[:, None, 2:]).all(2)  # (small, large)
    return int((inside & (areas[:, None] < areas[None])).sum())


def figure3(
    index: DatasetSplit, model: Path, out: Path, device: str = "auto", count: int = 12
) -> list[tuple[Path, str]]:
    """Write a contact sheet of what a model finds in `count` images spread over the split.

    Returns:
        (file, caption), once.

    Raises:
        SaisError: the model cannot be read.
    """
    predictor = Predictor(model, device=device, score=SCORE)
    records = [
        index.images[i] for i in np.linspace(0, len(index.images) - 1, min(count, len(index.images))).astype(int)
    ]
    sheet, captions = [], []
    for record in records:
        image = read_image(record.path)
        found = predictor(image)
        sheet.append(draw(image, found))
        captions.append(found.summary())
    out.mkdir(parents=True, exist_ok=True)
    path = out / "figure3.jpg"
    Image.fromarray(contact_sheet(sheet, columns=4, captions=captions)).save(path, quality=90)
    return [(path, f"{predictor.experiment.name} on {index.name}, score {SCORE} or more; one color an object.")]
