"""Pascal VOC: id maps of objects and of classes, lists of images for each split, and XML files with boxes.

    DIR/JPEGImages/a.jpg, DIR/SegmentationObject/a.png, DIR/SegmentationClass/a.png, DIR/Annotations/a.xml,
    DIR/ImageSets/Segmentation/train.txt; also with DIR/VOC2012 or DIR/VOCdevkit/VOC2012 for DIR

    DIR/train/a.jpg, DIR/train/a.xml (Roboflow);  DIR/a.jpg, DIR/a.xml;  DIR/images/a.jpg, DIR/annotations/a.xml

Pixels of 255 (in color: 224 224 192) are the border of objects, which is of no class. Class names are those of
`class_names.txt`, `labelmap.txt` (CVAT) or `labels.txt`, else the 20 of Pascal VOC, or the names in the XML files if
these have others. The n-th object of an XML file is the id n of the map; those that follow, and all of an image without
a map, have their polygons, or boxes without masks. Without JPEGImages, the classes are the names in the XML files, and
an image without an XML file is not labeled yet: it is left out and counted.
"""

from __future__ import annotations

from pathlib import Path

from sais.data.annotation_limits import quoted
from sais.data.annotations import DatasetSplit
from sais.data.formats import notes as kinds
from sais.data.formats.folder_splits import DRAWN_SPLITS, draw_split, list_folder_splits, read_folder_split
from sais.data.formats.paths_inside import find_stem, images_by_stem, images_in
from sais.data.formats.split_builder import Problems, SplitBuilder
from sais.data.formats.unsplit import read_head
from sais.data.formats.voc_objects import VocClasses, add_image_objects, add_xml_objects, read_classes
from sais.data.formats.voc_xml import class_names
from sais.errors import InputError
from sais.io.regular_file import is_regular_file, read_regular_file

_IMAGES, _OBJECTS, _XML = "JPEGImages", "SegmentationObject", "Annotations"
_IS_VOC = b"<annotation"
_MAX_EXAMINED = 20
"""Number of XML files examined to recognize the format."""
_LISTS = ("Segmentation", "Main", ".")
"""Folders of lists in ImageSets, in the order of preference."""


def list_splits(folder: Path) -> list[str]:
    """Return the names of the splits of Pascal VOC; none if the folder is of another format."""
    root = _find_root(folder)
    if root is None:
        return list_folder_splits(folder, _has_xml)
    return [name for name in _lists(root) if name != "trainval"] or list(DRAWN_SPLITS)


def read_split(
    folder: Path, split: str, classes: tuple[str, ...] | None, searched: list[str], problems: Problems | None
) -> DatasetSplit | None:
    """Read a split of Pascal VOC: as for `sais.data.formats.yolo.read_split`; trainval is a split as well.

    Raises:
        InputError: A mask, an XML file or an image is malformed.
    """
    root = _find_root(folder)
    if root is None:
        found = read_folder_split(
            folder, split, _has_xml, lambda place: _read_xml(folder, place, split, classes, problems)
        )
        if found is None:
            searched += [_OBJECTS, "*.xml"]
        return found
    lists = _lists(root)
    if not lists:
        stems = sorted(path.stem for place in (_OBJECTS, _XML) for path in (root / place).glob("*.*"))
        return draw_split(_read(folder, root, split, list(dict.fromkeys(stems)), classes, problems), split)
    names = ["val", "valid"] if split in ("val", "valid") else [split]
    path = next((lists[name] for name in names if name in lists), None)
    if path is None:
        searched.append(f"ImageSets/Segmentation/{split}.txt")
        return None
    return _read(folder, root, split, _read_list(path), classes, problems)


def _find_root(folder: Path) -> Path | None:
    """Return the folder that has JPEGImages: the data folder or one in it."""
    for place in (folder, *sorted(folder.glob("VOC*")), *sorted(folder.glob("VOCdevkit/VOC*"))):
        if (place / _IMAGES).is_dir() and any((place / name).is_dir() for name in (_OBJECTS, _XML)):
            return place
    return None


def _xml_files(place: Path) -> list[Path]:
    """Return the XML files next to images, or in a folder of annotations, sorted."""
    files: list[Path] = []
    for folder in (place, place / _XML, place / _XML.lower()):
        files = files or sorted(path for path in folder.glob("*.xml") if is_regular_file(path))
    return files


def _has_xml(place: Path) -> bool:
    return any(_IS_VOC in read_head(path) for path in _xml_files(place)[:_MAX_EXAMINED])


def _read_xml(
    folder: Path, place: Path, split: str, classes: tuple[str, ...] | None, problems: Problems | None
) -> DatasetSplit:
    """Read XML files that are next to their images, or in a folder next to that of the images."""
    others = [folder / name for name in list_folder_splits(folder, _has_xml)] if place != folder else []
    files = _xml_files(place)
    names = sorted(class_names(path for other in dict.fromkeys([place, *others]) for path in _xml_files(other)))
    builder = SplitBuilder(folder, names or ["unknown"], classes)
    folders = dict.fromkeys([files[0].parent, place / "images", place / _IMAGES, place])
    listings = [images_by_stem(other) for other in folders]
    used: set[Path] = set()
    for path in files:
        image = next((image for listing in listings if (image := find_stem(listing, path.stem))), None)
        if image is None:
            text = f"{path}: no image of this name in {place}. Add it, or remove this file."
            builder.notes.problem(kinds.BAD_IMAGE, text)
        elif builder.start_image(image):
            used.add(image)
            with builder.notes.recording(kinds.BAD_ANNOTATION):
                add_xml_objects(path, names, builder)
            builder.end_image()
    for other in sorted({image.parent for image in used}):
        for image in sorted(set(images_in(other)) - used):
            builder.notes.add(kinds.NOT_LABELED, builder.relative(image))
    return builder.build(split, problems)


def _lists(root: Path) -> dict[str, Path]:
    """Return the lists of images by the names of their splits."""
    for place in _LISTS:
        paths = {path.stem: path for path in sorted((root / "ImageSets" / place).glob("*.txt"))}
        # The lists of single classes in Main, such as cat_train.txt, are no splits.
        whole = {name: path for name, path in paths.items() if place != "Main" or "_" not in name}
        if whole:
            return whole
    return {}


def _read_list(path: Path) -> list[str]:
    """Return the names of the images of a list, each once."""
    try:
        lines = read_regular_file(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
    return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


def _read(
    folder: Path, root: Path, split: str, names: list[str], classes: tuple[str, ...] | None, problems: Problems | None
) -> DatasetSplit:
    voc_classes: VocClasses = read_classes(root)
    builder = SplitBuilder(folder, voc_classes.names, classes)
    images = images_by_stem(root / _IMAGES)
    for name in names:
        image = find_stem(images, name)
        if image is None:
            text = f"{root / _IMAGES}: no image {quoted(name)} of split '{split}'. Add it, or remove it from the list."
            builder.notes.problem(kinds.BAD_IMAGE, text)
        elif builder.start_image(image, id_map if (id_map := root / _OBJECTS / f"{name}.png").is_file() else None):
            add_image_objects(root, name, voc_classes, builder)
            builder.end_image()
    return builder.build(split, problems)
