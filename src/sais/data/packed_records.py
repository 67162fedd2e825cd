"""The records of an index in one block of bytes, which worker processes share.

A forked worker shares its parent's memory until either writes to it, and Python writes to an object when it merely
looks at it (it counts who does). A worker that reads its way through an index of Python objects therefore comes to own
a copy of it, up to 1.7 GB a worker for 100,000 images with 7 outlines each. Bytes in one array are looked at without
writing. A worker that was spawned gets the block, a fifth of the objects' size, instead of the objects.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sais.data.annotations import Annotation, ImageRecord


class PackedRecords:
    """A sequence of `ImageRecord`, each made anew when it is asked for.

    Args:
        records: of an index.
        with_annotations: keep the annotations; without, every record comes with none.
    """

    def __init__(self, records: Sequence[ImageRecord], with_annotations: bool = True) -> None:
        packed = [pickle.dumps(_plain(record, with_annotations), pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([len(one) for one in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> ImageRecord:
        start = int(self._ends[position - 1]) if position else 0
        image_id, path, size, annotations = pickle.loads(self._bytes[start : int(self._ends[position])].data)
        made = tuple(Annotation(i, np.array(box, np.float32), *rest) for i, box, *rest in annotations)
        return ImageRecord(image_id, Path(path), size, made)

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return int(self._bytes.nbytes)


def _plain(record: ImageRecord, with_annotations: bool) -> tuple:
    """A record without objects of ours, which are slower to pack."""
    annotations = record.annotations if with_annotations else ()
    kept = [(a.id, a.box.tolist(), a.label, a.segmentation, a.crowd, a.area) for a in annotations]
    return record.id, str(record.path), record.size, kept
