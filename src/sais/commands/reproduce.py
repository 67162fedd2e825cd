"""`sais reproduce WHAT`: the paper's tables and figures again, on any data set, by one command each."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from sais.commands.arguments import check_writable, parse, prepare_torch
from sais.data.paths import DataPaths
from sais.errors import SaisError

if TYPE_CHECKING:
    from sais.benchmark.timing import Conditions
    from sais.paper.experiments import ReproductionRequest
    from sais.paper.sweep import Budget

TABLES = ("table1", "table2", "table3")
ALL = (*TABLES, "table4", "figure2", "figure3")


@dataclass(frozen=True)
class ReproduceArguments:
    """Reproduce the paper's experiments. Rows that are finished are not run again, interrupted ones go on; several
    processes with the same --out share the work.

    table1 ratio kept or fixed input; table2 area-aware or center-aware targets; table3 with and without fusion;
    table4 speed and memory (--train: AP too); figure2 target maps; figure3 predictions; all of them.

    On COCO: sais reproduce table2 --data coco --seeds 0 1 2. On a laptop: add --base paper-lite0 --size 192 --epochs 6;
    then a row and seed of `animals` (700 images) takes 10 to 15 minutes of one core, and tables 1-3 with three seeds
    5 core-hours (they share 7 rows). On `sais make-shapes DIR --train 100 --valid 30` a row takes 2 to 3 minutes.
    table4 takes 8 minutes on two cores, with --peers 15; figures take seconds (figure3 trains first if need be).
    """

    what: tyro.conf.Positional[Literal["table1", "table2", "table3", "table4", "figure2", "figure3", "all"]]
    """Which one."""
    data: Path | None = None
    """Folder of the data set: annotations/SPLIT.json and images/SPLIT (also a name in the folder $SAIS_DATA). table4
    needs none, unless it trains."""
    train_split: str = "train"
    """Split to train on."""
    valid_split: str = "valid"
    """Split to measure on."""
    out: Path = Path("runs/reproduce")
    """Folder of runs and results; index.html in it shows all that it holds."""
    base: str = "sais-r50-768"
    """Recipe that the rows change: the paper's, or paper-lite0 for a machine without a GPU."""
    seeds: tuple[int, ...] = (0,)
    """Each row is trained once for each; the tables show the spread."""
    rows: tuple[str, ...] = ()
    """Only these rows: keep-ratio-slip keep-ratio sais-area | fcos-area fcos-center sais-center | sais |
    sais-640-r50 sais-768-r50 sais-768-r101 sais-768-x101."""
    epochs: int | None = None
    """Passes over the training images; a stepped lr drops after the same shares of them."""
    iterations: int | None = None
    """Stop after so many iterations, for a trial."""
    batch: int | None = None
    """Images in one step; lr is scaled with it unless given."""
    lr: float | None = None
    """Learning rate for one batch."""
    size: tuple[int, ...] = ()
    """Fixed input: height and width, or one number for both. Rows that keep the ratio follow it, as 1333x800 follows
    768x768."""
    backbone: str | None = None
    """Any timm model instead of the recipe's, as --model.backbone of `sais train`."""
    evaluate_every: int = 0
    """Epochs between evaluations, for curves of AP; 0: only after the last."""
    random_init: bool = False
    """Start backbones from random weights, not ImageNet's."""
    workers: int | None = None
    """Processes that read images."""
    device: str | None = None
    """auto, cpu, cuda, mps."""
    skip_broken: bool = False
    """Leave out images that cannot be read instead of stopping."""
    train: bool | None = None
    """table4: train its models too, at their own backbones and sizes. By default only where there is a GPU and --data,
    and --base is the paper's."""
    peers: tuple[str, ...] = ()
    """table4: also measure what these functions return; in a checkout of sais: peers.candidates:paper."""
    objects: int = 100
    """table4: objects of the image, at most 100."""
    image_size: tuple[int, int] = (960, 1280)
    """table4: height and width of the image."""
    repeats: int = 5
    """table4: turns of each system; the median counts."""
    image: int | None = None
    """figure2: image id; by default an image on which the rules differ."""
    model: Path | None = None
    """figure3: a trained run or model; by default the row `sais`, trained first if need be."""


def run(argv: Sequence[str]) -> int:
    """Run `sais reproduce`."""
    arguments = parse(ReproduceArguments, argv, "sais reproduce WHAT")
    wanted = ALL if arguments.what == "all" else (arguments.what,)
    if arguments.data is None and (wanted != ("table4",) or arguments.train):
        raise SaisError(f"sais reproduce {arguments.what} needs --data DIR, a data set to train and measure on")
    if not arguments.seeds or min(arguments.repeats, *arguments.image_size) < 1:
        raise SaisError("sais reproduce: give at least one of --seeds, and positive numbers as --image and --repeats")
    if not 1 <= arguments.objects <= 100:
        raise SaisError(f"--objects {arguments.objects}: from 1 to 100, which is what all systems keep of an image")
    for name, value in (("epochs", arguments.epochs), ("iterations", arguments.iterations), ("batch", arguments.batch)):
        if value is not None and value < 1:
            raise SaisError(f"--{name} {value}: must be 1 or more")
    prepare_torch("reproduce")
    import matplotlib  # noqa: F401, its lack is to be said before hours of training, not after

    check_writable(arguments.out)
    from sais.checkpoint import find_checkpoint
    from sais.paper import experiments
    from sais.paper.sweep import base_experiment
    from sais.paper.tables import find_row

    for row in arguments.rows:
        find_row(row)
    if arguments.model is not None and not find_checkpoint(arguments.model).is_file():
        raise SaisError(f"--model {arguments.model}: no such run or model file")
    request = _request(arguments, shlex.join(["sais", "reproduce", *argv]))
    for line in base_experiment(request.budget)[1]:
        print(line)
    for key in wanted:
        print(f"== {key}")
        if arguments.what == "all" and key.startswith("table") and not experiments.chosen_rows(key, arguments.rows):
            continue
        if key in TABLES:
            experiments.table(key, request)
        elif key == "table4":
            experiments.table_four(request, arguments.peers, _conditions(arguments), _trains(arguments))
        elif key == "figure2":
            experiments.figure_two(request, arguments.image)
        else:
            experiments.figure_three(request, arguments.model)
        page = experiments.page(arguments.out)  # after each, so that it can be looked at while the next one runs
        text = arguments.out / f"{key}.md"
        if text.is_file():
            print(text.read_text(encoding="utf-8"))
    print(f"open {page}")
    return 0


def _request(arguments: ReproduceArguments, command: str) -> ReproductionRequest:
    from sais.paper.experiments import ReproductionRequest

    data = None
    if arguments.data is not None:
        data = DataPaths(arguments.data, arguments.train_split, arguments.valid_split)
    return ReproductionRequest(
        data=data,
        out=arguments.out,
        budget=_budget(arguments),
        seeds=tuple(dict.fromkeys(arguments.seeds)),
        rows=arguments.rows,
        skip_broken=arguments.skip_broken,
        command=command,
    )


def _budget(arguments: ReproduceArguments) -> Budget:
    from sais.paper.sweep import Budget

    if len(arguments.size) > 2:
        raise SaisError(f"--size {' '.join(map(str, arguments.size))}: give height and width, or one number for both")
    size = (arguments.size[0], arguments.size[-1]) if arguments.size else None
    shared = {f.name for f in dataclasses.fields(Budget)} & {f.name for f in dataclasses.fields(ReproduceArguments)}
    values = {name: getattr(arguments, name) for name in shared - {"size"}}
    return Budget(size=size, **values)


def _conditions(arguments: ReproduceArguments) -> Conditions:
    from sais.benchmark.timing import Conditions
    from sais.device import choose_device

    device = str(choose_device(arguments.device or "auto"))
    return Conditions(arguments.objects, arguments.image_size, repeats=arguments.repeats, device=device)


def _trains(arguments: ReproduceArguments) -> bool:
    if arguments.train is not None:
        return arguments.train
    from sais.device import choose_device

    on_gpu = choose_device(arguments.device or "auto").type == "cuda"
    return on_gpu and arguments.data is not None and arguments.base == ReproduceArguments.base
