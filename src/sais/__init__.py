"""SAIS: single-stage anchor-free instance segmentation. Every object a class, a score, a box and a mask.

    from sais import Predictor
    detections = Predictor("model.safetensors")("image.jpg")

`import sais` is quick and loads neither torch nor numpy: the public names are fetched when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sais._version import __version__

if TYPE_CHECKING:
    from sais.config import Experiment
    from sais.errors import SaisError
    from sais.inference.predictor import Predictor
    from sais.results.detections import Detections

__all__ = ["Detections", "Experiment", "Predictor", "SaisError", "__version__"]

_HOMES = {
    "Detections": "sais.results.detections",
    "Experiment": "sais.config",
    "Predictor": "sais.inference.predictor",
    "SaisError": "sais.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sais' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
