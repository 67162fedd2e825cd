"""Quality of tracks by TrackEval, on tracks whose errors are known; the measurement of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from peers.tracking import track_quality

pytest.importorskip("trackeval")


def test_track_quality_counts_swapped_and_missing_tracks() -> None:
    ids, same = np.array([7, 9]), np.eye(2)
    perfect = track_quality([(ids, np.array([1, 2]), same)] * 20)
    assert (perfect.hota, perfect.idf1, perfect.switches) == (1, 1, 0)
    swapped = track_quality([(ids, np.array([1, 2] if i < 10 else [2, 1]), same) for i in range(20)])
    assert (swapped.idf1, swapped.switches) == (0.5, 2)
    assert 0.5 < swapped.hota < 0.8
    halves = track_quality([(ids, np.array([1]), same[:, :1])] * 10)
    assert halves.idf1 == pytest.approx(2 / 3)
    assert halves.switches == 0


@pytest.mark.slow
def test_model_is_measured(trained: Path) -> None:
    from peers import video

    found = video.quality(trained, 8, 0, "cpu", 0.03)
    assert {"masks", "boxes"} <= set(found)
    assert all(0 <= quality.idf1 <= 1 for quality in found.values())


def test_environment_of_the_automatic_device_is_that_of_the_chosen_one() -> None:
    """`python -m peers tracking` with its default device failed after its measurements."""
    from sais.commands.bench_tables import environment
    from sais.device import choose_device

    assert environment("auto") == environment(str(choose_device()))


def test_ideal_detections_are_measured_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peers.__main__ import main

    assert main(["tracking", "--seeds", "3", "4", "--frames", "6", "--out", str(tmp_path)]) == 0
    rows = [line for line in (tmp_path / "ideal_tracks.md").read_text().splitlines() if line.startswith("| exact")]
    assert [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows] == [
        ["exact", tracker, "0", "0", "2 of 2", "1.000", "1.000", "1.000", "1.000"] for tracker in ("masks", "boxes")
    ]
