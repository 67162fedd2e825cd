"""How a run starts from the weights of another model: a checkpoint of sais, or a detector of torchvision."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from sais.checkpoint import Checkpoint, find_checkpoint, load_checkpoint, load_weights
from sais.config import Experiment
from sais.distributed import World
from sais.errors import CheckpointError
from sais.hub import is_hub_address, local_model
from sais.modeling.architecture import Architecture
from sais.modeling.torchvision_weights import (
    DETECTORS,
    PREFIX,
    DetectorWeights,
    is_torchvision_name,
    match_settings,
    read_detector_weights,
)
from sais.text import short_names
from sais.trust import check_trusted, own_code

ADOPTED_SETTINGS = (
    "distance_unit",
    "distance_activation",
    "distance_origin",
    "coefficients_from",
    "quality",
    "quality_from",
    "tower_bias",
)
"""Model settings that a run takes from the checkpoint it starts from: with others, its weights mean something else."""
SIZE_SETTINGS = ("architecture", "backbone", "channels", "head", "tower_depth", "tower_kind", "norm")
MASK_SIZE_SETTINGS = ("prototypes", "prototype_channels", "prototype_depth", "prototype_norm", "relative_coordinates")
"""Model settings that determine the shapes of the weights, of the mask branch in the second tuple."""
MASK_BRANCH = ("protonet.", "head.coefficients.")
"""Starts of the names of the mask branch's weights."""
EXPORTED = (".onnx", ".xml", ".bin", ".pt2", ".ort", ".torchscript", ".tflite", ".engine")
"""Suffixes of exported models, which cannot be trained."""
PICKLES = (".pt", ".pth", ".ckpt", ".pkl")
"""Suffixes of files of torch.save, whose content may be anything."""


@dataclass(frozen=True)
class InitialWeights:
    """Weights to start a run from."""

    source: str
    """Path of the checkpoint, or name of the detector, for messages."""
    tensors: dict[str, Tensor]
    """Tensors of any shape by their name in the network."""
    class_names: tuple[str, ...]
    """Names of the rows of the class layers; empty if there are none."""
    parts: tuple[str, ...] = ()
    """Starts of the names of all tensors that a detector of torchvision contains; empty for a checkpoint of sais."""


def read_initial_weights(
    source: str | Path, experiment: Experiment, world: World, trust: bool = False
) -> tuple[InitialWeights, Experiment, list[str]]:
    """Read the weights that a run starts from.

    Args:
        source: checkpoint, run folder, or ``torchvision:NAME`` as in `sais.modeling.torchvision_weights`.
        experiment: settings of the run.
        world: processes of the run. Rank 0 downloads what the others then read.
        trust: whether code outside of sais that the checkpoint names may be adopted; see `sais.trust`.

    Returns:
        The weights, the settings with the head variant that they need, and remarks for the user.

    Raises:
        CheckpointError: there are no such weights, or they do not fit the settings.
        ConfigError: no such detector of torchvision, or settings for which it has no weights; or the checkpoint names
            a quality target that is not trusted.
        ResourceError: the weights cannot be downloaded.
    """
    if is_torchvision_name(str(source)):
        experiment, notes = match_settings(experiment, str(source))
        weights = read_detector_weights(str(source)) if world.is_main else None
        world.broadcast(None)
        return _detector_weights(weights or read_detector_weights(str(source))), experiment, notes
    path = find_checkpoint(check_source(source))
    checkpoint = load_checkpoint(path)
    adopted, notes = adopt_settings(experiment, checkpoint, path)
    if adopted.model.quality != experiment.model.quality:
        check_trusted(own_code(adopted, ("model.quality",)), str(path), trust)
    experiment = adopted
    return InitialWeights(str(path), checkpoint.part("model"), checkpoint.class_names), experiment, notes


def check_initial_weights(source: str | Path, experiment: Experiment) -> None:
    """Raise SaisError if a run with these settings cannot start from a source, before any data is read."""
    if is_torchvision_name(str(source)):
        match_settings(experiment, str(source))
    else:
        check_source(source)


def check_source(source: str | Path) -> Path:
    """Return the path of a checkpoint or run folder; hf://owner/name is fetched first.

    Raises:
        CheckpointError: a source that is neither, with its replacement.
    """
    if is_hub_address(source):
        source = local_model(source)
    text, path = str(source), Path(source)
    suffix = path.suffix.lower()
    if re.match(r"[a-z][a-z0-9+.-]+:/", text, re.IGNORECASE):
        raise CheckpointError(f"weights {text}: URLs are not supported. Download the file and give its path.")
    if text in DETECTORS:
        raise CheckpointError(f"weights {text}: a detector of torchvision. Write {PREFIX}{text}.")
    if suffix in EXPORTED or (path / "metadata.yaml").is_file():
        raise CheckpointError(
            f"{path}: an exported model, which cannot be trained. Give the run or the .safetensors file that it was "
            "exported from."
        )
    if suffix in PICKLES:
        raise CheckpointError(
            f"{path}: not a checkpoint of sais. Give a run folder or a .safetensors file; weights of a detector of "
            f"torchvision are given as {PREFIX}{next(iter(DETECTORS))}={path}."
        )
    if not path.exists():
        siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, siblings, n=1)
        fix = f"Did you mean {path.parent / close[0]}?" if close else "Give a run folder or a .safetensors file."
        raise CheckpointError(f"{path}: no such model file. {fix}")
    return path


def adopt_settings(experiment: Experiment, checkpoint: Checkpoint, path: Path) -> tuple[Experiment, list[str]]:
    """Return the experiment with those model settings of a checkpoint without which its weights mean something else.

    Args:
        experiment: settings of the run.
        checkpoint: checkpoint to start from.
        path: its path for messages.

    Raises:
        CheckpointError: the checkpoint is of a network of another size.
    """
    model, stored = experiment.model, checkpoint.experiment.model
    names = SIZE_SETTINGS + (MASK_SIZE_SETTINGS if model.masks and stored.masks else ())
    pairs = {name: (getattr(stored, name), getattr(model, name)) for name in names}
    if model.architecture != "sais":  # another architecture may use none of these
        pairs = {"architecture": pairs["architecture"]}
    elif stored.backbone.partition(".")[0] == model.backbone.partition(".")[0]:  # the same network
        del pairs["backbone"]
    wrong = [f"model.{name} {value}, not {own}" for name, (value, own) in pairs.items() if value != own]
    if wrong:
        raise CheckpointError(
            f"{path}: the weights do not fit the network of {experiment.name} ({'; '.join(wrong)}). Train with the "
            f"recipe of the weights ({checkpoint.experiment.name}), or change these settings."
        )
    changed = {
        name: getattr(stored, name) for name in ADOPTED_SETTINGS if getattr(stored, name) != getattr(model, name)
    }
    notes = [
        f"model.{name} {value}, as in {path}, instead of {getattr(model, name)}" for name, value in changed.items()
    ]
    if model.masks and not stored.masks:
        notes.append(f"{path} has no masks: the mask branch starts from random weights")
    if stored.masks and not model.masks:
        notes.append(f"the mask branch of {path} is not used")
    return replace(experiment, model=replace(model, **changed)), notes


def initialize_from(
    model: nn.Module, weights: InitialWeights, class_names: tuple[str, ...], architecture: Architecture
) -> list[str]:
    """Load weights into a model, which may have other classes.

    If the classes differ, the classification layers remain freshly initialized, except for classes with the same name,
    which keep their weights. So does what the weights do not contain: the mask branch, or parts of a detector.

    Args:
        model: model to fill.
        weights: weights and class names.
        class_names: C class names of the model.
        architecture: architecture of the model, which names its classification layers.

    Returns:
        Remarks for the user: which classes were kept and which are new.

    Raises:
        CheckpointError: the weights are of another network, or the architecture has no replaceable layers.
    """
    fresh = model.state_dict()
    tensors = {
        name: value for name, value in weights.tensors.items() if name in fresh or not _is_optional(name, weights)
    }
    absent = {name: value for name, value in fresh.items() if name not in tensors}
    tensors |= {name: value for name, value in absent.items() if _is_optional(name, weights)}
    parts = f" ({', '.join(weights.parts)}; all else is new)" if weights.parts else ""
    source = f"weights from {weights.source}{parts}"
    if weights.class_names in (class_names, ()):
        load_weights(model, tensors, Path(weights.source))
        return [source]
    if not architecture.class_layers:
        raise CheckpointError(
            f"{weights.source}: trained for other classes ({_shorten(list(weights.class_names))}), which "
            f"{architecture.name} cannot replace. Use data with the same classes."
        )
    old_rows = {name: row for row, name in enumerate(weights.class_names)}
    pairs = [(row, old_rows[name]) for row, name in enumerate(class_names) if name in old_rows]
    for layer in architecture.class_layers:
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in tensors and name in fresh:
                tensors[name] = _copy_rows(fresh[name], tensors[name], pairs)
    load_weights(model, tensors, Path(weights.source))
    shared = [class_names[row] for row, _ in pairs]
    new = [name for name in class_names if name not in old_rows]
    layers = f"{', '.join(architecture.class_layers)} re-initialized"
    note = (
        f"{source}, trained for {len(weights.class_names)} classes: {layers}; classes that keep their weights: "
        f"{_shorten(shared)}; new classes: {_shorten(new)}"
    )
    return [note]


def _detector_weights(weights: DetectorWeights) -> InitialWeights:
    names = {"backbone": "backbone", "fpn": "FPN", "head": "head"}
    parts = tuple(
        label for start, label in names.items() if any(key.startswith(f"{start}.") for key in weights.tensors)
    )
    return InitialWeights(weights.source, weights.tensors, weights.class_names, parts)


def _is_optional(name: str, weights: InitialWeights) -> bool:
    """Return whether weights may lack a tensor, or a model may not have it."""
    return bool(weights.parts) or name.startswith(MASK_BRANCH)


def _copy_rows(fresh: Tensor, old: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Return `fresh` (C, ...) with rows of `old` (C', ...) for each pair (row of fresh, row of old)."""
    if fresh.shape[1:] != old.shape[1:]:
        return old  # another network, which load_weights reports
    combined = fresh.detach().clone()
    for row, old_row in pairs:
        combined[row] = old[old_row]
    return combined


def _shorten(names: list[str]) -> str:
    """Return at most five of the names."""
    if not names:
        return "none"
    return ", ".join(short_names(names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
