"""Detections in a JSON file: `Detections.save` and `Detections.load`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sais.errors import InputError
from sais.io.atomic import write_text
from sais.ops.rle import decode_cropped
from sais.results.cropped_mask import CroppedMask

if TYPE_CHECKING:
    from sais.results.detections import Detections

_FORMAT = "sais-detections-2"


def save(detections: Detections, path: str | Path) -> None:
    """Write a JSON file atomically.

    Raises:
        ResourceError: The file cannot be written.
    """
    segmentations = detections.rle() if detections.cropped_masks else [None] * len(detections)
    objects = [
        {
            "class_name": detections.class_names[label],
            "label": label,
            "score": float(detections.scores[i]),
            "box": detections.boxes[i].tolist(),
            "segmentation": segmentations[i],
        }
        for i, label in enumerate(detections.labels.tolist())
    ]
    content = {
        "format": _FORMAT,
        "image_size": detections.image_size,
        "class_names": detections.class_names,
        "detections": objects,
    }
    write_text(Path(path), json.dumps(content))


def load(kind: type[Detections], path: str | Path) -> Detections:
    """Read a file written by `save`.

    Args:
        kind: The class `Detections`; passed in, because that module imports this one.
        path: The file.

    Raises:
        InputError: The file cannot be read or is not a detections file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except ValueError:
        raise InputError(f"{path}: not JSON. Use a file written by Detections.save.") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"{path}: not a detections file. Use a file written by Detections.save.")
    try:
        return _from_content(kind, content)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: malformed detections ({error}). Save them again.") from None


def _from_content(kind: type[Detections], content: dict[str, Any]) -> Detections:
    objects, (height, width) = content["detections"], content["image_size"]
    masks = []
    for item in objects:
        if item["segmentation"] is not None:
            if tuple(item["segmentation"]["size"]) != (height, width):
                raise ValueError("a mask of another size than the image")
            bits, x, y = decode_cropped(item["segmentation"])
            masks.append(CroppedMask(x, y, bits))
    boxes, scores, labels = ([item[key] for item in objects] for key in ("box", "score", "label"))
    class_names = content["class_names"]
    return kind((height, width), np.array(boxes), np.array(scores), np.array(labels), class_names, masks)
