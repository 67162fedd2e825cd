"""Processes end with their parent, for every way in which processes are started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows sends no signals")
DEADLINE = 5.0
"""Seconds in which every process must have ended."""

HUNG_WORKERS = """
import multiprocessing, os, sys, time
from torch.utils.data import DataLoader, Dataset
from sais.data.workers import init_worker

class Hung(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        print(os.getpid(), flush=True)
        open(sys.argv[2]).read()  # as an image on a network drive that does not respond

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    list(DataLoader(Hung(), num_workers=2, worker_init_fn=init_worker))
"""
WATCHED = """
import os, signal, sys, time
from sais import parent_process
if sys.argv[1] == "thread":
    parent_process._request_signal = lambda number: False
if os.fork() == 0:
    parent_process.CHECK_SECONDS = 0.05
    parent_process.end_with_parent(os.getppid())
    print(os.getpid(), flush=True)
    time.sleep(1000)
time.sleep(1000)
"""


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def end_together(command: list[str | Path], processes: int, number: signal.Signals) -> None:
    """Start a command that prints the numbers of its processes, end it by a signal, and wait for the processes."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        started = [int(parent.stdout.readline()) for _ in range(processes)]
        assert all(is_alive(pid) for pid in started)
        parent.send_signal(number)
        parent.wait()
        end = time.monotonic() + DEADLINE
        while any(is_alive(pid) for pid in started) and time.monotonic() < end:
            os.sched_yield()
        left = [pid for pid in started if is_alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
@pytest.mark.parametrize("way", ["signal", "thread"])
def test_end_with_parent(way: str) -> None:
    end_together([sys.executable, "-c", WATCHED, way], 1, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_that_wait_for_an_image_end_with_their_parent(method: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script, pipe = tmp_path / "script.py", tmp_path / "pipe"
    script.write_text(HUNG_WORKERS)
    os.mkfifo(pipe)
    end_together([sys.executable, script, method, pipe], 2, signal.SIGKILL)
