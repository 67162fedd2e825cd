"""The data of a run, read from files or given in memory, and what a user should know about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sais.data.annotations import DatasetSplit
from sais.data.paths import DataPaths
from sais.errors import InputError


@dataclass(frozen=True)
class RunData:
    """Data of a run, from files or from memory."""

    train_split: DatasetSplit
    valid_split: DatasetSplit | None
    name: str
    paths: dict[str, Any]
    """Fields of `DataPaths`; empty for data in memory."""

    def remarks(self) -> list[str]:
        """Return a line for each kind of annotation that was dropped or changed on reading, or that looks wrong."""
        from sais.data.packed_annotations import object_columns
        from sais.data.remarks import describe_overlap, describe_split

        remarks = describe_split(self.train_split)
        if self.valid_split is not None:
            remarks += describe_split(replace(self.valid_split, origin=""), "evaluate")  # the format is that of train
            remarks += describe_overlap(self.train_split, self.valid_split)
        if object_columns(self.train_split.images).crowds.all():
            name = self.train_split.name
            remarks.append(f"{name}: no object to train on (crowds excluded); the model will learn to detect nothing")
        return remarks


def read_data(
    data: DataPaths | str | Path | None, dataset: DatasetSplit | None, valid_dataset: DatasetSplit | None
) -> RunData:
    """Return the splits to train and validate on.

    Args:
        data: data set in files.
        dataset: training split in memory, instead of that of `data`.
        valid_dataset: validation split in memory, instead of that of `data`.

    Raises:
        InputError: there is no data, it has no images, a split in memory is invalid, or the classes differ.
    """
    paths = DataPaths(Path(data)) if isinstance(data, (str, Path)) else data
    if dataset is None:
        if paths is None:
            raise InputError("train: no data. Give the folder of a data set (data) or a split in memory (dataset).")
        dataset = paths.read_train()
    else:
        _check_split(dataset)
    if not dataset.images:
        raise InputError(f"{dataset.name}: no images to train on. Check the data set with `sais doctor`.")
    if valid_dataset is None and paths is not None:
        valid_dataset = paths.read_valid(dataset.class_names)
    elif valid_dataset is not None:
        _check_split(valid_dataset)
    if valid_dataset is not None and valid_dataset.class_names != dataset.class_names:
        raise InputError(
            f"{valid_dataset.name}: its classes are not those of {dataset.name}. Give both splits the same classes."
        )
    name = dataset.name if paths is None else paths.name
    return RunData(dataset, valid_dataset, name, {} if paths is None else vars(paths))


def _check_split(split: DatasetSplit) -> None:
    from sais.data.split_checks import check_split

    check_split(split)
