"""Time and memory of reading annotations of the size of COCO's: 118,000 images, 860,000 objects, 490 MB of JSON.

    python -m peers.annotations write --data /tmp/large        # once; the same file for the same options
    python -m peers.annotations measure --data /tmp/large

The file has the keys, the number format and the distributions of COCO's instances_train2017.json: objects per image,
polygons per object, points per polygon, 1 % crowds. The images are hard links to a few JPEG files. Each measurement
runs in a new process; its peak memory is VmHWM, the maximum of its resident pages, those of the mapped cache included.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from peers.entry import run_main
from sais.commands.arguments import parse
from sais.evaluation.coco_metrics import align_columns
from sais.io.atomic import atomic_write

SIZE = (480, 640)
"""(H, W) of the images."""
LINKS = 30_000
"""Number of hard links to one file; ext4 allows 65,000."""
BATCHES = 20
"""Number of batches that the loader reads."""
MODES = ("cold", "cached", "loader", "ranks")
"""cold: without the cache. cached: from it. loader: with two workers. ranks: two processes at the same time."""


@dataclass(frozen=True)
class Arguments:
    """Time and memory of reading annotations of the size of COCO's; see peers/README.md."""

    command: tyro.conf.Positional[Literal["write", "measure", "child"]]
    """write: write the data set. measure: print a table. child: what a measurement runs in its process."""
    data: Path
    """Folder of the data set."""
    images: int = 118_287
    """write: number of images."""
    objects: int = 860_001
    """write: number of objects."""
    seed: int = 0
    """write: seed of the outlines."""
    mode: Literal["cold", "cached", "loader", "ranks"] = "cold"
    """child: what to measure."""
    repeats: int = 3
    """measure: number of runs of each; the median counts."""


def write(data: Path, images: int, objects: int, seed: int) -> Path:
    """Write the data set, and return its annotation file.

    Args:
        data: folder to write to.
        images: number of images.
        objects: number of objects.
        seed: seed of the outlines.
    """
    path = data / "annotations" / "instances_train2017.json"
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "synthetic"}, "licenses": [{"id": 1, "name": "none"}], "images": [')
        file.write(", ".join(json.dumps(_image(number)) for number in range(1, images + 1)))
        file.write('], "annotations": [')
        for number, entry in enumerate(_annotations(images, objects, seed), 1):
            file.write((", " if number > 1 else "") + json.dumps(entry | {"id": number}))
        categories = [{"supercategory": "thing", "id": i, "name": f"class {i}"} for i in range(1, 81)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    _write_images(data / "images" / "train2017", images)
    return path


def _image(number: int) -> dict[str, Any]:
    name = f"{number:012d}.jpg"
    urls = {"coco_url": f"http://images.example.org/train2017/{name}", "flickr_url": f"http://farm.example.org/{name}"}
    sizes = {"height": SIZE[0], "width": SIZE[1], "date_captured": "2013-11-14 11:18:45"}
    return {"license": 1, "file_name": name, **urls, **sizes, "id": number}


def _annotations(images: int, objects: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield annotations without ids, not in the order of the images, as in COCO's file."""
    random = np.random.default_rng(seed)
    weights = random.lognormal(0.0, 0.9, images)
    owners = random.choice(images, objects, p=weights / weights.sum()) + 1
    limits = np.array([SIZE[1], SIZE[0]])
    for image_id in owners.tolist():
        category, crowd = int(random.integers(1, 81)), bool(random.random() < 0.01)
        if crowd:
            runs = random.integers(1, SIZE[0] * SIZE[1] // 900, 800)
            counts = [*runs.tolist(), SIZE[0] * SIZE[1] - int(runs.sum())]
            mask: Any = {"counts": counts, "size": list(SIZE)}
            box, area = [0.0, 0.0, float(SIZE[1]), float(SIZE[0])], float(runs[1::2].sum())
        else:
            mask, parts = [], [1, 2, 3, 5][int(np.searchsorted([0.915, 0.975, 0.99], random.random()))]
            center, radius = random.uniform(0.1, 0.9, 2) * limits, float(random.lognormal(3.3, 0.9))
            for _ in range(parts):
                points = int(np.clip(random.lognormal(2.72, 0.72), 4, 400))
                angles = np.sort(random.uniform(0, 2 * np.pi, points))
                spread = radius * random.uniform(0.6, 1.0, (points, 1))
                outline = center + spread * np.stack([np.cos(angles), np.sin(angles)], 1)
                mask.append(np.clip(outline, 0, limits).round(2).reshape(-1).tolist())
            corners = np.concatenate([np.array(part).reshape(-1, 2) for part in mask])
            low, high = corners.min(0), corners.max(0)
            box = [round(float(v), 2) for v in (*low, *np.maximum(high - low, 0.5))]
            area = round(0.6 * box[2] * box[3] + 0.0123, 4)
        entry = {"segmentation": mask, "area": area, "iscrowd": int(crowd), "image_id": image_id, "bbox": box}
        yield entry | {"category_id": category}


def _write_images(folder: Path, count: int) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((SIZE[1], SIZE[0]))
    for number in range(1, count + 1):
        file = folder / f"{number:012d}.jpg"
        if (number - 1) % LINKS == 0:
            file.unlink(missing_ok=True)
            image.save(file, quality=80)
            first = file
        elif not file.exists():
            os.link(first, file)


def memory(process: int | str = "self") -> dict[str, float]:
    """Return peak, private and proportional memory of a process in MB; the last counts shared pages by their share."""
    status = Path(f"/proc/{process}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    rollup = [line.split() for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]]
    values = {words[0]: int(words[1]) for words in rollup}
    private = values["Private_Clean:"] + values["Private_Dirty:"]
    return {"peak": peak / 1e3, "private": private / 1e3, "proportional": values["Pss:"] / 1e3}


def child(data: Path, mode: str) -> dict[str, Any]:
    """Read the training split, with `mode` loader also batches of it; returns seconds, memory and counts."""
    from sais.data.formats import read_dataset

    before = memory()["peak"]
    start, used = time.perf_counter(), time.process_time()
    split = read_dataset(data, "train")
    result: dict[str, Any] = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - used}
    result |= {"images": len(split.images), "before": before, "after_reading": memory()["peak"]}
    if mode == "loader":
        result |= _read_batches(split)
    return result | memory()


def _read_batches(split: Any) -> dict[str, Any]:
    from sais.config import AugmentConfig, InputConfig
    from sais.data.loader import training_loader

    start = time.perf_counter()
    loader, _ = training_loader(split, InputConfig(size=(320, 320)), AugmentConfig(), 16, 0, 2)
    batches = iter(loader)
    next(batches)
    first = time.perf_counter() - start
    for _ in range(BATCHES - 1):
        next(batches)
    workers = [memory(process.pid) for process in batches._workers]  # type: ignore[attr-defined]
    return {"first_batch": first, "workers": max(worker["private"] for worker in workers)}


def measure(data: Path, repeats: int) -> str:
    """Return a table of all modes."""
    rows = [["", "seconds", "CPU s", "peak MB", "before MB", "private MB", "largest worker MB"]]
    path = next((data / "annotations").glob("*.json"))
    for mode in MODES:
        results = [result for _ in range(repeats) for result in run_children(data, mode)]
        names = ("seconds", "cpu", "peak", "before", "private", "workers")
        medians = [statistics.median(result.get(name, 0) for result in results) for name in names]
        digits = (1, 1, 0, 0, 0, 0)
        rows.append([mode, *(f"{value:.{n}f}" for value, n in zip(medians, digits, strict=True))])
    return f"{path}: {path.stat().st_size / 1e6:.0f} MB\n{align_columns(rows)}"


def run_children(data: Path, mode: str) -> list[dict[str, Any]]:
    """Measure a reading in new processes, two with the mode ranks; return the results of `child`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if mode == "cold":
        environment["SAIS_CACHE"] = "off"
    command = [sys.executable, "-m", "peers.annotations", "child", "--data", str(data), "--mode", mode]
    count = 2 if mode == "ranks" else 1
    children = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [json.loads(process.communicate()[0]) for process in children]


def main(argv: Sequence[str]) -> int:
    """Run `python -m peers.annotations`."""
    arguments = parse(Arguments, argv, "python -m peers.annotations COMMAND")
    if arguments.command == "write":
        print(write(arguments.data, arguments.images, arguments.objects, arguments.seed))
    elif arguments.command == "child":
        print(json.dumps(child(arguments.data, arguments.mode)))
    else:
        print(measure(arguments.data, arguments.repeats))
    return 0


if __name__ == "__main__":
    run_main(main)
