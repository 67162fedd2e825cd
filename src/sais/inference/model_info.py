"""What a model file states about itself: settings, classes, metrics, training data, versions."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.config import to_dict
from sais.inference.metadata import ORIGIN
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.inference.score_thresholds import ScoreThresholds, thresholds_from_dict

if TYPE_CHECKING:
    from sais.config import Experiment


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of(is_item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_item, value))


def _is_scores(value: Any) -> bool:
    """Return whether a value is metrics of masks or boxes: numbers by name, and those of the classes."""
    if not isinstance(value, dict):
        return False
    per_class = value.get("per_class", {})
    numbers = [number for name, number in value.items() if name != "per_class"]
    return isinstance(per_class, dict) and all(
        number is None or _is_number(number) for number in (*numbers, *per_class.values())
    )


_DATA = {
    "split": _is_text,
    "images": _is_count,
    "objects": _is_count,
    "digest": _is_text,
    "objects_per_class": _is_list_of(_is_count),
    "object_sizes": _is_list_of(_is_number),
}
_COUNTS = ("images", "objects", "detections", "without_mask", "max_detections")
_METRICS = {"mask": _is_scores, "box": _is_scores} | dict.fromkeys(_COUNTS, _is_count)
_KINDS: dict[str, Any] = {
    "iteration": _is_count,
    "images": _is_count,
    "seconds": _is_number,
    "metrics": _METRICS,
    "data": _DATA,
    "versions": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    "license": _is_text,
    "averaged": _is_list_of(_is_text),
}
"""Entry -> function that recognizes its values, or the kinds of a group: a file may contain anything."""


def read_model_info(path: Path, trust: bool = False) -> dict[str, Any]:
    """Read what a model file states, after its checksum has been checked. No network is built.

    Args:
        path: Path of a checkpoint, of a run folder, or of an exported `.onnx` or `.xml` file.
        trust: Whether an exported file that another program has changed is opened.

    Returns:
        A dictionary for JSON: file, size_bytes, modified (ISO 8601, UTC), kind, recipe, architecture, backbone, masks,
        input, classes, parameters (of a checkpoint) or graph, precision and dynamic_shape (of a graph), thresholds,
        what the training logged (iteration, images, seconds, metrics, data, versions; None where it is unknown), the
        license and the models that were averaged, if any, and settings, as `sais.config.to_dict` returns them.

    Raises:
        CheckpointError: The file is missing, damaged or of another kind.
        MissingDependencyError: The runtime of an exported file, or torch for a checkpoint, is not installed.
    """
    info = _read_graph(path, trust) if path.suffix in EXPORTED_SUFFIXES else _read_checkpoint(path)
    status = Path(info["file"]).stat()
    modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
    return {"file": info.pop("file"), "size_bytes": status.st_size, "modified": modified} | info


def _read_checkpoint(path: Path) -> dict[str, Any]:
    from sais.checkpoint import find_checkpoint, load_checkpoint

    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path)
    parameters = sum(tensor.numel() for tensor in checkpoint.part("model").values())
    kind = {"file": str(path), "kind": "checkpoint", "parameters": parameters}
    thresholds = thresholds_from_dict(checkpoint.state.get("thresholds"), str(path))
    classes = checkpoint.class_names, checkpoint.category_ids
    return kind | _contents(checkpoint.experiment, classes, thresholds, checkpoint.state)


def _read_graph(path: Path, trust: bool) -> dict[str, Any]:
    from sais.inference.backends.exported import open_exported

    metadata = open_exported(path, InferenceOptions(trust=trust)).session.metadata
    kind = {
        "file": str(path),
        "kind": f"{'OpenVINO' if path.suffix == '.xml' else 'ONNX'} graph",
        "graph": metadata.graph,
        "precision": metadata.precision,
        "dynamic_shape": metadata.dynamic_shape,
    }
    classes = metadata.class_names, metadata.category_ids
    return kind | _contents(metadata.experiment, classes, metadata.thresholds, metadata.origin)


def _contents(
    experiment: Experiment,
    classes: tuple[tuple[str, ...], tuple[int, ...]],
    thresholds: ScoreThresholds | None,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Return the entries that checkpoints and graphs have in common."""
    settings = to_dict(experiment)
    return {
        "recipe": experiment.name,
        "architecture": experiment.model.architecture,
        "backbone": experiment.model.backbone,
        "masks": experiment.model.masks,
        "input": {"mode": experiment.input.mode, "size": list(experiment.input.size)},
        "classes": [{"name": name, "id": number} for name, number in zip(*classes, strict=True)],
        "thresholds": None if thresholds is None else thresholds.to_dict(),
        **_of_kinds({name: origin.get(name) for name in ORIGIN}, _KINDS),
        "settings": settings,
    }


def _of_kinds(values: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    """Return values without those of another kind than sais writes, which then count as unknown."""
    checked = dict(values)
    for name, kind in kinds.items():
        value = values.get(name)
        if isinstance(kind, dict) and isinstance(value, dict):
            checked[name] = _of_kinds(value, kind)
        elif name in values and (isinstance(kind, dict) or not kind(value)):
            checked[name] = None
    return checked
