"""Detections in a JSON file: `Detections.save` and `Detections.load`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sais import input_limits
from sais.errors import InputError, ResourceError
from sais.io.atomic import write_text
from sais.io.outputs import check_outputs, starts_with
from sais.io.regular_file import read_regular_file
from sais.ops.rle import bounds, decode_cropped
from sais.results.cropped_mask import CroppedMask

if TYPE_CHECKING:
    from sais.results.detections import Detections

_FORMAT = "sais-detections-2"
MAX_OBJECTS = 1_000_000
"""Maximum number of objects of a file: thousands of times those of an image that is predicted in tiles."""
MAX_COORDINATE = 2.0**24
"""Maximum absolute value of a box's coordinates in pixels."""


def save(detections: Detections, path: str | Path, overwrite: bool = False) -> None:
    """Write a JSON file atomically.

    Args:
        detections: The detections.
        path: File to write.
        overwrite: Whether a file that sais has not written is replaced.

    Raises:
        InputError: The file exists, and sais has not written it.
        ResourceError: The file cannot be written.
    """
    if os.path.lexists(path):
        check_outputs([Path(path)], overwrite=overwrite, own=starts_with(f'{{"format": "{_FORMAT}"'))
    segmentations = detections.rle() if detections.cropped_masks else [None] * len(detections)
    objects = [
        {
            "class_name": detections.class_names[label],
            "label": label,
            "score": float(detections.scores[i]),
            "box": detections.boxes[i].tolist(),
            "segmentation": segmentations[i],
        }
        | ({} if detections.track_ids is None else {"track_id": int(detections.track_ids[i])})
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
        ResourceError: The file or its masks are too large.
    """
    path = Path(path)
    try:
        content = json.loads(read_regular_file(path, "detections file").decode())
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON. Use a file written by Detections.save.") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"{path}: not a detections file. Use a file written by Detections.save.")
    try:
        return _from_content(kind, content, path)
    except KeyError as error:
        raise InputError(f"{path}: malformed detections (no {error!s:.50}). Save them again.") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: malformed detections ({error!s:.200}). Save them again.") from None


def _from_content(kind: type[Detections], content: dict[str, Any], path: Path) -> Detections:
    """Return the detections of a file; ValueError, TypeError or KeyError for malformed ones."""
    objects, (height, width), class_names = content["detections"], content["image_size"], content["class_names"]
    _check_header(objects, height, width, class_names)
    masks, pixels = [], 0
    for item in objects:
        if item["segmentation"] is not None:
            if tuple(item["segmentation"]["size"]) != (height, width):
                raise ValueError("a mask of another size than the image")
            left, top, right, bottom = bounds(item["segmentation"])
            pixels += (right - left) * (bottom - top)
            if pixels > input_limits.MAX_BITMAP_PIXELS:
                raise ResourceError(
                    f"{path}: masks of more than {input_limits.MAX_BITMAP_PIXELS} pixels, each cropped to those set. "
                    "Set sais.input_limits.MAX_BITMAP_PIXELS to a larger number if you trust the file."
                )
            bits, x, y = decode_cropped(item["segmentation"])
            masks.append(CroppedMask(x, y, bits))
    boxes, scores, labels = ([item[key] for item in objects] for key in ("box", "score", "label"))
    box_array, score_array = np.array(boxes, np.float64), np.array(scores, np.float64)
    if len(objects) and box_array.shape != (len(objects), 4):
        raise ValueError("a box without four numbers")
    if score_array.shape != (len(objects),) or not np.isfinite(score_array).all():
        raise ValueError("a score that is not a number")
    if not (np.abs(box_array) <= MAX_COORDINATE).all():
        raise ValueError("a box far outside of the image")
    if not all(type(label) is int and 0 <= label < len(class_names) for label in labels):
        raise ValueError("a label without a class name")
    ids = [item.get("track_id") for item in objects]
    track_ids = np.array(ids, np.int64) if objects and all(type(number) is int for number in ids) else None
    names = tuple(class_names)
    return kind((height, width), box_array, score_array, np.array(labels), names, masks, track_ids=track_ids)


def _check_header(objects: Any, height: Any, width: Any, class_names: Any) -> None:
    """Raise ValueError unless the number of objects, the image size and the class names are possible."""
    if not isinstance(objects, list) or len(objects) > MAX_OBJECTS:
        raise ValueError(f"detections is not a list of at most {MAX_OBJECTS} objects")
    sides = height, width
    if not all(type(side) is int and 0 <= side <= input_limits.MAX_STATED_SIDE for side in sides):
        raise ValueError(f"image_size is {height!r:.30} x {width!r:.30}")
    if height * width > input_limits.MAX_STATED_PIXELS:
        raise ValueError(f"an image of {height} x {width} pixels")
    if not (isinstance(class_names, list) and all(isinstance(name, str) for name in class_names)):
        raise ValueError("class_names is not a list of texts")
    if any(len(name) > input_limits.MAX_NAME_LETTERS for name in class_names):
        raise ValueError(f"a class name of more than {input_limits.MAX_NAME_LETTERS} letters")
