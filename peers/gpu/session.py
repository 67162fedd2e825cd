"""The order of all checks: what decides most comes first, so that a short session has it."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType

import torch

from peers.gpu.inference import comparisons, compiled, table_iv
from peers.gpu.marked_tests import marked_tests
from peers.gpu.plan import Check, Plan, Row
from peers.gpu.profiles import profile_checks
from peers.gpu.results import COLUMNS, RESTARTED, Results
from peers.gpu.runtimes import runtime_checks
from peers.gpu.screening import screening_checks
from peers.gpu.training_steps import training_checks
from sais._version import __version__
from sais.commands.bench_tables import print_table
from sais.device import choose_device
from sais.errors import ConfigError
from sais.resolve import suggest

PACKAGES = ("torchvision", "timm", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "triton", "pytest")


def verify_and_measure(
    out: Path, device: str, minutes: float, command: str, only: Sequence[str] = (), screening: Path | None = None
) -> str:
    """Run all checks that are missing in a folder, print their table, and return a line for the user.

    Args:
        out: the folder of the results.
        device: auto, cpu, cuda or mps. On a CPU all sizes are small, to test the checks themselves.
        minutes: the time after which no further measurement starts; tests always run.
        command: the command line, for the report.
        only: names of sections; all if empty.
        screening: a plan of `python -m peers.screening`, run with the time that remains.

    Raises:
        ConfigError: no such section.
        ResourceError: no such device.
    """
    out.mkdir(parents=True, exist_ok=True)
    end = float(os.environ.get(RESTARTED, time.time() + 60 * minutes))
    plan = Plan(out, str(choose_device(device)), time.monotonic() + end - time.time())
    checks = list(all_checks(plan, screening))
    sections = list(dict.fromkeys(check.section for check in checks))
    for name in only:
        if name not in sections:
            raise ConfigError(f"--only {name}: no such section{suggest(name, sections)}")
    results = Results(plan, command)
    previous = signal.signal(signal.SIGTERM, _exit)  # so that a child process ends too
    try:
        for check in results.pending([check for check in checks if not only or check.section in only]):
            results.run(check)
    finally:
        signal.signal(signal.SIGTERM, previous)
    print_table(results.counts(), COLUMNS, results.cells(), results.environment)
    return f"wrote {out / 'gpu.md'} and {out / 'gpu.json'}"


def all_checks(plan: Plan, screening: Path | None = None) -> Iterator[Check]:
    """Yield all checks in their order."""
    yield Check("environment", "versions", describe, required=True)
    yield from marked_tests(plan)
    yield from comparisons(plan)
    yield from training_checks(plan)
    yield from profile_checks(plan)
    yield from table_iv(plan)
    yield from runtime_checks(plan)
    yield from marked_tests(plan, slow=True)
    yield from compiled(plan)
    yield from screening_checks(plan, screening)


def describe(plan: Plan) -> list[Row]:
    """Report versions, driver and memory of the device."""
    values = {"sais": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            values[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            values[package] = "missing"
    if plan.on_cuda:
        properties = torch.cuda.get_device_properties(plan.device)
        values["memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        values["compute capability"] = f"{properties.major}.{properties.minor}"
        values["CUDA"], values["cuDNN"] = str(torch.version.cuda), str(torch.backends.cudnn.version())
        values["driver"], values["devices"] = driver_version(), str(torch.cuda.device_count())
    return [Row("versions", None, ", ".join(f"{name} {value}" for name, value in values.items()), values=values)]


def driver_version() -> str:
    """Return the version of the NVIDIA driver as `nvidia-smi` reports it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "not known"
    return output.strip().splitlines()[0] if output.strip() else "not known"


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
