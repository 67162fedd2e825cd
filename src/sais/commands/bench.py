"""`sais bench`: measure time and memory on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sais.commands.arguments import make_folder, need_torch, parse, progress_bar
from sais.commands.input_files import model_files
from sais.commands.options import Count, Maximum, Minimum, Side
from sais.errors import ConfigError, InputError
from sais.inference.options import EXPORTED_SUFFIXES
from sais.io.atomic import write_bytes, write_text
from sais.io.outputs import check_outputs, written_by
from sais.text import print_json, print_text

WRITER = "sais bench"


@dataclass(frozen=True)
class BenchArguments:
    """Measure time and memory on this machine.

    models: recipes, trained models and exported graphs, from an image to its masks.
    masks: mask assembly alone, 100 masks on a 1280x960 image, box-local against full-frame.
    scaling: mask assembly for 1 to 1,000 objects and images of 0.3 to 50 megapixels; a plot with --out.
    training: activations saved for backward by part of the network, peak memory and time of a training step.

    Weights are random and detections are injected into the raw outputs, so that all models do the same work.
    """

    what: tyro.conf.Positional[Literal["models", "masks", "scaling", "training"]]
    """Measurement to run."""
    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL")] = ()
    """models: recipes, checkpoints, run folders, or exported graphs (.onnx, .xml). training: recipes, checkpoints, run
    folders."""
    objects: Annotated[int | None, Minimum(1), Maximum(100_000)] = None
    """models, masks: number of objects on the image, default 100. training: default 10."""
    image_size: tuple[Side, Side] = (960, 1280)
    """models, masks: height and width of the image in pixels."""
    repeats: Count = 7
    """Number of runs; the median counts."""
    input_size: Side | None = None
    """models, training: side of the square network input in pixels. Default: that of the model."""
    precisions: tuple[Literal["fp32", "bf16", "fp16"], ...] = ("fp32",)
    """models, training: precisions to measure; unsupported ones are skipped (fp16 on CPUs and in OpenVINO, all but that
    of the file in .onnx). training: fp32, bf16."""
    compile: bool = False
    """models: measure with torch.compile as well."""
    batch_sizes: tuple[Count, ...] = (1,)
    """models: numbers of images in one forward pass."""
    batch_size: Count = 2
    """training: number of images in one step."""
    activation_checkpointing: tuple[Literal["none", "norms", "all"], ...] = ("none", "norms", "all")
    """training: modes to measure, as --run.activation-checkpointing of `sais train`."""
    time: bool = True
    """training: time the steps; --no-time measures memory only."""
    peers: tuple[str, ...] = ()
    """models, training: functions that return other systems, such as peers.installed:candidates."""
    only: tuple[str, ...] = ()
    """models: names of the peers to measure. training: names of all systems to measure."""
    device: str = "auto"
    """models, training: auto, cpu, cuda or mps."""
    object_counts: Annotated[tuple[int, ...], Minimum(1), Maximum(100_000)] = (1, 3, 10, 30, 100, 300, 1000)
    """scaling: numbers of objects."""
    megapixels: Annotated[tuple[float, ...], Minimum(0.001), Maximum(1000)] = (0.3, 1, 3, 12, 25, 50)
    """scaling: sizes of the image."""
    memory: bool = True
    """models, masks, scaling: measure memory; --no-memory measures time only."""
    out: Path | None = None
    """models, scaling, training: folder for the measurements as JSON, and for the plot."""
    overwrite: bool = False
    """Replace any existing file, not only earlier measurements."""
    trust: bool = False
    """models, training: import and run code outside of sais that a model file names, and open an exported graph that
    another program has changed."""
    json: bool = False
    """Print the measurements as JSON on the standard output, and all other lines on stderr."""


def run(argv: Sequence[str]) -> int:
    """Run `sais bench`."""
    arguments = parse(BenchArguments, argv, "sais bench WHAT")
    _check_options(arguments)
    if arguments.out is not None:
        names = [f"{arguments.what}.json", *(["scaling.png"] if arguments.what == "scaling" else [])]
        inputs = [file for model in arguments.models for file in model_files(Path(model))]
        check_outputs([arguments.out / name for name in names], inputs, arguments.overwrite, own=written_by(WRITER))
    if not _is_torch_free(arguments):
        need_torch("bench")
    run = {"models": _models, "masks": _masks, "scaling": _scaling, "training": _training}[arguments.what]
    measurements = {"written_by": WRITER, **run(arguments)}
    if arguments.out is not None:
        _write(arguments.out / f"{arguments.what}.json", measurements)
    if arguments.json:
        print_json(measurements)
    return 0


def _is_torch_free(arguments: BenchArguments) -> bool:
    """Return whether only exported graphs are measured, which run without torch."""
    exported = all(Path(model).suffix in EXPORTED_SUFFIXES for model in arguments.models)
    return arguments.what == "models" and exported and not arguments.peers


def _check_options(arguments: BenchArguments) -> None:
    """Raise if a number is not positive, or if an option has no effect with what is measured."""
    what = arguments.what
    numbers = (arguments.repeats, *arguments.image_size, *arguments.batch_sizes, arguments.batch_size)
    if min(numbers) < 1 or (arguments.objects is not None and arguments.objects < 1):
        raise InputError(
            "sais bench: --objects, --image-size, --repeats, --batch-size or --batch-sizes is below 1. Give 1 or more."
        )
    if arguments.models and what not in ("models", "training"):
        raise InputError(f"sais bench {what}: takes no model. Did you mean sais bench models?")
    if not arguments.models and not arguments.peers and what in ("models", "training"):
        raise InputError(f"sais bench {what}: no MODEL given. Give a recipe (sais-lite), a checkpoint or a run folder.")
    default = BenchArguments("masks")
    exclusive = {
        "objects": ("models", "masks", "training"),
        "image_size": ("models", "masks"),
        "compile": ("models",),
        "batch_sizes": ("models",),
        "batch_size": ("training",),
        "activation_checkpointing": ("training",),
        "time": ("training",),
        "object_counts": ("scaling",),
        "megapixels": ("scaling",),
        "out": ("models", "scaling", "training"),
        "trust": ("models", "training"),
    }
    for name, targets in exclusive.items():
        if what not in targets and getattr(arguments, name) != getattr(default, name):
            option = "--no-time" if name == "time" else "--" + name.replace("_", "-")
            raise ConfigError(f"sais bench {what}: {option} has no effect. It belongs to {', '.join(targets)}.")
    if what == "training" and "fp16" in arguments.precisions:
        raise ConfigError("sais bench training: --precisions fp16 is not supported. Choose fp32 or bf16.")
    if what == "scaling" and arguments.out is not None:
        from sais.benchmark.scaling import require_matplotlib

        require_matplotlib()


def _masks(arguments: BenchArguments) -> dict[str, Any]:
    from sais.benchmark.masks import MaskCase, make_inputs, measure_masks
    from sais.commands.bench_tables import environment, print_masks

    cases = []
    for grid in ((192, 192), (160, 160)):
        case = MaskCase(arguments.objects or 100, arguments.image_size, grid)
        measurements = measure_masks(case, arguments.repeats, arguments.memory)
        print_masks(case, make_inputs(case), measurements, arguments.repeats)
        cases.append({"case": asdict(case), "rows": [asdict(row) for row in measurements]})
    return {"environment": environment("cpu"), "cases": cases}


def _models(arguments: BenchArguments) -> dict[str, Any]:
    from sais.benchmark.models import ModelsRequest, bench_models
    from sais.benchmark.timing import Conditions
    from sais.commands.bench_tables import environment, print_models

    request = ModelsRequest(
        arguments.models,
        arguments.precisions,
        arguments.compile,
        arguments.batch_sizes,
        _square(arguments.input_size),
        arguments.peers,
        arguments.only,
        arguments.trust,
    )
    device = _device_of(arguments)
    conditions = Conditions(arguments.objects or 100, arguments.image_size, repeats=arguments.repeats, device=device)
    rows = bench_models(request, conditions, arguments.memory)
    print_models(rows, conditions)
    settings = {"request": asdict(request), "conditions": asdict(conditions)}
    return {"environment": environment(device), **settings, "rows": [asdict(row) for row in rows]}


def _device_of(arguments: BenchArguments) -> str:
    """Return the device of torch that is measured; the CPU where only exported graphs are."""
    if _is_torch_free(arguments) and arguments.device in ("auto", "cpu"):
        return "cpu"
    from sais.device import choose_device

    return str(choose_device(arguments.device))


def _training(arguments: BenchArguments) -> dict[str, Any]:
    from sais.benchmark.training import TrainingRequest, bench_training
    from sais.commands.bench_tables import environment, print_training
    from sais.device import choose_device

    request = TrainingRequest(
        arguments.models,
        arguments.activation_checkpointing,
        arguments.precisions,
        arguments.objects or 10,
        arguments.batch_size,
        _square(arguments.input_size),
        arguments.peers,
        arguments.only,
        arguments.trust,
    )
    device = str(choose_device(arguments.device))
    rows = bench_training(request, arguments.repeats, device, arguments.time)
    print_training(rows, request, arguments.repeats if arguments.time else 0, device)
    return {"environment": environment(device), "request": asdict(request), "rows": [asdict(row) for row in rows]}


def _scaling(arguments: BenchArguments) -> dict[str, Any]:
    from sais.benchmark.scaling import measure_scaling, plot, scaling_cases, to_json
    from sais.commands.bench_tables import environment, print_scaling

    cases = scaling_cases(arguments.object_counts, arguments.megapixels)
    with progress_bar("cases", len(cases), "cases") as progress:
        curves = measure_scaling(cases, arguments.repeats, arguments.memory, progress)
    print_scaling(curves)
    machine = environment("cpu")
    if arguments.out is not None:
        make_folder(arguments.out)
        write_bytes(arguments.out / "scaling.png", plot(curves, f"Masks from prototypes: {machine}"))
        print_text(f"wrote {arguments.out / 'scaling.png'}")
    return {"environment": machine, "curves": to_json(curves)}


def _square(side: int | None) -> tuple[int, int] | None:
    return None if side is None else (side, side)


def _write(path: Path, measurements: dict[str, Any]) -> None:
    make_folder(path.parent)
    write_text(path, json.dumps(measurements, indent=1) + "\n")
    print_text(f"wrote {path}")
