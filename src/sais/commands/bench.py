"""`sais bench`: time and memory, measured on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sais.commands.arguments import check_writable, make_folder, need_torch, parse, progress_bar
from sais.errors import SaisError
from sais.io.atomic import write_bytes, write_text

if TYPE_CHECKING:
    from sais.benchmark.models import ModelRow, ModelsRequest
    from sais.benchmark.timing import Conditions

MEBIBYTE = 2**20


@dataclass(frozen=True)
class BenchArguments:
    """Measure time and memory.

    models: recipes, trained models and exported graphs from an image to its masks, side by side.
    curves: how masks scale, with 1 to 1,000 objects and images of 0.3 to 50 megapixels; a plot with --out.
    masks: 100 masks on a 1280x960 image, box-local against full-frame.
    training: bytes kept for backward, part by part, and time and peak of a training step.

    Objects are planted into the networks' outputs, so that all have the same work to do; weights change no time.
    """

    what: tyro.conf.Positional[Literal["models", "curves", "masks", "training"]]
    """What to measure."""
    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL")] = ()
    """models: recipes, model files, folders of runs, or what `sais export` wrote (.onnx, .xml). training: recipes,
    model files, folders of runs."""
    objects: int | None = None
    """models, masks: objects on the image, 100 unless given; training: 10."""
    size: tuple[int, int] = (960, 1280)
    """models, masks: height and width of the image."""
    repeats: int = 7
    """Runs of each; the median counts."""
    input: int | None = None
    """models, training: side of the network's input, where it is to differ from the recipe's."""
    precisions: tuple[Literal["fp32", "bf16", "fp16"], ...] = ("fp32",)
    """models: fp32, bf16, fp16 (training: not fp16); those that a device or runtime has not are left out (CPUs and
    OpenVINO have no fp16, an .onnx is as it was exported)."""
    compiled: bool = False
    """models: by torch.compile, too."""
    batches: tuple[int, ...] = (1,)
    """models: images in one pass; exported graphs take any number."""
    batch: int = 2
    """training: images in one step."""
    recompute: tuple[Literal["none", "norms", "all"], ...] = ("none", "norms", "all")
    """training: what backward computes again, as --run.activation-checkpointing of `sais train` takes it."""
    times: bool = True
    """training: time the steps, too; --no-times saves the time."""
    peers: tuple[str, ...] = ()
    """models, training: other systems, as module:function that returns contestants, for example
    peers.installed:candidates."""
    only: tuple[str, ...] = ()
    """models: which of the peers. training: which of all."""
    device: str = "auto"
    """models, training: auto, cpu, cuda, mps."""
    counts: tuple[int, ...] = (1, 3, 10, 30, 100, 300, 1000)
    """curves: objects."""
    megapixels: tuple[float, ...] = (0.3, 1, 3, 12, 25, 50)
    """curves: of the image."""
    memory: bool = True
    """Measure memory, too; --no-memory saves the time."""
    out: Path | None = None
    """models, curves, training: folder for the figures as JSON, and the plot of the curves."""


def run(argv: Sequence[str]) -> int:
    """Run `sais bench`."""
    arguments = parse(BenchArguments, argv, "sais bench WHAT")
    need_torch("bench")
    numbers = (arguments.repeats, *arguments.size, *arguments.batches, arguments.batch)
    if min(numbers) < 1 or (arguments.objects is not None and arguments.objects < 1):
        raise SaisError("sais bench: --objects, --size, --repeats, --batch and --batches must be 1 or more")
    if arguments.models and arguments.what not in ("models", "training"):
        raise SaisError(f"sais bench {arguments.what} takes no model; did you mean sais bench models?")
    _check_options(arguments)
    if arguments.out is not None:
        check_writable(arguments.out)
    run = {"models": _models, "curves": _curves, "masks": _masks, "training": _training}[arguments.what]
    run(arguments)
    return 0


def _check_options(arguments: BenchArguments) -> None:
    """Raise SaisError where an option is given that would do nothing."""
    default = BenchArguments("masks")
    if arguments.what == "curves" and (arguments.objects, arguments.size) != (default.objects, default.size):
        raise SaisError("sais bench curves: --objects and --size go with models and masks; here --counts, --megapixels")
    if arguments.what == "masks" and arguments.out is not None:
        raise SaisError("sais bench masks: --out goes with models, curves and training")
    alone = (arguments.batch, arguments.recompute, arguments.times)
    if arguments.what != "training" and alone != (default.batch, default.recompute, default.times):
        raise SaisError(f"sais bench {arguments.what}: --batch, --recompute and --no-times go with training")
    if arguments.what == "training" and (arguments.compiled, arguments.batches) != (default.compiled, default.batches):
        raise SaisError("sais bench training: --compiled and --batches go with models; here --batch")
    if arguments.what == "training" and "fp16" in arguments.precisions:
        raise SaisError("sais bench training: --precisions are fp32 and bf16")
    if arguments.what == "curves" and arguments.out is not None:
        from sais.benchmark.scaling import need_matplotlib

        need_matplotlib()


def _masks(arguments: BenchArguments) -> None:
    from sais.benchmark.masks import bench_masks

    bench_masks(arguments.objects or 100, arguments.size, repeats=arguments.repeats, memory=arguments.memory)


def _models(arguments: BenchArguments) -> None:
    from sais.benchmark.models import ModelsRequest, bench_models
    from sais.benchmark.timing import Conditions
    from sais.device import choose_device

    if not arguments.models and not arguments.peers:
        raise SaisError("sais bench models needs a MODEL: a recipe (sais-lite), a trained model or an exported graph")
    side = None if arguments.input is None else (arguments.input, arguments.input)
    request = ModelsRequest(
        arguments.models,
        arguments.precisions,
        arguments.compiled,
        arguments.batches,
        side,
        arguments.peers,
        arguments.only,
    )
    device = str(choose_device(arguments.device))
    conditions = Conditions(arguments.objects or 100, arguments.size, repeats=arguments.repeats, device=device)
    rows = bench_models(request, conditions, arguments.memory)
    _print_models(rows, conditions)
    if arguments.out is not None:
        _write(arguments.out / "models.json", _models_json(rows, request, conditions))


def _training(arguments: BenchArguments) -> None:
    from sais.benchmark.training import TrainingRequest, bench_training, training_table
    from sais.device import choose_device

    if not arguments.models and not arguments.peers:
        raise SaisError("sais bench training needs a MODEL: a recipe (sais-lite), a trained model or a run")
    request = TrainingRequest(
        arguments.models,
        arguments.recompute,
        arguments.precisions,
        arguments.objects or 10,
        arguments.batch,
        None if arguments.input is None else (arguments.input, arguments.input),
        arguments.peers,
        arguments.only,
    )
    device = str(choose_device(arguments.device))
    rows = bench_training(request, arguments.repeats, device, arguments.times)
    columns, lines = training_table(rows)
    title = f"MB of activations kept for backward for one image of {request.objects} objects; a step of {request.batch}"
    _print(title, columns, lines)
    times = (
        f" Times: medians of {arguments.repeats} turns; 'blocks kept': with the allocator as `sais train` sets it; "
        "'of the processor': with that allocator, the seconds that the processor worked for it."
    )
    print(
        f"{_machine(device)}. Each storage once, parameters left out. 'Once a step': however many images. 'Peak': "
        f"what the first step of {request.batch} adds to the loaded model." + times * arguments.times
    )
    if arguments.out is not None:
        figures = {"machine": _machine(device), "request": asdict(request), "rows": [asdict(row) for row in rows]}
        _write(arguments.out / "training.json", figures)


def _print(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for line in lines:
        table.add_row(*line)
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    console.print(table)


def _curves(arguments: BenchArguments) -> None:
    from sais.benchmark.scaling import measure_scaling, plot, scaling_cases, to_json

    chosen = scaling_cases(arguments.counts, arguments.megapixels)
    with progress_bar("cases", len(chosen)) as progress:
        curves = measure_scaling(chosen, arguments.repeats, arguments.memory, progress)
    machine = _machine("cpu")
    _print_curves(to_json(curves), machine)
    if arguments.out is not None:
        _write(arguments.out / "curves.json", {"machine": machine, "curves": to_json(curves)})
        write_bytes(arguments.out / "curves.png", plot(curves, f"Masks from prototypes: {machine}"))
        print(f"wrote {arguments.out / 'curves.png'}")


def _write(path: Path, figures: dict[str, Any]) -> None:
    make_folder(path.parent)
    write_text(path, json.dumps(figures, indent=1) + "\n")
    print(f"wrote {path}")


def _machine(device: str) -> str:
    import torch

    from sais.engine.environment import describe_environment, format_environment

    return format_environment(describe_environment(torch.device(device)))


def _models_json(rows: Sequence[ModelRow], request: ModelsRequest, conditions: Conditions) -> dict[str, Any]:
    settings = {"request": asdict(request), "conditions": asdict(conditions)}
    return {"machine": _machine(conditions.device), **settings, "rows": [asdict(row) for row in rows]}


def _print_models(rows: Sequence[ModelRow], conditions: Conditions) -> None:
    from rich.console import Console
    from rich.table import Table

    height, width = conditions.size
    title = f"{conditions.objects} objects on an image of {width} x {height}; ms an image"
    table = Table(title=title, title_justify="left")
    table.add_column("system", overflow="fold")
    slow = "p95" if conditions.repeats >= 20 else "slowest"
    for heading in ("fit", "network", "post", "end to end", slow, "images/s", "blocks kept", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        one, kept = row.shipped, row.kept
        table.add_row(
            one.name,
            *(f"{value:.1f}" for value in (one.fit, one.network, one.finish, one.end_to_end, one.slow)),
            f"{1000 / one.end_to_end:.2f}",
            f"{kept.end_to_end:.1f}" if kept else "-",
            f"{row.memory / MEBIBYTE:.0f} MiB" if row.memory is not None else "-",
        )
    console = Console()
    if not console.is_terminal:  # a file is as wide as it needs to be
        console = Console(width=140)
    console.print(table)
    console.print(
        f"{_machine(conditions.device)}. Medians of {conditions.repeats} turns, one system after the other; post: from "
        "raw outputs to masks at the image's size. Blocks kept: end to end with an allocator that keeps big blocks, "
        "for everybody. Memory: what the first pass adds to the peak over the loaded model. Exported graphs, but for "
        "raw ones, have candidates and suppression in the network.",
        soft_wrap=True,
    )


def _print_curves(curves: dict[str, list[dict[str, Any]]], machine: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, points in curves.items():
        title = "1280 x 960, ever more objects" if name == "objects" else "100 objects, ever larger images"
        table = Table(title=title, title_justify="left")
        for heading in ("way", "objects", "megapixels", "time", "memory added"):
            table.add_column(heading, justify="left" if heading == "way" else "right")
        for point in points:
            space = point["mebibytes"]
            table.add_row(
                point["way"],
                f"{point['objects']:,}",
                f"{point['megapixels']:.1f}",
                f"{point['milliseconds']:.1f} ms",
                "-" if space is None else f"{space:.1f} MiB",
            )
        console.print(table)
    console.print(machine, soft_wrap=True)
