"""Training side by side: bytes kept for backward, part by part, and the time of a step; the ratios and their bars.

The peers are those of `contestants`: SAIS' backbone, frozen as in SAIS' recipe and folded; torchvision's models lie
contiguous on a CPU, where they train quicker so. Mask R-CNN trains on 512 regions, 128 of them with an object, as
behind a proposal network that has learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, cast

import torch
from torch import nn

from peers.candidates import yolact_candidate
from peers.torchvision_peers import FCOS
from peers.torchvision_peers.candidates import mask_rcnn_candidate
from sais.benchmark.candidates import Candidate, TrainingSetup, training_of
from sais.benchmark.training import TrainingRequest, TrainingRow, bench_training
from sais.benchmark.workload import Workload
from sais.config import Experiment, ModelConfig
from sais.recipes.paper import RESNET50

MODEL = "sais-r50-768"
MASK_RCNN, FCOS_768, YOLACT = "Mask R-CNN 768, R50", "FCOS 768, R50 (boxes)", "YOLACT-550, R50"


@dataclass(frozen=True)
class Bar:
    """What a contestant may need at most, as a share of Mask R-CNN's."""

    name: str
    bytes: float
    seconds: float


BARS = (
    Bar(f"{MODEL}, norms", 0.80, 0.55),
    Bar(f"{MODEL}, all", 0.40, 0.70),
    Bar(f"{MODEL}, norms, bf16", 0.45, 0.30),
)


def peers() -> list[Candidate]:
    """Mask R-CNN and FCOS at 768, YOLACT at its own 550."""
    mask_rcnn = _contiguous(mask_rcnn_candidate(MASK_RCNN, 768, RESNET50))
    return [mask_rcnn, _contiguous(_fcos()), yolact_candidate(YOLACT, 550, RESNET50)]


def _contiguous(contestant: Candidate) -> Candidate:
    """With contiguous weights and maps on a CPU, as torchvision ships its models: Mask R-CNN trains a fifth quicker."""

    def train(scene: Workload, device: str) -> TrainingSetup:
        assert contestant.train is not None
        training = contestant.train(scene, device)
        if device == "cpu":
            training.model.to(memory_format=torch.contiguous_format)
            backbone = cast(nn.Module, training.model.backbone)
            backbone.get_submodule("network").register_forward_pre_hook(lambda _, maps: maps[0].contiguous())
        return training

    return replace(contestant, train=train)


def _fcos() -> Candidate:
    boxes = Experiment(name="fcos", model=ModelConfig(backbone=RESNET50, masks=False))
    return Candidate(
        FCOS_768,
        lambda scene, device: _no_inference(),
        lambda scene, device: training_of(FCOS, boxes, (768, 768), scene, device),
        "torchvision's head and losses; no masks",
    )


def _no_inference() -> NoReturn:
    raise NotImplementedError("FCOS is measured in training only")


def measure(repeats: int, batch: int, device: str, only: Sequence[str] = ()) -> list[TrainingRow]:
    """SAIS with everything kept and with its two ways of keeping less, and the peers; then SAIS in bf16."""
    sources = ("peers.training:peers",)
    rows = []
    for precision, kinds, others in (("fp32", ("none", "norms", "all"), sources), ("bf16", ("norms",), ())):
        request = TrainingRequest((MODEL,), kinds, (precision,), batch=batch, peers=others)
        known = [f"{MODEL}, {kind}" + ("" if precision == "fp32" else ", bf16") for kind in kinds]
        known += [MASK_RCNN, FCOS_768, YOLACT] if others else []
        chosen = tuple(name for name in known if not only or name in only)
        if chosen:
            rows += bench_training(replace(request, only=chosen), repeats, device)
    return rows


def ratios(rows: Sequence[TrainingRow]) -> list[list[str]]:
    """Everybody's bytes and seconds as shares of Mask R-CNN's, beside the bars."""
    by_name = {row.name: row for row in rows}
    base = by_name.get(MASK_RCNN)
    if base is None:
        return []
    bars = {bar.name: bar for bar in BARS}
    lines = []
    for row in rows:
        bar = bars.get(row.name)
        times = [
            _share(getattr(row, name), getattr(base, name)) for name in ("seconds", "kept_seconds", "processor_seconds")
        ]
        limits = (f"<= {bar.bytes:.2f}", f"<= {bar.seconds:.2f}") if bar else ("-", "-")
        lines.append([row.name, f"{row.total / base.total:.3f}", limits[0], *times, limits[1]])
    return lines


def _share(value: float | None, base: float | None) -> str:
    return "not measured" if value is None or base is None else f"{value / base:.3f}"
