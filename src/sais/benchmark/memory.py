"""Peak memory of a fresh process. (`sais.engine.activation_memory` counts the activations saved for backward.)"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import Any

from sais.errors import ResourceError
from sais.parent_process import end_with_parent


def peak_resident(reset: bool = False) -> int | None:
    """Return the peak resident memory of this process in bytes; None where the system does not report it.

    Args:
        reset: whether to reset the peak first, where the system allows it. Otherwise the transient peak of importing
            packages hides small allocations.
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
    """Call a function named ``module:function`` in a new process, which has no state of this one.

    Arguments and result are serialized as JSON; sequences among the arguments arrive as tuples.

    Raises:
        ResourceError: the process failed or was killed; the message has the last line of its output.
    """
    code = "import sys, json; from sais.benchmark.memory import _call; _call(*map(json.loads, sys.argv[1:]))"
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    completed = subprocess.run(
        [sys.executable, "-c", code, json.dumps(function), json.dumps(arguments), str(os.getpid())],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if completed.returncode < 0:
        raise ResourceError(
            f"{function}: the process was killed by signal {-completed.returncode}, probably because memory ran out. "
            "Measure something smaller."
        )
    if completed.returncode:
        last_line = (completed.stderr.strip().splitlines() or ["no output"])[-1]
        raise ResourceError(
            f"{function}: the process failed ({last_line}). Call the function directly to see all of its output."
        )
    return json.loads(completed.stdout.splitlines()[-1])


def _call(function: str, arguments: list[Any], parent: int) -> None:
    end_with_parent(parent)
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(*_as_tuples(arguments))
    print("\n" + json.dumps(result))  # noqa: T201 (for the process that started this one)


def _as_tuples(value: Any) -> Any:
    """Turn the lists of JSON into the tuples that the settings consist of."""
    if isinstance(value, list):
        return tuple(_as_tuples(item) for item in value)
    return {key: _as_tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
