"""Cityscapes: an id map for each image, in folders of splits and cities.

    DIR/leftImg8bit/train/CITY/NAME_leftImg8bit.png, DIR/gtFine/train/CITY/NAME_gtFine_instanceIds.png

An id of 1000 or more is an object of the class id // 1000; a smaller id is a region of many objects, a crowd, or of a
class without objects (road, sky). The eight classes are those that Cityscapes evaluates, unless `classes.json` names
others (`id_classes`).
"""

from __future__ import annotations

from pathlib import Path

from sais.data.annotations import DatasetSplit
from sais.data.formats import notes as kinds
from sais.data.formats.id_classes import IdClasses, add_id_map, read_id_classes
from sais.data.formats.id_maps import read_id_map
from sais.data.formats.paths_inside import list_images
from sais.data.formats.split_builder import Problems, SplitBuilder

CLASSES = IdClasses(
    {24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}, 1000
)
"""The classes with objects that Cityscapes evaluates; caravans (29) and trailers (30) are left out."""
_IMAGES, _IMAGE_ENDING = "leftImg8bit", "_leftImg8bit"
_LABELS = ("gtFine", "gtCoarse")
_ENDING = "instanceIds.png"


def list_splits(folder: Path) -> list[str]:
    """Return the names of the splits of Cityscapes that have labels; none if the folder is of another format."""
    labels = _label_folder(folder)
    if labels is None:
        return []
    places = sorted(place for place in labels.glob("*") if place.is_dir() and (folder / _IMAGES / place.name).is_dir())
    return [place.name for place in places if next(place.rglob(f"*_{_ENDING}"), None) is not None]


def read_split(
    folder: Path, split: str, classes: tuple[str, ...] | None, searched: list[str], problems: Problems | None
) -> DatasetSplit | None:
    """Read a split of Cityscapes: as for `sais.data.formats.yolo.read_split`.

    Raises:
        InputError: An id map or an image is malformed.
    """
    labels = _label_folder(folder)
    names = ("val", "valid") if split in ("val", "valid") else (split,)
    found = [name for name in list_splits(folder) if name in names]
    if labels is None or not found:
        searched.append(f"{_LABELS[0]}/{split}")
        return None
    id_classes = read_id_classes(folder, CLASSES)
    builder = SplitBuilder(folder, list(id_classes.names.values()), classes, list(id_classes.names))
    images = folder / _IMAGES / found[0]
    for image in list_images(images):
        city = labels / found[0] / image.parent.relative_to(images)
        ids = city / f"{image.stem.removesuffix(_IMAGE_ENDING)}_{labels.name}_{_ENDING}"
        if not ids.is_file():
            builder.notes.add(kinds.NO_MASK_FILE, builder.relative(image))
        elif builder.start_image(image, ids):
            with builder.notes.recording(kinds.BAD_MASK):
                add_id_map(read_id_map(ids, builder.size), id_classes, builder.relative(ids), builder)
            builder.end_image()
    return builder.build(split, problems)


def _label_folder(folder: Path) -> Path | None:
    if not (folder / _IMAGES).is_dir():
        return None
    return next((folder / name for name in _LABELS if (folder / name).is_dir()), None)
