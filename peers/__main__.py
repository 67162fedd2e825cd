"""`python -m peers WHAT`, from the root of a checkout: SAIS beside its peers.

    accuracy   train SAIS and the peers on one data set, same budget, and compare AP
    speed      time and memory of the paper's models and the peers, and of what is installed of others
    ratios     the ratios of docs/performance.md: post-processing, small models, Mask R-CNN, YOLACT, runtimes
    evaluation seconds outside the network of an evaluation, against whole frames and pycocotools
    memory     bytes kept for backward, part by part, batch-norm frozen for all, and as YOLACT's paper trains it
    loader     images a second and core, against the usual pipeline of torchvision, and that both say the same
    kills      kill a training run at random moments and resume it: nothing may be lost
    training   the same of SAIS-R50-768 with all that it need not keep, Mask R-CNN, FCOS and YOLACT, and times of a step

Like `sais reproduce`, they leave their results in --out and show them on its page.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from sais.commands.arguments import check_writable, parse, prepare_torch
from sais.errors import SaisError
from sais.io.atomic import write_text

FULL, LITE = ("peers.candidates:few", "peers.installed:candidates"), ("peers.candidates:lite",)
"""Who is timed: beside SAIS' rows of Table IV, or the three of the comparison of accuracy."""

KEPT = ("network", "post", "end to end")


What = Literal["accuracy", "speed", "ratios", "evaluation", "memory", "training", "loader", "kills"]


@dataclass(frozen=True)
class Arguments:
    """SAIS beside its peers, under the same conditions. See peers/README.md."""

    what: tyro.conf.Positional[What]
    """What to compare."""
    data: Path | None = None
    """accuracy, loader: folder of the data set (also a name in the folder $SAIS_DATA)."""
    out: Path = Path("runs/reproduce")
    """Folder of runs and results, that of `sais reproduce`."""
    base: str = "paper-lite0"
    """accuracy: recipe whose backbone, width, input and optimizer all share."""
    epochs: int | None = None
    """accuracy: passes over the training images."""
    iterations: int | None = None
    """accuracy: stop after so many, for a trial."""
    size: int | None = None
    """accuracy, loader: side of the square input."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """accuracy: of SAIS."""
    peer_seeds: tuple[int, ...] = (0,)
    """accuracy: of the peers, at the best learning rate of their search."""
    peers: tuple[Literal["yolact", "mask-rcnn"], ...] = ("yolact", "mask-rcnn")
    """accuracy: which."""
    factors: tuple[float, ...] = (0.5, 1.0, 2.0)
    """accuracy: learning rates that a peer's search tries, as multiples of the recipe's."""
    own_factors: tuple[float, ...] = ()
    """accuracy: other learning rates to try for SAIS, shown beside the peers' search."""
    workers: int | None = None
    """accuracy: processes that read images."""
    device: str = "auto"
    """auto, cpu, cuda."""
    repeats: int = 5
    """speed, ratios, training, loader: turns of each system; the median counts."""
    objects: int = 100
    """speed, ratios, evaluation: objects found on an image."""
    image: tuple[int, int] = (960, 1280)
    """speed, ratios: height and width of the image."""
    rows: tuple[str, ...] = ("sais-640-r50", "sais-768-r50")
    """speed: rows of Table IV that are timed."""
    lite: bool = False
    """speed: time the small models of `accuracy` instead, at 192x192."""
    kills: int = 200
    """kills: how many in all."""
    images: int = 500
    """evaluation, loader: how many, at most."""
    only: tuple[str, ...] = ()
    """memory, training: names of contestants; all where none is given."""
    batch: int = 2
    """training: images in a step that is timed."""


def main(argv: Sequence[str]) -> int:
    """Run `python -m peers`."""
    arguments = parse(Arguments, argv, "python -m peers WHAT")
    prepare_torch("peers")
    check_writable(arguments.out)
    command = shlex.join(["python", "-m", "peers", *argv])
    runs = {"accuracy": _accuracy, "speed": _speed, "ratios": _ratios, "evaluation": _evaluation}
    runs |= {"memory": _memory, "training": _training, "loader": _loader, "kills": _kills}
    print(runs[arguments.what](arguments, command))
    return 0


def _accuracy(arguments: Arguments, command: str) -> str:
    from peers.accuracy import Comparison, compare
    from sais.data.paths import DataPaths
    from sais.paper.sweep import Budget

    if arguments.data is None:
        raise SaisError("python -m peers accuracy needs --data DIR")
    budget = Budget(
        base=arguments.base,
        epochs=arguments.epochs,
        iterations=arguments.iterations,
        size=(arguments.size, arguments.size) if arguments.size else None,
        workers=arguments.workers,
        device=arguments.device,
    )
    return compare(
        Comparison(
            DataPaths(arguments.data),
            arguments.out,
            budget,
            peers=arguments.peers,
            seeds=arguments.seeds,
            peer_seeds=arguments.peer_seeds,
            factors=arguments.factors,
            own_factors=arguments.own_factors,
            command=command,
        )
    )


def _speed(arguments: Arguments, command: str) -> str:
    from sais.benchmark.timing import Conditions
    from sais.device import choose_device
    from sais.paper import experiments, table4

    device = str(choose_device(arguments.device))
    conditions = Conditions(arguments.objects, arguments.image, repeats=arguments.repeats, device=device)
    if arguments.lite:
        measured = table4.measure((), LITE, conditions)
        title, columns, rows = "SAIS and its peers: speed of the small models", *table4.measured_lines(measured)
        table = Table("lite", title, table4.in_words(measured), columns, rows, measured["notes"])
        return _leave(table, arguments.out, command)
    request = experiments.ReproductionRequest(None, arguments.out, rows=arguments.rows, command=command)
    experiments.table_four(request, FULL, conditions, train=False)
    experiments.page(arguments.out)
    return (arguments.out / "table4.md").read_text(encoding="utf-8")


def _ratios(arguments: Arguments, command: str) -> str:
    import torch

    from peers import ratios
    from sais.benchmark.timing import Conditions
    from sais.engine.environment import describe_environment, format_environment
    from sais.paper.comparison import markdown_table

    post_times, post_ratios = ratios.assembly(arguments.repeats)
    conditions = Conditions(arguments.objects, arguments.image)
    times, quotients = ratios.systems(conditions, arguments.repeats)
    bars = ("as shipped", "bar", "blocks kept", "bar")
    tables = [
        (("systems", "against", *bars), quotients),
        (("post-processing: patches of SAIS", "against", *bars, "memory", "bar"), post_ratios),
        (("system", "fit", "network", "post", "dense", "end to end", *(f"{w}, kept" for w in KEPT)), times),
        (("post-processing", "way", "as shipped", "blocks kept", "memory added, MiB"), post_times),
    ]
    said = (
        f"`{command}`: {format_environment(describe_environment(torch.device('cpu')))}; {arguments.objects} objects on "
        f"{arguments.image[1]} x {arguments.image[0]}, milliseconds, medians of {arguments.repeats} turns."
    )
    text = "\n\n".join([said, *(markdown_table(columns, rows) for columns, rows in tables if rows)])
    write_text(arguments.out / "ratios.md", text + "\n")
    return text


def _evaluation(arguments: Arguments, command: str) -> str:
    import torch

    from peers import evaluation
    from sais.commands.arguments import progress_bar
    from sais.engine.environment import describe_environment, format_environment
    from sais.paper.comparison import markdown_table

    with progress_bar("images", arguments.images) as progress:
        found = evaluation.measure(arguments.images, arguments.objects, progress)
    columns = ("way", "masks made and encoded, s", "matched, s", "together", "ratio", "box AP", "mask AP")
    said = f"`{command}`: {format_environment(describe_environment(torch.device('cpu')))}; {arguments.images} images of 640 x 480"
    text = f"{said}, {arguments.objects} detections each.\n\n{markdown_table(columns, list(evaluation.lines(found)))}"
    write_text(arguments.out / "evaluation.md", text + "\n")
    return text


def _kills(arguments: Arguments, command: str) -> str:
    from peers import kills
    from sais.commands.arguments import progress_bar

    with progress_bar("kills", arguments.kills) as progress:
        toll = kills.kill_and_resume(arguments.kills, arguments.out / "kills", progress=progress)
    if toll.faults:
        raise SaisError(f"after {toll.kills} kills: " + "; ".join(toll.faults))
    return (
        f"`{command}`: {toll.kills} kills in {toll.runs} runs, {toll.before_the_first_checkpoint} before the first "
        f"checkpoint, {toll.while_writing} while one was written. No checkpoint was unreadable, every run ended as the "
        "undisturbed one, to the bit."
    )


def _loader(arguments: Arguments, command: str) -> str:
    import torch

    from peers import loader
    from sais.data.formats import read_dataset
    from sais.data.paths import locate
    from sais.engine.environment import describe_environment, format_environment
    from sais.paper.comparison import markdown_table

    torch.set_num_threads(1)
    data = locate(arguments.data or Path("coco_mini"))
    index, side = read_dataset(data, "train"), arguments.size or 768
    annotations, number = loader.coco_file(data), min(arguments.images, len(index.images))
    found = loader.measure(loader.ways(index, annotations, (side, side)), number, arguments.repeats)
    agreement = loader.compare(index, annotations, (side, side), number)
    said = (
        f"`{command}`: {format_environment(describe_environment(torch.device('cpu')))}; {number} images of {data.name} at {side} x "
        f"{side}, one process, one thread, {arguments.repeats} turns."
    )
    speed = markdown_table(
        ("pipeline", "images / s / core", "slowest - quickest turn", "ours is quicker by"),
        list(loader.speed_lines(found)),
    )
    same = markdown_table(("compared", "difference"), list(loader.agreement_lines(agreement)))
    text = f"{said}\n\n{speed}\n\n{same}"
    write_text(arguments.out / "loader.md", text + "\n")
    return text


def _memory(arguments: Arguments, command: str) -> str:
    from sais.benchmark.candidates import find_candidates
    from sais.benchmark.timing import OWN, Conditions, measure_memory
    from sais.device import choose_device
    from sais.paper import table4
    from sais.resolve import suggest

    sources = [OWN, "peers.candidates:paper", "peers.candidates:other_yolacts"]
    contestants = [one for source in sources for one in find_candidates(source)]
    known = [one.name for one in contestants]
    for name in arguments.only:
        if name not in known:
            raise SaisError(f"--only '{name}': nobody of that name{suggest(name, known)}")
    device = str(choose_device(arguments.device))
    found = measure_memory(sources, arguments.only, Conditions(device=device), inference=False)
    columns, rows = table4.parts_lines({"memory": [asdict(one) for one in found]})
    title = "Training memory, part by part"
    intro = (
        "MiB of activations kept for backward for one more training image with ten objects, fp32, each storage once, "
        "parameters left out; the same on every machine. Batch-norm, stem and C2 are frozen unless said. Mask R-CNN "
        "trains on 512 regions, a quarter of which have an object, planted among its proposals as a trained network's."
    )
    notes = table4.notes_of([one for one in contestants if one.name in {row[0] for row in rows}])
    return _leave(Table("memory", title, intro, columns, rows, notes), arguments.out, command)


def _training(arguments: Arguments, command: str) -> str:
    import torch

    from peers import training
    from sais.benchmark.training import training_table
    from sais.device import choose_device
    from sais.engine.environment import describe_environment, format_environment
    from sais.paper.comparison import markdown_table

    device = str(choose_device(arguments.device))
    rows = training.measure(arguments.repeats, arguments.batch, device, arguments.only)
    columns = ("of Mask R-CNN's", "bytes", "bar", "s a step", "blocks kept", "of the processor", "bar")
    said = (
        f"`{command}`: {format_environment(describe_environment(torch.device(device)))}; MB kept for backward for one image with "
        f"ten objects, each storage once, parameters left out; steps of {arguments.batch}, medians of "
        f"{arguments.repeats} turns."
    )
    tables = [markdown_table(*training_table(rows)), markdown_table(columns, training.ratios(rows))]
    text = "\n\n".join([said, *tables])
    write_text(arguments.out / "training.md", text + "\n")
    return text


@dataclass(frozen=True)
class Table:
    """What was measured, and what a reader must know of it."""

    key: str
    """Of the files it is written to."""
    title: str
    intro: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[tuple[str, str]]
    """(system, what is to be known of it)."""


def _leave(table: Table, out: Path, command: str) -> str:
    """Write a table where the page finds it, and as Markdown, which is returned."""
    from sais.paper import experiments
    from sais.paper.comparison import markdown_list, markdown_table

    state: dict[str, Any] = {"kind": "plain", "title": table.title, "intro": table.intro, "command": command}
    state |= {"tables": [[table.columns, table.rows]], "notes": table.notes}
    write_text(out / f"{table.key}.json", json.dumps(state, indent=1) + "\n")
    parts = [f"## {table.title}", table.intro, markdown_table(table.columns, table.rows), markdown_list(table.notes)]
    text = "\n\n".join(parts) + "\n"
    write_text(out / f"{table.key}.md", text)
    experiments.page(out)
    return text


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SaisError as error:
        sys.exit(f"peers: error: {error}")
