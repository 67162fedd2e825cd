"""The classes and the objects of Pascal VOC: from id maps, and where there are none from XML files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sais.data.formats import notes as kinds
from sais.data.formats.id_classes import is_crowded
from sais.data.formats.id_maps import crop_objects, read_id_map
from sais.data.formats.split_builder import SplitBuilder
from sais.data.formats.voc_xml import class_names, read_xml
from sais.errors import InputError
from sais.io.regular_file import is_regular_file, read_regular_file

VOC_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of Pascal VOC, class 1 first."""
_VOID, _VOID_COLOR = 255, 224 + 256 * 224 + 65536 * 192
_BACKGROUND = ("_background_", "background", "__ignore__", "")
_LABEL_MAP = "labelmap.txt"
_NAME_FILES = ("class_names.txt", _LABEL_MAP, "labels.txt")
"""Files of class names in the order of preference: names in a label map have no colons."""


@dataclass(frozen=True)
class VocClasses:
    """The classes of a data set."""

    names: list[str]
    """C names, label 0 first."""
    labels: dict[int, int] = field(default_factory=dict)
    """Pixel of SegmentationClass -> label: number of a class, or color R + 256 G + 65536 B; empty if the names of the
    XML files decide, of which the n-th object has the id n."""


def read_classes(root: Path) -> VocClasses:
    """Return the classes of a data set: of its list of names, of its XML files, or those of Pascal VOC.

    Raises:
        InputError: The list of names is malformed.
    """
    for name in _NAME_FILES:
        if is_regular_file(root / name) and name == _LABEL_MAP:
            return _read_label_map(root / name)
        if is_regular_file(root / name):
            lines = [line.strip() for line in _read_text(root / name).rstrip().splitlines()]
            if "" in lines:  # programs differ in whether it has a number
                problem = f"line {lines.index('') + 1} is empty. Name its class, or remove the line."
                raise InputError(f"{root / name}: {problem}")
            names = [line for line in lines if line not in _BACKGROUND]
            return VocClasses(names, _numbered(range(1, len(names) + 1)))
    found = class_names((root / "Annotations").glob("*.xml"))
    if found <= set(VOC_NAMES):
        return VocClasses(list(VOC_NAMES), _numbered(range(1, len(VOC_NAMES) + 1)))
    return VocClasses(sorted(found))


def _read_label_map(path: Path) -> VocClasses:
    """Return the classes of labelmap.txt (CVAT, Datumaro): ``label:R,G,B:parts:actions``, background among them."""
    names: list[str] = []
    labels: dict[int, int] = {}
    position = 0
    for line in _read_text(path).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, color_text = [*line.split(":"), ""][:2]
        color = color_text.split(",")
        if name.strip() not in _BACKGROUND:
            labels[position] = len(names)
            if len(color) == 3 and all(value.strip().isdecimal() and len(value) < 5 for value in color):
                red, green, blue = (int(value) for value in color)
                labels[red + 256 * green + 65536 * blue] = len(names)
            elif not color_text.strip():  # as Datumaro writes it, with the colors of VOC's palette
                labels[_palette_color(position)] = len(names)
            names.append(name.strip())
        position += 1
    return VocClasses(names, labels)


def _numbered(numbers: Sequence[int]) -> dict[int, int]:
    """Return labels by number and by the color that VOC's palette gives to the number."""
    labels = {_palette_color(number): label for label, number in enumerate(numbers)}
    return labels | {number: label for label, number in enumerate(numbers)}


def _palette_color(number: int) -> int:
    """Return the color of a class in VOC's palette, R + 256 G + 65536 B: bit 3 k + c of a number is bit 7 - k of c."""
    channels = [sum(((number >> (3 * k + c)) & 1) << (7 - k) for k in range(8)) for c in range(3)]
    return channels[0] + 256 * channels[1] + 65536 * channels[2]


def add_image_objects(root: Path, name: str, classes: VocClasses, builder: SplitBuilder) -> None:
    """Add the objects of an image to a builder.

    Args:
        root: Folder with SegmentationObject.
        name: Name of the image without suffix.
        classes: Classes of the data set.
        builder: Builder, in which the image is started.
    """
    objects, xml = root / "SegmentationObject" / f"{name}.png", root / "Annotations" / f"{name}.xml"
    with builder.notes.recording(kinds.BAD_MASK):
        if objects.is_file():
            _add_masks(root, objects, xml, classes, builder)
        elif xml.is_file():
            add_xml_objects(xml, classes.names, builder)
        else:
            builder.notes.add(kinds.NO_LABEL_FILE, name)


def _add_masks(root: Path, objects: Path, xml: Path, classes: VocClasses, builder: SplitBuilder) -> None:
    ids = read_id_map(objects, builder.size)
    place = builder.relative(objects)
    ids[ids == _VOID_COLOR] = 0
    if ids.max(initial=0) <= _VOID or ids.max() >= 2**16:  # 8 bits or color
        ids[ids == _VOID] = 0
    if is_crowded(ids, place, builder):
        return
    class_file = root / "SegmentationClass" / objects.name
    class_map = read_id_map(class_file, builder.size) if classes.labels and class_file.is_file() else None
    names = read_xml(xml) if class_map is None and xml.is_file() else []
    for object_id, bits, x, y in crop_objects(ids):
        where = f"{place} id {object_id}"
        label: int | None = None
        if class_map is not None:
            values, counts = np.unique(
                class_map[y : y + bits.shape[0], x : x + bits.shape[1]][bits], return_counts=True
            )
            for row in np.argsort(-counts, kind="stable").tolist():
                label = classes.labels.get(int(values[row])) if label is None else label
        elif object_id <= len(names) and names[object_id - 1].name in classes.names:
            label = classes.names.index(names[object_id - 1].name)
        if label is None:
            builder.notes.add(kinds.NO_CLASS, where)
        else:
            builder.add_bitmap(where, label, bits, x, y)
    largest = int(ids.max(initial=0))
    if xml.is_file() and read_regular_file(xml).count(b"<object") > largest:  # parsing takes longer than counting
        add_xml_objects(xml, classes.names, builder, largest)


def add_xml_objects(xml: Path, names: Sequence[str], builder: SplitBuilder, first: int = 0) -> None:
    """Add the objects of an XML file to the image of a builder: their polygons, or else their boxes.

    Args:
        xml: The file.
        names: C names of the classes, label 0 first.
        builder: Builder, in which the image is started.
        first: Number of objects at the start that are left out, because an id map has them.

    Raises:
        InputError: The file is malformed.
        ResourceError: The file is too large.
    """
    for position, item in enumerate(read_xml(xml)[first:], first):
        place = f"{builder.relative(xml)} object {position}"
        if item.name not in names:
            builder.notes.add(kinds.NO_CLASS, place)
        elif item.polygons:
            builder.add_polygons(place, names.index(item.name), item.polygons)
        elif item.box is None:
            builder.notes.add(kinds.NO_SHAPE, place)
        else:
            builder.add_box(place, names.index(item.name), item.box)


def _read_text(path: Path) -> str:
    try:
        return read_regular_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
