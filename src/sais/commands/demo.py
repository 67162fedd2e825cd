"""`sais demo`: the whole road on synthetic pictures in minutes: data, training, AP, drawings, report."""

from __future__ import annotations

import dataclasses
import html
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sais.commands.arguments import check_writable, parse, prepare_torch, progress_bar
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.files import write_text
from sais.recipes import recipe

if TYPE_CHECKING:
    from sais.data.index import ImageRecord, Index
    from sais.predict import Predictor


@dataclass(frozen=True)
class DemoArguments:
    """Make a synthetic data set, train a model on it, measure it on scenes it has not seen, draw and report."""

    out: Path = Path("demo")
    """Folder to write to."""
    recipe: str = "sais-lite"
    """Recipe to train."""
    train: int = 400
    """Pictures to train on."""
    valid: int = 80
    """Pictures to measure on."""
    epochs: int = 10
    """Passes over the training pictures."""
    steps: int | None = None
    """Stop after so many iterations, for a trial."""
    seed: int = 0
    """The same seed gives the same pictures and the same run."""


def run(argv: Sequence[str]) -> int:
    """Run `sais demo`."""
    arguments = parse(DemoArguments, argv, "sais demo")
    prepare_torch("demo")
    check_writable(arguments.out)
    from sais.engine.evaluate import evaluate
    from sais.engine.train import train
    from sais.predict import Predictor

    started = time.perf_counter()
    paths = DataPaths(data=_shapes(arguments))
    folder = _fresh(arguments.out)
    print(f"2/4 training {arguments.recipe} for {arguments.epochs} epochs into {folder}")
    unmeasured = dataclasses.replace(paths, valid="")  # it is measured below, once
    train(_experiment(arguments), unmeasured, folder, steps=arguments.steps)
    trained = time.perf_counter()
    index = paths.valid_index()
    assert index is not None
    predictor = Predictor(folder)
    print(f"3/4 measuring it on {len(index.images)} scenes it has not seen")
    with progress_bar("measuring", len(index.images)) as progress:
        metrics = evaluate(predictor, index, progress=progress).metrics
    assert metrics is not None
    print(metrics.table())
    print("4/4 drawing")
    _draw(predictor, index, arguments.out)
    minutes = (time.perf_counter() - started) / 60
    figures = metrics.to_dict()
    write_text(arguments.out / "metrics.json", json.dumps(figures, indent=2))
    write_text(arguments.out / "report.html", _report(arguments, figures, (trained - started) / 60, minutes))
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
    print(f"1/4 making {arguments.train} + {arguments.valid} synthetic pictures in {folder}")
    write_shapes(folder, train=arguments.train, valid=arguments.valid, seed=arguments.seed)
    write_text(folder / "complete", "written by sais demo\n")
    return folder


def _experiment(arguments: DemoArguments) -> Experiment:
    """The recipe, made to learn from few pictures in minutes (docs/log.md has what each change brought).

    Small batches for more steps, no zoom, since every scene has the same scale, and more weight on the masks.
    """
    start = recipe(arguments.recipe)
    return dataclasses.replace(
        start,
        name=f"{start.name}-demo",
        augment=dataclasses.replace(start.augment, scale_jitter=(1.0, 1.0)),
        losses=dataclasses.replace(start.losses, mask_weight=2.0),
        optim=dataclasses.replace(start.optim, batch=4),
        schedule=dataclasses.replace(start.schedule, epochs=arguments.epochs),
        run=dataclasses.replace(start.run, seed=arguments.seed),
    )


def _fresh(out: Path) -> Path:
    number = 1
    while (out / f"run-{number}").exists():
        number += 1
    return out / f"run-{number}"


def _draw(predictor: Predictor, index: Index, out: Path, count: int = 12) -> None:
    """Write predictions.jpg: pairs of what is there (left) and what the model found (right)."""
    from PIL import Image

    from sais.draw import contact_sheet, draw
    from sais.images import read_picture

    tiles: list[np.ndarray] = []
    captions: list[str] = []
    for record in index.images[:count]:
        picture = read_picture(record.path)
        detections = predictor(picture).above(0.3)
        tiles += [_truth(picture, record, index.class_names), draw(picture, detections)]
        captions += ["labelled", f"found: {detections.summary()}"]
    Image.fromarray(contact_sheet(tiles, columns=4, captions=captions)).save(out / "predictions.jpg", quality=92)


def _truth(picture: np.ndarray, record: ImageRecord, class_names: tuple[str, ...]) -> np.ndarray:
    from sais.data.index import object_mask, trainable
    from sais.detections import Patch
    from sais.draw import draw_objects
    from sais.geometry.raster import inside

    objects = trainable(record, with_masks=True)
    patches = []
    for one in objects:
        mask = object_mask(one, record.size)
        assert mask is not None
        x1, y1 = (int(v) for v in np.floor(one.box[:2]))
        x2, y2 = (int(v) for v in np.ceil(one.box[2:]))
        patches.append(Patch(x1, y1, inside(mask, (x1, y1, x2, y2))))
    boxes = np.array([one.box for one in objects], np.float32).reshape(-1, 4)
    return draw_objects(picture, boxes, np.array([one.label for one in objects], np.int64), class_names, patches)


def _report(arguments: DemoArguments, figures: dict[str, Any], training: float, minutes: float) -> str:
    """A page a browser opens from disk: what was run, the figures, the drawings."""
    kinds = [kind for kind in ("box", "mask") if figures.get(kind)]
    names = [name for name in figures[kinds[0]] if name != "per_class"]
    rows = "".join(
        f"<tr><th>{name}</th>" + "".join(f"<td>{_percent(figures[k][name])}</td>" for k in kinds) + "</tr>"
        for name in names
    )
    classes = "".join(
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{_percent(figures[k]['per_class'].get(name))}</td>" for k in kinds)
        + "</tr>"
        for name in figures[kinds[-1]].get("per_class", {})
    )
    head = "".join(f"<th>{kind}</th>" for kind in kinds)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>sais demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 0 2rem 1rem 0; display: inline-table; vertical-align: top }}
th, td {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right }}
th:first-child {{ text-align: left }}
img {{ max-width: 100% }} code {{ background: #f3f3f3; padding: .1rem .3rem }}
</style></head><body>
<h1>sais demo</h1>
<p><code>{html.escape(arguments.recipe)}</code> learnt from {arguments.train} synthetic pictures in {arguments.epochs}
epochs ({training:.1f} minutes; {minutes:.1f} in all) and was measured on {arguments.valid} it
had not seen. Percent.</p>
<table><tr><th>COCO</th>{head}</tr>{rows}</table><table><tr><th>AP of</th>{head}</tr>{classes}</table>
<p>What is there, and what the model found at score 0.3 or more:</p>
<img src="predictions.jpg" alt="labelled and found objects, side by side">
<p>Next: <code>sais train sais-lite --data YOUR_FOLDER</code></p>
</body></html>
"""


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
