"""Tests of `sais.benchmark.masks`: the methods agree, and box-local masks need a tenth of time and memory."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from sais.benchmark.masks import (
    BOX_LOCAL,
    CHUNKED,
    FULL_FRAME,
    MaskCase,
    box_local,
    count_differences,
    full_frame,
    full_frame_chunked,
    make_inputs,
    measure_masks,
)
from sais.commands.bench import run
from sais.errors import InputError

SMALL = MaskCase(num_objects=25, size=(96, 130), grid=(24, 32))


def test_methods_agree_except_at_box_borders() -> None:
    inputs = make_inputs(SMALL)
    frames, chunked = full_frame(SMALL, inputs), full_frame_chunked(SMALL, inputs)
    assert frames.shape == (25, 96, 130)
    assert bool((frames == chunked).all())
    stack = np.zeros((25, 96, 130), bool)
    for frame, mask in zip(stack, box_local(SMALL, inputs), strict=True):
        frame[mask.y : mask.y + mask.shape[0], mask.x : mask.x + mask.shape[1]] = mask.bits
    border, elsewhere, total = count_differences(SMALL, inputs)
    assert total == stack.sum() > 5_000
    assert border + elsewhere == (stack != frames.numpy()).sum()
    assert elsewhere < 0.02 * total


def test_make_inputs_is_deterministic() -> None:
    first, second = make_inputs(SMALL), make_inputs(SMALL)
    assert (first.prototypes == second.prototypes).all()
    assert (first.boxes == second.boxes).all()
    assert first.prototypes.min() == 0
    assert (first.boxes[:, 2:] > first.boxes[:, :2]).all()
    assert first.boxes.min() >= 0
    assert (first.boxes.max(0) <= (130, 96, 130, 96)).all()


def test_measure_masks_times_all_methods() -> None:
    measurements = measure_masks(MaskCase(4, (60, 80), (8, 8)), repeats=1, memory=False)
    assert [measurement.method for measurement in measurements] == [BOX_LOCAL, FULL_FRAME, CHUNKED]
    assert all(measurement.milliseconds > 0 and measurement.mebibytes is None for measurement in measurements)


def test_bench_masks_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--objects", "4", "--image-size", "60", "80", "--repeats", "1", "--no-memory"]
    assert run(["masks", *options]) == 0
    printed = capsys.readouterr().out
    assert printed.count("4 masks, image 80 x 60") == 2
    assert "allocator:" in printed
    assert "masks differ in" in printed


def test_measure_masks_rejects_zero_objects() -> None:
    with pytest.raises(InputError):
        measure_masks(MaskCase(num_objects=0))


@pytest.mark.slow
def test_box_local_masks_need_a_tenth_of_time_and_memory() -> None:
    measurements = {measurement.method: measurement for measurement in measure_masks(MaskCase(), repeats=3)}
    cropped, base = measurements[BOX_LOCAL], measurements[FULL_FRAME]
    assert cropped.milliseconds < base.milliseconds / 10
    assert cropped.mebibytes is not None
    assert base.mebibytes is not None
    assert cropped.mebibytes < base.mebibytes / 10
