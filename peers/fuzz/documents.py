"""Cases of text files: COCO annotations, saved detections and predictions, run logs, settings."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

from peers.fuzz.mutation import CODE_NAMES, json_text, mutate_bytes, mutate_json
from peers.fuzz.oracle import Case, run_command
from peers.fuzz.samples import Samples
from sais.errors import SaisError


@functools.cache
def _content(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def coco_annotations(rng: Random, samples: Samples, folder: Path) -> Case:
    """COCO annotations: `sais doctor`, `show` and `split`, the ground truth of every image, the metrics, training."""
    document = _content(samples.annotations)
    images = samples.images
    if rng.random() < 0.1:  # with a pipe and a device among the images
        images = Path(shutil.copytree(images, folder / "images"))
        os.mkfifo(images / "pipe.jpg")
        document = copy.deepcopy(document)
        document["images"][0]["file_name"] = rng.choice(("pipe.jpg", "/dev/zero", "../train.json"))
    path = folder / "train.json"
    path.write_bytes(json_text(rng, mutate_json(rng, document)))
    if rng.random() < 0.5:
        return Case(lambda: _use_annotations(path, images), "read_coco, read_sample, coco_metrics")
    check = ["doctor", str(path), "--image-folder", str(images)]
    split = ["split", str(path), "--out", "halves"]
    page = [*check, "--html", "page.html"]
    show = ["show", str(path), "--image-folder", str(images), "--out", "shown"]
    repair = [*check, "--fix", "repaired"]
    argv = rng.choice((check, page, [*check, "--json", "--no-decode"], repair, split, show))
    if rng.random() < 0.03:  # slow
        paths = ["--train-annotations", str(path), "--train-images", str(images), "--skip-broken"]
        argv = ["train", str(samples.settings), *paths, "--random-init", "--max-iterations", "2", "--no-report"]
    return Case(lambda: run_command(argv), "sais " + " ".join(argv))


def _use_annotations(path: Path, images: Path) -> None:
    """Read annotations and the ground truth of the images, and evaluate."""
    from sais.data.dataset import read_sample
    from sais.data.formats.coco import read_coco
    from sais.evaluation.coco_metrics import coco_metrics

    split = read_coco(path, images)
    failures = 0
    for record in itertools.islice(split.images, 50):
        try:
            read_sample(record)
        except SaisError:
            failures += 1
    coco_metrics(split, [])
    if failures:
        raise SaisError(f"{path}: {failures} malformed images. Fix them.")


def saved_detections(rng: Random, samples: Samples, folder: Path) -> Case:
    """Files of `Detections.save`, and predictions.json as labels, as a data set and in an output folder."""
    if rng.random() < 0.6:
        path = folder / "detections.json"
        path.write_bytes(json_text(rng, mutate_json(rng, _content(samples.detections))))
        return Case(lambda: _use_detections(path), "Detections.load")
    target = folder / "predictions"
    shutil.copytree(samples.predictions, target)
    path = target / "predictions.json"
    path.write_bytes(json_text(rng, mutate_json(rng, _content(path))))
    predict = ["predict", str(samples.graphs[0]), str(samples.images), "--no-draw"]
    again = [*predict, "--out", str(target)]  # over the changed file
    check = ["doctor", str(path), "--image-folder", str(samples.images)]
    argv = rng.choice(([*predict, "--like", str(path)], check, again, [*again, "--overwrite"]))
    return Case(lambda: run_command(argv), "sais " + " ".join(argv), may_change=(target,) if again[-1] in argv else ())


def _use_detections(path: Path) -> None:
    """Load detections and use everything that they offer."""
    import numpy as np

    from sais.results.detections import Detections
    from sais.results.draw import draw

    detections = Detections.load(path)
    detections.summary()
    detections.above(0.5)
    detections.rle()
    detections.polygons()
    detections.to_coco(1)
    height, width = detections.image_size
    if height * width < 10**6:
        detections.masks()
        draw(np.zeros((height, width, 3), np.uint8), detections)


def run_logs(rng: Random, samples: Samples, folder: Path) -> Case:
    """The files of a run's folder: `sais runs`, its comparison, its JSON, and a report."""
    run = folder / "runs" / "first"
    run.mkdir(parents=True)
    lines = (samples.run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    for number in rng.sample(range(len(lines)), rng.choice((1, 1, 3))):
        lines[number] = json_text(rng, mutate_json(rng, json.loads(lines[number]))).decode("utf-8", "surrogateescape")
    (run / "log.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    settings = samples.settings.read_bytes()
    if rng.random() < 0.4:
        settings = json_text(rng, mutate_json(rng, _content(samples.settings)))
    (run / "experiment.json").write_bytes(settings)
    other = shutil.copytree(samples.run, folder / "other", ignore=shutil.ignore_patterns("*.safetensors"))
    listing = ["runs", str(folder / "runs")]
    compare = ["runs", "compare", str(run), str(other)]
    report = (
        ["report", str(run), "--data", str(samples.data), "--out", "report.html"] if rng.random() < 0.05 else listing
    )
    argv = rng.choice((listing, [*listing, "--json"], compare, [*compare, "--json"], report))
    return Case(lambda: run_command(argv), "sais " + " ".join(argv), may_add=True)


def settings_files(rng: Random, samples: Samples, folder: Path) -> Case:
    """Settings in JSON and YAML: `sais recipes`, and the start of a run."""
    document = mutate_json(rng, _content(samples.settings))
    if rng.random() < 0.3:
        import yaml

        path = folder / "settings.yaml"
        try:
            text = yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")
        except yaml.YAMLError:  # a surrogate
            text = json.dumps(document).encode()
        path.write_bytes(mutate_bytes(rng, text) if rng.random() < 0.3 else text)
    else:
        path = folder / "settings.json"
        path.write_bytes(json_text(rng, document))
    argv = ["recipes", str(path)]
    if rng.random() < 0.1:
        for name in CODE_NAMES:  # trusted, since the user names the file; what the code raises is not our fault
            path.write_bytes(path.read_bytes().replace(name.encode(), f"{name}_missing".encode()))
        argv = [
            "train",
            str(path),
            "--data",
            str(samples.data),
            "--out",
            "run",
            "--max-iterations",
            "1",
            "--random-init",
            "--workers",
            "0",
        ]
    return Case(lambda: run_command(argv), "sais " + " ".join(argv))
