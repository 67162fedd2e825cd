"""Data sets as Python objects, named ``module:attribute`` wherever the folder of a data set is expected.

The attribute is a `DatasetSplit`, a mapping of split names to them such as ``{"train": ..., "valid": ...}``, or a
function without arguments that returns either. Images may be files, arrays or functions (`ImageRecord.source`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

from sais.data.annotations import DatasetSplit
from sais.errors import InputError
from sais.resolve import resolve

UNKNOWN_CLASS = "objects of classes unknown to the model dropped"
"""Note for objects whose class is not among the model's classes."""

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_object_name(data: Path | str) -> bool:
    """Return whether the name of a data set is ``module:attribute``, and not a path that exists."""
    return _NAME.fullmatch(str(data)) is not None and not Path(data).exists()


@functools.cache
def open_object(name: str) -> Mapping[str, DatasetSplit]:
    """Return the splits of a data set object by name; a single split is called "train".

    Args:
        name: ``module:attribute``.

    Raises:
        ConfigError: The module or attribute does not exist, or is a function with arguments.
        InputError: The attribute is not a data set, or a split of it is malformed.
    """
    value = resolve(name, {}, "data set")
    if callable(value):
        from sais.callables import check_callable

        check_callable(value, name, "data set")
        value = value()
    splits = {"train": value} if isinstance(value, DatasetSplit) else value
    if not isinstance(splits, Mapping) or not all(isinstance(split, DatasetSplit) for split in splits.values()):
        raise InputError(
            f"data set {name!r}: {type(value).__name__}, not a data set. "
            "Return a DatasetSplit or a mapping of split names to them."
        )
    for split in splits.values():
        from sais.data.split_checks import check_split

        check_split(split)
    return {str(split_name): split for split_name, split in splits.items()}


def select_classes(split: DatasetSplit, class_names: tuple[str, ...]) -> DatasetSplit:
    """Return a split whose labels follow the given class names; objects of other classes are dropped and counted.

    Args:
        split: The split.
        class_names: A model's class names.

    Raises:
        InputError: The split lacks a class.
    """
    if split.class_names == class_names:
        return split
    missing = [name for name in class_names if name not in split.class_names]
    if missing:
        raise InputError(f"{split.name}: no classes {', '.join(missing)}. Add them, or use the model's own data.")
    from sais.data.packed_annotations import object_columns, relabel

    label_of = {split.class_names.index(name): label for label, name in enumerate(class_names)}
    new_labels = [label_of.get(label) for label in range(len(split.class_names))]
    category_ids = tuple(split.category_ids[split.class_names.index(name)] for name in class_names)
    labels = object_columns(split.images).labels
    dropped = sum(int((labels == old).sum()) for old, label in enumerate(new_labels) if label is None)
    notes = split.notes | ({UNKNOWN_CLASS: dropped} if dropped else {})
    return DatasetSplit(split.name, class_names, category_ids, relabel(split.images, new_labels), notes)
