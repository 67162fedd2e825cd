"""Training of SAIS and its peers: activations saved for backward, time of a step, and their ratios with targets.

The peers have the backbone of SAIS, frozen as in its recipe. On a CPU, torchvision's models use contiguous memory
format, in which they train faster. Mask R-CNN trains on 512 regions, 128 of them positive, as with a trained proposal
network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, cast

import torch
from torch import nn

from peers.candidates import yolact_candidate
from peers.torchvision_peers import FCOS_NAME
from peers.torchvision_peers.candidates import mask_rcnn_candidate
from sais.benchmark.candidates import Candidate, TrainingSetup
from sais.benchmark.recipe_candidates import set_up_training
from sais.benchmark.training import TrainingRequest, TrainingRow, bench_training
from sais.benchmark.workload import Workload
from sais.config import Experiment, ModelConfig
from sais.recipes.paper import RESNET50

MODEL = "sais-r50-768"
MASK_RCNN, FCOS_768, YOLACT = "Mask R-CNN 768, R50", "FCOS 768, R50 (boxes)", "YOLACT-550, R50"


@dataclass(frozen=True)
class TrainingTarget:
    """The maximum memory and time of a candidate relative to Mask R-CNN."""

    name: str
    memory: float
    seconds: float


TARGETS = (
    TrainingTarget(f"{MODEL}, norms", 0.80, 0.55),
    TrainingTarget(f"{MODEL}, all", 0.40, 0.70),
    TrainingTarget(f"{MODEL}, norms, bf16", 0.45, 0.30),
)


def peers() -> list[Candidate]:
    """Return Mask R-CNN and FCOS at 768, and YOLACT at 550, the size of its paper."""
    mask_rcnn = _contiguous(mask_rcnn_candidate(MASK_RCNN, 768, RESNET50))
    return [mask_rcnn, _contiguous(_fcos()), yolact_candidate(YOLACT, 550, RESNET50)]


def _contiguous(candidate: Candidate) -> Candidate:
    """Use contiguous memory format on a CPU, as torchvision's models do: Mask R-CNN trains 20 % faster."""

    def train(workload: Workload, device: str) -> TrainingSetup:
        assert candidate.train is not None
        training = candidate.train(workload, device)
        if device == "cpu":
            training.model.to(memory_format=torch.contiguous_format)
            backbone = cast(nn.Module, training.model.backbone)
            backbone.get_submodule("network").register_forward_pre_hook(lambda _, maps: maps[0].contiguous())
        return training

    return replace(candidate, train=train)


def _fcos() -> Candidate:
    experiment = Experiment(name="fcos", model=ModelConfig(architecture=FCOS_NAME, backbone=RESNET50, masks=False))
    return Candidate(
        FCOS_768,
        lambda workload, device: _no_inference(),
        lambda workload, device: set_up_training(experiment, (768, 768), workload, device),
        "head and losses of torchvision; no masks",
    )


def _no_inference() -> NoReturn:
    raise NotImplementedError("FCOS is measured in training only")


def measure(repeats: int, batch_size: int, device: str, only: Sequence[str] = ()) -> list[TrainingRow]:
    """Measure SAIS with all modes of activation checkpointing and the peers in fp32, then SAIS in bf16.

    Args:
        repeats: the number of timed steps; the median counts.
        batch_size: the number of images in a step.
        device: the device: cpu, cuda, ...
        only: the names of the candidates to measure; all if empty.
    """
    sources = ("peers.training:peers",)
    rows = []
    for precision, modes, peer_sources in (("fp32", ("none", "norms", "all"), sources), ("bf16", ("norms",), ())):
        request = TrainingRequest((MODEL,), modes, (precision,), batch_size=batch_size, peers=peer_sources)
        names = [f"{MODEL}, {mode}" + ("" if precision == "fp32" else ", bf16") for mode in modes]
        names += [MASK_RCNN, FCOS_768, YOLACT] if peer_sources else []
        selected = tuple(name for name in names if not only or name in only)
        if selected:
            rows += bench_training(replace(request, only=selected), repeats, device)
    return rows


def ratios(rows: Sequence[TrainingRow]) -> list[list[str]]:
    """Format memory and times relative to Mask R-CNN with their targets as table rows; none without Mask R-CNN."""
    base = next((row for row in rows if row.name == MASK_RCNN), None)
    if base is None:
        return []
    targets = {target.name: target for target in TARGETS}
    cells = []
    for row in rows:
        target = targets.get(row.name)
        times = [
            _ratio(row.seconds, base.seconds),
            _ratio(row.retaining_seconds, base.retaining_seconds),
            _ratio(row.cpu_seconds, base.cpu_seconds),
        ]
        limits = (f"<= {target.memory:.2f}", f"<= {target.seconds:.2f}") if target else ("-", "-")
        cells.append([row.name, f"{row.total_per_image / base.total_per_image:.3f}", limits[0], *times, limits[1]])
    return cells


def _ratio(value: float | None, base: float | None) -> str:
    return "not measured" if value is None or base is None else f"{value / base:.3f}"
