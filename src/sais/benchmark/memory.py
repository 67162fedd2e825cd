"""Memory: the peak of a fresh process. (What training keeps for backward is counted by `engine.kept`.)"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import Any

from sais.errors import SaisError


def peak_resident(reset: bool = False) -> int | None:
    """Peak of this process's resident memory in bytes; None where the system does not tell.

    `reset` forgets earlier peaks where the system lets us: what importing took for a moment would hide what a frugal
    way adds.
    """
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        with open("/proc/self/status") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def in_fresh_process(function: str, *arguments: Any) -> Any:
    """What "module:function" returns in a process of its own, which nothing of this one's past disturbs.

    Arguments and result travel as JSON; a sequence among the arguments arrives as a tuple.

    Raises:
        SaisError: it failed, with its last words.
    """
    code = "import sys, json; from sais.benchmark.memory import _answer; _answer(sys.argv[1], json.loads(sys.argv[2]))"
    paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code, function, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        if done.returncode < 0:
            last = f"killed by signal {-done.returncode}, as where memory runs out; measure something smaller"
        raise SaisError(f"measuring in a process of its own failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _answer(function: str, arguments: list[Any]) -> None:
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(*_as_tuples(arguments))
    print("\n" + json.dumps(result))


def _as_tuples(value: Any) -> Any:
    """Lists, as JSON has them, into the tuples that settings are made of."""
    if isinstance(value, list):
        return tuple(_as_tuples(one) for one in value)
    return {key: _as_tuples(one) for key, one in value.items()} if isinstance(value, dict) else value
