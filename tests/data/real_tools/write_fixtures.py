"""Write the fixtures of this folder with the labeling tools themselves; see README.md for the environment.

    python tests/data/real_tools/write_fixtures.py [NAME ...]

The data set is that of `tests/data/formats/label_samples.py`: 4 training and 2 validation images, three objects in each
but the last, whose images are a color here, so that the files are small.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[2]))

from tests.data.formats.label_samples import NAMES, SIZE, SPLITS, image_names, shapes  # noqa: E402

HEIGHT, WIDTH = SIZE


def write_image(path: Path) -> Path:
    """Write the image of a path: one color, which differs between the images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 40 * int(path.stem.rpartition("_")[2]) + 20 * path.stem.startswith("valid")
    Image.new("RGB", (WIDTH, HEIGHT), (number, 255 - number, 90)).save(path)
    return path


def write_coco(folder: Path) -> Path:
    """Write the data set as COCO, complete with boxes and areas, as tools want to read it."""
    (folder / "annotations").mkdir(parents=True)
    for split in SPLITS:
        images, annotations = [], []
        for name in image_names(split):
            write_image(folder / "images" / split / f"{name}.png")
            images.append({"id": len(images) + 1, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH})
            for shape in shapes(name):
                x, y = shape.parts[0][0::2], shape.parts[0][1::2]
                entry = {"id": len(annotations) + 1, "image_id": len(images), "category_id": shape.label + 1}
                entry |= {"segmentation": shape.parts, "iscrowd": 0, "area": float(shape.bits.sum())}
                annotations.append(entry | {"bbox": [min(x), min(y), max(x) - min(x), max(y) - min(y)]})
        categories = [{"id": i + 1, "name": name, "supercategory": ""} for i, name in enumerate(NAMES)]
        document = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return folder


def pycocotools(coco: Path, out: Path) -> None:
    """Masks of pycocotools: RLE, compressed."""
    from pycocotools import mask

    shutil.copytree(coco, out)
    for path in (out / "annotations").glob("*.json"):
        document = json.loads(path.read_text())
        for entry in document["annotations"]:
            rle = mask.merge(mask.frPyObjects(entry["segmentation"], HEIGHT, WIDTH))
            entry |= {"area": float(mask.area(rle)), "bbox": mask.toBbox(rle).tolist()}
            entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        path.write_text(json.dumps(document))


def labelme(coco: Path, out: Path) -> None:
    """Files of LabelMe, as its window saves them."""
    from labelme._label_file import write_label_file

    for split in SPLITS:
        for name in image_names(split):
            image = write_image(out / split / f"{name}.png")
            entries = [
                {
                    "label": NAMES[shape.label],
                    "points": np.array(shape.parts[0]).reshape(-1, 2).tolist(),
                    "group_id": None,
                    "description": "",
                    "shape_type": "polygon",
                    "flags": {},
                    "mask": None,
                }
                for shape in shapes(name)
            ]
            path = str(image.with_suffix(".json"))
            size = {"image_height": HEIGHT, "image_width": WIDTH}
            write_label_file(path, shapes=entries, image_path=image.name, image_data=image.read_bytes(), **size)


def _label_studio_tasks(place: Path) -> Path:
    """Write the tasks of a project of Label Studio, as its JSON export has them."""
    tasks = []
    for number, name in enumerate(name for split in SPLITS for name in image_names(split)):
        results = []
        for position, shape in enumerate(shapes(name)):
            points = np.array(shape.parts[0]).reshape(-1, 2) / (WIDTH, HEIGHT) * 100
            value = {"points": points.tolist(), "closed": True, "polygonlabels": [NAMES[shape.label]]}
            common = {"id": f"r{position}", "type": "polygonlabels", "from_name": "label", "to_name": "image"}
            common |= {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "origin": "manual"}
            results.append(common | {"value": value})
        annotation = {"id": number + 1, "completed_by": 1, "result": results, "was_cancelled": False}
        data = {"image": f"/data/upload/1/{number:08x}-{name}.png"}
        tasks.append({"id": number + 1, "data": data, "annotations": [annotation], "predictions": []})
    path = place / "tasks.json"
    path.write_text(json.dumps(tasks))
    return path


def _label_studio(out: Path, format: str) -> None:
    from label_studio_sdk.converter import Converter

    labels = "".join(f'<Label value="{name}"/>' for name in NAMES)
    polygons = f'<PolygonLabels name="label" toName="image">{labels}</PolygonLabels>'
    config = f'<View><Image name="image" value="$image"/>{polygons}</View>'
    with tempfile.TemporaryDirectory() as name:
        tasks = _label_studio_tasks(Path(name))
        converter = Converter(config=config, project_dir=name, download_resources=False)
        convert = {"coco": converter.convert_to_coco, "yolo": converter.convert_to_yolo}[format]
        convert(str(tasks), str(out), output_image_dir=str(out / "images"), is_dir=False)
    for number, image in enumerate(name for split in SPLITS for name in image_names(split)):
        write_image(out / "images" / f"{image}.png").rename(out / "images" / f"{number:08x}-{image}.png")


def label_studio_coco(coco: Path, out: Path) -> None:
    """Export of Label Studio as COCO."""
    _label_studio(out, "coco")


def label_studio_yolo(coco: Path, out: Path) -> None:
    """Export of Label Studio as YOLO."""
    _label_studio(out, "yolo")


def _supervision(coco: Path, split: str) -> Any:
    import supervision

    annotations = str(coco / "annotations" / f"instances_{split}.json")
    return supervision.DetectionDataset.from_coco(str(coco / "images" / split), annotations, force_masks=True)


def supervision_coco(coco: Path, out: Path) -> None:
    """Data set of supervision as COCO, as Roboflow arranges it."""
    for split in SPLITS:
        place = str(out / split)
        _supervision(coco, split).as_coco(place, str(out / split / "_annotations.coco.json"))


def supervision_yolo(coco: Path, out: Path) -> None:
    """Data set of supervision as YOLO, as Roboflow arranges it."""
    for split in SPLITS:
        images, labels = str(out / split / "images"), str(out / split / "labels")
        _supervision(coco, split).as_yolo(images, labels, str(out / "data.yaml"))
    text = (out / "data.yaml").read_text()  # supervision writes no paths
    (out / "data.yaml").write_text(f"train: ../train/images\nval: ../valid/images\n{text}")


def supervision_voc(coco: Path, out: Path) -> None:
    """Data set of supervision as XML files of VOC with polygons, as Roboflow arranges it."""
    for split in SPLITS:
        _supervision(coco, split).as_pascal_voc(str(out / split), str(out / split))


def ultralytics(coco: Path, out: Path) -> None:
    """Labels of the converter of ultralytics."""
    from ultralytics.data.converter import convert_coco

    convert_coco(str(coco / "annotations"), str(out), use_segments=True, cls91to80=False)
    shutil.rmtree(out / "images", ignore_errors=True)
    shutil.copytree(coco / "images", out / "images")
    (out / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/valid\nnames: {0: cat, 1: dog}\n")


def ultralytics_predictions(coco: Path, out: Path) -> None:
    """Predictions of ultralytics, saved with their scores."""
    import torch
    from ultralytics.engine.results import Results

    for split in SPLITS:
        for name in image_names(split):
            image = write_image(out / "images" / split / f"{name}.png")
            label = out / "labels" / split / f"{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            found = shapes(name)
            points = [np.array(shape.parts[0]).reshape(-1, 2) for shape in found]
            boxes = [[*p.min(0), *p.max(0), 0.9, s.label] for p, s in zip(points, found, strict=True)]
            masks = torch.tensor(np.array([shape.bits for shape in found])) if found else None
            pixels = np.array(Image.open(image))[..., ::-1]
            tensor = torch.tensor(np.array(boxes).reshape(-1, 6), dtype=torch.float32)
            results = Results(pixels, str(image), dict(enumerate(NAMES)), boxes=tensor, masks=masks)
            results.save_txt(str(label), save_conf=True)
    (out / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/valid\nnames: {0: cat, 1: dog}\n")


def _datumaro(coco: Path, out: Path, format: str) -> None:
    import datumaro

    data = datumaro.Dataset.import_from(str(coco), "coco_instances")
    if format != "datumaro":
        data.transform("polygons_to_masks")
    data.export(str(out), format, save_media=True)


def datumaro(coco: Path, out: Path) -> None:
    """Data set in Datumaro's own format."""
    _datumaro(coco, out, "datumaro")


def datumaro_voc(coco: Path, out: Path) -> None:
    """Data set of Datumaro as Pascal VOC."""
    _datumaro(coco, out, "voc_segmentation")


def datumaro_panoptic(coco: Path, out: Path) -> None:
    """Data set of Datumaro as COCO panoptic."""
    _datumaro(coco, out, "coco_panoptic")


def cityscapes(coco: Path, out: Path) -> None:
    """Maps of the scripts of Cityscapes, made of its JSON files, with two of its classes."""
    from cityscapesscripts.preparation.json2instanceImg import json2instanceImg

    for split in SPLITS:
        for name in image_names(split):
            folder = split.replace("valid", "val")
            write_image(out / "leftImg8bit" / folder / "town" / f"{name}.png").rename(
                out / "leftImg8bit" / folder / "town" / f"{name}_leftImg8bit.png"
            )
            found = [
                {"label": ("person", "car")[shape.label], "polygon": np.reshape(shape.parts[0], (-1, 2)).tolist()}
                for shape in shapes(name)
            ]
            path = out / "gtFine" / folder / "town" / f"{name}_gtFine_polygons.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": found}))
            json2instanceImg(str(path), str(path).replace("polygons.json", "instanceIds.png"), "ids")


TOOLS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "pycocotools": ("pycocotools", pycocotools),
    "labelme": ("labelme", labelme),
    "label_studio_coco": ("label-studio-sdk", label_studio_coco),
    "label_studio_yolo": ("label-studio-sdk", label_studio_yolo),
    "supervision_coco": ("supervision", supervision_coco),
    "supervision_yolo": ("supervision", supervision_yolo),
    "supervision_voc": ("supervision", supervision_voc),
    "ultralytics": ("ultralytics", ultralytics),
    "ultralytics_predictions": ("ultralytics", ultralytics_predictions),
    "datumaro": ("datumaro", datumaro),
    "datumaro_voc": ("datumaro", datumaro_voc),
    "datumaro_panoptic": ("datumaro", datumaro_panoptic),
    "cityscapes": ("cityscapesscripts", cityscapes),
}
"""Name of a fixture -> the package that writes it, and how."""


def main(names: list[str]) -> None:
    """Write fixtures by name, or all."""
    with tempfile.TemporaryDirectory() as place:
        coco = write_coco(Path(place) / "coco")
        for name in names or TOOLS:
            package, write = TOOLS[name]
            out = FOLDER / name
            shutil.rmtree(out, ignore_errors=True)
            write(coco, out)
            print(f"{name}: {package} {version(package)}")


if __name__ == "__main__":
    main(sys.argv[1:])
