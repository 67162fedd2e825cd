"""The results of `python -m peers gpu`: written after each check, and kept by the next start.

A start with the same folder, device, versions and source keeps checks whose rows all have PASS or INFO. Checks with a
FAIL or a SKIP are repeated after the missing ones: a full disk or another process may have been the reason. Results of
other versions or source are renamed, not overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from peers.gpu.plan import Check, Plan, Row
from sais.commands.bench_tables import environment
from sais.errors import MissingDependencyError
from sais.io.atomic import replace_file, write_text
from sais.paper.comparison import markdown_table

COLUMNS = ("status", "section", "check", "result", "limit")
KEPT = ("PASS", "INFO")
RESTARTED = "SAIS_PEERS_GPU_END"
"""Environment variable with the end of the session, as a value of `time.time`, after `restart`."""
ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("src/sais", "peers", "tests/gpu")


class Results:
    """The finished checks of one device, versions and source.

    Args:
        plan: the plan; results are in its folder.
        command: the command line, for the report.
    """

    def __init__(self, plan: Plan, command: str) -> None:
        self.plan, self.command = plan, command
        self.environment = environment(plan.device)
        self.digest = digest(self.environment)
        self.checks: dict[str, dict[str, Any]] = {}
        """`Check.key` -> section, seconds and rows, in the order in which they were finished."""
        path = plan.out / "gpu.json"
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.get("digest") == self.digest:
                self.checks = stored["checks"]
            else:
                replace_file(path, path.with_name(f"gpu-{stored.get('digest', 'old')}.json"))

    def pending(self, checks: Sequence[Check]) -> list[Check]:
        """Return the checks that have to run: the missing ones, then those with a row that is to be repeated."""
        missing = [check for check in checks if check.key not in self.checks]
        if RESTARTED in os.environ:
            return missing
        return missing + [check for check in checks if check.key in self.checks and not self._is_kept(check)]

    def _is_kept(self, check: Check) -> bool:
        return not check.continues and all(row["status"] in KEPT for row in self.checks[check.key]["rows"])

    def run(self, check: Check) -> None:
        """Run a check and write its rows; no exception of a check ends the session."""
        start = time.monotonic()
        is_known = check.key in self.checks
        if self.plan.seconds_left <= 0 and (is_known or not check.required):
            if not is_known:
                self._add(check, [skipped(check, "no time left")], 0.0)
            return
        try:
            rows = check.run(self.plan)
        except (MissingDependencyError, ImportError) as error:
            rows = [skipped(check, str(error))]
        except Exception as error:
            traceback.print_exc()
            rows = [Row(check.name, False, f"{type(error).__name__}: {error}"[:300])]
        self._add(check, rows, time.monotonic() - start)
        if self.plan.on_cuda and is_cuda_lost():
            restart(self.plan)

    def _add(self, check: Check, rows: Sequence[Row], seconds: float) -> None:
        entries = [asdict(row) | {"status": status_of(row)} for row in rows]
        self.checks[check.key] = {"section": check.section, "seconds": round(seconds, 1), "rows": entries}
        for entry in entries:
            print(f"{entry['status']}  {check.section}: {entry['name']}: {entry['text']}", flush=True)
        state = {"command": self.command, "environment": self.environment, "digest": self.digest}
        write_text(
            self.plan.out / "gpu.json", json.dumps(state | {"checks": self.checks}, indent=1, default=str) + "\n"
        )
        write_text(self.plan.out / "gpu.md", self.markdown())

    def cells(self) -> list[list[str]]:
        """Return all rows as strings, in the order of `COLUMNS`."""
        return [
            [row["status"], check["section"], row["name"], row["text"], row["limit"]]
            for check in self.checks.values()
            for row in check["rows"]
        ]

    def counts(self) -> str:
        """Return the number of rows of each status as text."""
        statuses = [row[0] for row in self.cells()]
        return ", ".join(f"{statuses.count(status)} {status}" for status in ("PASS", "FAIL", "SKIP", "INFO"))

    def markdown(self) -> str:
        """Return the table as Markdown with the command, the environment and the numbers of rows."""
        seconds = sum(check["seconds"] for check in self.checks.values())
        intro = f"`{self.command}`: {self.environment}; {seconds:.0f} s; {self.counts()}."
        return f"{intro}\n\n{markdown_table(COLUMNS, self.cells())}\n"


def status_of(row: Row) -> str:
    """Return PASS, FAIL, SKIP or INFO."""
    if row.values.get("skipped"):
        return "SKIP"
    return {None: "INFO", True: "PASS", False: "FAIL"}[row.passed]


def skipped(check: Check, reason: str) -> Row:
    """Return the row of a check that could not run."""
    return Row(check.name, None, reason, values={"skipped": True})


def digest(environment: str) -> str:
    """Compute eight hexadecimal digits of the environment and of the source, on which results depend."""
    hasher = hashlib.sha256(f"{environment} python {sys.version}".encode())
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            hasher.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return hasher.hexdigest()[:8]


def is_cuda_lost() -> bool:
    """Return whether an earlier error, such as an illegal memory access, left CUDA unusable in this process."""
    try:
        torch.cuda.empty_cache()
        torch.zeros(1, device="cuda").item()
    except (RuntimeError, AssertionError):
        return True
    return False


def restart(plan: Plan) -> None:
    """Replace this process by a new one with the same arguments, which continues after the finished checks.

    It has the same deadline and repeats no check that failed, the one that broke CUDA above all.
    """
    print("CUDA is unusable after this check; restarting", flush=True)
    os.environ[RESTARTED] = str(time.time() + plan.seconds_left)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
