"""A data set split in a few lines of text, for the terminal."""

from __future__ import annotations

from collections import Counter

from sais.data.annotations import DatasetSplit
from sais.text import pad, printable, short_name, short_names, text_width


def summarize(split: DatasetSplit, with_notes: bool = True) -> str:
    """Return a few lines of text: the number of images and objects, objects per class, and what was dropped.

    Args:
        split: The split.
        with_notes: Whether the notes are included.
    """
    annotations = [a for record in split.images for a in record.annotations]
    crowds = sum(a.crowd for a in annotations)
    empty = sum(not record.annotations for record in split.images)
    counts = Counter(a.label for a in annotations if not a.crowd)
    objects = f"{len(annotations) - crowds} objects of {len(split.class_names)} classes"
    images = f"{len(split.images)} images"
    lines = [f"{short_name(split.name)}: {images}, {objects}, {crowds} crowds, {empty} images without objects"]
    names = short_names(split.class_names)
    width = max(map(text_width, names), default=0)
    lines += [f"  {pad(name, width)}  {counts[label]}" for label, name in enumerate(names)]
    lines += [f"  note: {printable(note)}: {count}" for note, count in split.notes.items() if with_notes]
    return "\n".join(lines)
