"""Run the tests that are marked `gpu` in a process of their own: an illegal memory access must not end the session."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from peers.gpu.plan import Check, Plan, Row
from peers.gpu.results import ROOT

DEVICE_VARIABLE = "SAIS_GPU_TESTS"
"""Environment variable with the device of the tests; see `tests/conftest.py`."""
MAX_SECONDS = {"cpu": 600, "cuda": 120}
"""Type of the device -> time after which a file of tests is killed: a hang must not take the whole session."""
SLOW = ("test_compile",)
"""Files of tests that compile networks."""
MAX_SECONDS_SLOW = 300
"""The same time for each of them; they run only if time is left."""
CODE = """
import sys
from sais.parent_process import end_with_parent
end_with_parent(int(sys.argv[1]))
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def marked_tests(plan: Plan, slow: bool = False) -> Iterator[Check]:
    """Yield a check for each file of tests, so that a restart repeats only what is missing.

    Args:
        plan: device and sizes.
        slow: whether to yield the files of `SLOW`, which run only if time is left, instead of the others.
    """
    for path in sorted((ROOT / "tests" / "gpu").glob("test_*.py")):
        if (path.stem in SLOW) != slow:
            continue
        name = path.stem.removeprefix("test_")

        def run(plan: Plan, path: Path = path) -> list[Row]:
            return run_tests(plan, path)

        yield Check("tests", name, run, required=not slow)


def run_tests(plan: Plan, path: Path) -> list[Row]:
    """Run the tests of a file and return a row for each.

    Raises:
        ImportError: pytest is not installed.
    """
    if importlib.util.find_spec("pytest") is None:
        raise ImportError("pytest is not installed")
    limit = MAX_SECONDS["cpu" if plan.small else "cuda"]
    limit = max(limit, MAX_SECONDS_SLOW) if path.stem in SLOW else limit
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}", str(path)]
        options += [f"--basetemp={Path(folder) / 'files'}", f"--rootdir={ROOT}"]
        paths = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {DEVICE_VARIABLE: plan.device, "PYTHONPATH": paths}
        if not plan.small:  # the tests use one thread by default
            environment.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))
        command = [sys.executable, "-c", CODE, str(os.getpid()), *options]
        log = plan.out / "tests.txt"
        try:
            with open(log, "a", encoding="utf-8") as file:
                completed = subprocess.run(
                    command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=limit
                )
        except subprocess.TimeoutExpired:
            return [Row(path.stem, False, f"killed after {limit} s, see {log}")]
        if not report.exists():
            return [Row(path.stem, False, f"the process ended with status {completed.returncode}, see {log}")]
        return read_report(report) or [Row(path.stem, False, f"no test was selected, see {log}")]


def read_report(path: Path) -> list[Row]:
    """Return a row for each test of a JUnit report."""
    rows = []
    for case in ElementTree.parse(path).iter("testcase"):
        name, seconds = case.get("name", "?").removeprefix("test_").replace("_", " "), case.get("time", "0")
        problem = next((child for kind in ("failure", "error") if (child := case.find(kind)) is not None), None)
        reason = case.find("skipped")
        if problem is not None:
            rows.append(Row(name, False, (problem.get("message") or "failed").splitlines()[0][:300]))
        elif reason is not None:
            text = (reason.get("message") or "skipped").splitlines()[0]
            rows.append(Row(name, None, text, values={"reason": text}))
        else:
            rows.append(Row(name, True, f"{float(seconds):.1f} s"))
    return rows
