"""The classes and the objects of Pascal VOC: from id maps, and where there are none from XML files.

XML files of strangers are refused if they define entities, which can take all memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from sais.data.annotation_limits import quoted
from sais.data.formats import notes as kinds
from sais.data.formats.id_classes import is_crowded
from sais.data.formats.id_maps import crop_objects, read_id_map
from sais.data.formats.split_builder import SplitBuilder
from sais.errors import InputError, OutOfMemoryError, ResourceError, SaisError
from sais.io.regular_file import is_regular_file, read_regular_file

VOC_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of Pascal VOC, class 1 first."""
_VOID, _VOID_COLOR = 255, 224 + 256 * 224 + 65536 * 192
_BACKGROUND = ("_background_", "background", "__ignore__", "")
_NAME_FILES = ("class_names.txt", "labels.txt")
_MAX_XML_BYTES = 2**24
_MAX_XML_DEPTH = 100


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
    if is_regular_file(root / "labelmap.txt"):
        return _read_label_map(root / "labelmap.txt")
    for name in _NAME_FILES:
        if is_regular_file(root / name):
            lines = [line.strip() for line in _read_text(root / name).rstrip().splitlines()]
            if "" in lines:  # programs differ in whether it has a number
                problem = f"line {lines.index('') + 1} is empty. Name its class, or remove the line."
                raise InputError(f"{root / name}: {problem}")
            names = [line for line in lines if line not in _BACKGROUND]
            return VocClasses(names, _numbered(range(1, len(names) + 1)))
    found = {name for path in sorted((root / "Annotations").glob("*.xml")) for name, _ in _xml_or_nothing(path)}
    if found <= set(VOC_NAMES):
        return VocClasses(list(VOC_NAMES), _numbered(range(1, len(VOC_NAMES) + 1)))
    return VocClasses(sorted(found))


def _read_label_map(path: Path) -> VocClasses:
    """Return the classes of CVAT's labelmap.txt: lines ``label:R,G,B:parts:actions``, background among them."""
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
            _add_boxes(xml, classes, builder)
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
        elif object_id <= len(names) and names[object_id - 1][0] in classes.names:
            label = classes.names.index(names[object_id - 1][0])
        if label is None:
            builder.notes.add(kinds.NO_CLASS, where)
        else:
            builder.add_bitmap(where, label, bits, x, y)


def _add_boxes(xml: Path, classes: VocClasses, builder: SplitBuilder) -> None:
    for position, (name, box) in enumerate(read_xml(xml)):
        place = f"{builder.relative(xml)} object {position}"
        if name not in classes.names:
            builder.notes.add(kinds.NO_CLASS, place)
        elif box is None:
            builder.notes.add(kinds.NO_SHAPE, place)
        else:
            builder.add_box(place, classes.names.index(name), box)


def _xml_or_nothing(path: Path) -> list[tuple[str, list[float] | None]]:
    """Return `read_xml`; nothing for a malformed file, which is reported with its image."""
    try:
        return read_xml(path)
    except OutOfMemoryError:
        raise
    except SaisError:
        return []


def read_xml(path: Path) -> list[tuple[str, list[float] | None]]:
    """Return the name and the box x1 y1 x2 y2 of each object of an XML file; None for an object without a box.

    The file numbers pixels from 1, and the last pixel is inside the box.

    Raises:
        InputError: The file is malformed.
        ResourceError: The file is too large.
    """
    content = read_regular_file(path)
    if len(content) > _MAX_XML_BYTES:
        raise ResourceError(f"{path}: {len(content)} bytes, above the limit of {_MAX_XML_BYTES}. Export it again.")
    try:
        tree = _parse(content)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise InputError(f"{path}: not XML that can be read ({error}). Export it again.") from error
    objects: list[tuple[str, list[float] | None]] = []
    for item in tree.findall("object"):
        name = (item.findtext("name") or "").strip()
        texts = [item.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
        if not name:
            raise InputError(f"{path}: an object without a name. Name its class.")
        try:
            x1, y1, x2, y2 = (float(text or "") for text in texts)
        except ValueError as error:
            if any(text is not None for text in texts):
                raise InputError(f"{path}: its bndbox is {quoted(texts)}. Write four numbers.") from error
            objects.append((name, None))
            continue
        objects.append((name, [x1 - 1, y1 - 1, x2, y2]))
    return objects


def _parse(content: bytes) -> ElementTree.Element:
    """Return the root of a document, which has no document type and is not nested deeply."""
    tree = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_XML_DEPTH:
            raise ValueError(f"elements nested more than {_MAX_XML_DEPTH} deep")
        tree.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        tree.end(tag)

    def refuse(*_: object) -> None:
        raise ValueError("a document type, which could define entities")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = tree.data
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(content, True)
    return tree.close()


def _read_text(path: Path) -> str:
    try:
        return read_regular_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
