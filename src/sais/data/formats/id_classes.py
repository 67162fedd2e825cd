"""Classes of id maps: the file ``classes.json``, and the class of an id.

    {"classes": ["cell"]}                                       one class: every id is an object of it
    {"classes": {"24": "person", "26": "car"}, "divisor": 1000}  id 26003 is an object of class 26, id 26 a crowd of it

Ids below the divisor have a class but no number: they are regions of many objects, crowds. Classes that the file does
not name are stuff.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sais import input_limits
from sais.data.annotation_limits import classes_problem, quoted
from sais.data.formats import notes as kinds
from sais.data.formats.coco_ids import as_integer
from sais.data.formats.id_maps import crop_objects, present_ids
from sais.data.formats.split_builder import SplitBuilder
from sais.errors import InputError
from sais.io.regular_file import is_regular_file, read_regular_file

CLASSES = "classes.json"
_MAX_ID = 2**24


@dataclass(frozen=True)
class IdClasses:
    """The classes of the ids of a data set."""

    names: dict[int, str]
    """Class number -> name, ascending."""
    divisor: int = 0
    """Ids of one class; 0 if every id is an object of the only class."""

    def find(self, object_id: int) -> tuple[int, bool] | None:
        """Return the label of an id, and whether it is a crowd; None if its class is not named."""
        if not self.divisor:
            return 0, False
        crowd = object_id < self.divisor
        number = object_id if crowd else object_id // self.divisor
        return None if number not in self.names else (list(self.names).index(number), crowd)


SINGLE_CLASS = IdClasses({1: "object"})


def read_id_classes(folder: Path, default: IdClasses = SINGLE_CLASS) -> IdClasses:
    """Return the classes that `classes.json` in a folder states; `default` without this file.

    Raises:
        InputError: The file is malformed.
    """
    path = folder / CLASSES
    if not is_regular_file(path):
        return default
    try:
        document = json.loads(read_regular_file(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}). Correct the file.") from error
    given = document.get("classes") if isinstance(document, dict) else None
    divisor = as_integer(document.get("divisor", 0)) if isinstance(document, dict) else None
    pairs = list(given.items()) if isinstance(given, dict) else []
    pairs = list(enumerate(given, 1)) if isinstance(given, list) else pairs
    names: dict[int, str] = {}
    for key, name in pairs:
        number = as_integer(key)
        if number is None or not 0 < number < _MAX_ID or not isinstance(name, str) or not name.strip():
            raise InputError(f"{path}: class {quoted(key)}: {quoted(name)}. Write a number above 0 and a name.")
        names[number] = name
    if divisor is None or not 0 <= divisor <= _MAX_ID or not names or (len(names) > 1 and not divisor):
        example = '{"classes": {"1": "cat", "2": "dog"}, "divisor": 1000}'
        raise InputError(f"{path}: no classes, or several without a 'divisor'. Write for example {example}.")
    problem = classes_problem(list(names.values()))
    if problem:
        raise InputError(f"{path}: {problem}.")
    return IdClasses(dict(sorted(names.items())), divisor)


def is_crowded(ids: np.ndarray, place: str, builder: SplitBuilder) -> bool:
    """Return whether an id map (H, W) has too many objects, which is recorded as a problem."""
    count, limit = len(present_ids(ids)), input_limits.MAX_OBJECTS_PER_IMAGE
    if count > limit:
        text = (
            f"{builder.folder}: {place}: {count} ids, above the limit of {limit}. Export it again, without smoothing."
        )
        builder.notes.problem(kinds.CROWDED_IMAGE, text)
    return count > limit


def add_id_map(ids: np.ndarray, classes: IdClasses, place: str, builder: SplitBuilder) -> None:
    """Add the objects of an id map (H, W) to the image of a builder; regions of other classes are counted."""
    if is_crowded(ids, place, builder):
        return
    for object_id, bits, x, y in crop_objects(ids):
        found = classes.find(object_id)
        where = f"{place} id {object_id}"
        if found is None:
            builder.notes.add(kinds.STUFF, where)
        else:
            builder.add_bitmap(where, found[0], bits, x, y, found[1])
