"""SAIS: single-stage anchor-free instance segmentation. Every object has a class, a score, a box and a mask.

    from sais import Predictor
    detections = Predictor("model.safetensors")("image.jpg")

`import sais` loads neither torch nor numpy: each public name is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sais._version import __version__

if TYPE_CHECKING:
    from sais import recipes
    from sais.config import Experiment
    from sais.data.convert import convert
    from sais.data.formats import read_dataset
    from sais.engine.api import train
    from sais.engine.callbacks import TrainingEvent
    from sais.engine.trainer import TrainResult
    from sais.errors import (
        CheckpointError,
        ConfigError,
        InputError,
        MissingDependencyError,
        ResourceError,
        SaisError,
    )
    from sais.evaluation.evaluate import evaluate
    from sais.export.exporter import export_model as export
    from sais.inference.options import InferenceOptions
    from sais.inference.predictor import Predictor
    from sais.inference.trained_model import load_model
    from sais.results.detections import Detections
    from sais.sharing.averaging import average_models
    from sais.sharing.package import package_model
    from sais.sharing.push import push_to_hub
    from sais.tracking.follow import track

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Detections",
    "Experiment",
    "InferenceOptions",
    "InputError",
    "MissingDependencyError",
    "Predictor",
    "ResourceError",
    "SaisError",
    "TrainResult",
    "TrainingEvent",
    "__version__",
    "average_models",
    "convert",
    "evaluate",
    "export",
    "load_model",
    "package_model",
    "push_to_hub",
    "read_dataset",
    "recipes",
    "track",
    "train",
]

_HOMES = {
    "CheckpointError": "sais.errors",
    "ConfigError": "sais.errors",
    "Detections": "sais.results.detections",
    "Experiment": "sais.config",
    "InferenceOptions": "sais.inference.options",
    "InputError": "sais.errors",
    "MissingDependencyError": "sais.errors",
    "Predictor": "sais.inference.predictor",
    "TrainResult": "sais.engine.trainer",
    "TrainingEvent": "sais.engine.callbacks",
    "ResourceError": "sais.errors",
    "SaisError": "sais.errors",
    "average_models": "sais.sharing.averaging",
    "convert": "sais.data.convert",
    "evaluate": "sais.evaluation.evaluate",
    "load_model": "sais.inference.trained_model",
    "package_model": "sais.sharing.package",
    "push_to_hub": "sais.sharing.push",
    "read_dataset": "sais.data.formats",
    "track": "sais.tracking.follow",
    "train": "sais.engine.api",
}
"""Public name -> the module that defines it. `export` and `recipes` are packages; the former can be called."""

_PACKAGES_OF_TRAIN = ("torch", "torchvision", "timm", "safetensors", "faster_coco_eval")
"""Packages of the extra `train`, which functions of this module need."""


def __getattr__(name: str) -> Any:
    if name in ("export", "recipes"):
        return importlib.import_module(f"sais.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'sais' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _PACKAGES_OF_TRAIN:
            raise
        from sais.errors import MissingDependencyError

        message = f'sais.{name}: {error.name} is not installed. Run pip install "sais-seg[train]".'
        raise MissingDependencyError(message, str(error.name), "train") from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
