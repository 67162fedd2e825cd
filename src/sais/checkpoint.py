"""Checkpoints: safetensors with the whole experiment, the class names and the state of the run inside.

Two kinds share one layout. A *model* file holds the weights to predict with (`model.*`). A *run* file (`last`) also
holds everything that resuming needs: raw weights beside their average (`raw.*`) and the optimizer's state
(`optimizer.*`). Either can be predicted with. Writing is atomic: a killed process leaves the file of before. A checksum
of all that is inside tells a file that the disk or a copy spoilt from a good one.
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
from sais.errors import ResourceError, SaisError
from sais.io.atomic import atomic_write

FORMAT = "sais-1"


@dataclass
class Checkpoint:
    """What a checkpoint file holds."""

    experiment: Experiment
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The data set's own id of each class."""
    tensors: dict[str, Tensor]
    """By their prefixed names."""
    state: dict[str, Any] = field(default_factory=dict)
    """Numbers of the run: iteration, updates, best, metrics, seconds."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under `prefix.`, without it."""
        return {n[len(prefix) + 1 :]: t for n, t in self.tensors.items() if n.startswith(prefix + ".")}


def add_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def save_checkpoint(path: Path, checkpoint: Checkpoint, previous: Path | None = None) -> None:
    """Write a checkpoint: to a file beside it, flushed to the disk, then moved into place.

    Args:
        previous: where what stood at `path` is kept. At no moment is `path` missing, where the file system has links.

    Raises:
        SaisError: the folder cannot be written or the disk is full; what stood at `path` still stands.
    """
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
        with atomic_write(path, sync=True, previous=previous, exclusive=True) as temporary:
            save_file(tensors, temporary, metadata)
    except SafetensorError as error:
        raise ResourceError(
            f"{path}: the checkpoint cannot be written ({error}). Free disk space, or choose another folder."
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        SaisError: no such file, cut short, spoilt (its checksum is another), or not a checkpoint of sais.
    """
    if not path.is_file():
        raise SaisError(f"{path}: no such model file; give a .safetensors file that `sais train` wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise SaisError(f"{path}: not a checkpoint of sais; give a .safetensors file that `sais train` wrote")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError) as error:
        raise SaisError(
            f"{path}: cut short or not a safetensors file ({error}); copy it again, or use last.safetensors of the run"
        ) from error
    checksum = metadata.pop("checksum", None)  # the first versions wrote none
    if checksum is not None and checksum != _checksum(tensors, metadata):
        raise SaisError(
            f"{path}: spoilt since it was written (its checksum is another); copy it again, or take another of the run"
        )
    return Checkpoint(
        experiment=from_dict(Experiment, json.loads(metadata["experiment"]), str(path)),
        class_names=tuple(json.loads(metadata["class_names"])),
        category_ids=tuple(json.loads(metadata["category_ids"])),
        tensors=tensors,
        state=json.loads(metadata["state"]),
    )


def load_weights(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load weights into a model. Raises SaisError where they do not fit."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise SaisError(f"{path}: the weights do not fit the network its settings describe: {first}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as tensors named `parameter name/state name`."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give the optimizer the state that `optimizer_tensors` took."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter_name, key = name.rsplit("/", 1)
        parameter = parameters[parameter_name]
        # AdamW counts its steps on the CPU; everything else lies where its parameter lies, and as it lies.
        value = tensor.clone() if key == "step" else torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][key] = value


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Of every name, kind, shape and byte of contiguous tensors on the CPU, and of the texts beside them."""
    whole = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path means: the file itself, or the model, best or last of a run's folder."""
    if not path.is_dir():
        return path
    for name in ("model", "best", "last"):
        if (path / f"{name}.safetensors").is_file():
            return path / f"{name}.safetensors"
    raise SaisError(f"{path}: no model.safetensors, best.safetensors or last.safetensors there; give a trained run")
