"""Image records collected one by one: as Python objects, and as arrays from the number where these take gigabytes."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence

import numpy as np

from sais.data import packed_annotations
from sais.data.annotation_limits import quoted
from sais.data.annotations import Annotation, ImageRecord
from sais.data.packed_annotations import AS_JSON, AnnotationTable, PackedImages, PackedPolygons
from sais.errors import InputError


class RecordCollector:
    """The images of a split in the order in which they are read; all of them are in files."""

    def __init__(self) -> None:
        self._records: list[ImageRecord] = []
        self._objects = 0
        self._packer: _Packer | None = None

    def append(self, record: ImageRecord) -> None:
        """Append an image with its objects."""
        if self._packer is not None:
            self._packer.add(record)
            return
        self._records.append(record)
        self._objects += len(record.annotations)
        if len(self._records) + self._objects >= packed_annotations.MIN_PACKED:
            self._packer = _Packer()
            for earlier in self._records:
                self._packer.add(earlier)
            self._records = []

    def __len__(self) -> int:
        return len(self._records) if self._packer is None else len(self._packer.image_ids)

    def finish(self) -> Sequence[ImageRecord]:
        """Return all images."""
        return tuple(self._records) if self._packer is None else PackedImages(self._packer.table())


class _Packer:
    """The arrays of `AnnotationTable` while they grow."""

    def __init__(self) -> None:
        self.image_ids, self._sizes, self._path_ends, self._object_ends = (array("q") for _ in range(4))
        self._ids, self._labels, self._first_parts, self._part_counts = (array("q") for _ in range(4))
        self._part_ends, self._json_ends = array("q"), array("q")
        self._areas, self._coordinates = array("d"), array("d")
        self._boxes, self._crowds = array("f"), bytearray()
        self._path_bytes, self._json_bytes = bytearray(), bytearray()

    def add(self, record: ImageRecord) -> None:
        """Append an image with its objects."""
        if not -(2**63) <= record.id < 2**63:
            raise InputError(f"{record.location}: image id {quoted(record.id)}. Give ids of at most 18 digits.")
        for annotation in record.annotations:
            self._add_object(annotation)
        self._path_bytes += os.fsencode(record.path)
        self._path_ends.append(len(self._path_bytes))
        self.image_ids.append(record.id)
        self._sizes.extend(record.size)
        self._object_ends.append(len(self._ids))

    def _add_object(self, annotation: Annotation) -> None:
        mask, count = annotation.segmentation, 0
        first = len(self._part_ends)
        if isinstance(mask, list) and mask and all(part and set(map(type, part)) == {float} for part in mask):
            for part in mask:
                self._coordinates.fromlist(part)
                self._part_ends.append(len(self._coordinates))
            count = len(mask)
        elif mask is not None:
            first, count = len(self._json_ends), AS_JSON
            self._json_bytes += json.dumps(mask).encode()
            self._json_ends.append(len(self._json_bytes))
        self._ids.append(annotation.id)
        self._labels.append(annotation.label)
        self._crowds.append(annotation.crowd)
        self._areas.append(annotation.area)
        self._boxes.extend(annotation.box.tolist())
        self._first_parts.append(first)
        self._part_counts.append(count)

    def table(self) -> AnnotationTable:
        """Return the arrays; they share the memory of the packer."""
        return AnnotationTable(
            image_ids=_view(self.image_ids, np.int64),
            image_sizes=_view(self._sizes, np.int64).reshape(-1, 2),
            path_ends=_view(self._path_ends, np.int64),
            path_bytes=_view(self._path_bytes, np.uint8),
            object_ends=_view(self._object_ends, np.int64),
            ids=_view(self._ids, np.int64),
            labels=_view(self._labels, np.int64).astype(np.int32),
            crowds=_view(self._crowds, np.bool_),
            areas=_view(self._areas, np.float64),
            boxes=_view(self._boxes, np.float32).reshape(-1, 4),
            first_parts=_view(self._first_parts, np.int64),
            part_counts=_view(self._part_counts, np.int64).astype(np.int32),
            json_ends=_view(self._json_ends, np.int64),
            json_bytes=_view(self._json_bytes, np.uint8),
            polygons=PackedPolygons(
                _view(self._part_ends, np.int64), _view(self._coordinates, np.float64), np.zeros(0, bool)
            ),
        )


def _view(values: array | bytearray, kind: type) -> np.ndarray:
    """Return an array (V,) of the values, without a copy."""
    return np.frombuffer(values, kind) if len(values) else np.zeros(0, kind)
