"""Verify and measure training, inference and export on one device, without a network connection.

    python -m peers gpu --out runs/gpu                           # about 8 minutes on a GPU
    python -m peers gpu --out runs/gpu --device cpu --quick      # small sizes, to test this script on a CPU

Every check ends with PASS, FAIL or SKIP and never stops the others; measurements end with INFO. Results are written to
gpu.json and gpu.md in the folder `out` after each check. `python -m peers.gpu` is the same command.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from peers import gpu_checks as checks
from peers.gpu_checks import Outcome, Plan
from sais.commands.bench_tables import environment, print_table
from sais.device import choose_device
from sais.errors import MissingDependencyError
from sais.inference.options import InferenceOptions
from sais.io.atomic import write_text
from sais.paper.comparison import markdown_table

COLUMNS = ("status", "section", "check", "result", "limit", "seconds")


@dataclass
class Results:
    """The rows of the table; written to disk after each check."""

    plan: Plan
    command: str
    deadline: float
    """Time of `time.monotonic` after which optional checks are skipped."""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def run(self, section: str, name: str, check: Callable[[], Outcome], optional: bool = False) -> None:
        """Run a check and record its outcome; no exception ends the script.

        Args:
            section: the section of the table.
            name: the name of the check.
            check: the function that performs it.
            optional: whether it is skipped after the deadline.
        """
        start = time.monotonic()
        if optional and start > self.deadline:
            self._add("SKIP", section, name, Outcome(None, "no time left"), 0.0)
            return
        try:
            outcome = check()
            status = {None: "INFO", True: "PASS", False: "FAIL"}[outcome.passed]
        except (MissingDependencyError, ImportError) as error:
            status, outcome = "SKIP", Outcome(None, str(error))
        except Exception as error:
            status, outcome = "FAIL", Outcome(False, f"{type(error).__name__}: {error}"[:300])
            traceback.print_exc()
        self._add(status, section, name, outcome, time.monotonic() - start)
        if self.plan.on_gpu:
            torch.cuda.empty_cache()

    def _add(self, status: str, section: str, name: str, outcome: Outcome, seconds: float) -> None:
        row = {"status": status, "section": section, "name": name, "seconds": seconds} | asdict(outcome)
        self.rows.append(row)
        print(f"{status}  {section}: {name}: {outcome.text}", flush=True)
        state = {"command": self.command, "environment": environment(self.plan.device), "rows": self.rows}
        write_text(self.plan.out / "gpu.json", json.dumps(state, indent=1, default=str) + "\n")
        write_text(self.plan.out / "gpu.md", self.markdown())

    def cells(self) -> list[list[str]]:
        """Return the rows as strings, in the order of `COLUMNS`."""
        names = ("status", "section", "name", "text", "limit")
        return [[*(str(row[name]) for name in names), f"{row['seconds']:.1f}"] for row in self.rows]

    def markdown(self) -> str:
        """Return the table as Markdown with the command and the environment."""
        intro = f"`{self.command}`: {environment(self.plan.device)}."
        return f"{intro}\n\n{markdown_table(COLUMNS, self.cells())}\n"


def verify_and_measure(out: Path, device: str, quick: bool, minutes: float, command: str) -> str:
    """Run all checks and measurements, print their table, and return a line for the user.

    Args:
        out: the folder of the results and of short training runs.
        device: auto, cpu or cuda.
        quick: whether to use small sizes and few steps.
        minutes: the time after which the remaining measurements are skipped.
        command: the command line, for the report.
    """
    out.mkdir(parents=True, exist_ok=True)
    plan = Plan(out, str(choose_device(device)), quick)
    results = Results(plan, command, time.monotonic() + 60 * minutes)
    results.run("environment", "versions", partial(checks.describe_versions, plan))
    with checks.exact_arithmetic():
        _verify(plan, results)
    _measure(plan, results)
    statuses = [row["status"] for row in results.rows]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in ("PASS", "FAIL", "SKIP", "INFO"))
    print_table(counts, COLUMNS, results.cells(), environment(plan.device))
    return f"wrote {out / 'gpu.md'} and {out / 'gpu.json'}"


def _verify(plan: Plan, results: Results) -> None:
    device = plan.device
    results.run("network", f"outputs on {device} equal cpu", partial(checks.compare_outputs, plan))
    results.run("training", "two micro-batches equal one batch", partial(checks.compare_micro_batches, plan))
    results.run("training", "losses on synthetic shapes", partial(checks.train_on_shapes, plan))
    results.run("training", "resumed equals uninterrupted", partial(checks.compare_resumed, plan))
    results.run("inference", f"detections on {device} equal cpu", partial(checks.compare_detections, plan))
    results.run("evaluation", f"AP on {device} equals cpu", partial(checks.compare_evaluation, plan))
    results.run("export", f"ONNX detections equal PyTorch on {device}", partial(checks.compare_export, plan))


def _measure(plan: Plan, results: Results) -> None:
    for experiment in plan.experiments():
        for precision in plan.training_precisions():
            measurement = partial(checks.measure_training, plan, experiment, precision)
            results.run("training step", f"{experiment.name}, {precision}", measurement, optional=True)
    for experiment in plan.experiments():
        for batch_size in (1, 2) if plan.quick else (1, 8):
            for precision, compiled in plan.inference_variants():
                name = f"{experiment.name}, {precision}, batch {batch_size}" + (", compiled" if compiled else "")
                options = InferenceOptions(precision=precision, batch_size=batch_size, compile=compiled)  # type: ignore[arg-type]
                measurement = partial(checks.measure_latency, plan, experiment, options)
                results.run("latency", name, measurement, optional=True)


if __name__ == "__main__":
    from peers.__main__ import main

    sys.exit(main(["gpu", *sys.argv[1:]]))
