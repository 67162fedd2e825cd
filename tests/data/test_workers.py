"""Worker processes where Python does not fork: without the main script, or with a check of its guard."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch.utils.data import DataLoader

from sais.config import InputConfig
from sais.data import workers
from sais.data.formats import read_dataset
from sais.data.loader import evaluation_loader
from sais.engine.signals import is_worker_death
from sais.errors import InputError
from sais.io.temporary import PATTERN

SCRIPT = """
import multiprocessing, sys
multiprocessing.set_start_method("spawn")
import sais
from sais.config import *
from sais.data.formats import read_dataset
from dataclasses import replace

{setup}
tiny = Experiment(
    input=InputConfig(size=(64, 64)),
    model=ModelConfig(backbone="tf_efficientnet_lite0.in1k", channels=64, tower_depth=1, prototype_channels=16),
    optim=OptimConfig(batch_size=4, lr=1e-4),
    schedule=ScheduleConfig(epochs=1),
    run=RunConfig(workers=1, device="cpu", loggers=()),
)
result = sais.train(tiny, {data}, "out", max_iterations=1, random_init=True)
print("iterations", result.iterations)
"""


@pytest.fixture
def spawning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python start processes as on Windows and macOS."""
    monkeypatch.setattr(workers, "_start_method", lambda: "spawn")


def main_script(monkeypatch: pytest.MonkeyPatch, path: Path, source: str) -> types.ModuleType:
    """Make a script the main module, and return it."""
    path.write_text(source)
    main = types.ModuleType("__main__")
    main.__file__, main.__spec__ = str(path), None
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(compile(source, str(path), "exec"), main.__dict__)
    return main


def test_worker_context_forks_where_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_start_method", lambda: "fork")
    context = workers.worker_context([1], workers=2)
    assert context is not None
    assert context.get_start_method() == "fork"


@pytest.mark.skipif(os.name != "posix", reason="Windows does not fork")
def test_kill_workers_kills_processes_of_its_own_contexts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_start_method", lambda: "fork")
    contexts: list[Any] = [workers.worker_context([1], workers=2), multiprocessing.get_context("fork")]
    processes = [context.Process(target=signal.pause) for context in contexts]
    for process in processes:
        process.start()
    workers.kill_workers()
    assert [process.is_alive() for process in processes] == [False, True]
    processes[1].kill()
    processes[1].join()


def kill_and_answer(connection: Any) -> None:
    workers.kill_workers()
    connection.send("done")


@pytest.mark.skipif(os.name != "posix", reason="Windows does not fork")
def test_kill_workers_in_a_forked_process_spares_those_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_start_method", lambda: "fork")
    context: Any = workers.worker_context([1], workers=2)
    reader = context.Process(target=signal.pause)
    reader.start()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    forked = multiprocessing.get_context("fork").Process(target=kill_and_answer, args=(sender,))
    forked.start()
    sender.close()
    try:
        assert receiver.recv() == "done"
        assert reader.is_alive()
    finally:
        forked.join()
        reader.kill()
        reader.join()


def prepare_and_answer(connection: Any) -> None:
    workers.init_worker(0)
    connection.send("ready")
    connection.send(f"still here {connection.recv()}")


@pytest.mark.skipif(sys.platform != "linux", reason="threads are looked up in /proc")
def test_workers_outlive_the_thread_that_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a server asks for each batch in another thread."""
    monkeypatch.setattr(workers, "_start_method", lambda: "fork")
    context: Any = workers.worker_context([1], workers=1)
    ours, other = multiprocessing.Pipe()
    process = context.Process(target=prepare_and_answer, args=(other,))

    def start() -> None:
        process.start()
        other.close()
        ours.recv()

    thread = threading.Thread(target=start)
    thread.start()
    number = thread.native_id
    thread.join()
    while os.path.exists(f"/proc/self/task/{number}"):
        os.sched_yield()
    ours.send("after its thread")
    assert ours.recv() == "still here after its thread"
    process.join()


@pytest.fixture
def socket_config(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the settings of this process in multiprocessing, empty as in a new one."""
    config: dict[str, str] = {}
    monkeypatch.setattr(multiprocessing.current_process(), "_config", config)
    return config


def test_sockets_of_workers_are_in_a_folder_known_as_ours(
    monkeypatch: pytest.MonkeyPatch, socket_config: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp" if os.name == "posix" else None) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        workers.worker_context([1], workers=2)
        assert PATTERN.fullmatch(Path(socket_config["tempdir"]).name) is not None
        assert multiprocessing.util.get_temp_dir() == socket_config["tempdir"]


def test_a_removed_folder_of_sockets_is_replaced(socket_config: dict[str, str]) -> None:
    workers.worker_context([1], workers=2)
    first = socket_config["tempdir"]
    shutil.rmtree(first)
    workers.worker_context([1], workers=2)
    assert socket_config["tempdir"] != first
    assert os.path.isdir(socket_config["tempdir"])


def test_a_worker_that_cannot_send_its_images_ends_instead_of_letting_the_loader_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images = [torch.zeros(3)] * 4
    context = workers.worker_context(images, workers=1)
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    monkeypatch.setitem(config, "tempdir", str(tmp_path / "removed"))
    loader = DataLoader(
        images,  # type: ignore[arg-type]
        num_workers=1,
        worker_init_fn=workers.init_worker,
        multiprocessing_context=context,
    )
    with pytest.raises(RuntimeError) as error:
        next(iter(loader))
    assert is_worker_death(error.value)


def test_sockets_of_workers_have_short_paths(
    monkeypatch: pytest.MonkeyPatch, socket_config: dict[str, str], tmp_path: Path
) -> None:
    """A reader whose socket has a path of more than 103 bytes (macOS) sends nothing, and torch waits for it forever."""
    folder = tmp_path / ("temporary" * 8)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    workers.worker_context([1], workers=2)
    assert "tempdir" not in socket_config  # Python chooses a shorter name
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("spawning")
def test_worker_context_starts_without_the_main_script() -> None:
    assert workers.worker_context([1], workers=0) is None
    context = workers.worker_context([1], workers=2)
    assert isinstance(context, multiprocessing.context.SpawnContext)
    assert issubclass(context.Process, workers._Process)
    with workers._without_main_script():
        assert getattr(sys.modules["__main__"], "__file__", None) is None


@pytest.mark.usefixtures("spawning")
def test_worker_context_needs_a_guard_for_functions_of_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = main_script(monkeypatch, tmp_path / "a.py", "def read():\n    return 1\n")
    with pytest.raises(InputError, match=r"a\.py: the data set uses functions of this script.*Put its calls below"):
        workers.worker_context([main.read], workers=1)
    main = main_script(
        monkeypatch, tmp_path / "b.py", 'def read():\n    return 1\nif __name__ == "__main__":\n    pass\n'
    )
    context = workers.worker_context([main.read], workers=1)
    assert context is not None
    assert not isinstance(context, workers._Context)


@pytest.mark.usefixtures("spawning")
def test_worker_context_refuses_what_cannot_be_sent() -> None:
    with pytest.raises(InputError, match=r"data set: cannot be sent to the processes .*run\.workers=0"):
        workers.worker_context([lambda: 1], workers=1)


def test_check_main_process_refuses_a_process_that_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    workers.check_main_process()
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(InputError, match="a new process imports it and must not run it again"):
        workers.check_main_process()


def test_loaders_pin_memory_only_on_request(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # there is a GPU, but the run is on the CPU
    split = read_dataset(shapes, "valid")
    assert not evaluation_loader(split, InputConfig(size=(64, 64)), 2, 0).pin_memory
    assert evaluation_loader(split, InputConfig(size=(64, 64)), 2, 0, pin_memory=True).pin_memory


def run_script(folder: Path, data: str, setup: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(SCRIPT.format(data=data, setup=setup))
    return subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_train_under_spawn_runs_from_a_script_without_a_guard(shapes: Path, tmp_path: Path) -> None:
    done = run_script(tmp_path, repr(str(shapes)))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "iterations 1\n"


@pytest.mark.slow
def test_train_under_spawn_names_the_guard_where_the_script_is_needed(shapes: Path, tmp_path: Path) -> None:
    setup = (
        f"split = read_dataset({str(shapes)!r}, 'train')\n"
        "def read():\n    from sais.io.images import read_image\n    return read_image(split.images[0].path)\n"
        "split = replace(split, images=tuple(replace(r, source=read, size=(96, 128)) for r in split.images))"
    )
    done = run_script(tmp_path, "split", setup)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "script.py: the data set uses functions of this script" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
