"""Metadata of an exported graph: text entries that are stored in the file, the same in every format."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from sais._version import __version__
from sais.config import Experiment, from_dict, to_dict
from sais.config_ranges import check_stored_settings, read_classes
from sais.errors import CheckpointError
from sais.inference.score_thresholds import ScoreThresholds, thresholds_from_dict
from sais.structures import MASK_STRIDE, STRIDES

FORMAT = "sais-graph-2"

GraphName = Literal["raw", "detections", "masks"]
JSON_ENTRIES = ("experiment", "class_names", "category_ids", "dynamic_shape", "strides", "mask_stride")
"""Entries of the metadata whose text is JSON."""
ORIGIN = ("iteration", "images", "seconds", "metrics", "data", "versions", "license", "averaged")
"""Entries of a checkpoint's state that exported graphs also have."""
MAX_LEVELS, MAX_STRIDE = 16, 1024
"""Maximum number of strides, and of canvas pixels of each."""

INPUT_RULES = (
    "images: uint8 (B, 3, height, width), RGB, sides multiples of 32; normalization is inside. "
    "mode fixed: the image resized to size (height, width), bilinear with antialiasing. "
    "mode keep_ratio: scaled until the short side is size[0] or the long side size[1], at the top left of a canvas "
    "that is padded right and below with (124, 116, 104) to multiples of 32. "
    "image_sizes (not in the raw graph): float32 (B, 2), (height, width) in canvas pixels of each image's content, "
    "the part of the canvas that is not padding; boxes are clipped to it."
)


@dataclass(frozen=True)
class GraphMetadata:
    """Everything a program needs to run a graph without access to the training."""

    graph: GraphName
    """raw: dense outputs. detections: after NMS. masks: detections and their mask logits on the prototype grid."""
    experiment: Experiment
    """Input mode and size, thresholds, mask margin."""
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The data set's own id of each class."""
    precision: str = "fp32"
    """fp32, fp16 or int8."""
    dynamic_shape: bool = False
    """Whether height and width are free; else the canvas is `experiment.input.size`."""
    strides: tuple[int, ...] = STRIDES
    """Canvas pixels between neighboring locations of each level."""
    mask_stride: int = MASK_STRIDE
    """Canvas pixels for one cell of the prototype grid."""
    thresholds: ScoreThresholds | None = None
    """Best score thresholds of the model; None if it was not evaluated. Apply them to the graph's scores."""
    origin: dict[str, Any] = field(default_factory=dict)
    """How the model was trained: metrics, data, versions; `origin` of `sais.inference.trained_model.TrainedModel`."""

    def to_text(self) -> dict[str, str]:
        """Return the entries of a file's metadata."""
        return {
            "format": FORMAT,
            "sais_version": __version__,
            "graph": self.graph,
            "precision": self.precision,
            "class_names": json.dumps(self.class_names),
            "category_ids": json.dumps(self.category_ids),
            "input_rules": INPUT_RULES,
            "input_mode": self.experiment.input.mode,
            "input_size": json.dumps(self.experiment.input.size),
            "dynamic_shape": json.dumps(self.dynamic_shape),
            "strides": json.dumps(self.strides),
            "mask_stride": json.dumps(self.mask_stride),
            "experiment": json.dumps(to_dict(self.experiment)),
            "thresholds": json.dumps(self.thresholds and self.thresholds.to_dict()),
            "origin": json.dumps(self.origin),
        }


def metadata_from_text(text: dict[str, str], where: str) -> GraphMetadata:
    """Return the metadata that `GraphMetadata.to_text` wrote.

    Raises:
        CheckpointError: the file was not exported by sais, or by a version with another format, or is damaged.
        ConfigError: a setting in the file is unknown or out of range.
    """
    if text.get("format") != FORMAT:
        raise CheckpointError(
            f"{where}: not a graph exported by sais (format {text.get('format')!r}, not {FORMAT!r}). Export it again."
        )
    graph = text.get("graph")
    if graph not in ("raw", "detections", "masks"):
        raise CheckpointError(f"{where}: unknown graph {graph!r}. Export it again.")
    try:
        values = {name: json.loads(text[name]) for name in JSON_ENTRIES} | {
            "thresholds": json.loads(text.get("thresholds", "null")),
            "origin": json.loads(text.get("origin", "{}")),
        }
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: damaged metadata ({error!r:.200}). Export it again.") from error
    experiment = from_dict(Experiment, values["experiment"], where)
    check_stored_settings(experiment, where)
    strides, mask_stride = values["strides"], values["mask_stride"]
    if not (isinstance(strides, list) and 0 < len(strides) <= MAX_LEVELS and all(map(_is_stride, strides))):
        raise CheckpointError(f"{where}: strides is not a list of numbers of pixels. Export it again.")
    if not _is_stride(mask_stride):
        raise CheckpointError(f"{where}: mask_stride is not a number of pixels. Export it again.")
    class_names, category_ids = read_classes(values["class_names"], values["category_ids"], where)
    return GraphMetadata(
        graph=graph,  # type: ignore[arg-type]
        experiment=experiment,
        class_names=class_names,
        category_ids=category_ids,
        precision=str(text.get("precision")),
        dynamic_shape=bool(values["dynamic_shape"]),
        strides=tuple(strides),
        mask_stride=mask_stride,
        thresholds=thresholds_from_dict(values["thresholds"], where),
        origin=values["origin"] if isinstance(values["origin"], dict) else {},
    )


def _is_stride(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_STRIDE
