"""Latency and memory of models from the image to its masks: recipes, checkpoints, exported graphs and peers.

Every model is measured in all precisions and batch sizes requested, next to the others, and twice: with the system's
default memory allocator, and with one that retains freed memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sais.benchmark.candidates import Candidate, find_candidates
from sais.benchmark.exported import PreparedExport
from sais.benchmark.memory import in_fresh_process
from sais.benchmark.timing import Conditions, Timing, apply_conditions, inference_memory, time_candidates
from sais.config import Experiment
from sais.engine.allocator import can_keep_big_blocks
from sais.errors import CheckpointError, ConfigError, InputError
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.ops.letterbox import letterbox
from sais.resolve import suggest

DEFAULT_CLASSES = 80


@dataclass(frozen=True)
class ModelsRequest:
    """Which models are measured, and in which variants."""

    models: tuple[str, ...]
    """Recipes, checkpoints, run folders or exported graphs."""
    precisions: tuple[str, ...] = ("fp32",)
    compiled: bool = False
    """Whether to measure with torch.compile as well."""
    batch_sizes: tuple[int, ...] = (1,)
    """Numbers of images in one forward pass."""
    input_size: tuple[int, int] | None = None
    """Height and width that replace those of the recipes and checkpoints; exported graphs have a fixed size."""
    peers: tuple[str, ...] = ()
    """Functions that return further candidates, each named ``module:function``."""
    only: tuple[str, ...] = ()
    """Names of the peers to measure; all if empty."""
    trust: bool = False
    """Whether code outside of sais that a model file names is imported and run; see `sais.trust`."""


@dataclass(frozen=True)
class ModelRow:
    """The measurements of one candidate."""

    default_allocator: Timing
    retaining_allocator: Timing | None
    """With an allocator that retains freed memory; None where the allocator cannot be changed."""
    memory: int | None
    """Bytes above the loaded model; None if not measured."""


def bench_models(
    request: ModelsRequest, conditions: Conditions, memory: bool = True, log: Callable[[str], None] = print
) -> list[ModelRow]:
    """Measure models in fresh processes.

    Args:
        request: the models and their variants.
        conditions: the conditions that they share.
        memory: whether to measure memory as well.
        log: called with each progress message.

    Raises:
        SaisError: a model does not exist or cannot run in this way, or a measuring process failed.
    """
    conditions = replace(conditions, num_classes=num_classes_of(request))
    names = [candidate.name for candidate in model_candidates(request, conditions.device)]
    if not names:
        precisions = " or ".join(request.precisions)
        raise ConfigError(f"benchmark: no model runs in {precisions} on {conditions.device}. Choose another precision.")
    log(f"timing {', '.join(names)}: {conditions.repeats + 1} runs each, with both allocators")
    settings = asdict(request), asdict(conditions)
    default = in_fresh_process("sais.benchmark.models:_times", *settings)
    retaining = []
    if can_keep_big_blocks():
        retained = asdict(replace(conditions, retain_memory=True))
        retaining = in_fresh_process("sais.benchmark.models:_times", settings[0], retained)
    peaks: dict[str, int | None] = {}
    if memory:
        log("measuring memory, each model in a fresh process")
        peaks = {name: in_fresh_process("sais.benchmark.models:_memory", *settings, name) for name in names}
    by_name = {timing["name"]: Timing(**timing) for timing in retaining}
    return [ModelRow(Timing(**timing), by_name.get(timing["name"]), peaks.get(timing["name"])) for timing in default]


def model_candidates(request: ModelsRequest, device: str) -> list[Candidate]:
    """Return every model in all precisions and batch sizes that it supports on the device, then the peers.

    Raises:
        SaisError: a model or peer does not exist.
    """
    candidates = []
    for model in dict.fromkeys(request.models):
        for precision in request.precisions:
            for batch_size in request.batch_sizes:
                options = InferenceOptions(
                    device="cpu",
                    precision=precision,  # type: ignore[arg-type]
                    batch_size=batch_size,
                    trust=request.trust,
                )
                candidates += _variants(model, options, request, device)
    peers = [candidate for source in request.peers for candidate in find_candidates(source)]
    return candidates + select_by_name(peers, request.only)


def select_by_name(candidates: list[Candidate], names: tuple[str, ...]) -> list[Candidate]:
    """Return the candidates of the given names; all if there are no names.

    Raises:
        InputError: a name that no candidate has.
    """
    known = [candidate.name for candidate in candidates]
    for name in names:
        if name not in known:
            raise InputError(f"benchmark: no candidate is named {name!r}{suggest(name, known)}")
    return [candidate for candidate in candidates if not names or candidate.name in names]


def _display_name(model: str, request: ModelsRequest) -> str:
    """Return the file name of a model, or its whole path if another model has the same file name."""
    names = [Path(path).name if Path(path).exists() else path for path in dict.fromkeys(request.models)]
    name = Path(model).name if Path(model).exists() else model
    return name if names.count(name) == 1 else model


def _variants(model: str, options: InferenceOptions, request: ModelsRequest, device: str) -> list[Candidate]:
    """Return the candidates of one model at one precision and batch size; none if it does not support them."""
    suffixes: list[str] = [] if options.precision == "fp32" else [options.precision]
    suffixes += [] if options.batch_size == 1 else [f"batch {options.batch_size}"]
    if Path(model).suffix in EXPORTED_SUFFIXES:
        return _exported_variants(model, options, request, device, suffixes)
    from sais.benchmark.recipe_candidates import recipe_candidate

    if options.precision == "fp16" and device == "cpu":
        return []
    experiment = experiment_of(model, request.trust)
    if request.input_size is not None:
        letterbox((1, 1), experiment.input.mode, request.input_size)  # raises if the size is invalid
        experiment = replace(experiment, input=replace(experiment.input, size=request.input_size))
    name = _display_name(model, request)
    candidates = []
    for compiled in (False, True) if request.compiled else (False,):
        parts = [name, *(["compiled"] if compiled else []), *suffixes]
        candidates.append(recipe_candidate(", ".join(parts), experiment, replace(options, compile=compiled)))
    return candidates


def _exported_variants(
    model: str, options: InferenceOptions, request: ModelsRequest, device: str, suffixes: list[str]
) -> list[Candidate]:
    path = Path(model)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give an .onnx or .xml file that `sais export` wrote.")
    if options.precision not in (("fp32",) if path.suffix == ".onnx" else ("fp32", "bf16")):
        return []  # ONNX Runtime uses the precision of the file, OpenVINO one of these two
    if request.input_size is not None:
        raise ConfigError(f"{path}: an exported graph has a fixed input size. Export it with another size.")
    # As in `sais predict`: the GPU of a runtime needs another package, whatever device torch has.
    name = ", ".join([_display_name(model, request), *([] if device == "cpu" else ["on the CPU"]), *suffixes])

    def prepare(workload: Any, device: str) -> PreparedExport:
        return PreparedExport(path, workload, options)

    return [Candidate(name, prepare, batch_size=options.batch_size)]


def experiment_of(model: str, trust: bool = False) -> Experiment:
    """Return the settings of a recipe, a checkpoint or a run. Weights do not change latency.

    Args:
        model: name of a recipe, ``module:function``, or path of a checkpoint or run folder.
        trust: whether code outside of sais that only the file names may be imported; see `sais.trust`.

    Raises:
        ConfigError: a file names code that is not trusted (`sais.trust`).
        InputError: neither a recipe nor a file or folder.
    """
    from sais.checkpoint import find_checkpoint, load_checkpoint
    from sais.recipes import RECIPES, recipe
    from sais.trust import check_trusted, own_code

    if model in RECIPES or (":" in model and not Path(model).exists()):
        return recipe(model)
    if not Path(model).exists():
        raise InputError(
            f"{model}: neither a recipe nor a checkpoint, run or exported graph. `sais recipes` lists the recipes."
        )
    experiment = load_checkpoint(find_checkpoint(Path(model))).experiment
    check_trusted(own_code(experiment), model, trust)
    return experiment


def num_classes_of(request: ModelsRequest) -> int:
    """Return the number of classes of the workload.

    It is that of the exported graphs, which is fixed; else that of the checkpoints, if they agree and no peer is
    measured; else 80, as in COCO.

    Raises:
        CheckpointError: exported graphs have different numbers of classes.
    """
    from sais.inference.backends.exported import open_exported

    graphs = [Path(model) for model in request.models if Path(model).suffix in EXPORTED_SUFFIXES]
    counts = {len(open_exported(path, InferenceOptions(trust=request.trust)).class_names): path for path in graphs}
    if len(counts) > 1:
        paths = " and ".join(map(str, counts.values()))
        raise CheckpointError(f"{paths}: they have different numbers of classes. Measure them one by one.")
    if counts:
        return next(iter(counts))
    trained = {count for model in request.models if (count := _checkpoint_classes(model)) is not None}
    return trained.pop() if len(trained) == 1 and not request.peers else DEFAULT_CLASSES


def _checkpoint_classes(model: str) -> int | None:
    """Return the number of classes of a checkpoint; None for a recipe."""
    from sais.checkpoint import find_checkpoint, load_checkpoint

    return len(load_checkpoint(find_checkpoint(Path(model))).class_names) if Path(model).exists() else None


def _times(request: dict[str, Any], settings: dict[str, Any]) -> list[dict[str, Any]]:
    conditions = apply_conditions(settings)
    candidates = model_candidates(ModelsRequest(**request), conditions.device)
    return [asdict(timing) for timing in time_candidates(candidates, conditions.workload(), conditions)]


def _memory(request: dict[str, Any], settings: dict[str, Any], name: str) -> int | None:
    conditions = apply_conditions(settings)
    candidates = model_candidates(ModelsRequest(**request), conditions.device)
    candidate = next(candidate for candidate in candidates if candidate.name == name)
    return inference_memory(candidate, conditions.workload(), conditions.device)
