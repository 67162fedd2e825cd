"""The palette: colors that color-blind readers can distinguish, and readable text on them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sais.results.palette import COLOR_BLIND_PALETTE, PALETTE, PALETTES, Color, class_color, ink_on

SIMULATIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
"""Linear RGB -> linear RGB as seen by color-blind readers (Machado, Oliveira and Fernandes 2009)."""
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(color: Color) -> np.ndarray:
    values = np.array(color) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(color: Color, simulation: str) -> np.ndarray:
    seen = np.clip(SIMULATIONS[simulation] @ linear(color), 0, 1)
    x, y, z = np.cbrt(TO_XYZ @ seen / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(
    ("simulation", "count", "distance"),
    [("normal", len(PALETTE), 20.0), ("protanopia", 8, 16.0), ("deuteranopia", 8, 16.0)],
)
def test_palette_colors_are_distinguishable(simulation: str, count: int, distance: float) -> None:
    colors = [lab(color, simulation) for color in PALETTE[:count]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)) > distance


@pytest.mark.parametrize("simulation", SIMULATIONS)
def test_all_colors_of_the_color_blind_palette_are_distinguishable(simulation: str) -> None:
    colors = [lab(color, simulation) for color in COLOR_BLIND_PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2)) > 16.0


def test_class_color_repeats_after_the_last() -> None:
    assert class_color(len(PALETTE) + 3) == class_color(3) == PALETTE[3]
    assert class_color(10, "color-blind") == COLOR_BLIND_PALETTE[2]
    assert all(len(set(palette)) == len(palette) for palette in PALETTES.values())


@pytest.mark.parametrize("color", [*PALETTE, *COLOR_BLIND_PALETTE])
def test_ink_is_readable_on_every_color(color: Color) -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted((weights @ linear(color), weights @ linear(ink_on(color))))
    assert (high + 0.05) / (low + 0.05) > 4.0  # contrast as WCAG defines it
