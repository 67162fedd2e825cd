"""The short form of `python -m peers kills`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peers.kills import differences, kill_and_resume
from sais.checkpoint import load_checkpoint, save_checkpoint


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_lost(tmp_path: Path) -> None:
    toll = kill_and_resume(6, tmp_path / "kills", seed=1)
    assert toll.faults == []
    assert toll.kills == 6
    assert toll.runs >= 1


def test_a_difference_is_seen(trained: Path, tmp_path: Path) -> None:
    """One bit of one weight, and one line of the log."""
    import shutil

    out = shutil.copytree(trained, tmp_path / "run")
    assert differences(out, trained) == []
    other = load_checkpoint(out / "best.safetensors")
    name = "model.head.scales"
    other.tensors[name] = torch.nextafter(other.tensors[name], torch.tensor(9.0))
    save_checkpoint(out / "best.safetensors", other)
    lines = (out / "log.jsonl").read_text().splitlines()
    (out / "log.jsonl").write_text("\n".join(line for line in lines if '"iteration": 3,' not in line) + "\n")
    assert differences(out, trained) == [
        "run/best: 1 tensors, such as model.head.scales",
        "run: another log of kind iteration",
    ]
