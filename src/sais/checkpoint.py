"""Checkpoints: safetensors files with the weights, the whole experiment, the class names and the state of the run.

Two kinds share one format. A *model* file has the weights to predict with (`model.*`). A *run* file (`last`) also has
everything that resuming needs: the raw weights next to their average (`raw.*`) and the optimizer's state
(`optimizer.*`). Both are enough to predict. Writing is atomic: a killed process leaves the previous file. A checksum of
the whole content detects corruption by a disk or a copy.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sais.config import Experiment, from_dict, to_dict
from sais.errors import CheckpointError, ResourceError

FORMAT = "sais-1"
NAMES = ("model", "best", "last")
"""Names of the checkpoints in a run folder, in the order in which they are searched."""
READ_BYTES = 2**22


@dataclass
class Checkpoint:
    """The content of a checkpoint file."""

    experiment: Experiment
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The data set's own id of each class."""
    tensors: dict[str, Tensor]
    """Tensors of any shape by their names with prefix."""
    state: dict[str, Any] = field(default_factory=dict)
    """Numbers of the run: iteration, updates, best, metrics, seconds."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors (of any shape) under `prefix.`, by their names without it."""
        return {n[len(prefix) + 1 :]: t for n, t in self.tensors.items() if n.startswith(prefix + ".")}


def add_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors (of any shape) with `prefix.` before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def save_checkpoint(path: Path, checkpoint: Checkpoint, previous: Path | None = None) -> None:
    """Write a checkpoint atomically and flush it to the disk.

    Args:
        path: path of the file.
        checkpoint: content of the file.
        previous: path that receives the old content of `path`; see `sais.io.atomic.atomic_write`.

    Raises:
        ResourceError: the folder cannot be written or the disk is full; `path` keeps its old content.
    """
    from sais.io.atomic import atomic_write  # predictions read checkpoints only

    metadata = {
        "format": FORMAT,
        "experiment": json.dumps(to_dict(checkpoint.experiment)),
        "class_names": json.dumps(checkpoint.class_names),
        "category_ids": json.dumps(checkpoint.category_ids),
        "state": json.dumps(checkpoint.state),
    }
    tensors = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in checkpoint.tensors.items()}
    metadata["checksum"] = _checksum(tensors, metadata)
    try:
        with atomic_write(path, sync=True, previous=previous) as temporary:
            save_file(tensors, temporary, metadata)
    except SafetensorError as error:
        raise ResourceError(
            f"{path}: the checkpoint cannot be written ({error}). Free disk space, or choose another folder."
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Nothing is built with its settings, and no code that they name is imported.

    Raises:
        CheckpointError: no such file, a truncated or corrupted file, or not a checkpoint of sais.
        ConfigError: a setting in the file is unknown or out of range.
        ResourceError: the file cannot be read at the moment, for example without permission, or memory is short.
    """
    from sais.config_ranges import check_stored_settings, read_classes

    if not path.is_file():
        raise CheckpointError(f"{path}: no such model file. Give a .safetensors file written by `sais train`.")
    _read_once(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(f"{path}: not a checkpoint of sais. Give a .safetensors file of `sais train`.")
            # Copies: a tensor of safetensors is a part of the mapped file, which Windows then does not let us replace.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118, it is no dict
    except (RuntimeError, MemoryError) as error:  # torch cannot allocate
        raise ResourceError(f"{path}: not enough memory to read it ({error}). Free memory.") from error
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path}: truncated or not a safetensors file ({error}). Copy it again, or use last.safetensors of the run."
        ) from error
    if metadata.pop("checksum", None) != _checksum(tensors, metadata):
        raise CheckpointError(
            f"{path}: corrupted (checksum mismatch). Copy it again, or use another checkpoint of the run."
        )
    experiment = from_dict(Experiment, _parse(metadata, "experiment", path), str(path))
    check_stored_settings(experiment, str(path))
    class_names, category_ids = read_classes(
        _parse(metadata, "class_names", path), _parse(metadata, "category_ids", path), str(path)
    )
    state = _parse(metadata, "state", path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: state is not a group of values. Use another checkpoint of the run.")
    return Checkpoint(experiment, class_names, category_ids, tensors, state)


def _read_once(path: Path) -> None:
    """Read a file to its end: in the mapped file, an error of the disk would end the process.

    Raises:
        ResourceError: the file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            while file.read(READ_BYTES):
                pass
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be read ({error.strerror or error}). Check its permissions and the disk, and try again."
        ) from error


def _parse(metadata: dict[str, str], entry: str, path: Path) -> Any:
    """Return an entry of the metadata, which is JSON.

    Raises:
        CheckpointError: the entry is missing or not JSON.
    """
    try:
        return json.loads(metadata[entry])
    except (KeyError, ValueError, RecursionError):
        raise CheckpointError(
            f"{path}: {entry} is missing or not JSON. Use a file that `sais train` has written."
        ) from None


def load_weights(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights into a model.

    Args:
        model: model to load into, in place.
        tensors: weights by name, each of the shape of the model's.
        path: path of their checkpoint, for the error message.

    Raises:
        CheckpointError: names or shapes do not fit the model.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(
            f"{path}: the weights do not fit the network that its settings describe ({reason}). "
            "Use a checkpoint of the same model."
        ) from error


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint of a path: the file itself, or `model`, `best` or `last` of a run folder.

    Raises:
        CheckpointError: a folder without a checkpoint, or hf://owner/name without a model.
        ResourceError: the model of hf://owner/name cannot be fetched.
    """
    if "hf:" in path.parts:  # hf://owner/name
        from sais.hub import local_model

        path = local_model(path)
    if not path.is_dir():
        return path
    for name in NAMES:
        if (path / f"{name}.safetensors").is_file():
            return path / f"{name}.safetensors"
    files = ", ".join(f"{name}.safetensors" for name in NAMES)
    raise CheckpointError(f"{path}: no checkpoint ({files}) in this folder. Give the folder of a training run.")


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Return the SHA-256 of name, type, shape and bytes of contiguous tensors on the CPU, and of the metadata."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
