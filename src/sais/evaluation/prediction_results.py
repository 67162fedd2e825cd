"""Detections in a file as the results of a split: predictions.json of `sais predict`, or a list of COCO results.

predictions.json has ids of its own; its images are matched by file name, its classes by name. A list of COCO results
has the ids of the data set.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sais.data.annotations import DatasetSplit, ImageRecord
from sais.errors import InputError
from sais.io.regular_file import read_regular_file
from sais.results.coco import from_coco
from sais.results.detections import Detections


@dataclass(frozen=True)
class PredictionResults:
    """The content of a file with detections."""

    path: Path
    entries: list[dict[str, Any]]
    images: dict[Any, str] | None
    """Id of each image -> its file name; None: the ids are those of the data set."""
    categories: dict[Any, str] | None
    """Id of each category -> its name; None: the ids are those of the data set."""
    score: str = ""
    """Minimum score of the detections, as the file describes it."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes; None for those of the data set."""
        return None if self.categories is None else tuple(dict.fromkeys(self.categories.values()))

    def of_split(self, split: DatasetSplit) -> tuple[list[dict[str, Any]], set[int]]:
        """Return the detections of a split's images in the COCO submission format, and the ids of its images.

        Detections of other classes and of other images are left out. The images are those in predictions.json; of a
        list of results, all of the split.

        Args:
            split: dataset split.

        Raises:
            InputError: no image of the file is one of the split, or an entry is malformed.
        """
        records = self._records(split)
        names = dict(zip(split.category_ids, split.class_names, strict=True)) if self.categories is None else {}
        labels = {name: label for label, name in enumerate(split.class_names)}
        by_image: dict[int, list[dict[str, Any]]] = {}
        for entry in self.entries:
            try:
                record = records.get(entry["image_id"])
                name = (self.categories or names).get(entry["category_id"])
            except (KeyError, TypeError) as error:
                raise InputError(f"{self.path}: malformed entry ({error!s:.50}). Predict again.") from None
            if record is not None and name in labels:
                by_image.setdefault(record.id, []).append({**entry, "image_id": record.id, "category_id": labels[name]})
        sizes = {record.id: record.size for record in records.values()}
        results = []
        for image_id, entries in by_image.items():
            try:
                found = from_coco(Detections, entries, sizes[image_id], split.class_names)
            except InputError as error:
                raise InputError(f"{self.path}: image {image_id}: {error}") from None
            results += found.to_coco(image_id, split.category_ids)
        return results, set(sizes)

    def _records(self, split: DatasetSplit) -> dict[Any, ImageRecord]:
        """Return the id of each image in the file -> its record."""
        if self.images is None:
            records = {record.id: record for record in split.images}
            known: dict[Any, ImageRecord] = records
        else:
            by_name: dict[str, list[ImageRecord]] = {}
            for record in split.images:
                by_name.setdefault(record.name, []).append(record)
            known = {}
            for image_id, name in self.images.items():
                path = PurePosixPath(name.replace("\\", "/"))
                candidates = by_name.get(path.name, [])
                if len(candidates) > 1:  # images of one name in several folders
                    candidates = [
                        r for r in candidates if PurePosixPath(r.location).parts[-len(path.parts) :] == path.parts
                    ]
                if len(candidates) == 1:
                    known[image_id] = candidates[0]
            repeated = [name for name, count in Counter(r.id for r in known.values()).items() if count > 1]
            if repeated:
                raise InputError(f"{self.path}: several entries for image {repeated[0]}. Predict a split at a time.")
        if not known:
            raise InputError(f"{self.path}: none of its images is in '{split.name}'. Predict the images of this split.")
        return known


def read_predictions(path: Path) -> PredictionResults:
    """Read a file with detections.

    Args:
        path: path of predictions.json, or of a list of COCO results.

    Raises:
        InputError: the file cannot be read or is neither of them.
    """
    try:
        document = json.loads(read_regular_file(path, "file with detections"))
        if isinstance(document, list):
            if not all(isinstance(entry, dict) and "score" in entry for entry in document):
                raise ValueError("an entry without a score")
            return PredictionResults(path, document, None, None)
        images = {image["id"]: str(image["file_name"]) for image in document["images"]}
        categories = {category["id"]: str(category["name"]) for category in document["categories"]}
        entries = document["annotations"]
        if not all(isinstance(entry, dict) and "score" in entry for entry in entries):
            raise ValueError("an annotation without a score")
        info = document.get("info")
        score = str(info.get("score", "")) if isinstance(info, Mapping) else ""
        return PredictionResults(path, list(entries), images, categories, score)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: not a file with detections ({error!s:.80}). Give predictions.json of `sais predict`, or the file "
            "of `sais eval --results`."
        ) from None
