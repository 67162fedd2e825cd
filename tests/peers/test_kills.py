"""Tests of `python -m peers kills` with few kills."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from peers.kills import differences, kill_and_resume
from sais.checkpoint import load_checkpoint, save_checkpoint


@pytest.mark.slow
def test_kill_and_resume_loses_nothing(tmp_path: Path) -> None:
    report = kill_and_resume(4, tmp_path / "kills", seed=1)
    assert report.faults == []
    assert report.kills == 4
    assert report.runs >= 1


def test_differences_finds_one_bit_and_one_log_line(trained: Path, tmp_path: Path) -> None:
    import shutil

    out = shutil.copytree(trained, tmp_path / "run")
    assert differences(out, trained) == []
    checkpoint = load_checkpoint(out / "best.safetensors")
    name = "model.head.scales"
    checkpoint.tensors[name] = torch.nextafter(checkpoint.tensors[name], torch.tensor(9.0))
    save_checkpoint(out / "best.safetensors", checkpoint)
    lines = (out / "log.jsonl").read_text().splitlines()
    (out / "log.jsonl").write_text("\n".join(line for line in lines if '"iteration": 3,' not in line) + "\n")
    assert differences(out, trained) == [
        "run/best: 1 different tensors, such as model.head.scales",
        "run: different log entries of kind iteration",
    ]
