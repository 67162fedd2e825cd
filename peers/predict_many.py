"""`sais predict-many` at its limits: killed workers and drivers, memory of the driver, throughput of two workers.

    python -m peers.predict_many faults --model cats.onnx --data shared/data/coco_mini/images
    python -m peers.predict_many memory --model cats.onnx --data shared/data/coco_mini/images --images 100000
    python -m peers.predict_many scaling --model cats.onnx --data shared/data/coco_mini/images --images 1000

`faults` corrupts ten of the images, kills a worker and the driver in the middle, starts the driver again, and compares
every result with that of `sais predict`. `memory` predicts hard links to a few small images. `scaling` measures images
per second of one and of two workers with one thread each, between the first shards and the last; run it on a machine
without other work.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from PIL import Image

from sais.errors import SaisError
from sais.io.sources import is_image
from sais.scaling.shard_files import ERRORS, RESULTS

BROKEN = (b"", b"not an image", b"<html></html>", b"\xff\xd8" + bytes(200), b"\x89PNG\r\n\x1a\n")
"""Contents of files that cannot be read."""
NUM_BROKEN = 10
SMALL_SIDE = 64
"""Side in pixels of the images of `memory`."""
NUM_SMALL = 8
"""Number of different images of `memory`."""
START_SECONDS = 600.0
"""Time in which Ray starts on a busy machine."""
POLL_SECONDS = 0.05


class MeasurementError(SaisError):
    """What a measurement found wrong."""


def corrupt(images: Iterable[Path], folder: Path, count: int = NUM_BROKEN) -> list[str]:
    """Copy images to a folder, some of them with content that cannot be read; return the names of those.

    Args:
        images: image files with different names.
        folder: folder to create.
        count: number of images to corrupt, spread evenly.
    """
    folder.mkdir(parents=True)
    files = sorted(images)
    chosen = {(2 * i + 1) * len(files) // (2 * count): i for i in range(count)}
    for position, file in enumerate(files):
        if position in chosen:
            (folder / file.name).write_bytes(BROKEN[chosen[position] % len(BROKEN)])
        else:
            shutil.copyfile(file, folder / file.name)
    return [files[position].name for position in sorted(chosen)]


def start(arguments: Iterable[object]) -> subprocess.Popen[str]:
    """Start `sais predict-many` in a process of its own."""
    words = [sys.executable, "-m", "sais", "predict-many", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(
    condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = START_SECONDS
) -> Any:
    """Wait until a condition is true; return its value.

    Args:
        condition: function that returns the value.
        process: process that runs meanwhile.
        seconds: maximum time.

    Raises:
        MeasurementError: the process ended before, or it takes too long.
    """
    for _ in range(int(seconds / POLL_SECONDS)):
        ended = process is not None and process.poll() is not None
        value = condition()
        if value:
            return value
        if process is not None and ended:
            raise MeasurementError(f"the process ended early: {process.communicate()[0]}")
        time.sleep(POLL_SECONDS)
    raise MeasurementError(f"nothing happened in {seconds:g} s")


def num_shards(output: Path) -> int:
    """Return the number of shards that have been written."""
    return sum(path.name.startswith("shard-") for path in (output / RESULTS).glob("*"))


def worker_processes(driver: int) -> list[int]:
    """Return the processes of the workers below a driver."""
    parents, workers = {}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                title = (entry / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            parents[int(entry.name)] = int(status[1])
            if title.startswith(b"ray::ShardActor"):
                workers.append(int(entry.name))

    def is_below(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return sorted(filter(is_below, workers))


def peak_memory(pid: int) -> int:
    """Return the maximum resident memory of a process so far, in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def predict_with_kills(arguments: list[object], output: Path, shards: int) -> str:
    """Run `sais predict-many`; kill a worker after a third of the shards and the driver after two; run it again.

    Args:
        arguments: words after the command's name.
        output: its output folder.
        shards: number of shards.

    Returns:
        What the second run printed.

    Raises:
        MeasurementError: a run fails.
    """
    process = start(arguments)
    try:
        wait_until(lambda: num_shards(output) >= shards // 3, process)
        os.kill(worker_processes(process.pid)[0], signal.SIGKILL)
        wait_until(lambda: num_shards(output) >= 2 * shards // 3, process)
    finally:
        process.kill()
        process.wait()
    if num_shards(output) >= shards:
        raise MeasurementError("all shards were complete before the driver was killed")
    process = start(arguments)
    text = process.communicate()[0]
    if process.returncode:
        raise MeasurementError(f"exit code {process.returncode}: {text}")
    return text


def compare(output: Path, reference: Path, broken: Iterable[str]) -> int:
    """Compare COCO shards with the predictions.json of `sais predict`; return the number of good images.

    Raises:
        MeasurementError: an image is missing or there twice, a result differs, or the table of errors is wrong.
    """
    documents = [json.loads(path.read_text()) for path in sorted((output / RESULTS).glob("*.json"))]
    names = [image["file_name"] for document in documents for image in document["images"]]
    expected = _by_name(json.loads(reference.read_text()))
    if sorted(names) != sorted(expected):
        raise MeasurementError(f"{len(names)} images ({len(set(names))} different) instead of {len(expected)}")
    found: dict[str, Any] = {}
    for document in documents:
        found |= _by_name(document)
    different = [name for name in expected if found[name] != expected[name]]
    if different:
        raise MeasurementError(f"{len(different)} images have other results, such as {different[0]}")
    tables = sorted((output / ERRORS).glob("*.jsonl"))
    listed = [json.loads(line)["file_name"] for path in tables for line in path.read_text().splitlines()]
    if listed != sorted(broken):
        raise MeasurementError(f"unreadable images: {listed} instead of {sorted(broken)}")
    return len(names)


def _by_name(document: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the annotations of each image of a COCO file, without ids."""
    names = {image["id"]: image["file_name"] for image in document["images"]}
    annotations: dict[str, list[Any]] = {name: [] for name in names.values()}
    for entry in document["annotations"]:
        annotations[names[entry["image_id"]]].append({k: v for k, v in entry.items() if k not in ("id", "image_id")})
    return annotations


@dataclass(frozen=True)
class Arguments:
    """Measure `sais predict-many`."""

    measurement: Annotated[Literal["faults", "memory", "scaling"], tyro.conf.Positional]
    model: Path
    """Exported model."""
    data: Path
    """Folder whose images, also those in subfolders, are used."""
    out: Path = Path("predict_many")
    """Folder for images and results; it must not exist."""
    images: int = 1_000
    """Number of images of `memory` and `scaling`."""


def faults(arguments: Arguments, files: list[Path]) -> str:
    """Compare the results of an interrupted run with those of `sais predict`."""
    images, output = arguments.out / "images", arguments.out / "shards"
    broken = corrupt(files, images)
    words = [sys.executable, "-m", "sais", "predict", str(arguments.model), str(images), "--no-draw"]
    subprocess.run([*words, "--out", str(arguments.out / "reference")], check=True, stdout=subprocess.DEVNULL)
    command: list[object] = [arguments.model, images, output, "--workers", 2, "--format", "coco", "--shard-size", 8]
    text = predict_with_kills(command, output, -(-len(files) // 8))
    good = compare(output, arguments.out / "reference/predictions.json", broken)
    return f"{text}{good} images once each, equal to sais predict; {len(broken)} unreadable ones listed"


def memory(arguments: Arguments, files: list[Path]) -> str:
    """Measure the maximum memory of the driver."""
    images, output = arguments.out / "images", arguments.out / "shards"
    images.mkdir(parents=True)
    for i, file in enumerate(files[:NUM_SMALL]):
        with Image.open(file) as image:
            image.convert("RGB").resize((SMALL_SIDE, SMALL_SIDE)).save(images / f"{i:07d}.jpg")
    for i in range(NUM_SMALL, arguments.images):
        os.link(images / f"{i % NUM_SMALL:07d}.jpg", images / f"{i:07d}.jpg")
    process = start([arguments.model, images, output, "--workers", 2, "--format", "coco"])
    peak = 0

    def is_finished() -> bool:
        nonlocal peak
        peak = max(peak, peak_memory(process.pid))
        return process.poll() is not None

    wait_until(is_finished, process, 24 * 3600)
    text = process.communicate()[0]
    count = sum(len(json.loads(path.read_text())["images"]) for path in (output / RESULTS).glob("*.json"))
    if process.returncode or count != arguments.images:
        raise MeasurementError(f"{count} images: {text}")
    return f"{text}{count} images; maximum memory of the driver {peak / 2**20:.0f} MB"


def scaling(arguments: Arguments, files: list[Path]) -> str:
    """Measure the throughput of one and of two workers."""
    images = arguments.out / "images"
    images.mkdir(parents=True)
    for i in range(arguments.images):
        shutil.copyfile(files[i % len(files)], images / f"{i:06d}{files[i % len(files)].suffix}")
    throughputs = []
    for workers in (1, 2):
        output = arguments.out / f"shards_{workers}"
        words = [arguments.model, images, output, "--workers", workers, "--engine", "ray", "--threads", 1]
        process = start([*words, "--format", "coco", "--shard-size", 16])
        text = process.communicate()[0]
        if process.returncode:
            raise MeasurementError(text)
        times = sorted(path.stat().st_mtime for path in (output / RESULTS).glob("*"))[2 * workers - 1 :]
        throughputs.append(16 * (len(times) - 1) / (times[-1] - times[0]))
    single, double = throughputs
    return f"1 worker: {single:.2f} images/s; 2 workers: {double:.2f} images/s; {double / single:.2f} times"


def main() -> int:
    """Run a measurement."""
    arguments = tyro.cli(Arguments)
    files = sorted(path for path in arguments.data.rglob("*") if is_image(path))
    measure = {"faults": faults, "memory": memory, "scaling": scaling}[arguments.measurement]
    try:
        print(measure(arguments, files))
    except MeasurementError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
