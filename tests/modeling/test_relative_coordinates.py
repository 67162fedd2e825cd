"""Relative coordinates against the formula, cell by cell."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sais.config import ModelConfig
from sais.modeling.relative_coordinates import GAIN, REACH, RelativeCoordinates
from sais.modeling.sais import build_model

STRIDES = (8, 16, 32, 64, 128)
SIZES = ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
"""Of a canvas of 64 x 96."""
GRID = (16, 24)
K = 3
EXPAND = RelativeCoordinates(STRIDES, 4)


def test_masks_equal_the_formula_at_every_location() -> None:
    generator = torch.Generator().manual_seed(0)
    count = sum(height * width for height, width in SIZES)
    raw = torch.randn(2, count, K + 4, generator=generator, dtype=torch.float64).tanh()
    prototypes = torch.rand(2, K, *GRID, generator=generator, dtype=torch.float64)
    coefficients, extended = EXPAND(raw, prototypes, SIZES)
    logits = torch.einsum("blk,bkhw->blhw", coefficients, extended)
    number = 0
    for stride, (height, width) in zip(STRIDES, SIZES, strict=True):
        for row in range(height):
            for column in range(width):
                for cell_row, cell_column in ((0, 0), (3, 20), (15, 7)):
                    u = ((cell_column + 0.5) * 4 - (column + 0.5) * stride) / (REACH * stride)
                    v = ((cell_row + 0.5) * 4 - (row + 0.5) * stride) / (REACH * stride)
                    for image in range(2):
                        *c, c_x, c_y, c_xx, c_yy = raw[image, number].tolist()
                        values = prototypes[image, :, cell_row, cell_column].tolist()
                        expected = sum(a * b for a, b in zip(c, values, strict=True))
                        expected += GAIN * (c_x * u + c_y * v + c_xx * u * u + c_yy * v * v)
                        actual = logits[image, number, cell_row, cell_column].item()
                        assert actual == pytest.approx(expected, abs=1e-9)
                number += 1


def test_large_canvases_keep_the_precision_of_a_logit() -> None:
    """The powers of x cancel near the location; what remains must not be rounding."""
    sizes = tuple((1, -(-4096 // stride)) for stride in STRIDES)
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(1, sum(width for _, width in sizes), 4, generator=generator).tanh()
    logits = []
    for dtype in (torch.float32, torch.float64):
        coefficients, extended = EXPAND(raw.to(dtype), torch.zeros(1, 0, 2, 1024, dtype=dtype), sizes)
        logits.append(torch.einsum("lk,kw->lw", coefficients[0], extended[0, :, 0]).double())
    near = logits[1].abs() < 20  # where a probability is neither 0 nor 1
    assert near.sum() > 1000
    assert (logits[0] - logits[1])[near].abs().max() < 0.01


def test_network_has_five_more_prototypes_and_coefficients() -> None:
    config = ModelConfig(
        backbone="resnet18.tv_in1k", pretrained=False, channels=32, tower_depth=1, prototypes=8, prototype_channels=16
    )
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    shapes, names = [], []
    for relative in (False, True):
        torch.manual_seed(0)
        model = build_model(replace(config, relative_coordinates=relative), num_classes=2).eval()
        with torch.no_grad():
            outputs = model(images)
        assert outputs.coefficients is not None
        assert outputs.prototypes is not None
        shapes.append((outputs.coefficients.shape[2], outputs.prototypes.shape[1]))
        names.append(list(model.state_dict()))
    assert shapes == [(8, 8), (13, 13)]
    assert names[0] == names[1]
    assert build_model(replace(config, relative_coordinates=True, masks=False), num_classes=2).coordinates is None
