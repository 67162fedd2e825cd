"""Options of a prediction over many images, apart from the inference options."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

from sais.errors import ConfigError, MissingDependencyError
from sais.scaling.shard_files import Format, Rows

__all__ = ["ManyOptions", "choose_engine"]

Engine = Literal["auto", "ray", "local"]


@dataclass(frozen=True)
class ManyOptions:
    """How many images are read, spread over workers, and written.

    Raises:
        ConfigError: options that do not go together.
    """

    format: Format = "parquet"
    """Format of the shards: Parquet, or COCO files like the predictions.json of `sais predict`."""
    rows: Rows = "image"
    """Parquet: a row for each image, with lists, or for each detection; an image without any then has no row."""
    column: str | None = None
    """Column of the images in Parquet files, or extension of the images in tar files. None: found by its name."""
    name_column: str | None = None
    """Column of the names of the images in Parquet files. None: found by its name, else the row number is used."""
    workers: int = 0
    """Number of processes, on all machines together. 0: one for each GPU, or for each core where no GPU is used."""
    engine: Engine = "auto"
    """ray: processes of Ray; local: this process only. auto: ray if it is installed, local with one worker."""
    address: str | None = None
    """Address of a Ray cluster, such as auto or ray://head:10001. None: Ray runs on this machine for this command."""
    shard_size: int | None = None
    """Images of a shard, which is one output file and what is repeated after a failure. None: 16 to 1000."""
    retries: int = 2
    """Number of further attempts for a shard whose worker ended or failed."""
    overwrite: bool = False
    """Start again: delete the shards of an earlier run in the output; files of others remain."""

    def __post_init__(self) -> None:
        limits = (("workers", self.workers, 0), ("retries", self.retries, 0), ("shard_size", self.shard_size, 1))
        for name, value, minimum in limits:
            if value is not None and value < minimum:
                raise ConfigError(f"{name}: {value} is less than the minimum. Give {minimum} or more.")
        if self.rows == "detection" and self.format == "coco":
            raise ConfigError("rows: COCO files have no rows. Use the format parquet, or leave rows out.")
        if self.engine == "local" and self.workers > 1:
            raise ConfigError(f"workers: the local engine is one process, not {self.workers}. Use the engine ray.")
        if self.engine == "local" and self.address is not None:
            raise ConfigError("address: the local engine has no cluster. Use the engine ray.")


def choose_engine(options: ManyOptions) -> Literal["ray", "local"]:
    """Return the engine that the options ask for, or that is installed.

    Raises:
        MissingDependencyError: Ray is asked for and not installed.
    """
    installed = importlib.util.find_spec("ray") is not None
    if options.engine == "local" or (options.engine == "auto" and not installed and options.address is None):
        return "local"
    if not installed:
        raise MissingDependencyError('Ray is not installed. Run pip install "sais-seg[ray]".', "ray", "ray")
    return "local" if options.engine == "auto" and options.workers == 1 and options.address is None else "ray"
