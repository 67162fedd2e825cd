"""Ranges of the inference options, and which of them go together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sais.errors import ConfigError

if TYPE_CHECKING:
    from sais.inference.options import InferenceOptions

MIN_TILE_SIZE = 32
"""Image pixels; a smaller tile is less than one cell of the network's coarser levels."""
MAX_TILE_OVERLAP = 0.9
MAX_BATCH_SIZE = 100_000
MAX_THREADS = 1024
MAX_DETECTIONS = 100_000
"""As many as the settings of a model allow; arrays of this length are allocated for each image."""
SCORE_WORDS = ("auto", "per-class")
"""Values of the option `score` that name thresholds stored in the model."""


def parse_class_scores(values: Mapping[str, float] | Sequence[str]) -> tuple[str, ...]:
    """Return class scores in the form name=score.

    Args:
        values: scores by class name, or texts name=score.

    Raises:
        ConfigError: a text of another form, or a score that is not between 0 and 1.
    """
    if isinstance(values, Mapping):
        values = [f"{name}={score}" for name, score in values.items()]
    for text in values:
        name, _, number = str(text).rpartition("=")
        try:
            valid = bool(name) and 0 <= float(number) <= 1
        except ValueError:
            valid = False
        if not valid:
            raise ConfigError(f"class_scores: {text!r} is not of the form name=score. Give cat=0.3, for instance.")
    return tuple(values)


def check_options(options: InferenceOptions) -> None:
    """Raise ConfigError for a value out of range, and for options that do not go together."""
    _check_detections(options)
    if not 1 <= options.batch_size <= MAX_BATCH_SIZE:
        raise ConfigError(
            f"batch_size: {options.batch_size} is not between 1 and {MAX_BATCH_SIZE}. Give the number of images in one "
            "forward pass."
        )
    if options.runtime not in ("auto", "onnxruntime", "openvino"):
        raise ConfigError(f"runtime: {options.runtime!r} is unknown. Choose auto, onnxruntime or openvino.")
    if not 0 <= options.threads <= MAX_THREADS:
        raise ConfigError(f"threads: {options.threads} is not between 0 and {MAX_THREADS}. Give 0 for all cores.")
    if isinstance(options.tiles, str) and options.tiles != "auto":
        raise ConfigError(f"tiles: {options.tiles!r} is neither a side in pixels nor 'auto'. Give one of them.")
    if isinstance(options.tiles, int) and options.tiles < MIN_TILE_SIZE:
        raise ConfigError(
            f"tiles: a side of {options.tiles} pixels is too small to show an object. Give at least {MIN_TILE_SIZE}, "
            "best about the size of the training images."
        )
    if not 0 <= options.tile_overlap < MAX_TILE_OVERLAP:
        raise ConfigError(
            f"tile_overlap: {options.tile_overlap:g} is not a fraction from 0 to below {MAX_TILE_OVERLAP}. "
            "0.2 is usual."
        )
    if options.tiles is None and options.tile_overlap != _default(options, "tile_overlap"):
        raise ConfigError(
            f"tile_overlap: {options.tile_overlap:g} without tiles. Set tiles to a side in pixels, or auto."
        )


def _check_detections(options: InferenceOptions) -> None:
    """Check the options that select detections."""
    score, iou, limit = options.score, options.nms_iou, options.max_detections
    if isinstance(score, str):
        if score not in SCORE_WORDS:
            raise ConfigError(f"score: {score!r} is neither a number nor one of {', '.join(SCORE_WORDS)}. Give 0.3.")
    elif score is not None and not 0 <= score <= 1:
        raise ConfigError(f"score: {score:g} is not between 0 and 1. Give 0.3, for instance.")
    if isinstance(options.classes, str):
        raise ConfigError(f"classes: {options.classes!r} is a text. Give a sequence of names, such as ['cat'].")
    if iou is not None and not 0 <= iou <= 1:
        raise ConfigError(f"nms_iou: {iou:g} is not between 0 and 1. 0.5 is usual.")
    if limit is not None and not 1 <= limit <= MAX_DETECTIONS:
        raise ConfigError(
            f"max_detections: {limit} is not between 1 and {MAX_DETECTIONS}. Give the maximum number of objects in an "
            "image."
        )


def _default(options: InferenceOptions, name: str) -> Any:
    return next(field.default for field in dataclasses.fields(options) if field.name == name)
