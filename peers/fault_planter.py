"""A copy of a data set into which faults are planted, each in images of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Entry = dict[str, Any]


@dataclass(frozen=True)
class PlantedFault:
    """One planted fault."""

    name: str
    """What was done."""
    split: str
    kinds: tuple[str, ...]
    """Kinds of findings of which one must name it."""
    evidence: str
    """Text that the finding must contain: an image name, "annotation 7" or a class."""


class Planter:
    """A copy of a data set into which faults are planted.

    Args:
        source: Folder of the healthy data set.
        target: Folder of the copy, which must not exist.
        seed: Seed of the choice of images and objects.
    """

    def __init__(self, source: Path, target: Path, seed: int = 0) -> None:
        shutil.copytree(source, target, copy_function=shutil.copyfile)  # the source may be read-only
        self.folder = target
        self.random = np.random.default_rng(seed)
        self.documents = {name: json.loads(self._file(name).read_text()) for name in ("train", "valid")}
        self.faults: list[PlantedFault] = []
        self.touched: set[tuple[str, str]] = set()
        """(split, image name) of the images with planted faults."""
        self._objects = {name: self._by_image(name) for name in self.documents}
        self._unused = {name: self._shuffled(name) for name in self.documents}

    def _file(self, split: str) -> Path:
        return self.folder / "annotations" / f"{split}.json"

    def _by_image(self, split: str) -> dict[int, list[Entry]]:
        objects: dict[int, list[Entry]] = {entry["id"]: [] for entry in self.documents[split]["images"]}
        for annotation in self.documents[split]["annotations"]:
            objects[annotation["image_id"]].append(annotation)
        return objects

    def _shuffled(self, split: str) -> list[Entry]:
        entries = self.documents[split]["images"]
        return [entries[i] for i in self.random.permutation(len(entries))]

    def path(self, split: str, entry: Entry) -> Path:
        """Return the file of an image."""
        return self.folder / "images" / split / str(entry["file_name"])

    def take(self, split: str = "train", wanted: Callable[[Entry, list[Entry]], bool] | None = None) -> Entry:
        """Return an image with objects that no other fault concerns."""
        for entry in self._unused[split]:
            objects = self._objects[split][entry["id"]]
            if objects and (wanted is None or wanted(entry, objects)):
                self._unused[split].remove(entry)
                self.touched.add((split, entry["file_name"]))
                return entry
        raise ValueError(f"{split}: no image is left for the fault")

    def take_object(self, split: str = "train", min_side: float = 24.0) -> tuple[Entry, Entry]:
        """Return an image and its largest object, which has a polygon or RLE and sides of at least `min_side`."""

        def large(annotation: Entry) -> bool:
            return bool(annotation["segmentation"]) and min(annotation["bbox"][2:]) >= min_side

        entry = self.take(split, lambda entry, objects: any(map(large, objects)))
        objects = [annotation for annotation in self._objects[split][entry["id"]] if large(annotation)]
        return entry, max(objects, key=lambda annotation: annotation["bbox"][2] * annotation["bbox"][3])

    def add_image(self, split: str, name: str, size: tuple[int, int], objects: Sequence[Entry] = ()) -> Entry:
        """Add an entry of an image (H, W) with copies of objects; return it."""
        document = self.documents[split]
        entry = {"id": self._next_id(document["images"]), "file_name": name, "height": size[0], "width": size[1]}
        document["images"].append(entry)
        self.touched.add((split, name))
        for annotation in objects:
            self.add_object(split, entry, annotation)
        return entry

    def add_object(self, split: str, entry: Entry, annotation: Entry, **changes: Any) -> int:
        """Add a copy of an object to an image, with changes; return its id."""
        annotations = self.documents[split]["annotations"]
        number = self._next_id(annotations)
        annotations.append(annotation | {"id": number, "image_id": entry["id"]} | changes)
        return number

    @staticmethod
    def _next_id(entries: list[Entry]) -> int:
        return 1 + max((entry["id"] for entry in entries if isinstance(entry["id"], int)), default=0)

    def objects(self, split: str, entry: Entry) -> list[Entry]:
        """Return the healthy objects of an image."""
        return self._objects[split][entry["id"]]

    def plant(self, name: str, split: str, finding: str | tuple[str, ...], evidence: str) -> None:
        """Record a planted fault."""
        found_as = (finding,) if isinstance(finding, str) else finding
        self.faults.append(PlantedFault(name, split, found_as, evidence))

    def write(self) -> None:
        """Write the annotations."""
        for name, document in self.documents.items():
            self._file(name).write_text(json.dumps(document))
