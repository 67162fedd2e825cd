"""The index of a data set: every image and annotation, read once, whatever format it came from. No pixels, no torch.

A format in `sais.data.formats` makes an `Index`; the loader, the evaluation and `sais check` read it. Shapes stay as
the file had them (`Annotation.segmentation`) until `object_mask` makes one of them, so that an index of all of COCO
stays small.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sais.errors import SaisError
from sais.ops.rasterize import Bitmap, ObjectMask, Polygons


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object of one image."""

    id: int
    """The data set's own id."""
    box: np.ndarray
    """(4,) float32 x1 y1 x2 y2, image pixels, inside the image."""
    label: int
    """0 .. C-1, index into `Index.class_names`."""
    segmentation: list[Any] | dict[str, Any] | None
    """As COCO writes it: a list of polygons, or an RLE (compressed or not); None where the object has only a box."""
    crowd: bool
    """A region of many objects: ignored by the evaluation, no target in training."""
    area: float
    """Pixels, as the data set states it; the evaluation's small, medium and large go by it."""


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its objects."""

    id: int
    path: Path
    size: tuple[int, int]
    """(H, W) as the annotations state it; `sais check` compares it with the file."""
    annotations: tuple[Annotation, ...]
    """In the file's order, crowds included; empty for an image without objects."""


@dataclass(frozen=True, eq=False)
class DatasetSplit:
    """One split of a data set."""

    name: str
    class_names: tuple[str, ...]
    """C names, label 0 first."""
    category_ids: tuple[int, ...]
    """C ids of the data set itself, label 0 first; COCO's own have gaps."""
    images: tuple[ImageRecord, ...]
    notes: dict[str, int] = field(default_factory=dict)
    """What was left out or changed while reading, and how often."""


def trainable(record: ImageRecord, with_masks: bool = False) -> tuple[Annotation, ...]:
    """The annotations a model can learn from: no crowds, and `with_masks` only those that have a shape.

    Box-only objects cannot teach masks, and a box filled as a mask would teach wrong ones; formats count them in
    `Index.notes`.
    """
    return tuple(a for a in record.annotations if not a.crowd and not (with_masks and a.segmentation is None))


def object_mask(annotation: Annotation, size: tuple[int, int]) -> ObjectMask | None:
    """The shape of an annotation in the pixels of its image; None for a box-only one.

    Polygons stay polygons; an RLE becomes a bitmap cropped to its content.

    Args:
        annotation: one of `ImageRecord.annotations`.
        size: (H, W) of the image.

    Raises:
        SaisError: an RLE that is malformed or of another size than the image.
    """
    return rasterize_segmentation(annotation.segmentation, size, f"annotation {annotation.id}")


def rasterize_segmentation(
    segmentation: list[Any] | dict[str, Any] | None, size: tuple[int, int], where: str
) -> ObjectMask | None:
    """As `object_mask`, from a bare COCO segmentation; `where` opens the error message."""
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        return Polygons(tuple(np.asarray(part, np.float64).reshape(-1, 2) for part in segmentation))
    from sais.ops.rle import decode_cropped

    stated = tuple(segmentation["size"])
    if stated != tuple(size):
        raise SaisError(
            f"{where}: its RLE is of {stated[0]} x {stated[1]}, the image of {size[0]} x {size[1]}; export it again"
        )
    try:
        bits, x, y = decode_cropped(segmentation)
    except ValueError as error:
        raise SaisError(f"{where}: its RLE is malformed ({error}); export it again") from error
    return Bitmap(bits, (float(x), float(y), float(x + bits.shape[1]), float(y + bits.shape[0])))


def summarize(index: DatasetSplit) -> str:
    """A few lines for a person: how many images and objects, of which class, and what was left out."""
    annotations = [a for record in index.images for a in record.annotations]
    crowds = sum(a.crowd for a in annotations)
    empty = sum(not record.annotations for record in index.images)
    counts = Counter(a.label for a in annotations if not a.crowd)
    objects = f"{len(annotations) - crowds} objects of {len(index.class_names)} classes"
    images = f"{len(index.images)} images"
    lines = [f"{index.name}: {images}, {objects}, {crowds} crowds, {empty} images without objects"]
    width = max((len(name) for name in index.class_names), default=0)
    lines += [f"  {name:{width}}  {counts[label]}" for label, name in enumerate(index.class_names)]
    lines += [f"  note: {what}: {count}" for what, count in index.notes.items()]
    return "\n".join(lines)
