"""Masks as images: an id map for each image, or a black and white image for each object.

    DIR/images/a.jpg, DIR/masks/a.png               the number of its object in every pixel, 0 is background
    DIR/train/images/a.jpg, DIR/train/masks/a.png   the same with splits; also DIR/images/train, DIR/masks/train
    DIR/ID/images/ID.png, DIR/ID/masks/*.png        an image for each object (2018 Data Science Bowl); also DIR/train/ID

There is one class, "object", unless `classes.json` names the classes (`id_classes`). An image without a mask file is
not labeled: it is left out and counted. JPEG files are no masks: their compression changes the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.data.formats import notes as kinds
from sais.data.formats.folder_splits import list_folder_splits, read_folder_split
from sais.data.formats.id_classes import IdClasses, add_id_map, read_id_classes
from sais.data.formats.id_maps import crop_objects, present_ids, read_id_map, read_mask
from sais.data.formats.paths_inside import images_in
from sais.data.formats.split_builder import Problems, SplitBuilder
from sais.errors import InputError

_IMAGES, _MASKS = "images", "masks"
_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
_ENDINGS = ("", "_mask", "_masks")
"""Endings of the name of an id map, after the name of its image."""
_MAX_EXAMINED = 20
"""Number of folders examined to recognize the format."""


def list_splits(folder: Path) -> list[str]:
    """Return the names of the splits of masks; none if the folder has no masks in a known layout."""
    return _mask_folders(folder) or list_folder_splits(folder, _has_labels)


def read_split(
    folder: Path, split: str, classes: tuple[str, ...] | None, searched: list[str], problems: Problems | None
) -> DatasetSplit | None:
    """Read a split of masks: as for `sais.data.formats.yolo.read_split`.

    Raises:
        InputError: A mask or an image is malformed.
    """
    inner = _mask_folders(folder)
    if inner:
        names = ["valid", "val"] if split in ("val", "valid") else [split]
        for name in (name for name in names if name in inner):
            pairs = _pairs(folder / _IMAGES / name, folder / _MASKS / name)
            return _read(folder, folder, pairs, split, classes, problems)
        searched.append(f"{_MASKS}/{split}")
        return None

    def read(place: Path) -> DatasetSplit:
        if (place / _MASKS).is_dir():
            return _read(folder, place, _pairs(place / _IMAGES, place / _MASKS), split, classes, problems)
        return _read(folder, place, _object_masks(place), split, classes, problems)

    dataset_split = read_folder_split(folder, split, _has_labels, read)
    if dataset_split is None:
        searched.append(f"{_MASKS}/*.png")
    return dataset_split


def _mask_folders(folder: Path) -> list[str]:
    """Return the names of the folders that `images` and `masks` both have."""
    places = sorted(place for place in (folder / _MASKS).glob("*") if place.is_dir())
    return [place.name for place in places if (folder / _IMAGES / place.name).is_dir()]


def _has_labels(folder: Path) -> bool:
    if (folder / _IMAGES).is_dir() and _masks_in(folder / _MASKS):
        return True
    return any(_masks_in(place / _MASKS) for place in _id_folders(folder)[:_MAX_EXAMINED])


def _id_folders(folder: Path) -> list[Path]:
    """Return the folders that have an image and its masks each (Data Science Bowl)."""
    return sorted(place.parent for place in folder.glob(f"*/{_IMAGES}") if place.is_dir())


def _masks_in(folder: Path) -> dict[str, Path]:
    """Return the mask files directly in a folder by their names without suffix."""
    return {path.stem: path for path in images_in(folder) if path.suffix.lower() in _SUFFIXES}


Entry = tuple[Path, list[Path] | None, bool]
"""An image, its masks or None if it is not labeled, and whether they are an id map."""


def _pairs(images: Path, masks: Path) -> Iterator[Entry]:
    """Yield each image of a folder with its id map; a mask without an image has no image file."""
    maps = _masks_in(masks)
    for image in images_in(images):
        names = [image.stem + ending for ending in _ENDINGS if image.stem + ending in maps]
        yield image, [maps.pop(names[0])] if names else None, True
    yield from ((Path(), [path], True) for path in maps.values())


def _object_masks(place: Path) -> Iterator[Entry]:
    """Yield each image of the Data Science Bowl's layout with the masks of its objects."""
    for folder in _id_folders(place):
        images = images_in(folder / _IMAGES)
        is_labeled = (folder / _MASKS).is_dir()
        masks = list(_masks_in(folder / _MASKS).values()) if is_labeled else None
        if len(images) != 1 and masks:
            raise InputError(f"{folder / _IMAGES}: {len(images)} images for the masks of one. Keep one image.")
        yield from ((image, masks, False) for image in images)


def _read(
    folder: Path,
    place: Path,
    entries: Iterator[Entry],
    split: str,
    classes: tuple[str, ...] | None,
    problems: Problems | None,
) -> DatasetSplit:
    id_classes = read_id_classes(folder, read_id_classes(place))
    builder = SplitBuilder(folder, list(id_classes.names.values()), classes, list(id_classes.names))
    for image, masks, is_map in entries:
        if masks is None:
            builder.notes.add(kinds.NO_MASK_FILE, builder.relative(image))
        elif image == Path():
            builder.notes.add(kinds.NO_IMAGE, builder.relative(masks[0]))
        elif builder.start_image(image, masks[0] if masks else None):
            for path in masks:
                with builder.notes.recording(kinds.BAD_MASK):
                    _add_mask(path, is_map, id_classes, builder)
            builder.end_image()
    return builder.build(split, problems)


def _add_mask(path: Path, is_map: bool, classes: IdClasses, builder: SplitBuilder) -> None:
    name = builder.relative(path)
    if is_map:
        ids = read_id_map(path, builder.size)
        if present_ids(ids).tolist() == [255]:
            builder.notes.add(kinds.BINARY_MAP, name)
        add_id_map(ids, classes, name, builder)
        return
    for _, bits, x, y in crop_objects(read_mask(path, builder.size).astype(np.uint8)):
        builder.add_bitmap(name, 0, bits, x, y)
