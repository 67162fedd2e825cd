"""Sizes of images that labels state and their files contradict: the file is right.

Outlines are scaled where the sides of the file have the ratio of the stated ones: a tool has shrunk the images, or the
labels were made on smaller copies. Outlines that fit into the file but not into the stated size, or into a file of
another ratio, are in pixels of the file and remain as they are. What fits neither remains an error of its image.

A sample of the images is compared; only if one of these differs, all are. H, W is the size of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sais.data.annotation_limits import size_problem
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, Segmentation, segmentation_bounds
from sais.data.exif_frame import in_stored_frame
from sais.data.formats import notes as kinds
from sais.data.formats.notes import Notes
from sais.data.formats.split_builder import SplitBuilder
from sais.errors import OutOfMemoryError, SaisError
from sais.ops.rle import decode_cropped, encode_cropped

_SAMPLE = 20
"""Number of images whose size is compared with that of the labels."""
_SAME_RATIO = 0.01
_MARGIN = 2.0
"""Pixels by which outlines may exceed an image: tools round."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """The pixels that outlines are in."""

    size: Size
    """(H, W)."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Factors of x and y from the pixels of the labels to these."""


def settle_frame(builder: SplitBuilder, image: Path, stated: Size | None, place: str) -> Frame | None:
    """Return the frame of an image's outlines; None, with a problem recorded, if the image cannot be read.

    Args:
        builder: Builder of the split.
        image: The image file.
        stated: (H, W) in the labels; None if they state none.
        place: Place of the labels, for notes.
    """
    size = builder.read_size(image)
    if size is None or stated is None or stated == size:
        return None if size is None else Frame(size)
    if in_stored_frame(size, stated, image):
        return Frame(stated)
    factors = (size[1] / stated[1], size[0] / stated[0])
    if not size_problem(*stated) and abs(factors[0] / factors[1] - 1) < _SAME_RATIO:
        builder.notes.add(kinds.SCALED, place)
        return Frame(size, factors)
    builder.notes.add(kinds.OTHER_SIZE, place)
    return Frame(size)


def trust_file_sizes(split: DatasetSplit) -> DatasetSplit:
    """Return a split with the sizes of the image files, and with the objects in these; changed images are counted.

    Args:
        split: A split whose sizes are those that the labels state.
    """
    count = len(split.images)
    step = max(1, math.ceil(count / _SAMPLE))
    sample = (split.images[i] for i in range(0, count, step))
    if not any(other_size(record.source, record.size) for record in sample):
        return split
    notes = Notes()
    images = tuple(_fit(record, notes) for record in split.images)
    places = {kind: tuple(names) for kind, names in notes.examples.items()}
    return replace(split, images=images, notes=split.notes | notes.counts, examples=split.examples | places)


def other_size(source: object, stated: Size) -> Size | None:
    """Return the size (H, W) of an upright image if labels state another; None if `source` is no readable file."""
    from sais.io.decoding import open_image
    from sais.io.images import read_size

    if not isinstance(source, Path):
        return None
    try:
        with open_image(source) as image:
            if (image.height, image.width) == tuple(stated):
                return None
        size = read_size(source)  # slower: EXIF data may follow the pixels
    except OutOfMemoryError:
        raise
    except SaisError:  # reported when the image is read
        return None
    differs = tuple(stated) != size and not in_stored_frame(size, stated, source)
    return size if differs else None


def size_place(name: str, size: Size, stated: Size) -> str:
    """Return the place of a note: an image, its size and the stated one (H, W)."""
    return f"{name}: {size[1]} x {size[0]}, annotated as {stated[1]} x {stated[0]}"


def _fit(record: ImageRecord, notes: Notes) -> ImageRecord:
    """Return an image with the size of its file, if its objects can be in that."""
    size = other_size(record.source, record.size)
    if size is None:
        return record
    factors = (size[1] / record.size[1], size[0] / record.size[0])
    stated_frame = _fits(record.annotations, record.size)
    place = size_place(record.name, size, record.size)
    try:
        if stated_frame and abs(factors[0] / factors[1] - 1) < _SAME_RATIO:
            objects = tuple(_scaled(annotation, factors, size) for annotation in record.annotations)
            notes.add(kinds.SCALED, place)
        elif _fits(record.annotations, size) and not any(isinstance(a.segmentation, dict) for a in record.annotations):
            objects = tuple(_in_file(annotation, size) for annotation in record.annotations)
            notes.add(kinds.OTHER_SIZE, place)
        else:
            return record
    except SaisError:  # a malformed mask, reported when it is read
        return record
    return replace(record, size=size, annotations=objects)


def _fits(annotations: Sequence[Annotation], size: Size) -> bool:
    """Return whether boxes and polygons are inside of an image of a size (H, W)."""
    edges = [annotation.box.tolist()[2:] for annotation in annotations]
    for annotation in annotations:
        for part in annotation.segmentation if isinstance(annotation.segmentation, list) else ():
            edges.append([max(part[0::2]), max(part[1::2])])
    return all(x <= size[1] + _MARGIN and y <= size[0] + _MARGIN for x, y in edges)


def _scaled(annotation: Annotation, factors: tuple[float, float], size: Size) -> Annotation:
    """Return an annotation in an image of the size (H, W), larger or smaller by the factors of x and y."""
    limits = np.array([size[1], size[0]] * 2)
    box = (annotation.box.astype(np.float64) * [*factors, *factors]).clip(0, limits).astype(np.float32)
    area = annotation.area * factors[0] * factors[1]
    return replace(annotation, box=box, area=area, segmentation=_scaled_mask(annotation.segmentation, factors, size))


def _scaled_mask(segmentation: Segmentation, factors: tuple[float, float], size: Size) -> Segmentation:
    if isinstance(segmentation, list):
        return [(np.array(part).reshape(-1, 2) * factors).reshape(-1).tolist() for part in segmentation]
    if segmentation is None:
        return None
    try:
        bits, x, y = decode_cropped(segmentation)
    except ValueError:  # reported when the image is read
        return segmentation | {"size": list(size)}
    left, top = math.floor(x * factors[0]), math.floor(y * factors[1])
    right = min(size[1], math.ceil((x + bits.shape[1]) * factors[0]))
    bottom = min(size[0], math.ceil((y + bits.shape[0]) * factors[1]))
    # The pixel of the mask in which the center of each new pixel is.
    columns = np.floor((np.arange(left, right) + 0.5) / factors[0]).astype(int) - x
    rows = np.floor((np.arange(top, bottom) + 0.5) / factors[1]).astype(int) - y
    if not bits.size:
        return encode_cropped(bits, 0, 0, size)
    inner = np.ix_(rows.clip(0, bits.shape[0] - 1), columns.clip(0, bits.shape[1] - 1))
    return encode_cropped(bits[inner], left, top, size)


def _in_file(annotation: Annotation, size: Size) -> Annotation:
    """Return an annotation in pixels of its file, of the size (H, W), whose box was clipped to another size."""
    bounds = segmentation_bounds(annotation, size)
    if bounds is None:
        return annotation
    outline = np.clip(bounds, 0, [size[1], size[0]] * 2).astype(np.float32)
    box = np.concatenate([np.minimum(annotation.box[:2], outline[:2]), np.maximum(annotation.box[2:], outline[2:])])
    return replace(annotation, box=box)
