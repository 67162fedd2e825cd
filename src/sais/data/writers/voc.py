"""Pascal VOC: JPEGImages, SegmentationObject, SegmentationClass, Annotations (XML), ImageSets/Segmentation/SPLIT.txt.

The n-th object of a map is the n-th of its XML file. Crowds are void (255), which evaluations ignore. Objects without a
mask follow in the XML file. The classes are in class_names.txt, with their colors in labelmap.txt, background first.
"""

from __future__ import annotations

import math
from collections import Counter
from xml.etree import ElementTree

import numpy as np

from sais.data.writers import DatasetInfo, LabeledImage
from sais.data.writers.label_map import encode_png, paint_objects, voc_palette
from sais.errors import InputError
from sais.results import not_written as kinds
from sais.results.labeled_object import LabeledObject
from sais.text import printable

_VOID = 255
_MAX_NUMBER = 254
CLASSES = "class_names.txt"
LABEL_MAP = "labelmap.txt"
"""File of the classes with their colors, for CVAT and Datumaro, whose names have no colons."""


class VocWriter:
    """Writer of Pascal VOC, which has no overlaps and no scores.

    Args:
        info: The data set.

    Raises:
        InputError: There are too many classes.
    """

    def __init__(self, info: DatasetInfo) -> None:
        if len(info.class_names) > _MAX_NUMBER:
            raise InputError(
                f"voc: {len(info.class_names)} classes, above the limit of {_MAX_NUMBER}. Convert to coco."
            )
        self._info = info
        self._names: dict[str, list[str]] = {split: [] for split in info.splits}
        self._palette = voc_palette()

    def image_file(self, split: str, stem: str, suffix: str) -> str:
        """Return the path of an image."""
        return f"JPEGImages/{stem}{suffix}"

    def label_files(self, split: str, stem: str) -> list[str]:
        """Return the paths of the XML file and, if there are masks, of the maps of objects and of classes."""
        maps = [] if self._info.boxes_only else [f"SegmentationObject/{stem}.png", f"SegmentationClass/{stem}.png"]
        return [f"Annotations/{stem}.xml", *maps]

    def dataset_files(self) -> list[str]:
        """Return the paths of the lists of images, and of the classes."""
        return [*(f"ImageSets/Segmentation/{split}.txt" for split in self._info.splits), CLASSES, LABEL_MAP]

    def add(self, image: LabeledImage, notes: Counter[str]) -> dict[str, bytes]:
        """Return the label files of an image."""
        self._names[image.split].append(image.stem)
        notes[kinds.SCORE] += sum(item.score is not None for item in image.objects)
        boxes = [item for item in image.objects if item.shape is None]
        notes[kinds.CROWD] += sum(item.crowd for item in boxes)
        if not self._info.boxes_only:
            notes[kinds.BOX_IN_XML] += sum(not item.crowd for item in boxes)
        owners, objects = paint_objects(image.objects, image.size, notes)
        crowds = sum(item.crowd for item in objects)
        notes[kinds.VOID] += crowds
        numbered: list[tuple[LabeledObject, int]] = []
        ids, classes = [0], [0]
        for i, item in enumerate(objects):
            if item.crowd or len(numbered) == _MAX_NUMBER:
                notes[kinds.TOO_MANY] += not item.crowd
                ids.append(_VOID)
                classes.append(_VOID)
            else:
                numbered.append((item, i + 1))
                ids.append(len(numbered))
                classes.append(item.label + 1)
        objects_of_file = [(item.class_name, _pixel_box(owners == number)) for item, number in numbered]
        objects_of_file += [(item.class_name, item.box.tolist()) for item in boxes if not item.crowd]
        contents = [
            _xml(image, objects_of_file),
            *(encode_png(np.array(values)[owners], 8, self._palette) for values in (ids, classes)),
        ]
        names = self.label_files(image.split, image.stem)
        return dict(zip(names, contents, strict=False))

    def finish(self) -> dict[str, bytes]:
        """Return the lists of images, and the classes."""
        files = {f"ImageSets/Segmentation/{split}.txt": names for split, names in self._names.items()}
        names = [printable(name) for name in self._info.class_names]
        files[CLASSES] = ["_background_", *names]
        plain = ["background", *(name.replace(":", " ") for name in names)]
        colors = [",".join(map(str, self._palette[3 * i : 3 * i + 3])) for i in range(len(plain))]
        files[LABEL_MAP] = ["# label:color_rgb:parts:actions"]
        files[LABEL_MAP] += [f"{name}:{color}::" for name, color in zip(plain, colors, strict=True)]
        return {
            name: "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
            for name, lines in files.items()
        }


def _pixel_box(pixels: np.ndarray) -> list[float]:
    """Return the box x1 y1 x2 y2 of the set pixels of a mask (H, W)."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def _xml(image: LabeledImage, objects: list[tuple[str, list[float]]]) -> bytes:
    """Return the XML file of an image: pixels are numbered from 1, and the last is inside of the box."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder").text = "JPEGImages"
    ElementTree.SubElement(root, "filename").text = printable(image.file.rpartition("/")[2])
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", image.size[1]), ("height", image.size[0]), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    ElementTree.SubElement(root, "segmented").text = "1"
    for name, (x1, y1, x2, y2) in objects:
        item = ElementTree.SubElement(root, "object")
        for key, text in (("name", printable(name)), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            ElementTree.SubElement(item, key).text = text
        box = ElementTree.SubElement(item, "bndbox")
        edges = {"xmin": math.floor(x1) + 1, "ymin": math.floor(y1) + 1, "xmax": math.ceil(x2), "ymax": math.ceil(y2)}
        for key, value in edges.items():
            ElementTree.SubElement(box, key).text = str(value)
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content + b"\n"
