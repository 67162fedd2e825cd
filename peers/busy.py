"""Throughput of `sais train` and `sais predict` next to other busy processes, relative to that of a quiet machine.

    python -m peers busy

Every command runs once for each way in which the threads of OpenMP wait for each other. All of them stay alive, and
take turns of a few seconds in which the others are stopped: without other processes, with one busy process, and with
one for each core. So all figures of a row come from one process, and slow changes of the machine affect all rows.
Training is measured by the times in its log, prediction by the times at which the drawings were written.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sais.commands.threads import WAIT_VARIABLES
from sais.data.synthetic import write_shapes
from sais.errors import ResourceError

RECIPE = "sais-lite"
VARIANTS: dict[str, dict[str, str]] = {
    "default of torch": {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
    "sais": {},
    "short busy wait": {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"},
}
"""How threads wait -> variables of the process. The first is what a process without any of them does."""
KINDS = ("train", "predict")
IMAGES, LINKS = 64, 8000
"""Number of images, and of names that they have in the folder to predict on, so that prediction does not end."""
BATCH_SIZE = 8
START_SECONDS = 300.0
"""Time after which a command that has done nothing yet is given up."""
GOALS = {"one": 0.70, "all": 0.40}
"""Minimum fraction of the quiet throughput with one busy process, and with one for each core."""


@dataclass
class Command:
    """A running command, whose finished images can be counted.

    Args:
        kind: train or predict.
        variant: a name of `VARIANTS`.
        folder: folder of the data, the model, and what the command writes.
    """

    kind: str
    variant: str
    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)
    out: Path = field(init=False)

    def __post_init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
        self.out = self.folder / f"{self.kind}-{self.variant.replace(' ', '-')}"
        words = {
            "train": [
                *("train", RECIPE, "--data", str(self.folder / "shapes"), "--out", str(self.out), "--random-init"),
                *("--size", "256", "--batch-size", str(BATCH_SIZE), "--epochs", "1000", "--run.evaluate-every", "0"),
                *("--run.checkpoint-minutes", "0", "--run.cpu-convolutions", "auto", "--no-report"),
            ],
            "predict": ["predict", str(self.folder / "model"), str(self.folder / "many"), "--out", str(self.out)],
        }[self.kind]
        log = (self.folder / f"{self.out.name}.txt").open("wb")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sais", *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, **VARIANTS[self.variant]},
                start_new_session=True,
            )

    def times(self) -> list[float]:
        """Return the time at which each image was done, in seconds since 1970."""
        if self.kind == "predict":
            return [path.stat().st_mtime for path in self.out.rglob("*.jpg")] if self.out.is_dir() else []
        log = self.out / "log.jsonl"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        return [entry["time"] for entry in entries if entry["kind"] == "iteration" for _ in range(BATCH_SIZE)]

    def wait_until_running(self, images: int) -> None:
        """Wait until a number of images is done.

        Raises:
            ResourceError: the command has ended, or is too slow.
        """
        end = time.monotonic() + START_SECONDS
        while len(self.times()) < images:
            if self.process.poll() is not None or time.monotonic() > end:
                text = (self.folder / f"{self.out.name}.txt").read_text(errors="replace").strip()
                raise ResourceError(f"sais {self.kind}: does not run ({text[-300:]}). Start it by hand to see why.")
            time.sleep(0.1)

    def throughput(self, seconds: float) -> float:
        """Let the command run for a while and return the number of images per second."""
        self.signal(signal.SIGCONT)
        start = time.time() + 0.5  # the first images were under way
        time.sleep(seconds + 0.5)
        self.signal(signal.SIGSTOP)
        done = sorted(when for when in self.times() if when >= start)
        if len(done) < 2:
            return 0.0
        first = [when for when in done if when == done[0]]
        span = done[-1] - done[0]
        return (len(done) - len(first)) / span if span > 0 else 0.0

    def signal(self, number: int) -> None:
        """Send a signal to the command and its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        """Kill the command and its processes."""
        self.signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Run a number of processes that keep a core busy."""
    code = f"from sais.parent_process import end_with_parent\nend_with_parent({os.getpid()})\nwhile True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(repeats: int = 2, seconds: float = 10.0) -> dict[tuple[str, str], dict[str, float]]:
    """Measure all commands.

    Args:
        repeats: number of turns of each command; the median counts.
        seconds: length of a turn.

    Returns:
        (kind, variant) -> images per second by the other load: "quiet", "one", "all".

    Raises:
        ResourceError: the system cannot stop processes (Windows), or a command fails.
    """
    if not hasattr(signal, "SIGSTOP"):
        raise ResourceError("python -m peers busy: needs signals that stop a process. Use Linux or macOS.")
    loads = {"quiet": 0, "one": 1, "all": os.cpu_count() or 1}
    rates: dict[tuple[str, str], dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for kind in KINDS:
            with contextlib.ExitStack() as stack:
                commands = []
                for variant in VARIANTS:
                    command = Command(kind, variant, folder)
                    stack.callback(command.end)
                    commands.append(command)
                    command.wait_until_running(2 * BATCH_SIZE)
                    command.signal(signal.SIGSTOP)
                for _ in range(repeats):
                    for load, number in loads.items():
                        with busy_processes(number):
                            for command in commands:
                                rows = rates.setdefault((kind, command.variant), {})
                                rows.setdefault(load, []).append(command.throughput(seconds))
    return {
        key: {load: statistics.median(values) for load, values in of_load.items()} for key, of_load in rates.items()
    }


def prepare(folder: Path) -> None:
    """Write images, many names for them, and a model, into a folder."""
    write_shapes(folder / "shapes", train=IMAGES, valid=2)
    images = sorted((folder / "shapes/images/train").iterdir())
    (folder / "many").mkdir()
    for number in range(LINKS):
        image = images[number % len(images)]
        os.link(image, folder / "many" / f"{number:05}{image.suffix}")
    words = ["train", RECIPE, "--data", str(folder / "shapes"), "--out", str(folder / "model"), "--random-init"]
    done = subprocess.run(
        [sys.executable, "-m", "sais", *words, "--size", "256", "--max-iterations", "1", "--no-report"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ResourceError(f"sais train: failed ({done.stderr.strip()[-300:]}). Start it by hand to see why.")


def table_rows(measured: dict[tuple[str, str], dict[str, float]]) -> list[list[str]]:
    """Return a row for each command and variant.

    Args:
        measured: images per second, as `measure` returns them.
    """
    rows = []
    first = next(iter(VARIANTS))
    for (kind, variant), rates in measured.items():
        quiet, base = rates["quiet"], measured[kind, first]["quiet"]
        row = [f"sais {kind}", variant, *(f"{rates[load]:.1f}" for load in ("quiet", "one", "all"))]
        row += [_fraction(rates[load], quiet) for load in ("one", "all")]
        rows.append([*row, _fraction(quiet, base)])
    return rows


def _fraction(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base else "-"
