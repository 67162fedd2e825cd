"""The bench: its ways give masks that agree, its tables print, and ours is under a tenth in time and in memory."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from sais.benchmark import masks as bench
from sais.benchmark.masks import (
    MaskCase,
    bench_masks,
    box_local,
    differences,
    full_frame,
    full_frame_chunked,
    make_inputs,
)
from sais.errors import SaisError

SMALL = MaskCase(objects=25, size=(96, 130), grid=(24, 32))


def test_the_ways_agree_but_for_the_edges() -> None:
    inputs = make_inputs(SMALL)
    whole, chunks = full_frame(SMALL, inputs), full_frame_chunked(SMALL, inputs)
    assert whole.shape == (25, 96, 130)
    assert bool((whole == chunks).all())
    stack = np.zeros((25, 96, 130), bool)
    for one, patch in zip(stack, box_local(SMALL, inputs), strict=True):
        one[patch.y : patch.y + patch.shape[0], patch.x : patch.x + patch.shape[1]] = patch.bits
    edge, elsewhere, total = differences(SMALL, inputs)
    assert total == stack.sum() > 5_000
    assert edge + elsewhere == (stack != whole.numpy()).sum()
    assert elsewhere < 0.02 * total


def test_inputs_are_the_same_each_time() -> None:
    first, second = make_inputs(SMALL), make_inputs(SMALL)
    assert (first.prototypes == second.prototypes).all()
    assert (first.boxes == second.boxes).all()
    assert first.prototypes.min() == 0
    assert (first.boxes[:, 2:] > first.boxes[:, :2]).all()
    assert first.boxes.min() >= 0
    assert (first.boxes.max(0) <= (130, 96, 130, 96)).all()


def test_it_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench_masks(objects=4, size=(60, 80), grids=((16, 16), (8, 8)), repeats=1, memory=False)
    assert list(found) == [(16, 16), (8, 8)]
    assert [r.way for r in found[(8, 8)]] == list(bench.METHODS) == ["ours", "usual", "usual, in chunks"]
    assert all(r.milliseconds > 0 and r.mebibytes is None for r in found[(16, 16)])
    printed = capsys.readouterr().out
    assert "4 masks, image 80 x 60" in printed
    assert "allocator:" in printed
    assert "masks differ in" in printed


def test_nothing_to_measure() -> None:
    with pytest.raises(SaisError, match="positive"):
        bench_masks(objects=0)


@pytest.mark.slow
def test_under_a_tenth_of_time_and_memory() -> None:
    results = {r.way: r for r in bench_masks(grids=((192, 192),), repeats=3)[(192, 192)]}
    mine, other = results["ours"], results["usual"]
    assert mine.milliseconds < other.milliseconds / 10
    assert mine.mebibytes is not None
    assert other.mebibytes is not None
    assert mine.mebibytes < other.mebibytes / 10
