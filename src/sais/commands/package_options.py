"""Options that `sais package` and `sais push` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sais.commands.options import Maximum, Minimum
from sais.errors import InputError

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.sharing.package import PackageOptions


@dataclass(frozen=True)
class CardOptions:
    """Content of a package in addition to the model."""

    license: str | None = None
    """License of the model, such as apache-2.0 or cc-by-4.0; stored in the model. Default: the one stored in it."""
    onnx: Path | None = None
    """Exported file (.onnx) of the same model to add, for machines without PyTorch."""
    examples: Annotated[int, Minimum(0), Maximum(24)] = 0
    """Number of validation images to publish in the model card, with labels and detections. Default: none."""
    data: Path | None = None
    """Data set of --examples; default: that of the run's log."""
    split: str = "valid"
    """Split of --data."""
    name: str = ""
    """Title of the model card; default: the name of the run or of the repository."""
    trust: bool = False
    """Import and run code outside of sais that the model names, for --examples."""

    def package_options(self, overwrite: bool = False) -> PackageOptions:
        """Return the options for the library.

        Raises:
            InputError: a data set for no examples.
        """
        from sais.sharing.package import PackageOptions

        if self.data is not None and not self.examples:
            raise InputError(f"{self.data}: --data has no effect without --examples N. Give both, or leave it out.")
        return PackageOptions(self.license, self.onnx, self.examples, self.name, overwrite, self.trust)


def valid_images(options: CardOptions, model: Path) -> DatasetSplit | None:
    """Return the images of --data for --examples; None for those of the run's log."""
    if options.data is None or not options.examples:
        return None
    from sais.checkpoint import find_checkpoint, load_checkpoint
    from sais.data.formats import read_dataset
    from sais.data.paths import locate

    return read_dataset(locate(options.data), options.split, load_checkpoint(find_checkpoint(model)).class_names)
