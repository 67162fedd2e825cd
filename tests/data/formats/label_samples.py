"""One small data set, written as each labeling tool writes it, and the COCO file with the same objects."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sais.data.annotations import DatasetSplit, ImageRecord, object_mask
from sais.data.formats import read_dataset
from sais.ops.rasterize import Polygons, inside
from sais.ops.rle import encode

NAMES = ("cat", "dog")
SIZE = (48, 64)
"""(H, W) of each image."""
SPLITS = {"train": 4, "valid": 2}
"""Number of images in each split."""


@dataclass(frozen=True)
class Shape:
    """An object: its class and its polygons, flat lists in pixels. Objects of an image do not overlap."""

    label: int
    parts: list[list[float]]

    @property
    def bits(self) -> np.ndarray:
        """The mask (H, W) bool."""
        polygons = Polygons(tuple(np.array(part).reshape(-1, 2) for part in self.parts))
        return inside(polygons, (0, 0, SIZE[1], SIZE[0]))


def image_names(split: str) -> list[str]:
    """Return the names of the images of a split without suffix."""
    return [f"{split}_{i}" for i in range(SPLITS[split])]


def shapes(name: str) -> list[Shape]:
    """Return the objects of an image; the last image of a split has none."""
    split, _, number = name.rpartition("_")
    i = int(number)
    if i == SPLITS[split] - 1:
        return []
    triangle = [4.27 + i, 3.31, 24.19 + i, 8.13, 9.41, 22.23 + i]
    square = [36.0, 5.0 + i, 56.0, 5.0 + i, 56.0, 25.0 + i, 36.0, 25.0 + i]
    low = [5.0, 30.0, 20.0 + i, 30.0, 20.0 + i, 44.0, 5.0, 44.0]
    return [Shape(0, [triangle]), Shape(1, [square]), Shape(1, [low])]


def write_image(path: Path) -> Path:
    """Write the image of a path, random but always the same for a name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(path.stem.encode()))
    Image.fromarray(random.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
    return path


def write_coco(folder: Path, with_masks: bool = False) -> Path:
    """Write the data set as COCO, with polygons or with RLE masks, and return its folder."""
    (folder / "annotations").mkdir(parents=True)
    for split in SPLITS:
        images, annotations = [], []
        for name in image_names(split):
            write_image(folder / "images" / f"{name}.png")
            images.append({"id": len(images) + 1, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]})
            for shape in shapes(name):
                segmentation: Any = encode(shape.bits) if with_masks else shape.parts
                entry = {"id": len(annotations) + 1, "image_id": len(images), "category_id": shape.label + 1}
                annotations.append(entry | {"segmentation": segmentation, "iscrowd": 0})
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return folder


def twin(folder: Path, split: str, with_masks: bool) -> dict[str, list[Any]]:
    """Return `objects` of the COCO data set, written into a new folder."""
    return objects(read_dataset(write_coco(folder, with_masks), split))


def objects(split: DatasetSplit) -> dict[str, list[Any]]:
    """Return the objects of a split: name of the image without suffix -> class, box, area and pixels, sorted."""
    return {Path(record.name).stem: sorted(_object(record, split)) for record in split.images}


def _object(record: ImageRecord, split: DatasetSplit) -> list[Any]:
    rows = []
    for annotation in record.annotations:
        mask = object_mask(annotation, record.size)
        height, width = record.size
        pixels = b"" if mask is None else inside(mask, (0, 0, width, height)).tobytes()
        box = tuple(round(float(edge), 3) for edge in annotation.box)
        rows.append((split.class_names[annotation.label], box, round(annotation.area, 3), annotation.crowd, pixels))
    return rows


def yolo_lines(name: str) -> str:
    """Return the content of an image's YOLO label file."""
    lines = []
    for shape in shapes(name):
        values = [v / SIZE[1 - k % 2] for k, v in enumerate(shape.parts[0])]
        lines.append(" ".join([str(shape.label), *(f"{value:.6f}" for value in values)]))
    return "\n".join(lines)


def write_yolo(folder: Path, layout: str = "ultralytics") -> Path:
    """Write the data set as YOLO segmentation in one of the layouts ultralytics, roboflow and list."""
    entries = {}
    for split in SPLITS:
        names = {"ultralytics": "images/{}/{}.png", "roboflow": "{}/images/{}.png", "list": "images/{}/{}.png"}
        paths = [names[layout].format(split, name) for name in image_names(split)]
        for path, name in zip(paths, image_names(split), strict=True):
            write_image(folder / path)
            label = folder / path.replace("images", "labels").replace(".png", ".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            if shapes(name):
                label.write_text(yolo_lines(name))
        entries[split] = {"ultralytics": f"images/{split}", "roboflow": f"../{split}/images", "list": f"{split}.txt"}
        (folder / f"{split}.txt").write_text("\n".join(f"./{path}" for path in paths))
    if layout == "ultralytics":
        config = f"path: /home/somebody/data\ntrain: {entries['train'][layout]}  # 4 images\n"
        names_text = "names:\n  0: cat\n  1: dog\n"
    else:
        config, names_text = f"train: {entries['train'][layout]}\n", "nc: 2\nnames: ['cat', 'dog']\n"
    (folder / "data.yaml").write_text(f"{config}val: {entries['valid'][layout]}\n{names_text}")
    return folder


def labelme_document(name: str, objects: list[Shape] | None = None, with_masks: bool = False) -> dict[str, Any]:
    """Return the content of an image's LabelMe file; parts of an object have one `group_id`."""
    entries: list[dict[str, Any]] = []
    for number, shape in enumerate(shapes(name) if objects is None else objects):
        common = {"label": NAMES[shape.label], "description": "", "flags": {}, "group_id": None, "mask": None}
        if with_masks:
            entries.append(common | mask_shape(shape.bits))
            continue
        for part in shape.parts:
            group = number if len(shape.parts) > 1 else None
            points = np.array(part).reshape(-1, 2).tolist()
            entries.append(common | {"group_id": group, "points": points, "shape_type": "polygon"})
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": entries,
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    }


def mask_shape(bits: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) bool as a `mask` shape, whose points are its first and its last pixel."""
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    crop = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "PNG")
    points = [[float(columns[0]), float(rows[0])], [float(columns[-1]), float(rows[-1])]]
    return {"points": points, "shape_type": "mask", "mask": base64.b64encode(buffer.getvalue()).decode()}


def write_labelme(folder: Path, with_masks: bool = False) -> Path:
    """Write the data set as LabelMe, with a folder for each split."""
    for split in SPLITS:
        for name in image_names(split):
            write_image(folder / split / f"{name}.png")
            document = labelme_document(name, None, with_masks)
            (folder / split / f"{name}.json").write_text(json.dumps(document, indent=2))
    return folder


def id_map(name: str, first: int = 1) -> np.ndarray:
    """Return the numbers of the objects of an image (H, W) int32, from `first` on; 0 is background."""
    ids = np.zeros(SIZE, np.int32)
    for number, shape in enumerate(shapes(name)):
        ids[shape.bits] = first + number
    return ids


def class_ids(name: str, classes: Sequence[int], first: int = 0) -> np.ndarray:
    """Return an id map (H, W) int32 with ids class * 1000 + number, numbers of each image from `first` on."""
    ids = np.zeros(SIZE, np.int32)
    for number, shape in enumerate(shapes(name), first):
        ids[shape.bits] = 1000 * classes[shape.label] + number
    return ids


def save(path: Path, pixels: np.ndarray) -> None:
    """Write pixels as an image file, of 16 bits where they need them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = np.uint8 if pixels.max(initial=0) < 256 else np.uint16
    Image.fromarray(pixels.astype(kind)).save(path)


def write_masks(folder: Path, layout: str = "split folders") -> Path:
    """Write the data set as id maps, in one of the layouts "split folders" and "mask folders"."""
    pattern = {"split folders": "{0}/{1}/{2}.png", "mask folders": "{1}/{0}/{2}.png"}[layout]
    for split in SPLITS:
        for name in image_names(split):
            write_image(folder / pattern.format(split, "images", name))
            save(folder / pattern.format(split, "masks", name), class_ids(name, (1, 2)))
    (folder / "classes.json").write_text(json.dumps({"classes": {"1": "cat", "2": "dog"}, "divisor": 1000}))
    return folder


def write_bowl(folder: Path) -> Path:
    """Write the data set, without classes, as the 2018 Data Science Bowl has them: an image for each object."""
    for split in SPLITS:
        for name in image_names(split):
            place = folder / f"stage1_{split}" / name
            write_image(place / "images" / f"{name}.png")
            (place / "masks").mkdir()
            for number, shape in enumerate(shapes(name)):
                save(place / "masks" / f"{name}{number:04}.png", 255 * shape.bits)
    return folder


def write_voc(folder: Path) -> Path:
    """Write the data set as Pascal VOC, with VOC's own classes cat and dog and a border of 255 around an object."""
    for split in SPLITS:
        for name in image_names(split):
            write_image(folder / "JPEGImages" / f"{name}.png")
            ids, numbers = id_map(name), np.zeros(SIZE, np.int32)
            for shape in shapes(name):
                numbers[shape.bits] = (8, 12)[shape.label]
            for pixels, kind in ((ids, "SegmentationObject"), (numbers, "SegmentationClass")):
                pixels[46:] = 255
                (folder / kind).mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(pixels.astype(np.uint8)).convert("P")
                image.putpalette([value % 256 for value in range(768)])
                image.save(folder / kind / f"{name}.png")
        place = folder / "ImageSets" / "Segmentation"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{split.replace('valid', 'val')}.txt").write_text("\n".join(image_names(split)) + "\n")
    return folder


def write_cityscapes(folder: Path) -> Path:
    """Write the data set as Cityscapes, with the classes of its own file `classes.json`."""
    for name in (name for part in SPLITS for name in image_names(part)):
        split = name.partition("_")[0].replace("valid", "val")
        write_image(folder / "leftImg8bit" / split / "aachen" / f"{name}_leftImg8bit.png")
        save(folder / "gtFine" / split / "aachen" / f"{name}_gtFine_instanceIds.png", class_ids(name, (30, 40)))
    (folder / "classes.json").write_text(json.dumps({"classes": {"30": "cat", "40": "dog"}, "divisor": 1000}))
    return folder


def write_panoptic(folder: Path) -> Path:
    """Write the data set as COCO panoptic, with a region of stuff in each image."""
    for split in SPLITS:
        images, annotations = [], []
        for number, name in enumerate(image_names(split)):
            write_image(folder / "images" / split / f"{name}.png")
            images.append({"id": number, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]})
            ids = id_map(name, 70_000)
            ids[46:] = 9
            regions = [{"id": 70_000 + i, "category_id": s.label + 1} for i, s in enumerate(shapes(name))]
            regions.append({"id": 9, "category_id": 3})
            annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": regions})
            pixels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
            place = folder / "annotations" / f"panoptic_{split}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{name}.png")
        categories: list[dict[str, Any]] = [{"id": i + 1, "name": n, "isthing": 1} for i, n in enumerate(NAMES)]
        categories.append({"id": 3, "name": "sky", "isthing": 0})
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"panoptic_{split}.json").write_text(json.dumps(document))
    return folder


def datumaro_item(name: str, objects: list[Shape] | None = None, with_masks: bool = False) -> dict[str, Any]:
    """Return an image's item of Datumaro; parts of an object have one `group`."""
    entries: list[dict[str, Any]] = []
    for number, shape in enumerate(shapes(name) if objects is None else objects, 1):
        common = {"id": number, "attributes": {}, "label_id": shape.label, "z_order": 0}
        if with_masks:
            entries.append(common | {"type": "mask", "group": 0, "rle": encode(shape.bits)})
            continue
        for part in shape.parts:
            entries.append(common | {"type": "polygon", "group": number if len(shape.parts) > 1 else 0, "points": part})
    return {"id": name, "annotations": entries, "image": {"path": f"{name}.png", "size": list(SIZE)}}


def write_datumaro(folder: Path, with_masks: bool = False) -> Path:
    """Write the data set as Datumaro."""
    labels = [{"name": name, "parent": "", "attributes": []} for name in NAMES]
    head = {"dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": {"label": {"labels": labels}}}
    (folder / "annotations").mkdir(parents=True)
    for split in SPLITS:
        items = [datumaro_item(name, None, with_masks) for name in image_names(split)]
        for name in image_names(split):
            write_image(folder / "images" / split / f"{name}.png")
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(head | {"items": items}))
    return folder


def xml_document(name: str) -> str:
    """Return an image's XML file as Roboflow writes it, with polygons; pixels are numbered from 1."""
    texts = []
    for shape in shapes(name):
        points = np.array(shape.parts[0]).reshape(-1, 2)
        (x1, y1), (x2, y2) = points.min(0), points.max(0)
        corners = f"<xmin>{x1 + 1}</xmin><xmax>{x2 + 1}</xmax><ymin>{y1 + 1}</ymin><ymax>{y2 + 1}</ymax>"
        numbers = "".join(f"<x{i}>{x + 1}</x{i}><y{i}>{y + 1}</y{i}>" for i, (x, y) in enumerate(points.tolist(), 1))
        text = f"<name>{NAMES[shape.label]}</name><pose>Unspecified</pose><bndbox>{corners}</bndbox>"
        texts.append(f"<object>{text}<polygon>{numbers}</polygon></object>")
    size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
    return f"<annotation><folder></folder><filename>{name}.png</filename>{size}{''.join(texts)}</annotation>"


def write_xml_files(folder: Path, pattern: str = "{0}/{1}.xml") -> Path:
    """Write the data set as XML files of VOC with polygons, by default next to the images, as Roboflow writes it."""
    for split in SPLITS:
        for name in image_names(split):
            write_image(folder / split / ("images" if "annotations" in pattern else ".") / f"{name}.png")
            path = folder / pattern.format(split, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(xml_document(name))
    return folder
