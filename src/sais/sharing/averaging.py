"""The average of the weights of several models, which predicts at the cost of one (Wortsman et al., "Model soups").

It helps where the models started from the same weights, as runs that were fine-tuned from one model with other seeds or
learning rates. Models that were trained from different random weights have unrelated features: their average usually
detects nothing. `relatedness` measures it.
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sais.checkpoint import NAMES, Checkpoint, add_prefix, find_checkpoint, load_checkpoint, save_checkpoint
from sais.config import flatten, to_dict
from sais.errors import CheckpointError, InputError
from sais.hub import name_in_cache
from sais.io.outputs import check_outputs
from sais.text import short_names

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit

RELATED = 0.5
"""`relatedness` below which models probably did not start from the same weights."""
MIN_WEIGHTS = 64
"""Minimum number of weights of a layer that counts for `relatedness`."""
SAME_GROUPS = ("input", "model")
"""Groups of settings that averaged models share, and whose differences change the meaning of the weights."""
TRAINING_ONLY = ("model.pretrained", "model.frozen_stages", "model.frozen_batch_norm")
"""Settings of these groups that may differ."""


@dataclass(frozen=True)
class AverageResult:
    """The result of averaging."""

    path: Path
    """The new model."""
    used: tuple[Path, ...]
    """Models whose weights are in the average."""
    relatedness: float
    """`relatedness` of the models; below `RELATED` they probably did not start from the same weights."""
    scores: dict[str, float] = field(default_factory=dict)
    """AP of each model by its path, and of the "average", where a split was given; fractions of 1."""


def average_models(
    models: Sequence[str | Path],
    out: str | Path,
    selection: DatasetSplit | None = None,
    progress: Callable[[str], None] = lambda line: None,
    trust: bool = False,
) -> AverageResult:
    """Average the weights of models with the same architecture and classes, and write the result as a model.

    Running statistics of batch normalization are averaged as the weights are. Without `selection`, all models are
    averaged. With it, models are added one after the other, the best first, if they do not lower AP on this split. The
    split has then been used for selection: measure the final AP on another one.

    Args:
        models: at least two checkpoints, run folders, or addresses hf://owner/name.
        out: file to write, .safetensors.
        selection: labeled images by which models are chosen.
        progress: function called with a line for each evaluation.
        trust: whether code outside of sais that the models name is imported and run; see `sais.trust`.

    Raises:
        CheckpointError: a model is missing or has weights that are not finite, or architectures, inputs or classes
            differ.
        InputError: fewer than two different models, or `out` is one of them.
    """
    paths = [find_checkpoint(Path(model)) for model in models]
    if len({path.resolve() for path in paths}) < max(2, len(paths)):
        raise InputError(f"average: {len(paths)} models are given, not two or more different ones. Give each one once.")
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: not the name of a model file. Give a name that ends with .safetensors.")
    check_outputs([out], paths, overwrite=True)
    checkpoints = [_without_training_state(load_checkpoint(path), path) for path in paths]
    for path, checkpoint in zip(paths[1:], checkpoints[1:], strict=True):
        _check_same(paths[0], checkpoints[0], path, checkpoint)
    weights = [checkpoint.part("model") for checkpoint in checkpoints]
    related = relatedness(weights)
    if selection is None:
        result = _checkpoint(checkpoints, mean_weights(weights), paths)
        save_checkpoint(out, result)
        return AverageResult(out, tuple(paths), related)
    chosen, scores, state = _choose(paths, checkpoints, selection, progress, trust)
    used = [paths[i] for i in chosen]
    result = _checkpoint([checkpoints[i] for i in chosen], mean_weights([weights[i] for i in chosen]), used)
    result.state |= state
    save_checkpoint(out, result)
    return AverageResult(out, tuple(used), related, scores)


def _without_training_state(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Return a checkpoint with the weights of the prediction only, so that many of them fit into the memory.

    Raises:
        CheckpointError: a weight is NaN or infinite, as the average would be.
    """
    weights = checkpoint.part("model")
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} has weights that are not finite. Leave out this model.")
    return replace(checkpoint, tensors=add_prefix("model", weights))


def _choose(
    paths: Sequence[Path],
    checkpoints: Sequence[Checkpoint],
    selection: DatasetSplit,
    progress: Callable[[str], None],
    trust: bool,
) -> tuple[list[int], dict[str, float], dict[str, Any]]:
    """Add the models to the average one after the other, the best first, if AP does not become lower.

    Returns:
        Indexes of the models in the average, AP of each model and of the average, metrics and thresholds of the latter.
    """
    scores: dict[str, float] = {}
    states = []
    for path, checkpoint in zip(paths, checkpoints, strict=True):
        scores[str(path)], state = _evaluate(checkpoint, selection, trust)
        states.append(state)
        progress(f"{path}: AP {scores[str(path)]:.4f}")
    first, *others = sorted(range(len(paths)), key=lambda index: -scores[str(paths[index])])
    chosen, best, best_state = [first], scores[str(paths[first])], states[first]
    for index in others:
        members = [checkpoints[i] for i in (*chosen, index)]
        trial = _checkpoint(members, mean_weights([member.part("model") for member in members]), [])
        score, state = _evaluate(trial, selection, trust)
        progress(f"with {paths[index]}: AP {score:.4f}, {'kept' if score >= best else 'left out'}")
        if score >= best:
            chosen, best, best_state = [*chosen, index], score, state
    return sorted(chosen), scores | {"average": best}, best_state


def mean_weights(weights: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of weights (of any shape) by name; of whole numbers, such as counts of batches, the maximum."""
    means = {}
    for name, first in weights[0].items():
        tensors = [tensors_of_model[name] for tensors_of_model in weights]
        if first.is_floating_point():
            total = torch.zeros_like(first, dtype=torch.float64)
            for tensor in tensors:
                total += tensor
            means[name] = (total / len(tensors)).to(first.dtype)
        else:
            means[name] = torch.stack(tensors).amax(0)
    return means


def relatedness(weights: Sequence[dict[str, Tensor]]) -> float:
    """Return how equal the weights of the two most different models are: 1 for the same, about 0 for unrelated ones.

    It is the median over the layers of the cosine of the angle between their weights (of any shape). Layers of the
    backbone do not count, as all models may have the same ImageNet weights there; nor do small ones, whose weights are
    similar in all models, and those with equal weights.
    """
    names = [name for name, tensor in weights[0].items() if tensor.ndim >= 2 and tensor.numel() >= MIN_WEIGHTS]
    names = [name for name in names if not name.startswith("backbone.")] or names
    return min((_median_cosine(names, *pair) for pair in itertools.combinations(weights, 2)), default=1.0)


def _median_cosine(names: Sequence[str], first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Return the median over layers of the cosine between weights of any shape; 1 if all are equal."""
    cosines = []
    for name in names:
        a, b = first[name].flatten().double(), second[name].flatten().double()
        if not torch.equal(a, b):
            cosines.append(float(a @ b / (a.norm() * b.norm()).clamp(min=1e-12)))
    return statistics.median(cosines) if cosines else 1.0


def _check_same(first_path: Path, first: Checkpoint, path: Path, other: Checkpoint) -> None:
    """Raise CheckpointError unless two models may be averaged."""
    where = f"{path} and {first_path}"
    if first.class_names != other.class_names:
        names = sorted(set(first.class_names) ^ set(other.class_names))[:3]
        detail = ", ".join(short_names(names)) or "another order"
        raise CheckpointError(f"{where}: different classes ({detail}). Average models of the same classes.")
    settings = [flatten({name: to_dict(c.experiment)[name] for name in SAME_GROUPS}) for c in (first, other)]
    different = [
        f"{name} {settings[1].get(name)}, not {value}"
        for name, value in settings[0].items()
        if name not in TRAINING_ONLY and settings[1].get(name) != value
    ]
    if different:
        raise CheckpointError(f"{where}: different settings ({'; '.join(different[:3])}). Average models of one kind.")
    shapes = [{name: (t.shape, t.dtype) for name, t in c.part("model").items()} for c in (first, other)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(f"{where}: their weights have different names or shapes. Average models of one kind.")


def _checkpoint(checkpoints: Sequence[Checkpoint], weights: dict[str, Tensor], paths: Sequence[Path]) -> Checkpoint:
    """Return a checkpoint with averaged weights; of the entries of the state it has those that all have in common."""
    first = checkpoints[0]
    common = ("data", "images", "versions", "license")
    state: dict[str, Any] = {
        name: first.state[name]
        for name in common
        if name in first.state and all(other.state.get(name) == first.state[name] for other in checkpoints)
    }
    state["averaged"] = [_short(path) for path in paths]
    return Checkpoint(first.experiment, first.class_names, first.category_ids, add_prefix("model", weights), state)


def _short(path: Path) -> str:
    """Return the name of a file, with the folder of its run or the repository: what a stranger may read."""
    folder = name_in_cache(path) or (path.parent.name if path.stem in NAMES else "")
    return f"{folder}/{path.name}" if folder else path.name


def _evaluate(checkpoint: Checkpoint, split: DatasetSplit, trust: bool) -> tuple[float, dict[str, Any]]:
    """Return AP of masks (boxes, if there are none) on a split, and metrics and thresholds for the state."""
    from sais.evaluation.evaluate import evaluate
    from sais.evaluation.score_thresholds import best_thresholds
    from sais.inference.predictor import Predictor

    with tempfile.TemporaryDirectory(prefix="sais-average-") as folder:
        path = Path(folder) / "model.safetensors"
        save_checkpoint(path, checkpoint)
        predictor = Predictor(path, score=None, trust=trust)
    evaluation = evaluate(predictor, split)
    metrics = evaluation.metrics
    scores = None if metrics is None else metrics.mask or metrics.box
    if metrics is None or scores is None:
        raise InputError(f"{split.name}: no annotations to choose models by. Give labeled images.")
    thresholds = best_thresholds(evaluation)
    state = {"metrics": metrics.to_dict(), "thresholds": None if thresholds is None else thresholds.to_dict()}
    return 0.0 if math.isnan(scores.AP) else scores.AP, state
