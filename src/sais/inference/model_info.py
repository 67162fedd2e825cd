"""What a model file states about itself: settings, classes, metrics, training data, versions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.config import to_dict
from sais.inference.metadata import ORIGIN
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.inference.score_thresholds import ScoreThresholds, thresholds_from_dict

if TYPE_CHECKING:
    from sais.config import Experiment


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
        **{name: origin.get(name) for name in ORIGIN},
        "settings": settings,
    }
