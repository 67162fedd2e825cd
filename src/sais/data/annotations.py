"""The annotations of a data set split: every image and object, read once, whatever their format. No pixels, no torch.

A format in `sais.data.formats` returns a `DatasetSplit`; loader, evaluation and `sais doctor` read it. Masks remain in
COCO's form (`Annotation.segmentation`) until `object_mask` converts one to a shape, so that the annotations of all of
COCO stay small in memory. A data set of your own needs no format: build the same objects in Python,

    annotation = make_annotation(1, label=0, segmentation=mask)               # (H, W) bool, polygons or RLE
    image = ImageRecord(1, load_image, (480, 640), (annotation,))             # a file, an array or a function
    split = DatasetSplit("train", ("bear", "deer"), images=(image,))

and pass them to `sais.train(dataset=split)`, or name them on the command line (`sais.data.objects`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sais import input_limits
from sais.errors import InputError, SaisError
from sais.ops.rasterize import Bitmap, ObjectMask, Polygons, bounding_box

_MAX_PIXELS = 1e9
"""Number of pixels of an outline's box above which its area is not computed: a coordinate is wrong."""

Segmentation = list[Any] | dict[str, Any] | None
"""A mask in COCO's form: a list of polygons [x1, y1, x2, y2, ...], an RLE (compressed or not), or None."""

ImageSource = Path | str | np.ndarray | Callable[[], Any]
"""Source of an image: a file, an array, or a function that returns anything `sais.io.images.as_image` accepts."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object of one image. `make_annotation` creates it from other forms of boxes and masks."""

    id: int
    """Id in the data set."""
    box: np.ndarray
    """(4,) float32 x1 y1 x2 y2, image pixels, inside the image."""
    label: int
    """0 to C - 1, index into `DatasetSplit.class_names`."""
    segmentation: Segmentation
    """The mask; None if the object has only a box."""
    crowd: bool
    """Whether this is a region of many objects, which the evaluation ignores and training does not use."""
    area: float
    """Area in pixels as the data set states it; the evaluation's small, medium and large objects depend on it."""


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its objects."""

    id: int
    """Id in the data set."""
    source: ImageSource
    """The image's file, array (H, W, 3), or function without arguments. Worker processes that are spawned, not forked,
    need a function that can be pickled: one of a module, or a `functools.partial` of it."""
    size: tuple[int, int]
    """(H, W) as the annotations state it; `sais doctor` compares it with the image."""
    annotations: Sequence[Annotation] = ()
    """Objects in the data set's order, crowd regions included."""

    def __post_init__(self) -> None:
        if isinstance(self.source, str):
            object.__setattr__(self, "source", Path(self.source))

    @property
    def path(self) -> Path:
        """The image's file.

        Raises:
            InputError: The image is not in a file.
        """
        if not isinstance(self.source, Path):
            raise InputError(f"{self.name}: not in a file. Write the image to a file.")
        return self.source

    @property
    def name(self) -> str:
        """The file name, or "image 7" if the image is not in a file."""
        return self.source.name if isinstance(self.source, Path) else f"image {self.id}"

    @property
    def location(self) -> str:
        """The path, or "image 7" if the image is not in a file; opens error messages."""
        return str(self.source) if isinstance(self.source, Path) else f"image {self.id}"

    def read(
        self, max_pixels: int | None = None, white_level: int | None = None, notes: Counter[str] | None = None
    ) -> np.ndarray:
        """Read the image: (H, W, 3) uint8 RGB, upright; or as it is stored, if the annotated size is of that frame.

        Args:
            max_pixels: As for `sais.io.images.read_image`.
            white_level: As for `sais.io.images.read_image`.
            notes: As for `sais.io.images.read_image`.

        Raises:
            InputError: The image cannot be read.
            ResourceError: The image has too many pixels.
        """
        from sais.io import images

        if isinstance(self.source, Path):
            from sais.data.exif_frame import to_annotated_frame

            upright = images.read_image(self.source, max_pixels, white_level=white_level, notes=notes)
            return to_annotated_frame(upright, self.source, self.size)
        try:
            image = self.source() if callable(self.source) else self.source
        except SaisError:
            raise
        except Exception as error:
            problem = f"its function raised {type(error).__name__}: {error}"
            raise InputError(f"{self.location}: cannot be read ({problem}). Fix the data set.") from error
        return images.as_image(image, max_pixels, white_level=white_level, notes=notes)


@dataclass(frozen=True, eq=False)
class DatasetSplit:
    """One split of a data set."""

    name: str
    """Name of the split."""
    class_names: tuple[str, ...]
    """C names, label 0 first."""
    category_ids: tuple[int, ...] = ()
    """C ids of the data set, label 0 first; COCO's own ids have gaps. By default 1 to C."""
    images: Sequence[ImageRecord] = ()
    """The images in the data set's order: a tuple, or those of a large file as arrays (`sais.data.packed_annotations`),
    where each record is created when it is accessed."""
    notes: dict[str, int] = field(default_factory=dict)
    """What was dropped or changed while reading, and how often."""
    examples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The first places of a note, such as "annotation 7"."""
    origin: str = ""
    """Format in which the split was found, with the numbers of splits and classes: "COCO, 2 splits, 80 classes"."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "category_ids", tuple(self.category_ids) or tuple(range(1, len(self.class_names) + 1)))
        if isinstance(self.images, list) or not isinstance(self.images, Sequence):
            object.__setattr__(self, "images", tuple(self.images))


def make_annotation(
    annotation_id: int,
    label: int,
    *,
    box: Sequence[float] | np.ndarray | None = None,
    segmentation: Segmentation | np.ndarray | Sequence[np.ndarray] = None,
    crowd: bool = False,
    area: float | None = None,
) -> Annotation:
    """Create an annotation from a box, a mask or both.

    Args:
        annotation_id: Id that is unique in the split.
        label: 0 to C - 1, index into `DatasetSplit.class_names`.
        box: (4,) x1 y1 x2 y2 in image pixels, inside the image; None for the bounding box of the mask.
        segmentation: (H, W) bool bitmap of the image's size, list of polygons (P, 2) or [x1, y1, x2, y2, ...], COCO
            RLE, or None if there is only a box.
        crowd: Whether this is a region of many objects.
        area: Area in pixels; None for that of the mask, or of the box if there is no mask.

    Raises:
        InputError: There is neither a box nor a mask, or the mask is malformed.
    """
    where = f"annotation {annotation_id}"
    mask = _to_coco_form(segmentation, where)
    shape = rasterize_segmentation(mask, None, where)
    if box is None:
        if shape is None:
            raise InputError(f"{where}: neither a box nor a mask. Give at least one of them.")
        box = bounding_box(shape)
    corners = np.array(box, np.float32).reshape(4)
    if area is None:
        area = float(np.prod(corners[2:].astype(float) - corners[:2])) if shape is None else _shape_area(shape, where)
    return Annotation(annotation_id, corners, label, mask, crowd, area)


def _to_coco_form(segmentation: Any, where: str) -> Segmentation:
    """Return a bitmap as an RLE, polygons as flat lists, and an RLE with integers."""
    if isinstance(segmentation, np.ndarray):
        from sais.ops.rle import encode

        if segmentation.ndim != 2:
            raise InputError(f"{where}: mask of shape {segmentation.shape}. Give a bitmap (H, W).")
        return encode(segmentation.astype(bool))
    if isinstance(segmentation, (list, tuple)):
        return [np.asarray(part, np.float64).reshape(-1).tolist() for part in segmentation] or None
    if segmentation is None:
        return None
    from sais.ops.rle import with_integers

    try:
        return with_integers(segmentation)
    except ValueError as error:
        raise InputError(f"{where}: malformed mask ({error}). Give a COCO RLE.") from error


def _shape_area(shape: ObjectMask, where: str) -> float:
    """Return the number of pixels whose centers are inside a shape."""
    from sais.ops.rasterize import inside

    x1, y1, x2, y2 = (float(edge) for edge in bounding_box(shape))
    if not (x2 - x1) * (y2 - y1) <= _MAX_PIXELS:  # NaN is rejected as well
        raise InputError(f"{where}: outline from {x1:g} {y1:g} to {x2:g} {y2:g}. Clip it to the image.")
    return float(inside(shape, (int(np.floor(x1)), int(np.floor(y1)), int(np.ceil(x2)), int(np.ceil(y2)))).sum())


def trainable(record: ImageRecord, with_masks: bool = False) -> tuple[Annotation, ...]:
    """Return the annotations that a model can be trained on: no crowd regions, and `with_masks` only those with a mask.

    Objects without a mask do not train masks, because a box filled as a mask would be a wrong target; formats count
    them in `DatasetSplit.notes`.
    """
    return tuple(a for a in record.annotations if not a.crowd and not (with_masks and a.segmentation is None))


def object_mask(annotation: Annotation, size: tuple[int, int]) -> ObjectMask | None:
    """Return the shape of an annotation in image pixels; None if it has only a box.

    Polygons remain polygons; an RLE becomes a bitmap cropped to its set pixels.

    Args:
        annotation: One of `ImageRecord.annotations`.
        size: (H, W) of the image.

    Raises:
        InputError: The RLE is malformed or has another size than the image.
    """
    return rasterize_segmentation(annotation.segmentation, size, f"annotation {annotation.id}")


def segmentation_bounds(annotation: Annotation, size: tuple[int, int]) -> np.ndarray | None:
    """Return the bounding box of a mask without decoding it, (4,) float32 x1 y1 x2 y2; None if there is no mask.

    Args:
        annotation: One of `ImageRecord.annotations`.
        size: (H, W) of the image.

    Raises:
        InputError: As for `object_mask`.
    """
    where = f"annotation {annotation.id}"
    if not isinstance(annotation.segmentation, dict):
        mask = rasterize_segmentation(annotation.segmentation, size, where)
        return None if mask is None else bounding_box(mask)
    from sais.ops.rle import bounds

    _check_rle_size(annotation.segmentation, size, where)
    try:
        return np.array(bounds(annotation.segmentation), np.float32)
    except ValueError as error:
        raise InputError(f"{where}: malformed mask ({error}). Export it again.") from error


def object_masks(record: ImageRecord, annotations: Sequence[Annotation]) -> list[ObjectMask | None]:
    """Return `object_mask` of N annotations of one image, whose bitmaps are held in memory together.

    Raises:
        InputError: An RLE is malformed or has another size than the image, or the bitmaps have too many pixels.
    """
    masks, pixels = [], 0
    for annotation in annotations:
        mask = object_mask(annotation, record.size)
        pixels += mask.bits.size if isinstance(mask, Bitmap) else 0
        if pixels > input_limits.MAX_BITMAP_PIXELS:
            limit = input_limits.MAX_BITMAP_PIXELS
            raise InputError(f"its RLE masks have more than {limit} pixels. Cut the image into parts.")
        masks.append(mask)
    return masks


def rasterize_segmentation(segmentation: Segmentation, size: tuple[int, int] | None, where: str) -> ObjectMask | None:
    """Return the shape of a segmentation in COCO's form in image pixels; None if there is none.

    Args:
        segmentation: The mask in COCO's form.
        size: (H, W) of the image; None if the RLE may have any size.
        where: Start of error messages.

    Raises:
        InputError: The RLE is malformed or has another size than the image.
    """
    if segmentation is None:
        return None
    if isinstance(segmentation, list):
        return Polygons(tuple(np.asarray(part, np.float64).reshape(-1, 2) for part in segmentation))
    from sais.ops.rle import decode_cropped

    if size is not None:
        _check_rle_size(segmentation, size, where)
    try:
        bits, x, y = decode_cropped(segmentation)
    except ValueError as error:
        raise InputError(f"{where}: malformed mask ({error}). Export it again.") from error
    return Bitmap(bits, (float(x), float(y), float(x + bits.shape[1]), float(y + bits.shape[0])))


def _check_rle_size(rle: dict[str, Any], size: tuple[int, int], where: str) -> None:
    """Raise InputError for an RLE of another size than the image (H, W)."""
    height, width = rle["size"]
    if (height, width) != tuple(size):
        raise InputError(
            f"{where}: RLE of {height} x {width} in an image of {size[0]} x {size[1]} (height x width). "
            "Export it again."
        )
