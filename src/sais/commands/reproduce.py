"""`sais reproduce WHAT`: the paper's tables and figures on any data set, one command each."""

from __future__ import annotations

import dataclasses
import importlib.util
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sais.commands.arguments import Count, Minimum, Seed, Side, Workers, parse, prepare_torch
from sais.commands.input_files import annotation_files, model_files
from sais.commands.options import check_command_line
from sais.data.paths import DataPaths
from sais.errors import CheckpointError, InputError, MissingDependencyError
from sais.text import print_lines, print_text

if TYPE_CHECKING:
    from sais.benchmark.timing import Conditions
    from sais.paper.experiments import ReproductionRequest
    from sais.paper.sweep import Budget

TABLES = ("table1", "table2", "table3")
ALL = (*TABLES, "table4", "figure2", "figure3")
MAX_OBJECTS = 100
"""Number of detections that all measured systems return per image."""


@dataclass(frozen=True)
class ReproduceArguments:
    """Reproduce the paper's experiments. Finished rows are not run again, interrupted ones are resumed, and several
    processes may share the work of one --out.

    table1: ratio kept or fixed input; table2: area-aware or center-aware targets; table3: with and without fusion;
    table4: speed and memory (with --train also AP); figure2: target maps; figure3: predictions; all: all of them.

    On COCO: sais reproduce table2 --data coco --seeds 0 1 2. On a laptop: add --base paper-lite0 --size 192 --epochs 6;
    then a row and seed on `animals` (700 images) takes 10 to 15 minutes of one core, and tables 1-3 with three seeds
    take 5 core-hours (they share 7 rows). On `sais make-shapes DIR --train 100 --valid 30` a row takes 2 to 3 minutes.
    table4 takes 8 minutes on two cores, with --peers 15; figures take seconds (figure3 trains first if needed).
    """

    what: tyro.conf.Positional[Literal["table1", "table2", "table3", "table4", "figure2", "figure3", "all"]]
    """Experiment."""
    data: Path | None = None
    """Folder of the data set: annotations/SPLIT.json and images/SPLIT (also a name in the folder $SAIS_DATA); table4
    needs it only with --train."""
    train_split: str = "train"
    """Split to train on."""
    valid_split: str = "valid"
    """Split to evaluate on."""
    out: Path = Path("runs/reproduce")
    """Folder of runs and results, with a page of all of them, index.html."""
    base: str = "sais-r50-768"
    """Recipe that the rows change: the paper's, or paper-lite0 for a machine without a GPU."""
    seeds: tuple[Seed, ...] = (0,)
    """Seeds; each row is trained once for each, and the tables show the spread."""
    rows: tuple[str, ...] = ()
    """Rows; default: all of the table. keep-ratio-padding-bug keep-ratio sais-area | fcos-area fcos-center
    sais-center | sais | sais-640-r50 sais-768-r50 sais-768-r101 sais-768-x101."""
    epochs: Count | None = None
    """Number of epochs; the milestones of a stepped schedule move in proportion."""
    max_iterations: Count | None = None
    """Stop after this number of iterations, for a trial."""
    batch_size: Count | None = None
    """Images per step; scales the learning rate unless --lr is given."""
    lr: float | None = None
    """Learning rate for one batch."""
    size: tuple[int, ...] = ()
    """Fixed input in pixels: height and width, or one number for both. Rows that keep the ratio follow it, as 1333x800
    follows 768x768."""
    backbone: str | None = None
    """Any timm model instead of the recipe's backbone."""
    evaluate_every: Annotated[int, Minimum(0)] = 0
    """Number of epochs between evaluations, for curves of AP; 0: only after the last epoch."""
    random_init: bool = False
    """Initialize the backbone randomly instead of from ImageNet weights."""
    workers: Workers | None = None
    """Number of processes that read images."""
    device: str | None = None
    """Device: auto, cpu, cuda or mps."""
    skip_broken: bool = False
    """Skip and count images that cannot be read, instead of stopping."""
    train: bool = False
    """table4: also train its models, at their own backbones and sizes. Without this option: with a GPU, --data and the
    paper's --base."""
    peers: tuple[str, ...] = ()
    """table4: module:function of further candidates; in a checkout of sais: peers.candidates:paper."""
    objects: Count = 100
    """table4: number of objects in the image, at most 100."""
    image_size: tuple[Side, Side] = (960, 1280)
    """table4: height and width of the image in pixels."""
    repeats: Count = 5
    """table4: number of timed runs of each system; medians are reported."""
    image_id: int | None = None
    """figure2: id of the image; default: an image on which the assigners differ."""
    model: Path | None = None
    """figure3: run or model file; default: the row `sais`, trained first if needed."""
    overwrite: bool = False
    """Replace existing files in --out that an earlier `sais reproduce` did not write."""


def run(argv: Sequence[str]) -> int:
    """Run `sais reproduce`."""
    arguments = parse(ReproduceArguments, argv, "sais reproduce WHAT")
    given = check_command_line(ReproduceArguments, argv, "sais reproduce")
    keys = ALL if arguments.what == "all" else (arguments.what,)
    _check(arguments, keys)
    prepare_torch("reproduce")
    _require_report_packages()
    from sais.checkpoint import find_checkpoint
    from sais.paper import experiments

    inputs = [*annotation_files(arguments.data), *(model_files(arguments.model) if arguments.model else [])]
    experiments.check_files(arguments.out, keys, inputs, arguments.overwrite)
    from sais.paper.sweep import base_experiment
    from sais.paper.tables import find_row

    for row in arguments.rows:
        find_row(row)
    if arguments.model is not None and not find_checkpoint(arguments.model).is_file():
        raise CheckpointError(f"--model {arguments.model}: no such run or model file. Check the path.")
    request = _request(arguments, shlex.join(["sais", "reproduce", *argv]))
    for line in base_experiment(request.budget)[1]:
        print_text(line)
    for key in keys:
        print_text(f"== {key}")
        if arguments.what == "all" and key.startswith("table") and not experiments.select_rows(key, arguments.rows):
            continue
        if key in TABLES:
            experiments.reproduce_table(key, request)
        elif key == "table4":
            trains = arguments.train if "train" in given else _trains_by_default(arguments)
            experiments.reproduce_table4(request, arguments.peers, _conditions(arguments), trains)
        elif key == "figure2":
            experiments.reproduce_figure2(request, arguments.image_id)
        else:
            experiments.reproduce_figure3(request, arguments.model)
        page = experiments.write_index(arguments.out)  # after each experiment, to be read while the next one runs
        text = arguments.out / f"{key}.md"
        if text.is_file():
            print_lines(text.read_text(encoding="utf-8"))
    print_text(f"open {page}")
    return 0


def _check(arguments: ReproduceArguments, keys: Sequence[str]) -> None:
    if arguments.data is None and (keys != ("table4",) or arguments.train):
        raise InputError(f"sais reproduce {arguments.what}: no data set to train and evaluate on. Give --data DIR.")
    if not arguments.seeds:
        raise InputError("sais reproduce: no seeds. Give --seeds at least one number.")
    if arguments.objects > MAX_OBJECTS:
        raise InputError(f"--objects {arguments.objects}: systems return {MAX_OBJECTS} objects per image. Give fewer.")
    if len(arguments.size) > 2:
        size = " ".join(map(str, arguments.size))
        raise InputError(f"--size {size}: more than two numbers. Give height and width, or one number for both.")


def _require_report_packages() -> None:
    """Raise MissingDependencyError before hours of training, not after them."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            message = f'sais reproduce: {package} is not installed. Run pip install "sais-seg[reproduce]".'
            raise MissingDependencyError(message, package, "reproduce")


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

    size = (arguments.size[0], arguments.size[-1]) if arguments.size else None
    shared = {f.name for f in dataclasses.fields(Budget)} & {f.name for f in dataclasses.fields(ReproduceArguments)}
    values = {name: getattr(arguments, name) for name in shared - {"size"}}
    return Budget(size=size, **values)


def _conditions(arguments: ReproduceArguments) -> Conditions:
    from sais.benchmark.timing import Conditions
    from sais.device import choose_device

    device = str(choose_device(arguments.device or "auto"))
    return Conditions(arguments.objects, arguments.image_size, repeats=arguments.repeats, device=device)


def _trains_by_default(arguments: ReproduceArguments) -> bool:
    """Return whether table4 trains its models where the command line does not say."""
    from sais.device import choose_device

    on_gpu = choose_device(arguments.device or "auto").type == "cuda"
    return on_gpu and arguments.data is not None and arguments.base == ReproduceArguments.base
