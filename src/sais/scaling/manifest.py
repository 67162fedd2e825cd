"""The manifest of an output folder: which model, options and images its shards belong to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sais._version import __version__
from sais.errors import InputError
from sais.inference.options import InferenceOptions
from sais.scaling.items import WRITER, shard_name
from sais.scaling.shard_files import RESULTS, Format, Rows, suffix
from sais.scaling.storage import OutputFolder

MANIFEST, PLAN = "manifest.json", "plan.jsonl"
"""Names of the manifest and of the list of images, in the output folder."""
FREE_OPTIONS = ("device", "threads", "compile", "runtime", "trust", "batch_size")
"""Inference options that may differ when a run is continued: they state how to compute, not what."""
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Manifest:
    """What a run predicts, with which model, into which files."""

    input: str
    """The input: absolute path, address, or - for standard input."""
    listing: str | None
    """SHA-256 of the list of images, if the input is one."""
    column: str | None
    """Column of the images in Parquet files, or extension in tar files, as it was given."""
    name_column: str | None
    """Column of the names in Parquet files, as it was given."""
    image_column: str | None
    """Column of the images in Parquet files, as it was found."""
    images: int
    shard_size: int
    format: Format
    rows: Rows
    model: str
    """Path of the model, for people; `model_sha256` decides."""
    model_sha256: str
    options: dict[str, Any]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    score: str
    """The minimum score and its origin, for people."""
    listed: str
    """Time at which the images were listed (ISO 8601, UTC)."""
    version: str = __version__
    complete: bool = False
    unreadable: int | None = None
    """Number of images that could not be read; None while shards are missing."""
    written_by: str = field(default=WRITER, init=False)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard_size)

    def finished(self, output: OutputFolder) -> set[int]:
        """Return the numbers of the shards whose files exist."""
        files = output.names(RESULTS)
        ending = suffix(self.format)
        return {number for number in range(self.shards) if shard_name(number, self.shards) + ending in files}

    def write(self, output: OutputFolder) -> None:
        """Write the manifest."""
        entries = {"written_by": self.written_by} | asdict(self) | {"shards": self.shards}  # the mark comes first
        with output.writing(MANIFEST) as path:
            path.write_text(json.dumps(entries, indent=1) + "\n", encoding="ascii")


def read_manifest(output: OutputFolder) -> Manifest | None:
    """Return the manifest of an output folder; None if there is none of `sais predict-many`.

    Raises:
        InputError: it is damaged.
    """
    content = output.read(MANIFEST)
    if content is None:
        return None
    try:
        entries = json.loads(content)
        if not isinstance(entries, dict) or entries.get("written_by") != WRITER:
            return None
        names = [entry.name for entry in dataclasses.fields(Manifest) if entry.init]
        values = {name: entries[name] for name in names}
        manifest = Manifest(**values | {name: tuple(values[name]) for name in ("class_names", "category_ids")})
        if not (type(manifest.images) is type(manifest.shard_size) is int and manifest.shard_size > 0):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{output.location}/{MANIFEST}: damaged. Choose another output, or start again.") from None
    return manifest


def compared_options(options: InferenceOptions) -> dict[str, Any]:
    """Return the inference options on which results depend, as they are in JSON."""
    values = {name: value for name, value in asdict(options).items() if name not in FREE_OPTIONS}
    return dict(json.loads(json.dumps(values)))


def check_same(stored: Manifest, wanted: Manifest, location: str) -> None:
    """Check that a run continues the stored one.

    Args:
        stored: manifest of the output folder.
        wanted: manifest of this run; its images and shards are those of the stored one.
        location: the output folder, for messages.

    Raises:
        InputError: the model, the options, the input or the format differ.
    """
    differences = []
    if stored.model_sha256 != wanted.model_sha256:
        differences.append(f"another model ({stored.model})")
    for name in sorted({*stored.options, *wanted.options}):
        before, now = stored.options.get(name), wanted.options.get(name)
        if before != now:
            differences.append(f"{name} {before} instead of {now}")
    for name in ("input", "column", "name_column", "format", "rows", "shard_size"):
        before, now = getattr(stored, name), getattr(wanted, name)
        if before != now:
            differences.append(f"{name} {before} instead of {now}")
    if stored.listing != wanted.listing:
        differences.append("another list of images")
    if differences:
        raise InputError(
            f"{location}: contains results of {', '.join(differences)}. Choose another output, or start again with "
            "overwrite=True."
        )


def model_digest(files: list[Path]) -> str:
    """Return the SHA-256 of the files of a model.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    return digest.hexdigest()
