"""The head shared by all levels: two towers, and from them class, centerness, distances and mask coefficients.

The coefficients come from the *sum* of both towers (the paper's fusion): it adds no parameter.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from sais.converters.activation_checkpointing import checkpointed, split_tower

PRIOR_PROBABILITY = 0.01
"""What the classifier says at every location before it has learnt anything (focal loss)."""
GROUPS = 32
MAX_EXPONENT = 12.0
"""exp(12) is 160,000 pixels: an untrained regression cannot overflow."""


def tower(channels: int, depth: int, kind: str = "plain", norm: str = "group") -> nn.Sequential:
    """`depth` times 3x3 convolution, normalization, ReLU: (B, channels, h, w) -> the same shape."""
    groups = min(GROUPS, max(1, channels // 2))  # one channel alone on a 1x1 map has nothing to be normalized by
    layers: list[nn.Module] = []
    for _ in range(depth):
        if kind == "depthwise":
            layers.append(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
            layers.append(nn.Conv2d(channels, channels, 1, bias=False))
        else:
            layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=False))
        layers.append(nn.GroupNorm(groups, channels) if norm == "group" else nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class Head(nn.Module):
    """Class logits, centerness logit, distances and coefficients at every location of every level.

    Args:
        num_classes: C.
        strides: of the levels, one learnt scale each.
        prototypes: K; 0 gives plain FCOS without coefficients.
        coefficients_from: "both" sums the towers, "classification" takes that tower alone (Table III).
        distance_unit: "pixel": distances are exp(scale x) pixels; "stride": times the level's stride.
    """

    def __init__(
        self,
        num_classes: int,
        strides: tuple[int, ...],
        channels: int = 256,
        tower_depth: int = 4,
        tower_kind: str = "plain",
        norm: str = "group",
        prototypes: int = 32,
        coefficients_from: str = "both",
        distance_unit: str = "pixel",
    ) -> None:
        super().__init__()
        self.recompute = "none"
        """What of it is made again in backward: `recompute.KINDS`. No choice changes a result."""
        self.fused = coefficients_from == "both"
        self.classification_tower = tower(channels, tower_depth, tower_kind, norm)
        self.regression_tower = tower(channels, tower_depth, tower_kind, norm)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.centerness_logits = nn.Conv2d(channels, 1, 3, padding=1)
        self.distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.coefficients = nn.Conv2d(channels, prototypes, 3, padding=1) if prototypes else None
        self.scales = nn.Parameter(torch.ones(len(strides)))
        self.units = [float(s) if distance_unit == "stride" else 1.0 for s in strides]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if tower_kind == "depthwise":  # 0.01 would silence a depthwise filter of nine weights
            for branch in (self.classification_tower, self.regression_tower):
                for module in branch:
                    if isinstance(module, nn.Conv2d):
                        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.constant_(self.class_logits.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """[P3 .. P7] (B, channels, h, w) -> (B, L, C), (B, L), (B, L, 4) and (B, L, K) or None."""
        kind = self.recompute if self.training and torch.is_grad_enabled() else "none"
        maps = partial(self._maps, again=kind != "none")
        each = [checkpointed(maps, level, within=self) if kind == "all" else maps(level) for level in levels]
        logits, centerness, exponents, *coefficients = (
            [flatten_locations(maps) for maps in one] for one in zip(*each, strict=True)
        )
        distances = []
        for values, scale, unit in zip(exponents, self.scales, self.units, strict=True):
            distances.append((values.float() * scale).clamp(max=MAX_EXPONENT).exp() * unit)
        return (
            torch.cat(logits, 1).float(),
            torch.cat(centerness, 1).float().squeeze(2),
            torch.cat(distances, 1),
            torch.cat(coefficients[0], 1).float().tanh() if coefficients else None,
        )

    def _maps(self, level: Tensor, again: bool) -> tuple[Tensor, ...]:
        """(B, channels, h, w) -> class, centerness, exponents of distances and, where there are masks, coefficients,
        each (B, ., h, w).

        Args:
            again: what norms and activations give is made again in backward.
        """
        ends, lasts = [], nn.ModuleList()
        for tower in (self.classification_tower, self.regression_tower):
            pieces, last = split_tower(tower)
            maps = level
            for number, piece in enumerate(pieces):
                maps = checkpointed(piece, maps, within=piece) if again and number else piece(maps)
            ends.append(maps)
            lasts.append(last)
        answers = partial(self._answers, lasts)
        found: tuple[Tensor, ...] = checkpointed(answers, *ends, within=lasts) if again else answers(*ends)
        return found

    def _answers(self, lasts: nn.ModuleList, classification: Tensor, regression: Tensor) -> tuple[Tensor, ...]:
        """From what each tower's last convolution gave. The widest convolution is the last, which is never computed
        twice (see `recompute`)."""
        classification, regression = lasts[0](classification), lasts[1](regression)
        exponents = self.distances(regression)
        coefficients = []
        if self.coefficients is not None:
            coefficients.append(self.coefficients(classification + regression if self.fused else classification))
        centerness = self.centerness_logits(classification)
        return (self.class_logits(classification), centerness, exponents, *coefficients)


def flatten_locations(maps: Tensor) -> Tensor:
    """(B, n, h, w) -> (B, h * w, n): one row a location, row by row of the map."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)
