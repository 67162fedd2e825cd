"""Trained models in memory, and the one place that opens a checkpoint for prediction, evaluation and export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sais.checkpoint import find_checkpoint, load_checkpoint, load_weights
from sais.config import Experiment
from sais.modeling.architecture import find_architecture
from sais.resolve import resolve

if TYPE_CHECKING:
    from sais.inference.score_thresholds import ScoreThresholds


@dataclass(frozen=True)
class TrainedModel:
    """A network with its weights and everything that predicting with it needs.

    `sais.Predictor(model)` predicts with it, `model.network(images)` gives its dense outputs.
    """

    network: nn.Module
    """From images (B, 3, H, W) in [0, 255] to dense outputs; as it is trained, on the CPU."""
    experiment: Experiment
    """Settings of the training run: input, model, post-processing."""
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The data set's own id of each class."""
    thresholds: ScoreThresholds | None = None
    """Score thresholds with the best F1 on the validation split; None if the model was not evaluated."""
    origin: dict[str, Any] = field(default_factory=dict)
    """How the model was trained, as its file states it: metrics, data, versions, ...; see `metadata.ORIGIN`."""


def load_model(path: str | Path, trust: bool = False) -> TrainedModel:
    """Load a trained model. The network is used only to fetch hf://owner/name: all weights are in the file.

    Args:
        path: path of a checkpoint or run folder (its first of `model`, `best` and `last`), or hf://owner/name.
        trust: whether code outside of sais that the file names is imported and run; see `sais.trust`.

    Raises:
        CheckpointError: the file is missing, corrupted or not a checkpoint, or its weights do not fit its settings.
        ConfigError: the checkpoint names code that is not trusted, or an architecture or a module that is not
            installed; or a setting in it is out of range.
        ResourceError: the file cannot be read at the moment.
    """
    from sais.inference.metadata import ORIGIN
    from sais.inference.parameter_limit import limit_parameters
    from sais.inference.score_thresholds import thresholds_from_dict
    from sais.trust import NETWORK_CODE, check_trusted, own_code

    path = find_checkpoint(Path(path))
    checkpoint = load_checkpoint(path)
    check_trusted(own_code(checkpoint.experiment, NETWORK_CODE), str(path), trust)
    architecture, weights = find_architecture(checkpoint.experiment.model.architecture), checkpoint.part("model")
    with limit_parameters(weights, path):
        network = architecture.build(checkpoint.experiment, len(checkpoint.class_names))
    load_weights(network, weights, path)
    thresholds = thresholds_from_dict(checkpoint.state.get("thresholds"), str(path))
    origin = {name: checkpoint.state[name] for name in ORIGIN if name in checkpoint.state}
    classes = checkpoint.class_names, checkpoint.category_ids
    return TrainedModel(network, checkpoint.experiment, *classes, thresholds, origin)


def prepare_network(model: TrainedModel) -> Any:
    """Return a copy of the network, rewritten for inference by the converter that its architecture names."""
    architecture = find_architecture(model.experiment.model.architecture)
    for_inference = resolve(architecture.for_inference, {}, "converter")
    return for_inference(model.network)
