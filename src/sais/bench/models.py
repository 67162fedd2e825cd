"""`sais bench models`: how long a user's models take from a picture to its masks, and how much memory, on this machine.

Recipes, checkpoints and exported graphs stand side by side, each in every precision and batch size asked for, and with
the peers that are named; twice: with the allocator as the system has it, and keeping big blocks, for everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sais.bench.contestants import Contestant, find_contestants, of_recipe
from sais.bench.memory import in_fresh_process
from sais.bench.runtime import ReadyRuntime
from sais.bench.scene import make_scene
from sais.bench.systems import Conditions, Timing, inference_memory, timed
from sais.config import Experiment
from sais.engine.allocator import can_keep_big_blocks, keep_big_blocks
from sais.structures import SaisError

EXPORTED = (".onnx", ".xml")
DEFAULT_CLASSES = 80


@dataclass(frozen=True)
class Request:
    """What is measured."""

    models: tuple[str, ...]
    """Recipes, model files, folders of runs, exported graphs."""
    precisions: tuple[str, ...] = ("fp32",)
    compiled: bool = False
    """By torch.compile, besides."""
    batches: tuple[int, ...] = (1,)
    """Pictures in one pass."""
    input: tuple[int, int] | None = None
    """Another input size than the models'; not for exported graphs of one size."""
    peers: tuple[str, ...] = ()
    """module:function of other contestants."""
    only: tuple[str, ...] = ()
    """Names of the peers that are to take part; all where none is given."""


@dataclass(frozen=True)
class Row:
    """One contestant's figures."""

    shipped: Timing
    kept: Timing | None
    """Blocks kept; None where the allocator cannot be told to."""
    memory: int | None
    """Bytes added over the loaded model; None where it was not measured."""


def bench_models(
    request: Request, conditions: Conditions, memory: bool = True, say: Callable[[str], None] = print
) -> list[Row]:
    """Measure, in processes of their own.

    Raises:
        SaisError: a model that does not exist or cannot run so, or a measuring process failed.
    """
    conditions = replace(conditions, classes=classes_of(request))
    names = [one.name for one in contestants(request, conditions.device)]
    say(f"timing {', '.join(names)}: {conditions.repeats + 1} turns each, twice")
    settings = asdict(request), asdict(conditions)
    shipped = in_fresh_process("sais.bench.models:_times", *settings, False)
    kept = in_fresh_process("sais.bench.models:_times", *settings, True) if can_keep_big_blocks() else []
    added: dict[str, int | None] = {}
    if memory:
        say("measuring memory, each in a process of its own")
        added = {name: in_fresh_process("sais.bench.models:_memory", *settings, name) for name in names}
    kept_by_name = {one["name"]: Timing(**one) for one in kept}
    return [Row(Timing(**one), kept_by_name.get(one["name"]), added.get(one["name"])) for one in shipped]


def contestants(request: Request, device: str) -> list[Contestant]:
    """Every model in every precision and batch size that it has, then the peers.

    Raises:
        SaisError: there is no such model.
    """
    found = []
    for model in request.models:
        for precision in request.precisions:
            for batch in request.batches:
                found += _variants(model, precision, batch, request, device)
    peers = [one for source in request.peers for one in find_contestants(source)]
    return found + [one for one in peers if not request.only or one.name in request.only]


def _variants(model: str, precision: str, batch: int, request: Request, device: str) -> list[Contestant]:
    words = ([] if precision == "fp32" else [precision]) + ([] if batch == 1 else [f"batch {batch}"])
    path = Path(model)
    if path.suffix in EXPORTED:
        if not path.is_file():
            raise SaisError(f"{path}: no such file; give an .onnx or .xml file that `sais export` wrote")
        if precision != "fp32" and path.suffix == ".onnx":
            return []  # ONNX Runtime computes as the file has it
        name = ", ".join([path.name, *words])
        return [Contestant(name, lambda scene, on: ReadyRuntime(path, scene, on, precision, batch), pictures=batch)]
    if precision == "fp16" and device == "cpu":
        return []
    experiment = experiment_of(model)
    if request.input is not None:
        experiment = replace(experiment, input=replace(experiment.input, size=request.input))
    kinds = [False, True] if request.compiled else [False]
    name = Path(model).name if Path(model).exists() else model
    return [
        of_recipe(", ".join([name, *(["compiled"] if one else []), *words]), experiment, precision, one, batch)
        for one in kinds
    ]


def experiment_of(model: str) -> Experiment:
    """The settings of a recipe, or of a model file or run; the weights do not matter for time."""
    from sais.checkpoint import load
    from sais.predict import model_file
    from sais.recipes import RECIPES, recipe

    if model in RECIPES or (":" in model and not Path(model).exists()):
        return recipe(model)
    if not Path(model).exists():
        raise SaisError(
            f"{model}: neither a recipe (`sais recipes` lists them) nor a model file, run or exported graph"
        )
    return load(model_file(Path(model))).experiment


def classes_of(request: Request) -> int:
    """C of the scene: that of the exported graphs, which cannot be another; COCO's 80 where there is none.

    Raises:
        SaisError: graphs of different numbers of classes.
    """
    from sais.runtimes.predictor import open_session

    graphs = [Path(model) for model in request.models if Path(model).suffix in EXPORTED]
    counts = {len(open_session(path).metadata.class_names): path for path in graphs}
    if len(counts) > 1:
        raise SaisError(f"{' and '.join(map(str, counts.values()))} have different classes; measure them one by one")
    return next(iter(counts), DEFAULT_CLASSES)


def _times(request: dict[str, Any], conditions: dict[str, Any], keep: bool) -> list[dict[str, Any]]:
    asked, shared = _request(request), _conditions(conditions)
    if keep:
        keep_big_blocks()
    scene = make_scene(shared.objects, shared.size, shared.classes)
    return [asdict(one) for one in timed(contestants(asked, shared.device), scene, shared)]


def _memory(request: dict[str, Any], conditions: dict[str, Any], name: str) -> int | None:
    shared = _conditions(conditions)
    found = next(one for one in contestants(_request(request), shared.device) if one.name == name)
    return inference_memory(found, make_scene(shared.objects, shared.size, shared.classes), shared.device)


def _request(settings: dict[str, Any]) -> Request:
    """From JSON, where tuples are lists."""
    values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in settings.items()}
    return Request(**values)


def _conditions(settings: dict[str, Any]) -> Conditions:
    return Conditions(**settings | {"size": tuple(settings["size"])})
