"""XML files of Pascal VOC: the class, the box and the polygons of each object of an image.

Roboflow and supervision write polygons ``<polygon><x1>..</x1><y1>..</y1>...``, older tools ``<polygon><pt><x>..``.
Files of strangers are refused if they define entities, which can take all memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from sais.data.annotation_limits import quoted
from sais.errors import InputError, OutOfMemoryError, ResourceError, SaisError
from sais.io.regular_file import read_regular_file

_MAX_BYTES = 2**24
_MAX_DEPTH = 100
_COORDINATE = re.compile(r"[xy][0-9]+")


@dataclass(frozen=True)
class XmlObject:
    """An object of an XML file, in pixels of the image from 0."""

    name: str
    """Name of the class."""
    box: list[float] | None
    """x1 y1 x2 y2; None if the file states none."""
    polygons: list[list[float]] = field(default_factory=list)
    """Flat lists x1 y1 x2 y2 ...; empty if the object has only a box."""


def read_xml(path: Path) -> list[XmlObject]:
    """Return the objects of an XML file.

    The file numbers pixels from 1, and the last pixel is inside the box.

    Raises:
        InputError: The file is malformed.
        ResourceError: The file is too large.
    """
    content = read_regular_file(path)
    if len(content) > _MAX_BYTES:
        raise ResourceError(f"{path}: {len(content)} bytes, above the limit of {_MAX_BYTES}. Export it again.")
    try:
        tree = _parse(content)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise InputError(f"{path}: not XML that can be read ({error}). Export it again.") from error
    objects = []
    for item in tree.findall("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{path}: an object without a name. Name its class.")
        polygons = [part for element in item.findall("polygon") if (part := _polygon(path, element))]
        objects.append(XmlObject(name, _box(path, item), polygons))
    return objects


def class_names(paths: Iterable[Path]) -> set[str]:
    """Return the names of the classes in XML files; malformed files are reported with their images."""
    names: set[str] = set()
    for path in paths:
        try:
            names |= {item.name for item in read_xml(path)}
        except OutOfMemoryError:
            raise
        except SaisError:
            continue
    return names


def _box(path: Path, item: ElementTree.Element) -> list[float] | None:
    texts = [item.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError as error:
        if any(text is not None for text in texts):
            raise InputError(f"{path}: its bndbox is {quoted(texts)}. Write four numbers.") from error
        return None
    return [x1 - 1, y1 - 1, x2, y2]


def _polygon(path: Path, element: ElementTree.Element) -> list[float]:
    """Return a polygon as a flat list; empty if the element has no points."""
    points = element.findall("pt")
    children = [child for point in points for child in (point.find("x"), point.find("y")) if child is not None]
    if not points:
        numbered = {child.tag: child for child in element if _COORDINATE.fullmatch(child.tag)}
        numbers = sorted({int(tag[1:]) for tag in numbered if len(tag) < 9})
        tags = [f"{axis}{number}" for number in numbers for axis in "xy"]
        missing = [tag for tag in tags if tag not in numbered]
        if missing:
            raise InputError(f"{path}: its polygon has no {missing[0]}. Correct or remove it.")
        children = [numbered[tag] for tag in tags]
    elif len(children) != 2 * len(points):
        raise InputError(f"{path}: its polygon has a point without x or y. Correct or remove it.")
    try:
        return [float(child.text or "") - 1 for child in children]
    except ValueError as error:
        texts = [child.text for child in children]
        raise InputError(f"{path}: its polygon is {quoted(texts)}. Write numbers.") from error


def _parse(content: bytes) -> ElementTree.Element:
    """Return the root of a document, which has no document type and is not nested deeply."""
    tree = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"elements nested more than {_MAX_DEPTH} deep")
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
