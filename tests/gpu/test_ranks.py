"""Process groups on the device: NCCL with one rank, and a run with two ranks where there are two GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from sais.data.synthetic import write_shapes

pytestmark = pytest.mark.gpu
TIMEOUT = 120
ONE_RANK = """
import sys
import torch
import torch.distributed as dist
from sais.distributed import World

device = torch.device(sys.argv[1])
on_gpu = device.type == "cuda"
device = torch.device("cuda", 0) if on_gpu else device
dist.init_process_group("nccl" if on_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)
world = World(0, 2, 0)  # a single rank that takes the route of several
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4), torch.nn.Flatten()).to(device)
images = torch.rand(2, 3, 8, 8, device=device)
model(images).square().mean().backward()
expected = [parameter.grad.clone() for parameter in model.parameters()]
model.zero_grad()
wrapped = world.wrap_model(model, device)
wrapped(images).square().mean().backward()
for parameter, gradient in zip(model.parameters(), expected):
    torch.testing.assert_close(parameter.grad, gradient)
assert world.sum(torch.tensor([1.5, 2.0], device=device)).tolist() == [1.5, 2.0]
assert world.maximum(torch.tensor([3], device=device)).tolist() == [3]
dist.destroy_process_group()

"""


def run(words: list[str], folder: Path) -> None:
    """Run a command in `folder` with one thread per process, killed after two minutes; it must succeed."""
    source = str(Path(__file__).resolve().parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": source + os.pathsep + os.environ.get("PYTHONPATH", "")}
    environment["OMP_NUM_THREADS"] = "1"
    completed = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    if completed.returncode:
        pytest.fail("; ".join(completed.stderr.strip().splitlines()[-3:]) or f"status {completed.returncode}")


def test_one_rank_equals_the_plain_network(device: torch.device, tmp_path: Path) -> None:
    run([sys.executable, "-c", ONE_RANK, str(device)], tmp_path)


def test_two_ranks_equal_one_process(device: torch.device, tmp_path: Path) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    name = "cpu" if device.type == "cpu" else "auto"
    pytest.importorskip("faster_coco_eval")
    write_shapes(tmp_path / "shapes", train=8, valid=2, size=(96, 96))
    options = ["train", "sais-lite", "--data", "shapes", "--size", "64", "--batch-size", "4", "--epochs", "1"]
    options += ["--model.backbone", "convnext_atto"]  # no batch-norm, whose statistics differ between ranks
    options += ["--workers", "0", "--device", name, "--random-init", "--no-report"]
    options += ["--run.evaluate-every", "0", "--run.loggers"]  # no loggers
    losses = []
    for ranks in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if ranks == 2 else []
        command = [sys.executable, *launcher, "-m", "sais", *options, "--out", f"run{ranks}"]
        run(command, tmp_path)
        entries = [json.loads(line) for line in (tmp_path / f"run{ranks}" / "log.jsonl").read_text().splitlines()]
        losses.append([entry["total"] for entry in entries if entry["kind"] == "iteration"])
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
