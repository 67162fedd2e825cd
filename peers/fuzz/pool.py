"""Processes that run cases, one after the other; a process that hangs or crashes is replaced by another."""

from __future__ import annotations

import faulthandler
import functools
import multiprocessing
import multiprocessing.connection
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from peers.fuzz.oracle import MAX_BYTES, MAX_WAIT, Outcome, Watch, examine
from peers.fuzz.samples import Samples

GRACE_SECONDS = 15
"""Time after the limit in which a process may report what it was doing, before it is killed."""
START_SECONDS = 300
"""Time in which a process must have started."""
Ticket = tuple[str, int]
"""A case: its kind and its seed."""


@dataclass(frozen=True)
class Fault:
    """A case that broke the rule.

    Args:
        kind: its kind.
        seed: its seed.
        text: what was wrong.
        about: the case in one line.
    """

    kind: str
    seed: int
    text: str
    about: str

    def report(self) -> str:
        """Return the fault with the command that reproduces it."""
        command = f"python -m peers fuzz --only {self.kind} --seed {self.seed} --cases 1"
        return f"{self.about}\n{self.text}\nreproduce: {command}"


@dataclass
class Summary:
    """Counts of the cases of one kind."""

    results: Counter[str] = field(default_factory=Counter)
    """Result -> number of cases."""
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    """Time of all cases."""
    slowest: float = 0.0
    """Time of the slowest case in seconds."""
    peak: int = 0
    """Maximum memory of a process during a case, in bytes."""

    def add(self, ticket: Ticket, outcome: Outcome) -> None:
        """Count a case."""
        self.results[outcome.result] += 1
        self.seconds += outcome.seconds
        self.slowest, self.peak = max(self.slowest, outcome.seconds), max(self.peak, outcome.bytes)
        if outcome.fault:
            self.faults.append(Fault(*ticket, outcome.fault, outcome.about))


def run_cases(
    tickets: Iterator[Ticket],
    samples: Samples,
    folder: Path,
    processes: int = 1,
    report: Callable[[Fault], None] = lambda fault: None,
) -> dict[str, Summary]:
    """Run cases until there are no more.

    Args:
        tickets: the cases.
        samples: valid files.
        folder: folder of the cases, one below it for each process.
        processes: the number of processes.
        report: called with each fault when it is found.

    Returns:
        Kind -> its counts.
    """
    summaries: dict[str, Summary] = {}
    workers = [_Worker(samples, folder / f"process-{number}") for number in range(processes)]
    try:
        waiting = True
        while waiting or any(worker.ticket for worker in workers):
            for worker in workers:
                if waiting and worker.is_free():
                    ticket = next(tickets, None)
                    waiting = ticket is not None
                    if ticket is not None:
                        worker.start(ticket)
            multiprocessing.connection.wait([worker.connection for worker in workers], timeout=1.0)
            for worker in workers:
                ticket, outcome = worker.ticket, worker.outcome()
                if ticket is not None and outcome is not None:
                    summary = summaries.setdefault(ticket[0], Summary())
                    summary.add(ticket, outcome)
                    if outcome.fault:
                        report(summary.faults[-1])
    finally:
        for worker in workers:
            worker.stop()
    return summaries


class _Worker:
    """A process that runs one case at a time.

    Args:
        samples: valid files.
        folder: folder of its cases.
    """

    def __init__(self, samples: Samples, folder: Path) -> None:
        self._samples, self._folder = samples, folder
        self._log = folder.with_suffix(".log")
        self._launch()

    def _launch(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._folder.mkdir(parents=True, exist_ok=True)
        arguments = (other, self._samples, self._folder, self._log)
        self._process = context.Process(target=_serve, args=arguments, daemon=False)
        self._process.start()
        other.close()
        self.ticket: Ticket | None = None
        self._ready, self._since = False, time.monotonic()

    def is_free(self) -> bool:
        """Return whether it can take a case."""
        return self._ready and self.ticket is None

    def start(self, ticket: Ticket) -> None:
        """Give it a case."""
        self.ticket, self._since = ticket, time.monotonic()
        self.connection.send(ticket)

    def outcome(self) -> Outcome | None:
        """Return the outcome of its case if it has ended, also where the process did."""
        try:
            if self.connection.poll():
                message = self.connection.recv()
                self._ready, self.ticket = True, None
                return message if isinstance(message, Outcome) else None
        except (EOFError, ConnectionResetError):
            return self._replace("crash")
        limit = MAX_WAIT + GRACE_SECONDS if self.ticket else START_SECONDS
        if not self.is_free() and time.monotonic() - self._since > limit:
            return self._replace("hang")
        return None

    def _replace(self, result: str) -> Outcome:
        """Start another process and return what happened to this one."""
        if self.ticket is None:
            raise RuntimeError(f"a process of the fuzzer does not start: {self._last_lines()}")
        seconds, about = time.monotonic() - self._since, " ".join(map(str, self.ticket))
        self.stop(wait=5 if result == "crash" else 0)
        text = f"{result} of the process (exit code {self._process.exitcode})\n{self._last_lines()}"
        self._launch()
        return Outcome(result, text, about, seconds, 0)

    def _last_lines(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-2500:] if self._log.exists() else ""

    def stop(self, wait: float = 2) -> None:
        """End the process, which may take some seconds to end itself."""
        self.connection.close()
        self._process.join(wait)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()


def _serve(connection: Any, samples: Samples, folder: Path, log: Path) -> None:
    """Run the cases that arrive; the main function of a process."""
    from peers.fuzz.kinds import KINDS

    with log.open("a", encoding="utf-8") as file, open(os.devnull, encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        faulthandler.enable(file)
        _load_everything(samples)
        _limit_memory()
        watch = Watch()
        connection.send("ready")
        while True:
            try:
                kind, seed = connection.recv()
            except EOFError:
                return
            file.truncate(0)
            faulthandler.dump_traceback_later(MAX_WAIT + GRACE_SECONDS / 2, file=file)
            make = functools.partial(KINDS[kind], Random(f"{kind} {seed}"), samples)
            outcome = examine(make, folder, samples.folder, watch)
            faulthandler.cancel_dump_traceback_later()
            connection.send(outcome)


def _load_everything(samples: Samples) -> None:
    """Import what predictions need, and predict once, before time and memory are measured."""
    import matplotlib.pyplot  # noqa: F401, it writes a cache of fonts
    import torch

    import sais

    torch.set_num_threads(1)
    image = next(samples.images.iterdir())
    for model in (samples.run, *samples.graphs):
        sais.Predictor(model, score=0.0)(image)


def _limit_memory() -> None:
    """Let allocations fail that would need more than the limit in addition to the memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    limit = pages * resource.getpagesize() + MAX_BYTES
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
