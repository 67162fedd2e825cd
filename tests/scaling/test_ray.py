"""`sais predict-many` with Ray on this machine: killed workers and drivers, equal results, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from peers.predict_many import compare, corrupt, predict_with_kills, wait_until
from sais.errors import CheckpointError
from sais.inference.options import InferenceOptions
from sais.scaling.items import ImageItem, Shard
from sais.scaling.local_engine import ShardFailure
from sais.scaling.ray_engine import RayWorkers, read_model_files, running_ray
from sais.scaling.shard_worker import Job, ShardResult

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="no Ray (extra ray)")]

Export = Callable[[str], Path]
COPIES = 8
"""Number of copies of each image of `shapes`."""
SHARD_SIZE = 2
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
"""127.0.0.1 as the kernel writes it, for IPv4 and IPv6."""


@pytest.fixture(scope="module")
def photos(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return a folder with many images, and the names of those that cannot be read."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(COPIES):
        for path in (shapes / "images").glob("*/*.jpg"):
            os.link(path, folder / f"{path.stem}_{i}.jpg")
    return folder / "mixed", corrupt(folder.glob("*.jpg"), folder / "mixed")


def test_killed_worker_and_driver_lose_no_image_repeat_none_and_leave_nothing(
    exported: Export, photos: tuple[Path, list[str]], tmp_path: Path
) -> None:
    model, (images, broken), output = exported("masks.onnx"), photos, tmp_path / "out"
    words = [sys.executable, "-m", "sais", "predict", str(model), str(images), "--no-draw", "--batch-size", "2"]
    subprocess.run([*words, "--out", str(tmp_path / "one")], check=True, stdout=subprocess.DEVNULL)
    count = len(list(images.iterdir()))
    command = [model, images, output, "--workers", 2, "--format", "coco", "--shard-size", SHARD_SIZE, "--batch-size", 2]
    below: list[int] = []

    def inspect(driver: int) -> None:
        below.extend(descendants(driver))
        assert len(below) > 3
        assert listening_addresses(below) <= LOOPBACK

    text = predict_with_kills(command, output, -(-count // SHARD_SIZE), inspect)
    wait_until(lambda: not any(map(is_running, below)), seconds=60)  # they end with the driver that was killed
    assert compare(output, tmp_path / "one/predictions.json", broken) == count - len(broken)
    assert f"continuing with the {count} images" in text
    assert f"complete: {count} images" in text
    assert json.loads((output / "manifest.json").read_text())["unreadable"] == len(broken)
    assert not list(output.rglob("*.writing"))


def descendants(parent: int) -> list[int]:
    """Return the processes below a process."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    children: dict[int, list[int]] = {}
    for line in listing.splitlines():
        pid, above = map(int, line.split())
        children.setdefault(above, []).append(pid)
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


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Run Ray on this machine during the tests of this module."""
    with running_ray(None, 2, 0):
        yield


def shards_of(images: Path, count: int) -> list[Shard]:
    """Return shards of one image each."""
    paths = sorted(images.iterdir())[:count]
    return [Shard(i, count, i, (ImageItem(path.name, str(path)),)) for i, path in enumerate(paths)]


@pytest.mark.usefixtures("local_ray")
def test_failing_shards_are_reported_and_others_continue(
    exported: Export, photos: tuple[Path, list[str]], tmp_path: Path
) -> None:
    model = exported("masks.onnx")
    (tmp_path / "detections").mkdir()
    (tmp_path / "detections/shard-00001-of-00003.json").mkdir()  # cannot be replaced by a file
    job = Job(str(tmp_path), format="coco")
    workers = RayWorkers(read_model_files(str(model), [model]), InferenceOptions(), job, workers=2, retries=1)
    description = workers.start()
    assert description.masks
    results: dict[int, Any] = {result.number: result for result in workers.run(shards_of(photos[0], 3))}
    assert isinstance(results[1], ShardFailure)
    assert "cannot be written" in results[1].message
    assert all(isinstance(results[number], ShardResult) for number in (0, 2))


@pytest.mark.usefixtures("local_ray")
def test_errors_of_the_model_name_the_file_of_the_user(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model")
    workers = RayWorkers(read_model_files(str(damaged), [damaged]), InferenceOptions(), Job(str(tmp_path)), workers=1)
    with pytest.raises(CheckpointError, match=f"^{damaged}: "):
        workers.start()
