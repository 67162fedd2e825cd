"""Places in messages of the readers, such as "annotation 7", with the image that they are in."""

from __future__ import annotations

import re

from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.doctor.findings import Case, image_reference

_ANNOTATION = re.compile(r"\bannotation (-?\d+)\b")


class Places:
    """The images of a split by annotation id and by name.

    Args:
        split: The split.
    """

    def __init__(self, split: DatasetSplit) -> None:
        self._split = split
        self._by_annotation = {a.id: record for record in split.images for a in record.annotations}
        self._by_name: dict[str, ImageRecord] = {}
        for record in split.images:
            self._by_name.setdefault(record.name, record)

    def case(self, text: str) -> Case:
        """Return a message of a reader as a case, with the image that it is about where it can be found.

        Args:
            text: The message, such as "annotation 7" or "a.jpg: 300 x 200 in the labels".
        """
        match = _ANNOTATION.search(text)
        if match and int(match[1]) in self._by_annotation:
            record = self._by_annotation[int(match[1])]
            where = "" if record.name in text else f"{record.name}: "
            return Case(where + text, image_reference(self._split, record), (int(match[1]),))
        names = (text.partition(separator)[0].rpartition("/")[2] for separator in (": ", " ("))
        named = next((self._by_name[name] for name in names if name in self._by_name), None)
        return Case(text, None if named is None else image_reference(self._split, named))
