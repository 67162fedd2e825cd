"""A data set split in a few lines of text, for the terminal."""

from __future__ import annotations

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.data.packed_annotations import object_columns
from sais.text import pad, printable, short_name, short_names, text_width


def summarize(split: DatasetSplit, with_notes: bool = True) -> str:
    """Return a few lines of text: the number of images and objects, objects per class, and what was dropped.

    Args:
        split: The split.
        with_notes: Whether the notes are included.
    """
    columns = object_columns(split.images)
    crowds = int(columns.crowds.sum())
    empty = len(split.images) - len(np.unique(columns.images))
    counts = np.bincount(columns.labels[~columns.crowds], minlength=len(split.class_names))
    objects = f"{len(columns.crowds) - crowds} objects of {len(split.class_names)} classes"
    images = f"{len(split.images)} images"
    lines = [f"{short_name(split.name)}: {images}, {objects}, {crowds} crowds, {empty} images without objects"]
    names = short_names(split.class_names)
    width = max(map(text_width, names), default=0)
    lines += [f"  {pad(name, width)}  {counts[label]}" for label, name in enumerate(names)]
    lines += [f"  note: {printable(note)}: {count}" for note, count in split.notes.items() if with_notes]
    return "\n".join(lines)
