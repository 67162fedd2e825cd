"""Fixtures of all tests: one thread per process, the real data sets, a tiny run on synthetic shapes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported: tests run in parallel
os.environ["SAIS_CACHE"] = "off"  # tests of the cache have one of their own
os.environ |= {  # Ray reads these when the first test of a process imports it: loopback only, no token in the home
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else its processes wait for those of the other tests
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

if TYPE_CHECKING:
    import torch

    from sais.config import Experiment

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with slow tests first: the quick ones fill the end, so that no process waits for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` without a CUDA device, unless SAIS_GPU_TESTS names the device."""
    if item.get_closest_marker("gpu") is None or os.environ.get("SAIS_GPU_TESTS"):
        return
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("no CUDA device; SAIS_GPU_TESTS=cpu runs the test on the CPU")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """State how a test process died, which pytest-xdist does not: -9 is SIGKILL, -15 SIGTERM, 143 our own exit."""
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)
    if error and process is not None:
        print(f"\n[{node.gateway.id}] process {process.pid} ended with status {process.wait(10)}")


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Return the device of the tests marked `gpu`: that of the environment variable SAIS_GPU_TESTS, else CUDA."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, by the first test that uses cuBLAS
    return torch.device(os.environ.get("SAIS_GPU_TESTS") or "cuda")


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Return a function from a data set's name (animals, breadboard, coco_mini) to its folder; it skips if absent."""
    parent = Path(os.environ.get("SAIS_DATA", ROOT.parent / "shared" / "data"))

    def folder(name: str) -> Path:
        if not (parent / name).is_dir():
            pytest.skip(f"no real data at {parent / name}; set SAIS_DATA to the folder that contains {name}")
        return parent / name

    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 12 training and 4 validation images of 96 x 128 pixels. Copy it before changing it."""
    from sais.data.synthetic import write_shapes

    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, train=12, valid=4, size=(96, 128), seed=3)
    return folder


@pytest.fixture(scope="session")
def tiny() -> Experiment:
    """Return the smallest experiment: 64 x 64, batches of four, ImageNet weights from the pip package."""
    from sais import config

    return config.Experiment(
        name="tiny",
        input=config.InputConfig(size=(64, 64)),
        model=config.ModelConfig(
            backbone="tf_efficientnet_lite0.in1k", channels=64, tower_depth=1, prototype_channels=16
        ),
        criterion=config.CriterionConfig(box_loss="giou"),
        postprocess=config.PostprocessConfig(score_threshold=0.02),
        optim=config.OptimConfig(name="adamw", lr=2e-3, batch_size=4),
        schedule=config.ScheduleConfig(epochs=2, kind="cosine", warmup_kind="linear"),
        run=config.RunConfig(workers=0, device="cpu", evaluate_every=0),
    )


@pytest.fixture(scope="session")
def trained(shapes: Path, tiny: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of `tiny` on `shapes`, long enough to detect objects."""
    from dataclasses import replace

    from sais.data.paths import DataPaths
    from sais.engine.trainer import train

    out = tmp_path_factory.mktemp("runs") / "tiny"
    experiment = replace(tiny, schedule=replace(tiny.schedule, epochs=8))
    train(experiment, DataPaths(shapes), out)
    return out


Export = Callable[[str], Path]
"""(name of a file) -> its path; see `exported`."""


@pytest.fixture(scope="session")
def exported(trained: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return a function from a file's name to that export of the run `trained`.

    Each file is exported once, by the first of all test processes that needs it. A conversion takes half a minute; the
    runs of all processes are equal.
    """
    from filelock import FileLock

    import sais
    from sais.export import ExportOptions

    options = {
        "masks.onnx": ExportOptions(graph="masks"),
        "raw.onnx": ExportOptions(graph="raw", dynamic_shape=True),
        "fp16.onnx": ExportOptions(precision="fp16"),
        "int8.onnx": ExportOptions(graph="raw", precision="int8"),
        "detections.xml": ExportOptions(),
        "raw.pt2": ExportOptions(graph="raw"),
    }
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"

    def export(name: str) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / name
        with FileLock(folder / f"{name}.lock"):
            if not path.is_file():
                sais.export(trained, path, options[name], shapes / "images" / "train")
        return path

    return export


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make benchmarks measure in the process of the test instead of new ones, each of which would import torch.

    For tests in which a new process is not the point. The allocator keeps its setting.
    """
    import importlib
    import json

    from sais.benchmark import memory, models, timing

    def call(function: str, *arguments: Any) -> Any:
        module, _, name = function.partition(":")
        transferred = memory._as_tuples(json.loads(json.dumps(arguments)))
        return json.loads(json.dumps(getattr(importlib.import_module(module), name)(*transferred)))

    for module in (models, timing):
        monkeypatch.setattr(module, "in_fresh_process", call)
    monkeypatch.setattr(timing, "keep_big_blocks", lambda: True)
