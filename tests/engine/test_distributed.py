"""Several ranks: torchrun on the CPU (gloo) equals one process, and resumes after a rank has died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from sais.checkpoint import load_checkpoint
from sais.cli import main
from sais.commands.options import check_command_line
from sais.commands.run_folders import choose_folder
from sais.commands.train import TrainArguments, changed_settings
from sais.data.loader import EpochBatches
from sais.distributed import process_group
from sais.errors import ConfigError, SaisError

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
OPTIONS = ("--size", "64", "--batch-size", "4", "--epochs", "2", "--workers", "0", "--device", "cpu", "--no-report")

DYING = """
import os, signal, sys

import sais.engine.trainer as engine
from sais.cli import main


def dying_step(run, *rest, step=engine.train_step):
    if run.iteration == 4 and run.world.rank == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return step(run, *rest)


engine.train_step = dying_step
sys.exit(main(sys.argv[1:]))
"""


def started(words: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` with one thread per process."""
    source = str(Path(__file__).resolve().parents[2] / "src")
    path = source + os.pathsep + os.environ.get("PYTHONPATH", "")
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def entries(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def largest_difference(out: Path, other: Path) -> float:
    a, b = (load_checkpoint(folder / "model.safetensors").tensors for folder in (out, other))
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a if a[name].numel())


LEAVING = """
import os, sys
import torch
from sais.distributed import process_group

def train():
    with process_group("cpu") as world:
        model = world.wrap_model(torch.nn.Linear(2, 2), torch.device("cpu"))
        model(torch.ones(1, 2)).sum().backward()
        if sys.argv[1] == "exit":
            raise SystemExit(143)

for _ in range(2):
    try:
        train()
    except SystemExit:
        pass
tasks = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
sys.exit(f"threads of the process group: {tasks}" if any("gloo" in task for task in tasks) else 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are looked up in /proc")
@pytest.mark.parametrize("way", ["return", "exit"])
def test_process_group_ends_its_threads_and_can_be_joined_again(way: str, tmp_path: Path) -> None:
    """A thread that releases a tensor while Python ends aborts the process."""
    script = tmp_path / "script.py"
    script.write_text(LEAVING)
    done = started((*TORCHRUN, str(script), way), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["fake", "cuda:fake"])
def test_a_process_group_of_the_caller_is_used_and_remains(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    dist.init_process_group(backend, store=FakeStore(), rank=1, world_size=2)
    try:
        error = ValueError if backend == "fake" else ConfigError  # without the CPU, names cannot be exchanged
        with pytest.raises(error, match="cuda:fake" if error is ConfigError else None), process_group("cpu") as world:
            assert (world.rank, world.world_size, world.is_main) == (1, 2, False)
            raise ValueError
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder where two ranks trained, with the output of rank 0 in `out.txt`."""
    folder = tmp_path_factory.mktemp("two")
    done = started((*TORCHRUN, "-m", "sais", "train", "sais-lite", "--data", str(shapes), *OPTIONS), folder)
    assert done.returncode == 0, done.stderr
    (folder / "out.txt").write_text(done.stdout)
    return folder


@pytest.mark.slow
def test_train_on_two_ranks_equals_one_process(
    two_ranks: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, weights and AP are equal up to the order of additions; only rank 0 prints and writes."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "sais-lite", "--data", str(shapes), *OPTIONS]) == 0
    two, single = two_ranks / "runs/sais-lite-shapes", tmp_path / "runs/sais-lite-shapes"
    steps, expected = entries(two, "iteration"), entries(single, "iteration")
    assert len(steps) == len(expected) == 6
    for step, reference in zip(steps, expected, strict=True):
        for name in ("total", "classification", "box", "centerness", "mask", "gradient"):
            assert step[name] == pytest.approx(reference[name], rel=1e-3), name
    assert largest_difference(two, single) < 2e-4
    for evaluation, reference in zip(entries(two, "evaluation"), entries(single, "evaluation"), strict=True):
        assert evaluation["metrics"]["box"]["AP50"] == pytest.approx(reference["metrics"]["box"]["AP50"], abs=5e-3)
        assert evaluation["metrics"]["images"] == reference["metrics"]["images"] == 4
    output = (two_ranks / "out.txt").read_text()
    assert output.count("on cpu, 2 processes") == 1
    assert output.count("next: sais predict") == 1
    assert [path.name for path in (two_ranks / "runs").iterdir()] == ["sais-lite-shapes"]


@pytest.mark.slow
def test_a_model_of_two_ranks_opens_in_one_process(two_ranks: Path, shapes: Path, tmp_path: Path) -> None:
    """The checkpoints have no prefix of DistributedDataParallel; other commands open them, also without the ranks."""
    from sais.inference.predictor import Predictor
    from sais.sharing.package import package_model

    run = two_ranks / "runs/sais-lite-shapes"
    image = next((shapes / "images" / "valid").iterdir())
    expected = Predictor(run, device="cpu", score=0.0)(image)
    assert len(expected)
    assert not [name for name in load_checkpoint(run / "last.safetensors").tensors if "module." in name]
    package_model(run, tmp_path / "package")
    for path in (run / "last.safetensors", tmp_path / "package"):
        np.testing.assert_array_equal(Predictor(path, device="cpu", score=0.0)(image).scores, expected.scores)


@pytest.mark.slow
def test_torchrun_resumes_from_the_checkpoint_after_a_rank_died(two_ranks: Path, shapes: Path, tmp_path: Path) -> None:
    """Rank 1 is killed in iteration 5 of 6, after the checkpoint of the first epoch; the result is equal to the bit."""
    (tmp_path / "dying.py").write_text(DYING)
    words = ("dying.py", "train", "sais-lite", "--data", str(shapes), *OPTIONS)
    done = started((*TORCHRUN, *words), tmp_path)
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    out = tmp_path / "runs/sais-lite-shapes"
    assert load_checkpoint(out / "last.safetensors").state["iteration"] == 3
    again = started((*TORCHRUN, "--max-restarts", "1", *words, "--out", "again"), tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resumed at iteration 3" in again.stdout
    assert largest_difference(tmp_path / "again", two_ranks / "runs/sais-lite-shapes") == 0
    assert [step["iteration"] for step in entries(tmp_path / "again", "iteration")] == [1, 2, 3, 4, 5, 6]


CALLING = """
import sys
import sais

result = sais.train("sais-lite", sys.argv[1], size=64, batch_size=4, epochs=2, workers=0, device="cpu")
print("trained", result.out, flush=True)
"""


@pytest.mark.slow
def test_sais_train_in_the_ranks_of_torchrun_trains_one_model(two_ranks: Path, shapes: Path, tmp_path: Path) -> None:
    """All ranks use the folder that rank 0 chooses."""
    (tmp_path / "calling.py").write_text(CALLING)
    done = started((*TORCHRUN, "calling.py", str(shapes)), tmp_path)
    assert done.returncode == 0, done.stderr
    out = Path("runs/sais-lite-shapes")
    assert done.stdout.splitlines() == [f"trained {out}"] * 2
    assert largest_difference(tmp_path / out, two_ranks / out) == 0
    assert len(entries(tmp_path / out, "iteration")) == 6


@pytest.mark.slow
def test_ray_train_equals_torchrun(two_ranks: Path, shapes: Path, tmp_path: Path, root: Path) -> None:
    """The example: two processes of a local Ray call `sais.train`, which uses the process group of Ray Train."""
    pytest.importorskip("ray.train", reason="Ray is not installed (extra ray)")
    settings = ("size=64", "batch_size=4", "epochs=2", "workers=0", "device=cpu")
    words = (sys.executable, str(root / "examples/ray_train.py"), "sais-lite", str(shapes), "run", "--set", *settings)
    done = started(words, tmp_path)
    assert done.returncode == 0, done.stderr
    out, torchrun = tmp_path / "run", two_ranks / "runs/sais-lite-shapes"
    steps, expected = entries(out, "iteration"), entries(torchrun, "iteration")
    assert len(steps) == len(expected) == 6
    for step, reference in zip(steps, expected, strict=True):
        for name in ("total", "classification", "box", "centerness", "mask", "gradient"):
            assert step[name] == pytest.approx(reference[name], rel=1e-3), name
    assert largest_difference(out, torchrun) < 2e-4
    assert "the run is in run" in done.stdout.splitlines()


def test_epoch_batches_are_shared_by_ranks() -> None:
    groups = torch.tensor([0, 1, 0, 0, 1, 0, 1, 0, 0, 1]).numpy().astype(bool)
    whole = EpochBatches(groups, 4, seed=5)
    shares = [EpochBatches(groups, 4, seed=5, share=(rank, 2)) for rank in (0, 1)]
    for epoch in (0, 1):
        for batches in (whole, *shares):
            batches.epoch = epoch
        assert [a + b for a, b in zip(*shares, strict=True)] == list(whole)
    assert len(whole) == len(shares[0]) == 2
    with pytest.raises(ConfigError, match="not divisible by 3 processes"):
        EpochBatches(groups, 4, seed=5, share=(0, 3))
    few = EpochBatches(groups[:3], 4, seed=5, share=(1, 2))
    assert (few.batch_size, few.rank_batch_size) == (2, 1)
    with pytest.raises(SaisError, match="1 images for 2 processes"):
        EpochBatches(groups[:1], 4, seed=5, share=(0, 2))


def test_choose_folder_resumes_a_restarted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_folder(None, "a-b", resume=False, restarted=True) == (Path("runs/a-b"), False)
    begun = tmp_path / "runs/a-b"
    begun.mkdir(parents=True)
    (begun / "run.lock").touch()
    assert choose_folder(None, "a-b", resume=False, restarted=True)[1] is False  # killed before its first checkpoint
    (begun / "last.safetensors").touch()
    assert choose_folder(None, "a-b", resume=False, restarted=True) == (Path("runs/a-b"), True)
    assert choose_folder(begun, "a-b", resume=False, restarted=True) == (begun, True)
    assert choose_folder(None, "a-b", resume=False, restarted=False) == (Path("runs/a-b-2"), False)
    (begun / "model.safetensors").touch()  # finished: a new run
    assert choose_folder(None, "a-b", resume=False, restarted=True) == (Path("runs/a-b-2"), False)


def test_changed_settings_are_those_of_the_command_line() -> None:
    def changes(*words: str) -> tuple[str, ...]:
        return changed_settings(check_command_line(TrainArguments, words, "sais train"))

    words = ("--resume", "--lr", "0.1", "--run.checkpoint-every=5", "--data", "x", "--model.masks", "--batch-size", "4")
    assert changes(*words) == ("optim.lr", "run.checkpoint_every", "model.masks", "optim.batch_size")
    assert changes("--device", "auto", "--model.no-masks") == ("run.device", "model.masks")
