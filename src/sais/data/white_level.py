"""White level of the images of a data set: the value of deep images that becomes 255.

Images of a camera or microscope with 12 bits are often stored in 16. If each image was scaled by its own maximum, a
dark image would look like a bright one; so a model has one white level, chosen before training and stored with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.errors import SaisError

MAX_SAMPLED_IMAGES = 64
"""Number of images, evenly spaced over the split, whose depth is examined."""


def choose_white_level(experiment: Experiment, split: DatasetSplit) -> tuple[Experiment, list[str]]:
    """Return the experiment with the white level of the training images, unless it has one, and lines for the log.

    Args:
        experiment: Settings of a run that starts.
        split: Training split.
    """
    if experiment.input.white_level is not None:
        return experiment, []
    levels = _white_levels([record.source for record in split.images])
    if not levels:
        return experiment, []
    level = max(levels)
    note = f"16-bit images: values from 0 to {level} are scaled to 0 to 255 (input.white_level)"
    return replace(experiment, input=replace(experiment.input, white_level=level)), [note]


def _white_levels(sources: Sequence[Any]) -> list[int]:
    """Return the white level of each deep image among a sample; images that cannot be read are left out."""
    from sais.io.pixels import array_white_level, file_white_level

    levels = []
    count = min(len(sources), MAX_SAMPLED_IMAGES)
    for i in np.unique(np.linspace(0, len(sources) - 1, count).round().astype(int)) if count else ():
        source = sources[int(i)]
        try:
            if isinstance(source, Path):
                level = file_white_level(source)
            else:
                level = array_white_level(source) if isinstance(source, np.ndarray) else None
        except SaisError:  # reported when it is read
            continue
        if level is not None:
            levels.append(level)
    return levels
