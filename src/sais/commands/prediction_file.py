"""The file predictions.json of `sais predict`, its image and category ids, and the drawings next to it."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sais._version import __version__
from sais.data.formats.coco_ids import is_id
from sais.errors import InputError
from sais.io.growing_files import JsonEntries, write_json
from sais.io.outputs import check_outputs, file_identities, starts_with, written_by
from sais.io.regular_file import read_regular_file

if TYPE_CHECKING:
    from sais.results.detections import Detections

FILE_NAME = "predictions.json"
WRITER = "sais predict"
"""Value of `info.written_by`, by which a file of an earlier prediction is recognized."""
TABLE_STARTS = ("image,class_name,score,", "video,frame,seconds,track,")
"""Starts of objects.csv and tracks.csv, which exist before the prediction is complete."""


class LabelIds:
    """Image and category ids of a COCO file, which predictions take over so that they can be compared with it.

    Args:
        path: COCO file with `images` and `categories`.

    Raises:
        InputError: the file cannot be read or is not COCO.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            document = json.loads(read_regular_file(path, "annotation file"))
            images = [(_key(image["file_name"]), _id(image)) for image in document["images"]]
            self._categories = {str(category["name"]): _id(category) for category in document["categories"]}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{path}: not a COCO file with images and categories. Give the annotation file, such as valid.json."
            ) from None
        self._by_path = dict(images)
        names = Counter(PurePosixPath(name).name for name, _ in images)
        self._by_name = {PurePosixPath(n).name: i for n, i in images if names[PurePosixPath(n).name] == 1}
        whole = [number for _, number in images if isinstance(number, int)]
        self._next_id = max(whole, default=0) + 1
        self._taken: set[Any] = set()
        self.unknown = 0
        """Number of images that are not in the file; their ids follow those of the file."""

    def image_id(self, file_name: str) -> Any:
        """Return the id of an image: by its path below the source, else by its name, where that is unique."""
        name = _key(file_name)
        number = self._by_path.get(name, self._by_name.get(PurePosixPath(name).name))
        if number is None or number in self._taken:
            number, self._next_id = self._next_id, self._next_id + 1
            self.unknown += 1
        self._taken.add(number)
        return number

    def category_ids(self, class_names: Sequence[str], detected: Collection[str] = ()) -> tuple[Any, ...]:
        """Return the ids of C classes; None for a class that the file lacks and that is not detected.

        Args:
            class_names: names of the classes.
            detected: names of the classes that are detected; empty for all.

        Raises:
            InputError: the file lacks a class that is detected.
        """
        missing = [name for name in detected or class_names if name not in self._categories]
        if missing:
            raise InputError(
                f"{self.path}: no category {', '.join(missing)}, which the model detects. Add it, or choose the "
                "classes to detect."
            )
        return tuple(self._categories.get(name) for name in class_names)


@dataclass
class PredictionFile:
    """The content of predictions.json: COCO, with scores."""

    class_names: tuple[str, ...]
    category_ids: tuple[Any, ...]
    """Ids of the classes in the data that the model was trained on, or in the file of `labels`."""
    labels: LabelIds | None = None
    polygons: bool = False
    """Whether masks are written as polygons instead of RLE."""
    info: dict[str, Any] = field(default_factory=dict)
    """Entries of COCO's `info`: the model, its minimum score."""
    folder: Path | None = None
    """Existing folder for the temporary files of many entries; None for the system's."""
    counts: Counter[str] = field(default_factory=Counter)
    drawings: dict[str, int | None] = field(default_factory=dict)
    """Path of each drawing, and of objects.csv, below the output folder -> its size in bytes; None while it is not
    written. The next prediction removes those that it does not replace."""
    limited: int = 0
    """Number of images whose detections reached the limit."""

    def __post_init__(self) -> None:
        self.images, self.annotations = JsonEntries(self.folder), JsonEntries(self.folder)

    def add(self, detections: Detections, file_name: str, **image: Any) -> None:
        """Add the detections of one image; `image` are further entries of it (frame, page, ...)."""
        from sais.results.coco import to_coco_annotations

        image_id = len(self.images) + 1 if self.labels is None else self.labels.image_id(file_name)
        height, width = detections.image_size
        self.images.extend([{"id": image_id, "width": width, "height": height, "file_name": file_name, **image}])
        first_id = len(self.annotations) + 1
        entries = to_coco_annotations(detections, 0, range(len(self.class_names)), first_id, self.polygons)
        for entry in entries:
            entry["image_id"], entry["category_id"] = image_id, self.category_ids[entry["category_id"]]
        self.annotations.extend(entries)
        self.counts.update(self.class_names[label] for label in detections.labels)
        self.limited += detections.omitted is not None and detections.omitted.limit is not None

    def add_drawing(self, out: Path, path: Path) -> None:
        """Add a drawing or a table that has been written below the output folder."""
        self.drawings[path.relative_to(out).as_posix()] = path.stat().st_size

    def summary(self) -> dict[str, Any]:
        """Return the numbers of images, of objects and of the objects of each class, for JSON."""
        return {
            "images": len(self.images),
            "objects": sum(self.counts.values()),
            "classes": dict(self.counts.most_common()),
            "images_at_limit": self.limited,
        }

    def write(self, out: Path, complete: bool = True) -> None:
        """Write predictions.json to the folder `out` atomically."""
        names = zip(self.category_ids, self.class_names, strict=True)
        info = {"description": f"predictions of sais {__version__}", "written_by": WRITER, "complete": complete}
        content = {
            "info": info | self.info | {"drawings": self.drawings},
            "images": self.images,
            "categories": [{"id": number, "name": name} for number, name in names if number is not None],
            "annotations": self.annotations,
        }
        write_json(out / FILE_NAME, content)


def _id(entry: dict[str, Any]) -> Any:
    """Return the id of an image or a category; raise ValueError for what can be no id, such as a list."""
    if not is_id(entry["id"]):
        raise ValueError(f"id {entry['id']!r}")
    return entry["id"]


def read_drawings(out: Path) -> dict[str, int | None]:
    """Return the drawings that the last prediction wrote to a folder, as its predictions.json lists them."""
    try:
        info = json.loads((out / FILE_NAME).read_bytes())["info"]
        drawings = info["drawings"] if info["written_by"] == WRITER else {}
        return {str(name): size for name, size in drawings.items() if b"\0" not in os.fsencode(str(name))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def check_results(out: Path, inputs: Iterable[Path], overwrite: bool) -> None:
    """Check that predictions.json replaces no file that is read, nor one of others.

    Args:
        out: output folder.
        inputs: files that are read.
        overwrite: whether a file of others is replaced.

    Raises:
        InputError: such a file exists.
    """
    check_outputs([out / FILE_NAME], inputs, overwrite, out, written_by(WRITER))


def check_drawings(out: Path, names: Iterable[Path], sources: Iterable[Path], overwrite: bool) -> None:
    """Check that drawings replace no file that is read, and none of others but drawings of the last prediction.

    Args:
        out: output folder.
        names: paths of the drawings below it.
        sources: files that are read.
        overwrite: whether files of others are replaced.

    Raises:
        InputError: the output folder is that of a source, or a drawing would replace such a file.
    """
    sources = list(sources)
    if file_identities([out]) & file_identities({source.parent for source in sources}):
        raise InputError(f"{out}: the folder of the source images. Choose another folder with --out, or use --no-draw.")
    known = read_drawings(out)

    def is_known(path: Path) -> bool:
        return _is_drawing(path, known.get(path.relative_to(out).as_posix(), -1))

    check_outputs((out / name for name in names), sources, overwrite, out, is_known)


def remove_drawings(
    out: Path, drawings: dict[str, int | None], remaining: Iterable[str], sources: Iterable[Path] = ()
) -> int:
    """Delete drawings of an earlier prediction, unless they have been replaced, changed or read.

    Args:
        out: output folder.
        drawings: drawings of the earlier prediction, as `read_drawings` returns them.
        remaining: names of those that have been replaced.
        sources: files that were read.

    Returns:
        The number of files deleted.
    """
    removed, root = 0, out.resolve()
    read = file_identities(sources) if drawings else set()
    for name in set(drawings) - set(remaining):
        path = out / name
        unread = not file_identities([path]) & read
        if unread and path.resolve().is_relative_to(root) and _is_drawing(path, drawings[name]):
            path.unlink()
            removed += 1
    return removed


def _is_drawing(path: Path, size: int | None) -> bool:
    """Return whether a file is a drawing as it was written; `size` in bytes is None where a run was interrupted."""
    if not path.is_file() or path.is_symlink():
        return False
    if size is None and path.suffix != ".mp4":  # it may be a file of others that was put there since
        return written_by(WRITER)(path) or any(starts_with(start)(path) for start in TABLE_STARTS)
    return size in (None, path.stat().st_size)


def _key(file_name: str) -> str:
    """Return a file name as it is compared: slashes, Unicode form."""
    return unicodedata.normalize("NFC", str(file_name).replace("\\", "/")).removeprefix("./")
