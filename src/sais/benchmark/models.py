"""`sais bench models`: how long a user's models take from an image to its masks, and how much memory, on this machine.

Recipes, checkpoints and exported graphs stand side by side, each in every precision and batch size asked for, and with
the peers that are named; twice: with the allocator as the system has it, and keeping big blocks, for everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sais.benchmark.candidates import Candidate, find_candidates, recipe_candidate
from sais.benchmark.exported import PreparedExport
from sais.benchmark.memory import in_fresh_process
from sais.benchmark.timing import Conditions, Timing, conditions_of, inference_memory, timed
from sais.benchmark.workload import make_workload
from sais.config import Experiment
from sais.engine.allocator import can_keep_big_blocks
from sais.errors import SaisError
from sais.inference.graph_metadata import EXPORTED_SUFFIXES
from sais.ops.letterbox import letterbox
from sais.resolve import suggest

DEFAULT_CLASSES = 80


@dataclass(frozen=True)
class ModelsRequest:
    """What is measured."""

    models: tuple[str, ...]
    """Recipes, model files, folders of runs, exported graphs."""
    precisions: tuple[str, ...] = ("fp32",)
    compiled: bool = False
    """By torch.compile, besides."""
    batches: tuple[int, ...] = (1,)
    """Images in one pass."""
    input: tuple[int, int] | None = None
    """Another input size than the models'; an exported graph keeps its own, and is refused."""
    peers: tuple[str, ...] = ()
    """module:function of other contestants."""
    only: tuple[str, ...] = ()
    """Names of the peers that are to take part; all where none is given."""


@dataclass(frozen=True)
class ModelRow:
    """One contestant's figures."""

    shipped: Timing
    kept: Timing | None
    """Blocks kept; None where the allocator cannot be told to."""
    memory: int | None
    """Bytes added over the loaded model; None where it was not measured."""


def bench_models(
    request: ModelsRequest, conditions: Conditions, memory: bool = True, say: Callable[[str], None] = print
) -> list[ModelRow]:
    """Measure, in processes of their own.

    Raises:
        SaisError: a model that does not exist or cannot run so, or a measuring process failed.
    """
    conditions = replace(conditions, classes=classes_of(request))
    names = [one.name for one in model_candidates(request, conditions.device)]
    if not names:
        raise SaisError(f"nobody to measure: no model runs in {' or '.join(request.precisions)} on {conditions.device}")
    say(f"timing {', '.join(names)}: {conditions.repeats + 1} turns each, twice")
    settings = asdict(request), asdict(conditions)
    keeping = asdict(replace(conditions, keep_blocks=True))
    shipped = in_fresh_process("sais.benchmark.models:_times", *settings)
    kept = in_fresh_process("sais.benchmark.models:_times", settings[0], keeping) if can_keep_big_blocks() else []
    added: dict[str, int | None] = {}
    if memory:
        say("measuring memory, each in a process of its own")
        added = {name: in_fresh_process("sais.benchmark.models:_memory", *settings, name) for name in names}
    kept_by_name = {one["name"]: Timing(**one) for one in kept}
    return [ModelRow(Timing(**one), kept_by_name.get(one["name"]), added.get(one["name"])) for one in shipped]


def model_candidates(request: ModelsRequest, device: str) -> list[Candidate]:
    """Every model in every precision and batch size that it has, then the peers.

    Raises:
        SaisError: there is no such model.
    """
    found = []
    for model in dict.fromkeys(request.models):
        for precision in request.precisions:
            for batch in request.batches:
                found += _variants(model, precision, batch, request, device)
    peers = [one for source in request.peers for one in find_candidates(source)]
    known = [one.name for one in peers]
    for name in request.only:
        if name not in known:
            raise SaisError(f"--only '{name}': no peer of that name{suggest(name, known)}")
    return found + [one for one in peers if not request.only or one.name in request.only]


def _name(model: str, request: ModelsRequest) -> str:
    """Short where that is clear: a file's own name, unless another model's is the same."""
    short = [Path(one).name if Path(one).exists() else one for one in dict.fromkeys(request.models)]
    mine = Path(model).name if Path(model).exists() else model
    return mine if short.count(mine) == 1 else model


def _variants(model: str, precision: str, batch: int, request: ModelsRequest, device: str) -> list[Candidate]:
    words = ([] if precision == "fp32" else [precision]) + ([] if batch == 1 else [f"batch {batch}"])
    path = Path(model)
    if path.suffix in EXPORTED_SUFFIXES:
        if not path.is_file():
            raise SaisError(f"{path}: no such file; give an .onnx or .xml file that `sais export` wrote")
        if precision not in (("fp32",) if path.suffix == ".onnx" else ("fp32", "bf16")):
            return []  # ONNX Runtime computes as the file has it, OpenVINO in these two
        if request.input is not None:
            raise SaisError(f"{path}: --input goes with recipes and trained models; export it with another --size")
        # As `sais predict`: a runtime's GPU is another package, and never the one that torch found.
        name = ", ".join([_name(model, request), *([] if device == "cpu" else ["on the CPU"]), *words])
        return [Candidate(name, lambda scene, _: PreparedExport(path, scene, "cpu", precision, batch), images=batch)]
    if precision == "fp16" and device == "cpu":
        return []
    experiment = experiment_of(model)
    if request.input is not None:
        letterbox((1, 1), experiment.input.mode, request.input)  # says what is wrong with it
        experiment = replace(experiment, input=replace(experiment.input, size=request.input))
    kinds = [False, True] if request.compiled else [False]
    name = _name(model, request)
    return [
        recipe_candidate(", ".join([name, *(["compiled"] if one else []), *words]), experiment, precision, one, batch)
        for one in kinds
    ]


def experiment_of(model: str) -> Experiment:
    """The settings of a recipe, or of a model file or run; the weights do not matter for time."""
    from sais.checkpoint import find_checkpoint, load_checkpoint
    from sais.recipes import RECIPES, recipe

    if model in RECIPES or (":" in model and not Path(model).exists()):
        return recipe(model)
    if not Path(model).exists():
        raise SaisError(
            f"{model}: neither a recipe (`sais recipes` lists them) nor a model file, run or exported graph"
        )
    return load_checkpoint(find_checkpoint(Path(model))).experiment


def classes_of(request: ModelsRequest) -> int:
    """C of the scene: that of the exported graphs, which cannot be another; else that of the trained models, if they
    agree and no peer takes part; else COCO's 80.

    Raises:
        SaisError: graphs of different numbers of classes.
    """
    from sais.inference.exported_predictor import open_session

    graphs = [Path(model) for model in request.models if Path(model).suffix in EXPORTED_SUFFIXES]
    counts = {len(open_session(path).metadata.class_names): path for path in graphs}
    if len(counts) > 1:
        raise SaisError(f"{' and '.join(map(str, counts.values()))} have different classes; measure them one by one")
    if counts:
        return next(iter(counts))
    trained = {count for model in request.models if (count := _trained_classes(model)) is not None}
    return trained.pop() if len(trained) == 1 and not request.peers else DEFAULT_CLASSES


def _trained_classes(model: str) -> int | None:
    """C of a checkpoint; None for a recipe."""
    from sais.checkpoint import find_checkpoint, load_checkpoint

    return len(load_checkpoint(find_checkpoint(Path(model))).class_names) if Path(model).exists() else None


def _times(request: dict[str, Any], conditions: dict[str, Any]) -> list[dict[str, Any]]:
    asked, shared = ModelsRequest(**request), conditions_of(conditions)
    scene = make_workload(shared.objects, shared.size, shared.classes)
    return [asdict(one) for one in timed(model_candidates(asked, shared.device), scene, shared)]


def _memory(request: dict[str, Any], conditions: dict[str, Any], name: str) -> int | None:
    shared = conditions_of(conditions)
    found = next(one for one in model_candidates(ModelsRequest(**request), shared.device) if one.name == name)
    return inference_memory(found, make_workload(shared.objects, shared.size, shared.classes), shared.device)
