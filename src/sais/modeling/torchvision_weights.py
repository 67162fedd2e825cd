"""Weights of torchvision's COCO detectors as a start for networks with a ResNet-50.

    torchvision:fcos_resnet50_fpn           backbone, FPN, towers, and the branches of class, box and centerness
    torchvision:maskrcnn_resnet50_fpn       backbone and FPN
    torchvision:maskrcnn_resnet50_fpn_v2    backbone and FPN
    torchvision:fcos_resnet50_fpn=FILE.pth  from a file, without a download

torchvision downloads the weights once, into torch.hub's folder (environment variable TORCH_HOME). Everything that the
weights do not contain, such as the mask branch, keeps its random initialization. torchvision's FCOS ranks detections by
the square root of class probability x centerness; ours by the product, which is the same order.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sais.config import Experiment, ModelConfig
from sais.errors import CheckpointError, ConfigError, ResourceError
from sais.resolve import suggest

PREFIX = "torchvision:"
CLASS_LAYER = "head.class_logits"
"""Convolution whose first dimension is the classes."""
FIXED_SETTINGS: dict[str, Any] = {"architecture": "sais", "channels": 256}
"""Model settings that fit the weights of every detector, in addition to a ResNet-50."""
FIXED_HEAD_SETTINGS: dict[str, Any] = {"head": "sais", "tower_depth": 4, "tower_kind": "plain", "norm": "group"}
"""Model settings that fit a detector's head."""
HEAD_VARIANT: dict[str, Any] = {
    "distance_unit": "stride",
    "distance_activation": "relu",
    "distance_origin": "corner",
    "quality_from": "regression",
    "tower_bias": True,
}
"""Model settings that a detector's head needs; `match_settings` sets them."""


@dataclass(frozen=True)
class Detector:
    """A detector of torchvision."""

    weights: str
    """Name of its weights in `torchvision.models.detection`."""
    has_head: bool = False
    """Whether its towers and branches are used; only FCOS has the same."""
    first_level: int = 0
    """Number of levels of its FPN below C3."""
    norm_eps: float = 1e-5
    """Epsilon of its backbone's batch-norm."""


DETECTORS = {
    "fcos_resnet50_fpn": Detector("FCOS_ResNet50_FPN_Weights", has_head=True),
    "maskrcnn_resnet50_fpn": Detector("MaskRCNN_ResNet50_FPN_Weights", first_level=1, norm_eps=0.0),
    "maskrcnn_resnet50_fpn_v2": Detector("MaskRCNN_ResNet50_FPN_V2_Weights", first_level=1),
}
"""Name in torchvision -> the detector."""

_NAMES = (
    (r"backbone\.body\.(.+)", r"backbone.network.\1"),
    (r"backbone\.fpn\.extra_blocks\.(p[67]\..+)", r"fpn.last_levels.\1"),
    (r"head\.(classification|regression)_head\.conv\.(.+)", r"head.\1_tower.\2"),
    (r"head\.classification_head\.cls_logits\.(.+)", r"head.class_logits.\1"),
    (r"head\.regression_head\.bbox_reg\.(.+)", r"head.distances.\1"),
    (r"head\.regression_head\.bbox_ctrness\.(.+)", r"head.quality_logits.\1"),
)
"""Names of tensors in torchvision, and ours."""
_FPN_BLOCK = re.compile(r"backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(?:0\.)?(weight|bias)")
_NOT_CLASSES = ("__background__", "N/A")


@dataclass(frozen=True)
class DetectorWeights:
    """The weights of a detector under the names of our network."""

    source: str
    """Name that `read_detector_weights` was given."""
    tensors: dict[str, Tensor]
    """Tensors of any shape by their name in our network."""
    class_names: tuple[str, ...] = ()
    """Names of the rows of the class layer; empty if `tensors` has none."""


def is_torchvision_name(source: str) -> bool:
    """Return whether a source of weights names a detector of torchvision."""
    return source.startswith(PREFIX)


def parse_source(source: str) -> tuple[str, Path | None]:
    """Split ``torchvision:NAME`` or ``torchvision:NAME=FILE`` into the name of the detector and the file.

    Raises:
        ConfigError: no such detector.
    """
    name, separator, file = source.removeprefix(PREFIX).partition("=")
    if name not in DETECTORS:
        raise ConfigError(
            f"weights {source!r}: no detector of torchvision that can be loaded{suggest(name, DETECTORS)}"
        )
    if separator and not file:
        raise ConfigError(f"weights {source!r}: no file after '='. Write {PREFIX}{name}=FILE.pth.")
    return name, Path(file).expanduser() if file else None


def match_settings(experiment: Experiment, source: str) -> tuple[Experiment, list[str]]:
    """Return the experiment with the head variant of a detector, and a line for the log if that changed it.

    Args:
        experiment: settings of the run.
        source: ``torchvision:NAME`` or ``torchvision:NAME=FILE``.

    Raises:
        ConfigError: no such detector, or a setting for which it has no weights.
    """
    name, _ = parse_source(source)
    model = experiment.model
    fixed = FIXED_SETTINGS | (FIXED_HEAD_SETTINGS if DETECTORS[name].has_head else {})
    wrong = [
        f"model.{key} {value}, not {getattr(model, key)}" for key, value in fixed.items() if _differs(model, key, value)
    ]
    if model.backbone.partition(".")[0] != "resnet50":
        wrong.insert(0, f"model.backbone resnet50.tv_in1k, not {model.backbone}")
    if wrong:
        raise ConfigError(
            f"weights {PREFIX}{name}: they need {'; '.join(wrong)}. Start from a recipe with a ResNet-50, such as "
            "sais-r50-finetune, or without these weights."
        )
    variant = HEAD_VARIANT if DETECTORS[name].has_head else {}
    changed = {key: value for key, value in variant.items() if _differs(model, key, value)}
    if not changed:
        return experiment, []
    text = ", ".join(f"model.{key} {value} instead of {getattr(model, key)}" for key, value in changed.items())
    matched = dataclasses.replace(experiment, model=dataclasses.replace(model, **changed))
    return matched, [f"settings of {PREFIX}{name}: {text}"]


def read_detector_weights(source: str) -> DetectorWeights:
    """Read the weights of a detector of torchvision, from a file or through torchvision, which downloads them once.

    Args:
        source: ``torchvision:NAME`` or ``torchvision:NAME=FILE``.

    Raises:
        ConfigError: no such detector.
        CheckpointError: the file is missing, corrupted, or of another network.
        ResourceError: the weights cannot be downloaded.
    """
    name, file = parse_source(source)
    state = _download(name) if file is None else _read_file(file, name)
    return convert_detector(state, name, source)


def convert_detector(state: dict[str, Tensor], name: str, source: str = "") -> DetectorWeights:
    """Rename the tensors (of any shape) of a torchvision detector, and fold what our network does not have.

    Args:
        state: state of the detector, as its `state_dict` returns it.
        name: a key of `DETECTORS`.
        source: name for messages.

    Raises:
        CheckpointError: the tensors are not those of the detector.
    """
    detector = DETECTORS[name]
    tensors = _pyramid(state, detector)
    for key, value in state.items():
        for pattern, replacement in _NAMES if detector.has_head else _NAMES[:1]:
            if re.fullmatch(pattern, key):
                tensors[re.sub(pattern, replacement, key)] = value
    if detector.norm_eps != 1e-5:
        _convert_eps(tensors, detector.norm_eps)
    expected = ["backbone.network.layer4.2.conv3.weight", "fpn.pyramid.inner_blocks.2.0.weight"]
    expected += [f"{CLASS_LAYER}.weight", "fpn.last_levels.p7.bias"] if detector.has_head else []
    missing = [key for key in expected if key not in tensors]
    if missing:
        raise CheckpointError(f"weights {source or name}: not the weights of {name} (no {missing[0]}). Check the file.")
    return DetectorWeights(source or PREFIX + name, *_with_class_names(tensors))


def _with_class_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Keep the rows of COCO's 80 classes; the class layer of a detector with other classes has no names: drop it."""
    names = (f"{CLASS_LAYER}.weight", f"{CLASS_LAYER}.bias")
    if names[0] not in tensors:
        return tensors, ()
    from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

    categories = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    if len(tensors[names[0]]) != len(categories):
        return {key: value for key, value in tensors.items() if key not in names}, ()
    rows = [row for row, category in enumerate(categories) if category not in _NOT_CLASSES]
    return tensors | {key: tensors[key][rows] for key in names}, tuple(categories[row] for row in rows)


def _pyramid(state: dict[str, Tensor], detector: Detector) -> dict[str, Tensor]:
    """Return the convolutions of the FPN at C3 .. C5 with their batch-norms, if any, folded into them."""
    tensors = {}
    for key, value in state.items():
        match = _FPN_BLOCK.fullmatch(key)
        if match is None or int(match[2]) < detector.first_level:
            continue
        kind, level, part = match[1], int(match[2]), match[3]
        target = f"fpn.pyramid.{kind}_blocks.{level - detector.first_level}.0"
        norm = f"backbone.fpn.{kind}_blocks.{level}.1"
        if f"{norm}.running_var" not in state:
            tensors[f"{target}.{part}"] = value
            continue
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        tensors[f"{target}.weight"] = value * scale[:, None, None, None]
        tensors[f"{target}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return tensors


def _convert_eps(tensors: dict[str, Tensor], eps: float) -> None:
    """Scale the weights of batch-norms trained with another epsilon than 1e-5, so that their outputs are equal."""
    for key in [key for key in tensors if key.endswith(".running_var")]:
        variance, weight = tensors[key], key.replace("running_var", "weight")
        factor = ((variance + 1e-5) / (variance + eps).clamp(min=torch.finfo(variance.dtype).tiny)).sqrt()
        tensors[weight] = tensors[weight] * factor


def _download(name: str) -> dict[str, Tensor]:
    """Return the state of a detector from torch.hub's folder, into which torchvision downloads it once."""
    import torchvision.models.detection

    weights = getattr(torchvision.models.detection, DETECTORS[name].weights).COCO_V1
    file = Path(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
    try:
        state: dict[str, Tensor] = weights.get_state_dict(
            progress=sys.stderr.isatty(), check_hash=True, map_location="cpu", weights_only=True
        )
    except OSError as error:  # URLError is one
        raise ResourceError(
            f"weights {PREFIX}{name}: cannot be downloaded ({getattr(error, 'reason', error)}). Connect to the "
            f"network, copy {file.name} to {file.parent}, or give the file as {PREFIX}{name}=FILE."
        ) from error
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        fix = "Delete it and try again" if file.exists() else "Try again"
        raise CheckpointError(f"{file}: corrupted ({str(error).splitlines()[0]}). {fix}.") from error
    return state


def _read_file(file: Path, name: str) -> dict[str, Tensor]:
    """Return the state in a file of torch.save; torchvision's training script stores it under "model"."""
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file. Give the weights of {name} as torch.save writes them.")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{file}: not a file of tensors that torch.load reads ({str(error).splitlines()[0]}). Save the state_dict "
            "of the model alone."
        ) from error
    state = state.get("model", state) if isinstance(state, dict) else {}
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _differs(model: ModelConfig, key: str, value: Any) -> bool:
    return bool(getattr(model, key) != value)
