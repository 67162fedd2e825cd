"""Choice of the classes to train on: a part of a data set's classes, some of them merged under a new name.

A class is chosen by its name, ``cat``. ``vehicle=car+truck`` merges classes under a new name, and ``*`` means all
classes that are not named otherwise: ``object=*`` merges all of them, ``vehicle=car+truck *`` keeps the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.data.packed_annotations import object_columns, relabel
from sais.errors import InputError
from sais.resolve import suggest

NOT_CHOSEN = "objects of classes that were not chosen dropped"
"""Note for the objects of all other classes. Their images are used, as images without these objects."""
MERGED = "objects of merged or renamed classes"
"""Note for the objects whose class has another name in the data set."""
ALL_OTHERS = "*"


def choose_classes(split: DatasetSplit, classes: Sequence[str], allow_missing: bool = False) -> DatasetSplit:
    """Return a split with the chosen classes only, in the order given; the other objects are dropped and counted.

    A merged class has the category id of its first class.

    Args:
        split: the split.
        classes: names of classes, merged ones as ``name=first+second``; empty for all classes as they are.
        allow_missing: whether a class may be missing, as in a validation split without objects of it.

    Raises:
        InputError: the split lacks a class, or a class is chosen twice.
    """
    if not classes:
        return split
    groups = parse_classes(classes, split.class_names, split.name, allow_missing)
    label_of = {source: label for label, sources in enumerate(groups.values()) for source in sources}
    new_labels = [label_of.get(name) for name in split.class_names]
    renamed = {old for old, name in enumerate(split.class_names) if name in label_of and name not in groups}
    counts_by_label = np.bincount(object_columns(split.images).labels, minlength=len(split.class_names))
    dropped = sum(int(counts_by_label[old]) for old, label in enumerate(new_labels) if label is None)
    counts = {NOT_CHOSEN: dropped, MERGED: sum(int(counts_by_label[old]) for old in renamed)}
    return replace(
        split,
        class_names=tuple(groups),
        category_ids=_category_ids(split, list(groups.values())),
        images=relabel(split.images, new_labels),
        notes=split.notes | {note: count for note, count in counts.items() if count},
    )


def parse_classes(
    classes: Sequence[str], known: Sequence[str], where: str, allow_missing: bool = False
) -> dict[str, tuple[str, ...]]:
    """Return the new name of each chosen class -> the names of its classes in the data set.

    Args:
        classes: names of classes, merged ones as ``name=first+second``.
        known: names of the classes in the data set.
        where: name of the data set for error messages.
        allow_missing: whether a class may be missing from `known`.

    Raises:
        InputError: a class is unknown, or chosen twice.
    """
    groups: dict[str, tuple[str, ...]] = {}
    for text in classes:
        name, equals, sources = text.partition("=")
        if text in known or not equals:  # a name may contain the signs
            name, sources = text, text
        parts = (sources,) if sources in known else tuple(part.strip() for part in sources.split("+"))
        if not name.strip() or "" in parts:
            raise InputError(f"classes {text!r}: a name is missing. Write for example vehicle=car+truck.")
        if name.strip() in groups:
            raise InputError(f"classes {text!r}: {name.strip()} is chosen twice. Choose each class once.")
        groups[name.strip()] = parts
    sources_of_all = [part for parts in groups.values() for part in parts]
    for part in sources_of_all:
        if sources_of_all.count(part) > 1:
            raise InputError(f"classes {part!r}: chosen twice. Choose each class once.")
        if part not in known and part != ALL_OTHERS and not allow_missing:
            raise InputError(f"{where}: no class {part!r}{suggest(part, known)}")
    others = [name for name in known if name not in sources_of_all]
    if ALL_OTHERS in groups and (both := [name for name in others if name in groups]):
        raise InputError(
            f"classes {both[0]!r}: also the name of another class. Choose a new name for the merged class."
        )
    return _with_others(groups, others)


def name_others(classes: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """Return a choice of classes with ``*`` replaced by its classes in the training split, which another may lack.

    Args:
        classes: the choice.
        class_names: names that it gave in the training split.
    """
    if ALL_OTHERS not in classes:
        return tuple(classes)
    named = {text if text in class_names else text.partition("=")[0].strip() for text in classes}
    others = [name for name in class_names if name not in named]
    return (*(text for text in classes if text != ALL_OTHERS), *others)


def with_classes_of_model(split: DatasetSplit, class_names: tuple[str, ...]) -> DatasetSplit:
    """Return a split with chosen classes for the evaluation of a model that may have more classes.

    The labels follow the model's classes. Those that were not chosen have no objects, so that they do not count.

    Args:
        split: the split with the chosen classes.
        class_names: the model's class names.

    Raises:
        InputError: the model lacks a chosen class.
    """
    for name in split.class_names:
        if name not in class_names:
            raise InputError(f"{split.name}: the model has no class {name!r}{suggest(name, class_names)}")
    new_labels = [class_names.index(name) for name in split.class_names]
    known_ids = dict(zip(split.class_names, split.category_ids, strict=True))
    unused = iter(range(max((0, *split.category_ids)) + 1, max((0, *split.category_ids)) + 1 + len(class_names)))
    category_ids = tuple(known_ids[name] if name in known_ids else next(unused) for name in class_names)
    return replace(split, class_names=class_names, category_ids=category_ids, images=relabel(split.images, new_labels))


def _with_others(groups: dict[str, tuple[str, ...]], others: list[str]) -> dict[str, tuple[str, ...]]:
    """Replace ``*`` by the classes that are not named otherwise."""
    complete: dict[str, tuple[str, ...]] = {}
    for name, parts in groups.items():
        if name == ALL_OTHERS:
            complete |= {other: (other,) for other in others}
        else:
            complete[name] = tuple(source for part in parts for source in (others if part == ALL_OTHERS else (part,)))
    return complete


def _category_ids(split: DatasetSplit, groups: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """Return the category id of each new class: that of its first class, or an unused id for one that is missing."""
    known = dict(zip(split.class_names, split.category_ids, strict=True))
    unused = max((0, *split.category_ids)) + 1
    category_ids = []
    for sources in groups:
        present = [known[source] for source in sources if source in known]
        category_ids.append(present[0] if present else unused)
        unused += not present
    return tuple(category_ids)
