"""`sais predict-many` with Ray on this machine, started once: workers that end, stop or find no room; equal results."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from peers.predict_many import compare, corrupt, num_shards, wait_until, worker_processes
from sais import cli
from sais.errors import CheckpointError, ResourceError
from sais.inference.options import InferenceOptions
from sais.scaling import ray_engine
from sais.scaling.items import ImageItem, Shard
from sais.scaling.local_engine import ShardFailure
from sais.scaling.options import ManyOptions
from sais.scaling.ray_engine import RayWorkers, read_model_files
from sais.scaling.ray_start import running_ray
from sais.scaling.run import predict_many
from sais.scaling.shard_worker import Job, ShardResult
from tests.scaling.crashing import CRASH, let_processes_crash

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="no Ray (extra ray)")]

Export = Callable[[str], Path]
SHARD_SIZE = 2
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
"""127.0.0.1 as the kernel writes it, for IPv4 and IPv6."""


@pytest.fixture(scope="module")
def photos(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return a folder with images, and the names of those that cannot be read."""
    folder = tmp_path_factory.mktemp("many") / "mixed"
    return folder, corrupt((shapes / "images").glob("*/*.jpg"), folder, 2)


@pytest.fixture(scope="module", autouse=True)
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run Ray on this machine during the tests of this module; its processes must end with it."""
    others = descendants(os.getpid())  # of tests of other files, such as multiprocessing's resource tracker
    with pytest.MonkeyPatch.context() as patch:
        let_processes_crash(tmp_path_factory.mktemp("site"), patch)
        with running_ray(None, 2, 0):
            below = [pid for pid in descendants(os.getpid()) if pid not in others]
            assert len(below) > 3
            assert listening_addresses(below) <= LOOPBACK
            yield
    wait_until(lambda: not any(map(is_running, below)), seconds=60)


def test_killed_worker_and_crashing_image_lose_no_image_and_repeat_none(
    exported: Export, photos: tuple[Path, list[str]], tmp_path: Path
) -> None:
    model, (images, broken), output = exported("masks.onnx"), photos, tmp_path / "out"
    words = ["predict", str(model), str(images), "--no-draw", "--batch-size", "2", "--out", str(tmp_path / "one")]
    assert cli.main(words) == 0
    crashing = images / f"shape-{CRASH}"
    crashing.write_bytes(max(images.iterdir(), key=lambda path: path.stat().st_size).read_bytes())
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: num_shards(output) >= 1)
        killed.append(worker_processes(os.getpid())[0])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        options = ManyOptions(format="coco", workers=2, engine="ray", shard_size=SHARD_SIZE, retries=3)
        lines: list[str] = []
        inference = InferenceOptions(batch_size=2)
        summary = predict_many(model, str(images), str(output), inference, options, report=lines.append)
    finally:
        crashing.unlink()
        thread.join()
    assert killed
    assert (summary.failures, summary.manifest.complete, summary.before) == ([], True, 0)
    assert summary.errors["crash of the decoder"] == 1
    assert any("its images were read one by one first" in line for line in lines)
    assert compare(output, tmp_path / "one/predictions.json", [*broken, crashing.name]) == 14
    assert not [path for path in (output / "detections").iterdir() if path.name.startswith(".")]


def descendants(parent: int) -> list[int]:
    """Return the processes below a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            above = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(above, []).append(int(entry.parent.name))
    found, waiting = [], [parent]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listening_addresses(processes: list[int]) -> set[str]:
    """Return the addresses, as the kernel writes them, at which processes listen for TCP connections."""
    sockets = set()
    for pid in processes:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(os.readlink(link))
            except OSError:
                continue
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                addresses.add(fields[1].partition(":")[0])
    return addresses


def shards_of(images: Path, count: int) -> list[Shard]:
    """Return shards of one image each."""
    paths = sorted(images.iterdir())[:count]
    return [Shard(i, count, i, (ImageItem(path.name, str(path)),)) for i, path in enumerate(paths)]


def test_failing_shards_and_stopped_workers_do_not_hold_the_others(
    exported: Export, photos: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, lines, options = exported("masks.onnx"), list[str](), InferenceOptions()
    (tmp_path / "detections").mkdir()
    (tmp_path / "detections/shard-00001-of-00006.json").mkdir()  # cannot be replaced by a file
    files, job = read_model_files(str(model), [model]), Job(str(tmp_path), format="coco")
    workers = RayWorkers(files, options, job, workers=2, retries=1, report=lines.append)
    assert workers.start().masks
    for name, seconds in (("START_SECONDS", 1.0), ("REPORT_SECONDS", 0.2), ("PING_SECONDS", 0.2)):
        monkeypatch.setattr(ray_engine, name, seconds)
    with pytest.raises(ResourceError, match=r"no worker has started in 1 s\. Each needs 2 CPU cores, and 0 CPU cores"):
        RayWorkers(files, options, job, workers=1, report=lines.append).start()
    assert [line for line in lines if "waiting for a worker, which needs 2 CPU cores" in line]
    import ray

    ray.wait(list(workers._tasks), num_returns=2)  # both have opened the model
    # Those of the test before may be listed until they have ended.
    processes = wait_until(lambda: len(found := worker_processes(os.getpid())) == 2 and found)
    monkeypatch.setattr(ray_engine, "START_SECONDS", 600.0)
    monkeypatch.setattr(ray_engine, "LOST_SECONDS", 15.0)  # a worker that starts on a busy machine replies late
    os.kill(processes[0], signal.SIGSTOP)  # as on a machine that has lost its network
    try:
        results: dict[int, Any] = {result.number: result for result in workers.run(shards_of(photos[0], 6))}
    finally:
        with contextlib.suppress(ProcessLookupError):  # Ray 2.47 leaves it and its CPUs to the next test
            os.kill(processes[0], signal.SIGKILL)
    assert any("has not replied for 15 s and is given up" in line for line in lines)
    assert isinstance(results[1], ShardFailure)
    assert "cannot be written" in results[1].message
    assert all(isinstance(results[number], ShardResult) for number in (0, 2, 3, 4, 5))


def test_errors_of_the_model_name_the_file_of_the_user(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model")
    workers = RayWorkers(read_model_files(str(damaged), [damaged]), InferenceOptions(), Job(str(tmp_path)), workers=1)
    with pytest.raises(CheckpointError, match=f"^{damaged}: "):
        workers.start()
