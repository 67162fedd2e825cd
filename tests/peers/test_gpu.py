"""Tests of `python -m peers gpu`: what a second start keeps and repeats, what it reads, and its measurements."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch.autograd.profiler_util import FunctionEventAvg

from peers.__main__ import main
from peers.gpu import results as results_module
from peers.gpu.inference import TABLE_IV, compare_systems, comparisons
from peers.gpu.inference_systems import FROM_CANVASES, FROM_IMAGES, NETWORK, STREAMED
from peers.gpu.marked_tests import read_report
from peers.gpu.plan import Check, Plan, Row
from peers.gpu.profiles import by_kind, profiled, self_time
from peers.gpu.results import Results
from peers.gpu.session import all_checks, describe
from peers.gpu.timing import allocated, peak_memory
from peers.gpu.training_steps import training_checks
from sais.errors import ConfigError, MissingDependencyError
from sais.recipes import RECIPES

STAGES = [NETWORK, FROM_CANVASES, FROM_IMAGES]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.gpu.test_a" name="test_losses_equal" time="1.25"/>
<testcase classname="tests.gpu.test_a" name="test_masks_equal" time="0.1">
<failure message="assert 1 == 2&#10;more">x</failure></testcase>
<testcase classname="tests.gpu.test_a" name="test_two_ranks" time="0.0"><skipped message="one GPU only"/></testcase>
<testcase classname="tests.gpu.test_a" name="test_setup" time="0.0">
<error message="RuntimeError: CUDA">x</error></testcase>
</testsuite></testsuites>
"""


def plan_of(folder: Path, minutes: float = 1.0) -> Plan:
    """Return a plan for the CPU."""
    return Plan(folder, "cpu", time.monotonic() + 60 * minutes)


class Counted:
    """Checks that count their runs and do what `behavior` names."""

    def __init__(self, **behavior: str) -> None:
        self.behavior, self.runs = behavior, []

    def checks(self) -> list[Check]:
        return [Check("section", name, lambda plan, name=name: self.run(name)) for name in self.behavior]

    def run(self, name: str) -> list[Row]:
        self.runs.append(name)
        kind = self.behavior[name]
        if kind == "error":
            raise RuntimeError("CUDA error: unspecified launch failure")
        if kind == "missing":
            raise MissingDependencyError("no runtime. Install it.", "runtime")
        if kind == "killed":
            raise KeyboardInterrupt
        return [Row(name, {"passes": True, "fails": False, "measures": None}[kind], "text")]


def run_all(folder: Path, counted: Counted, minutes: float = 1.0) -> Results:
    """Run the pending checks as a session does."""
    results = Results(plan_of(folder, minutes), "command")
    counted.runs.clear()
    for check in results.pending(counted.checks()):
        results.run(check)
    return results


def statuses(folder: Path) -> dict[str, str]:
    """Return the status of each row in the JSON file."""
    checks = json.loads((folder / "gpu.json").read_text())["checks"]
    return {row["name"]: row["status"] for check in checks.values() for row in check["rows"]}


def test_second_start_keeps_results_and_repeats_failures_last(tmp_path: Path) -> None:
    counted = Counted(a="passes", b="fails", c="measures", d="error", e="missing", f="killed")
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path, counted)
    assert statuses(tmp_path) == {"a": "PASS", "b": "FAIL", "c": "INFO", "d": "FAIL", "e": "SKIP"}
    counted.behavior |= {"b": "passes", "f": "passes"}
    results = run_all(tmp_path, counted)
    assert counted.runs == ["f", "b", "d", "e"]
    assert statuses(tmp_path) == {"a": "PASS", "b": "PASS", "c": "INFO", "d": "FAIL", "e": "SKIP", "f": "PASS"}
    assert "CUDA error" in (tmp_path / "gpu.md").read_text()
    assert results.counts() == "3 PASS, 1 FAIL, 1 SKIP, 1 INFO"


def test_check_that_continues_by_itself_runs_in_every_session(tmp_path: Path) -> None:
    counted = Counted(a="measures", b="passes")
    for _ in range(2):
        results = Results(plan_of(tmp_path), "command")
        first, second = counted.checks()
        for check in results.pending([Check(first.section, first.name, first.run, continues=True), second]):
            results.run(check)
    assert counted.runs == ["a", "b", "a"]


def test_checks_after_the_deadline_are_skipped_but_for_required_ones(tmp_path: Path) -> None:
    results, counted = Results(plan_of(tmp_path, minutes=-1), "command"), Counted(a="passes", b="passes")
    first, second = counted.checks()
    results.run(first)
    results.run(Check(second.section, second.name, second.run, required=True))
    assert statuses(tmp_path) == {"a": "SKIP", "b": "PASS"}
    run_all(tmp_path, counted)
    assert counted.runs == ["a"]
    run_all(tmp_path, counted, minutes=-1)
    assert statuses(tmp_path) == {"a": "PASS", "b": "PASS"}  # a finished check is not replaced by a SKIP


def test_results_of_other_source_are_kept_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(a="passes")
    digest = run_all(tmp_path, counted).digest
    source = tmp_path / "source" / "peers"
    source.mkdir(parents=True)
    (source / "new.py").write_text("changed = True\n")
    monkeypatch.setattr(results_module, "ROOT", tmp_path / "source")
    assert run_all(tmp_path, counted).digest != digest
    assert counted.runs == ["a"]
    assert json.loads((tmp_path / f"gpu-{digest}.json").read_text())["digest"] == digest


def test_restart_keeps_the_deadline_and_repeats_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, words: started.append(words))
    monkeypatch.setenv(results_module.RESTARTED, "")  # restored after the test
    results_module.restart(plan_of(tmp_path, minutes=2))
    assert started == [[sys.executable, *sys.orig_argv[1:]]]
    assert float(os.environ[results_module.RESTARTED]) == pytest.approx(time.time() + 120, abs=5)
    counted = Counted(a="fails", b="passes")
    run_all(tmp_path, counted)
    run_all(tmp_path, counted)
    assert counted.runs == []


@pytest.fixture
def simulated_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let plans of the CPU take the branches of CUDA; returns the recorded modes of the synchronization check."""
    modes: list[str] = []
    functions: dict[str, Any] = {
        "synchronize": lambda *device: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda *device: None,
        "max_memory_allocated": lambda *device: 5 * 2**30,
        "memory_allocated": lambda *device: 2**30,
        "device_count": lambda: 1,
        "get_device_properties": lambda device: SimpleNamespace(total_memory=80 * 2**30, major=9, minor=0),
        "set_sync_debug_mode": modes.append,
    }
    for name, function in functions.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.setattr(Plan, "on_cuda", property(lambda plan: True))
    return modes


def test_checks_take_the_branches_of_cuda(tmp_path: Path, simulated_cuda: list[str]) -> None:
    plan = plan_of(tmp_path)
    (row,) = describe(plan)
    assert row.values["memory"] == "80 GiB"
    assert row.values["compute capability"] == "9.0"
    assert row.values["driver"]
    assert allocated(plan) == 2**30
    assert peak_memory(plan, lambda: None, allocated(plan)) == 4 * 2**30

    def run() -> None:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        torch.ones(8, 8) @ torch.ones(8, 8)

    row = profiled(plan, "step", run)
    assert simulated_cuda == ["warn", "default"]
    assert row.values["host_waits"] == 1
    assert "1 host waits" in row.text
    names = [check.name for check in comparisons(plan)]
    assert names == [
        "bf16, batch 1",
        "bf16, batch 2",
        "tf32, batch 1",
        "tf32, batch 2",
        "fp32, batch 1",
        "fp32, batch 2",
    ]
    assert [check.name for check in training_checks(plan)] == ["bf16, batch 2", "tf32, batch 2", "fp32, batch 2"]


@pytest.mark.usefixtures("simulated_cuda")
def test_session_restarts_after_a_check_that_broke_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, words: started.append(words))
    monkeypatch.setenv(results_module.RESTARTED, "0")
    lost = iter([False, True])
    monkeypatch.setattr(results_module, "is_cuda_lost", lambda: next(lost))
    results, counted = Results(plan_of(tmp_path), "command"), Counted(a="passes", b="error")
    for check in counted.checks():
        results.run(check)
    assert len(started) == 1
    assert statuses(tmp_path) == {"a": "PASS", "b": "FAIL"}


def test_read_report_returns_a_row_for_each_test(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    rows = read_report(tmp_path / "report.xml")
    assert [(row.name, row.passed) for row in rows] == [
        ("losses equal", True),
        ("masks equal", False),
        ("two ranks", None),
        ("setup", False),
    ]
    assert [row.text for row in rows] == ["1.2 s", "assert 1 == 2", "one GPU only", "RuntimeError: CUDA"]


def test_self_time_counts_kernels_once() -> None:
    event = FunctionEventAvg()
    event.device_type, event.self_device_time_total = torch.autograd.DeviceType.CUDA, 2000.0
    assert self_time(event, on_cuda=True) == 2.0
    event.is_user_annotation = True  # the range of an optimizer step, whose kernels are events of their own
    assert self_time(event, on_cuda=True) == 0.0
    event.device_type, event.self_cpu_time_total = torch.autograd.DeviceType.CPU, 500.0
    assert (self_time(event, on_cuda=True), self_time(event, on_cuda=False)) == (0.0, 0.5)


def test_by_kind_adds_up_kernels_of_cuda_and_operators_of_the_cpu() -> None:
    kernels = {
        "sm90_xmma_fprop_implicit_gemm_bf16": 5.0,
        "aten::mkldnn_convolution": 1.0,
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>": 2.0,
        "Memcpy HtoD (Pinned -> Device)": 1.5,
        "void at::native::GroupNormForwardKernel": 0.5,
        "unheard of": 0.25,
    }
    assert by_kind(kernels) == {
        "convolution, matrix product": 6.0,
        "elementwise": 2.0,
        "copy": 1.5,
        "normalization": 0.5,
        "other": 0.25,
    }


def test_all_checks_have_names_of_their_own_and_existing_recipes(tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        checks = list(all_checks(Plan(tmp_path, device, 0.0), Path("plan.toml")))
        assert len({check.key for check in checks}) == len(checks)
        sections = list(dict.fromkeys(check.section for check in checks))
        assert sections[:5] == ["environment", "tests", "end to end", "training", "profile"]
        assert sections[-1] == "screening"
    assert set(TABLE_IV) <= set(RECIPES)


def test_unknown_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such section"):
        main(["gpu", "--device", "cpu", "--only", "trainings", "--out", str(tmp_path)])


@pytest.mark.slow
def test_gpu_command_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Training steps of SAIS and the peers; a second start measures nothing again."""
    monkeypatch.setattr(results_module, "SOURCES", ())
    options = ["gpu", "--device", "cpu", "--only", "environment", "training", "--out", str(tmp_path)]
    assert main([*options, "--minutes", "10"]) == 0
    checks = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    rows = [row for check in checks.values() for row in check["rows"]]
    assert {row["status"] for row in rows} == {"INFO"}
    assert sum("images/s" in row["text"] for row in rows) == 4
    assert "sais-r50-768 / Mask R-CNN" in (tmp_path / "gpu.md").read_text()
    capfd.readouterr()
    assert main([*options, "--minutes", "10"]) == 0
    assert not [line for line in capfd.readouterr().out.splitlines() if line.startswith("INFO")]


@pytest.mark.slow
def test_compare_systems_returns_all_objects_and_ratios(tmp_path: Path) -> None:
    """Each system detects the injected objects of two images; SAIS does so by the route of an accelerator."""
    rows = compare_systems(plan_of(tmp_path, minutes=10), "fp32", 2)
    assert all(row.passed is None for row in rows)  # small sizes are not judged
    ratios = {row.name: row.values["ratio"] for row in rows if "ratio" in row.values}
    assert len(ratios) == 4
    assert all(ratio > 0 for ratio in ratios.values())
    latencies = [row.values["milliseconds"] for row in rows if "milliseconds" in row.values]
    assert [list(stages) for stages in latencies] == 2 * [[*STAGES, STREAMED], STAGES]
