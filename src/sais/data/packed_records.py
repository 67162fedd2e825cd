"""Image records in one block of bytes that worker processes share.

A forked worker shares its parent's memory until either process writes to it, and Python writes to an object whenever
it reads it, because it counts references. A worker that reads a list of Python objects therefore ends up with its own
copy: up to 1.7 GB per worker for 100,000 images with 7 polygons each. Bytes in one array are read without a write. A
spawned worker receives the block, a fifth of the objects' size, instead of the objects.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sais.data.annotations import Annotation, ImageRecord, ImageSource

if TYPE_CHECKING:
    from sais.data.packed_annotations import PackedImages


class PackedRecords:
    """A sequence of `ImageRecord`, each unpacked on access.

    Args:
        records: Images of a split.
        with_annotations: Whether annotations are kept; otherwise every record has none.
    """

    def __init__(self, records: Sequence[ImageRecord], with_annotations: bool = True) -> None:
        packed = [pickle.dumps(_to_tuple(record, with_annotations), pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([len(block) for block in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), np.uint8)
        sources = {i: record.source for i, record in enumerate(records)}
        self._sources: dict[int, ImageSource] = {i: s for i, s in sources.items() if not isinstance(s, Path)}
        """Sources that are not files, by position."""

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> ImageRecord:
        start = int(self._ends[position - 1]) if position else 0
        image_id, path, size, annotations = pickle.loads(self._bytes[start : int(self._ends[position])].data)
        unpacked = tuple(Annotation(i, np.array(box, np.float32), *fields) for i, box, *fields in annotations)
        source = self._sources[position] if path is None else Path(path)
        return ImageRecord(image_id, source, size, unpacked)

    @property
    def size(self) -> int:
        """Number of bytes of the block."""
        return int(self._bytes.nbytes)


def pack_records(records: Sequence[ImageRecord], with_annotations: bool = True) -> PackedRecords | PackedImages:
    """Return image records in a form that worker processes share; images that are packed already are not copied.

    Args:
        records: Images of a split.
        with_annotations: Whether annotations are kept; otherwise every record has none.
    """
    from sais.data.packed_annotations import PackedImages

    if isinstance(records, PackedImages):
        return records if with_annotations else records.without_annotations()
    return PackedRecords(records, with_annotations)


def _to_tuple(record: ImageRecord, with_annotations: bool) -> tuple:
    """Return a record as built-in types, which are packed faster than our classes."""
    annotations = record.annotations if with_annotations else ()
    fields = [(a.id, a.box.tolist(), a.label, a.segmentation, a.crowd, a.area) for a in annotations]
    return record.id, str(record.source) if isinstance(record.source, Path) else None, record.size, fields
