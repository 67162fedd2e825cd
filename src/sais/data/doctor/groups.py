"""Groups of near-duplicate images, which belong in one split."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable

from sais.data.annotations import DatasetSplit
from sais.data.doctor.images import examine_images
from sais.data.doctor.similar import Signatures, group_similar, similar_images


def group_images(split: DatasetSplit, progress: Callable[[int, int], None] | None = None) -> dict[int, int]:
    """Return image id -> number of its group, for the images that have near-duplicates.

    Args:
        split: The split. Images that cannot be read have no group.
        progress: Function called after each image with the number of images done and the total number.

    Raises:
        OutOfMemoryError: Memory does not suffice.
    """
    facts = []
    with contextlib.closing(examine_images(split.images, workers=os.cpu_count() or 1)) as examined:
        for fact in examined:
            facts.append(fact)
            if progress is not None:
                progress(len(facts), len(split.images))
    signatures = Signatures([fact.thumbnail for fact in facts], [fact.size for fact in facts])
    groups = group_similar(similar_images(signatures))
    sizes = Counter(groups)
    return {record.id: group for record, group in zip(split.images, groups, strict=True) if sizes[group] > 1}
