"""The labeled images of `sais eval` and `sais compare`: a split of a data set, or a COCO file with its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sais.data.options import DataOptions
from sais.errors import InputError

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit


@dataclass(frozen=True)
class LabeledSplit:
    """Where the labeled images of a command are."""

    command: str
    """Name of the command, for messages."""
    data: Path | None
    """Folder of the data set, or its name in the folder $SAIS_DATA."""
    split: str
    """Name of the split."""
    annotations: Path | None
    """COCO JSON, instead of `data`."""
    images: Path | None
    """Folder of the images of `annotations`."""
    options: DataOptions
    """Options of reading the data set."""

    def check(self) -> None:
        """Raise InputError where the data set is not given or does not exist: before PyTorch is loaded."""
        from sais.data.paths import locate

        if (self.annotations is None) != (self.images is None):
            raise InputError(f"sais {self.command}: one of --annotations and --images is missing. Give both.")
        if self.annotations is None and self.data is None:
            raise InputError(f"sais {self.command}: no data. Give --data DIR, or --annotations FILE and --images DIR.")
        if self.annotations is None and self.data is not None:
            locate(self.data)

    def read(self, class_names: tuple[str, ...] | None) -> DatasetSplit:
        """Read the split, with the labels in the order of a model's classes; None for those of the data set."""
        from sais.data.formats import read_dataset, read_dataset_files
        from sais.data.paths import locate

        if self.annotations is not None and self.images is not None:
            return read_dataset_files(self.annotations, self.images, class_names, self.options)
        assert self.data is not None  # see `check`
        return read_dataset(locate(self.data), self.split, class_names, options=self.options)
