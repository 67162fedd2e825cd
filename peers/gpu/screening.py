"""The accuracy screening plan, with the minutes that remain."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from peers.gpu.plan import Check, Plan, Row
from peers.gpu.results import ROOT

MIN_MINUTES = 1.0
"""Minimum time for which a screening is started."""


def screening_checks(plan: Plan, path: Path | None) -> Iterator[Check]:
    """Yield the screening, if a plan is given."""
    if path is not None:
        yield Check("screening", path.name, partial(screen, path=path), continues=True)


def screen(plan: Plan, path: Path) -> list[Row]:
    """Run `python -m peers.screening` until the deadline; it continues where an earlier session stopped.

    Raises:
        ImportError: this checkout has no `peers.screening`, or too little time is left.
    """
    if importlib.util.find_spec("peers.screening") is None:
        raise ImportError("this checkout has no peers.screening")
    minutes = plan.seconds_left / 60
    if minutes < MIN_MINUTES:
        raise ImportError("no time left")
    out = plan.out / "screening"
    command = [sys.executable, "-m", "peers.screening", "--plan", str(path), "--minutes", f"{minutes:.1f}"]
    completed = subprocess.run([*command, "--out", str(out)], cwd=ROOT)
    text = f"status {completed.returncode}, results in {out}"
    return [Row(path.name, None if completed.returncode == 0 else False, text)]
