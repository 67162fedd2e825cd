"""`sais demo`: the whole road on synthetic images in minutes: data, training, AP, drawings, report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sais.commands.arguments import check_writable, parse, prepare_torch, progress_bar
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.io.atomic import write_text
from sais.recipes import recipe

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.inference.predictor import Predictor


@dataclass(frozen=True)
class DemoArguments:
    """Make a synthetic data set, train a model on it, measure it on scenes it has not seen, draw and report."""

    out: Path = Path("demo")
    """Folder to write to."""
    recipe: str = "sais-lite"
    """Recipe to train."""
    train: int = 400
    """Images to train on."""
    valid: int = 80
    """Images to measure on."""
    epochs: int = 10
    """Passes over the training images."""
    steps: int | None = None
    """Stop after so many iterations, for a trial."""
    seed: int = 0
    """The same seed gives the same images and the same run."""


def run(argv: Sequence[str]) -> int:
    """Run `sais demo`."""
    arguments = parse(DemoArguments, argv, "sais demo")
    prepare_torch("demo")
    check_writable(arguments.out)
    from sais.engine.trainer import train
    from sais.evaluation.evaluate import evaluate
    from sais.inference.predictor import Predictor
    from sais.reports.run_report import write_report

    started = time.perf_counter()
    paths = DataPaths(data=_shapes(arguments))
    folder = _fresh(arguments.out)
    print(f"2/4 training {arguments.recipe} for {arguments.epochs} epochs into {folder}")
    unmeasured = dataclasses.replace(paths, valid="")  # it is measured below, once
    train(_experiment(arguments), unmeasured, folder, steps=arguments.steps)
    index = paths.valid_index()
    assert index is not None
    predictor = Predictor(folder)
    print(f"3/4 measuring it on {len(index.images)} scenes it has not seen")
    with progress_bar("measuring", len(index.images)) as progress:
        evaluation = evaluate(predictor, index, progress=progress)
    metrics = evaluation.metrics
    assert metrics is not None
    print(metrics.table())
    print("4/4 drawing")
    _draw(predictor, index, arguments.out)
    minutes = (time.perf_counter() - started) / 60
    write_text(arguments.out / "metrics.json", json.dumps(metrics.to_dict(), indent=2))
    write_report(folder, evaluation, out=arguments.out / "report.html")
    print(f"\ndone in {minutes:.1f} minutes; open {arguments.out / 'report.html'}\n\nnext:")
    print(f"  sais predict {folder} {paths.data}/images/valid   (shapes are all it knows)")
    print("  sais train sais-lite --data YOUR_FOLDER        (annotations/train.json, images/train; COCO format)")
    return 0


def _shapes(arguments: DemoArguments) -> Path:
    """The data set of this size and seed: made once, used again by later runs."""
    from sais.data.synthetic import write_shapes

    folder = arguments.out / f"shapes-{arguments.train}-{arguments.valid}-{arguments.seed}"
    if (folder / "complete").is_file():
        print(f"1/4 using the data set in {folder}")
        return folder
    print(f"1/4 making {arguments.train} + {arguments.valid} synthetic images in {folder}")
    write_shapes(folder, train=arguments.train, valid=arguments.valid, seed=arguments.seed)
    write_text(folder / "complete", "written by sais demo\n")
    return folder


def _experiment(arguments: DemoArguments) -> Experiment:
    """The recipe, made to learn from few images in minutes (docs/log.md has what each change brought).

    Small batches for more steps, no zoom, since every scene has the same scale, and more weight on the masks.
    """
    start = recipe(arguments.recipe)
    return dataclasses.replace(
        start,
        name=f"{start.name}-demo",
        augment=dataclasses.replace(start.augment, scale_jitter=(1.0, 1.0)),
        criterion=dataclasses.replace(start.criterion, mask_weight=2.0),
        optim=dataclasses.replace(start.optim, batch_size=4),
        schedule=dataclasses.replace(start.schedule, epochs=arguments.epochs),
        run=dataclasses.replace(start.run, seed=arguments.seed),
    )


def _fresh(out: Path) -> Path:
    number = 1
    while (out / f"run-{number}").exists():
        number += 1
    return out / f"run-{number}"


def _draw(predictor: Predictor, index: DatasetSplit, out: Path, count: int = 12) -> None:
    """Write predictions.jpg: pairs of what is there (left) and what the model found (right)."""
    from PIL import Image

    from sais.evaluation.visualize import objects_of
    from sais.io.images import read_image
    from sais.results.draw import contact_sheet, draw, draw_objects

    tiles: list[np.ndarray] = []
    captions: list[str] = []
    for record in index.images[:count]:
        image = read_image(record.path)
        detections = predictor(image).above(0.3)
        there = objects_of(record, index)
        tiles += [draw_objects(image, there.boxes, there.labels, there.class_names, there.cropped_masks)]
        tiles += [draw(image, detections)]
        captions += ["labeled", f"found: {detections.summary()}"]
    Image.fromarray(contact_sheet(tiles, columns=4, captions=captions)).save(out / "predictions.jpg", quality=92)
