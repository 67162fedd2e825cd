"""The head shared by all levels: two towers, and from them class, quality, distances and mask coefficients.

The coefficients come from the *sum* of both towers (the paper's fusion), which adds no parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sais.errors import ConfigError

PRIOR_PROBABILITY = 0.01
"""Class probability at every location before training (focal loss)."""
GROUPS = 32
"""Groups of the GroupNorm layers."""
MAX_EXPONENT = 12.0
"""Upper bound of the exponent of a distance: exp(12) is 160,000 pixels, so an untrained regression cannot overflow."""


class HeadOutputs(NamedTuple):
    """Predictions of a head at the L locations of all levels, float32."""

    class_logits: Tensor
    """(B, L, C)."""
    quality_logits: Tensor | None
    """(B, L); None without a quality branch."""
    distances: Tensor
    """(B, L, 4) left top right bottom from the centers of the cells, canvas pixels; positive with exp. With ReLU they
    may be 0, and with the corner as origin negative where a box does not contain the center."""
    coefficients: Tensor | None
    """(B, L, K) in (-1, 1); None without masks."""


def build_tower(
    channels: int, depth: int, kind: str = "plain", norm: str = "group", bias: bool = False
) -> nn.Sequential:
    """Build a tower of `depth` times 3x3 convolution, normalization, ReLU: (B, channels, h, w) -> the same shape."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        if kind == "depthwise":
            layers.append(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
            layers.append(nn.Conv2d(channels, channels, 1, bias=bias))
        else:
            layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=bias))
        layers.append(group_norm(channels, "channels") if norm == "group" else nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def group_norm(channels: int, setting: str) -> nn.GroupNorm:
    """Build a GroupNorm of maps (B, channels, h, w); a ConfigError names the setting that does not allow it."""
    groups = min(GROUPS, max(1, channels // 2))  # a group of one channel on a 1x1 map cannot be normalized
    if channels % groups:
        raise ConfigError(f"model.{setting} {channels}: not a multiple of {GROUPS}, as GroupNorm needs. Change it.")
    return nn.GroupNorm(groups, channels)


class Head(nn.Module):
    """The paper's head: two towers and one 3x3 convolution for each prediction.

    Args:
        num_classes: number of classes C.
        strides: canvas pixels per location of the levels, each with one learned scale.
        channels: channels of the pyramid and of the towers.
        tower_depth: convolutions per tower.
        tower_kind: "plain" 3x3 convolutions, or "depthwise" 3x3 followed by 1x1.
        norm: "group" or "batch" normalization inside the towers.
        prototypes: number of prototypes K; 0 means no masks.
        coefficients_from: "both" sums the towers, "classification" takes that tower alone (Table III).
        distance_unit: "pixel": distances are in pixels; "stride": multiplied by the level's stride.
        quality: whether there is a quality branch.
        quality_from: tower of the quality branch, "classification" or "regression".
        distance_activation: "exp": distances are exp(scale x); "relu": relu(scale x).
        distance_origin: point of the cell that they are predicted from, "center" or "corner" (the upper left one).
        tower_bias: whether the convolutions of the towers have biases.
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
        quality: bool = True,
        quality_from: str = "classification",
        distance_activation: str = "exp",
        distance_origin: str = "center",
        tower_bias: bool = False,
    ) -> None:
        super().__init__()
        self.sums_towers = coefficients_from == "both"
        self.quality_from = quality_from
        self.distance_activation = distance_activation
        self.classification_tower = build_tower(channels, tower_depth, tower_kind, norm, tower_bias)
        self.regression_tower = build_tower(channels, tower_depth, tower_kind, norm, tower_bias)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.quality_logits = nn.Conv2d(channels, 1, 3, padding=1) if quality else None
        self.distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.coefficients = nn.Conv2d(channels, prototypes, 3, padding=1) if prototypes else None
        self.scales = nn.Parameter(torch.ones(len(strides)))
        self.units = [float(stride) if distance_unit == "stride" else 1.0 for stride in strides]
        shifts = [[stride / 2, stride / 2, -stride / 2, -stride / 2] for stride in strides]
        self.shifts: Tensor | None  # from distances of the corner to those of the center, (levels, 4) canvas pixels
        self.register_buffer("shifts", torch.tensor(shifts) if distance_origin == "corner" else None, persistent=False)
        self._initialize(tower_kind)

    def _initialize(self, tower_kind: str) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if tower_kind == "depthwise":  # a standard deviation of 0.01 is too small for filters of nine weights
            for tower in (self.classification_tower, self.regression_tower):
                for module in tower:
                    if isinstance(module, nn.Conv2d):
                        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.constant_(self.class_logits.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))  # type: ignore[arg-type]
        if self.distance_activation == "relu":  # at a bias of 0, half of the distances would be 0, without a gradient
            nn.init.ones_(self.distances.bias)  # type: ignore[arg-type]

    def forward(self, levels: list[Tensor]) -> HeadOutputs:
        """[P3 .. P7] (B, channels, h, w) -> predictions (B, L, .) of all levels."""
        return self.join([self.predict(*self.towers(level)) for level in levels])

    def towers(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Run both towers on one level: (B, channels, h, w) -> classification and regression maps of that shape."""
        return self.classification_tower(level), self.regression_tower(level)

    def predict(self, classification: Tensor, regression: Tensor) -> tuple[Tensor | None, ...]:
        """Predict from the towers' maps (B, channels, h, w) of one level.

        Returns:
            Class logits, quality logits, distances before their activation and coefficients, each (B, ., h, w) or
            None. The widest convolution is the last, since activation checkpointing does not recompute it.
        """
        distances = self.distances(regression)
        coefficients = None
        if self.coefficients is not None:
            coefficients = self.coefficients(classification + regression if self.sums_towers else classification)
        quality = None
        if self.quality_logits is not None:
            quality = self.quality_logits(regression if self.quality_from == "regression" else classification)
        return self.class_logits(classification), quality, distances, coefficients

    def join(self, levels: list[tuple[Tensor | None, ...]]) -> HeadOutputs:
        """Join the predictions (B, ., h, w) of all levels to (B, L, .), as probabilities' logits and pixels."""
        class_logits, quality, raw_distances, coefficients = (
            None if maps[0] is None else [flatten_locations(level) for level in maps]
            for maps in zip(*levels, strict=True)
        )
        assert class_logits is not None
        assert raw_distances is not None
        distances = []
        for level, (values, scale, unit) in enumerate(zip(raw_distances, self.scales, self.units, strict=True)):
            pixels = activate_distances(values.float() * scale, self.distance_activation) * unit
            distances.append(pixels if self.shifts is None else pixels + self.shifts[level])
        return HeadOutputs(
            torch.cat(class_logits, 1).float(),
            None if quality is None else torch.cat(quality, 1).float().squeeze(2),
            torch.cat(distances, 1),
            None if coefficients is None else torch.cat(coefficients, 1).float().tanh(),
        )


def activate_distances(values: Tensor, activation: str) -> Tensor:
    """Apply the activation "exp" or "relu" to scaled outputs of the distance branch, of any shape."""
    return values.relu() if activation == "relu" else values.clamp(max=MAX_EXPONENT).exp()


def flatten_locations(maps: Tensor) -> Tensor:
    """(B, n, h, w) -> (B, h * w, n): one row per location, row by row of the map."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


HEADS: dict[str, Callable[..., nn.Module]] = {"sais": Head}
"""Heads by name: classes with the keyword arguments of `Head` whose forward maps [P3 .. P7] to `HeadOutputs`."""
