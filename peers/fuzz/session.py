"""`python -m peers fuzz`: cases of every kind in turn for some minutes or a number of cases, and their counts."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from peers.fuzz.kinds import KINDS
from peers.fuzz.pool import Fault, Summary, Ticket, run_cases
from peers.fuzz.samples import build_samples
from sais.errors import ConfigError
from sais.paper.comparison import markdown_table
from sais.resolve import suggest

COLUMNS = ("kind", "cases", "accepted", "refused", "faults", "ms per case", "slowest, s", "peak memory, GB")


def fuzz(
    folder: Path,
    minutes: float | None = None,
    cases: int | None = None,
    seed: int = 0,
    only: Sequence[str] = (),
    processes: int = 1,
    report: Callable[[Fault], None] = lambda fault: None,
) -> dict[str, Summary]:
    """Run cases of every kind in turn.

    Args:
        folder: folder of the samples and the cases; the last case of each process remains there.
        minutes: the time after which no case is started; None: no limit.
        cases: the number of cases of each kind; None: until the time is over.
        seed: the seed of the first case of each kind; that of the next is one higher.
        only: the kinds; by default all.
        processes: the number of processes.
        report: called with each fault when it is found.

    Returns:
        Kind -> its counts.

    Raises:
        ConfigError: no such kind.
    """
    for name in only:
        if name not in KINDS:
            raise ConfigError(f"--only {name}: no such kind{suggest(name, KINDS)}")
    samples = build_samples(folder / "samples")
    end = None if minutes is None else time.monotonic() + 60 * minutes
    return run_cases(tickets(tuple(only) or tuple(KINDS), seed, cases, end), samples, folder, processes, report)


def tickets(kinds: Sequence[str], seed: int, cases: int | None, end: float | None) -> Iterator[Ticket]:
    """Yield (kind, seed) of each case: the kinds in turn, until there are `cases` of each or the clock shows `end`."""
    for number in itertools.count() if cases is None else range(cases):
        for kind in kinds:
            if end is not None and time.monotonic() > end:
                return
            yield kind, seed + number


def table(summaries: dict[str, Summary]) -> str:
    """Return the counts of every kind as a Markdown table."""
    rows = []
    for kind, summary in summaries.items():
        total = summary.results.total()
        row = (total, summary.results["success"], total - summary.results["success"], len(summary.faults))
        times = f"{1000 * summary.seconds / total:.0f}", f"{summary.slowest:.1f}", f"{summary.peak / 2**30:.2f}"
        rows.append((kind, *map(str, row), *times))
    return markdown_table(COLUMNS, rows)
