"""`sais train RECIPE --data DIR`: train a model. Every setting of the recipe is an option."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sais.commands.arguments import check_writable, parse, prepare_torch
from sais.commands.input_files import annotation_files
from sais.commands.options import FLAT, Count, check_command_line
from sais.commands.recipe_options import (
    RecipeOptions,
    RecipeStart,
    apply_short_options,
    changed_settings,
    open_recipe,
    require_recipe,
)
from sais.commands.run_folders import choose_folder
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.run_folder import RUN_FILES
from sais.errors import ConfigError, InputError
from sais.io.outputs import file_identities
from sais.recipes.adjust import check_experiment, replace_settings, scale_lr, set_epochs
from sais.recipes.from_data import Suggestion, measure, settings_to_choose, suggest, too_few_steps
from sais.recipes.settings_file import SHORT_NAMES, format_options, is_settings_file
from sais.text import print_json, print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.distributed import World
    from sais.engine.trainer import TrainResult

PROG = "sais train RECIPE"
MIN_STEPS_PER_EPOCH = 50
"""`--batch-size auto` does not choose a batch so large that an epoch has fewer steps."""


@dataclass(frozen=True)
class TrainArguments:
    """Train a model. RECIPE comes first: a name of `sais recipes`, or module:function of your own.

    Options such as --model.backbone change one setting; their defaults are the recipe's.
    """

    recipe: Annotated[RecipeOptions, FLAT] = field(default_factory=RecipeOptions)
    """Data set and recipe."""
    valid_split: str = "valid"
    """Validation split, skipped if the data set has none; '' disables validation."""
    valid_annotations: Path | None = None
    """COCO JSON of the validation split, with --valid-images."""
    valid_images: Path | None = None
    """Folder of the images of --valid-annotations."""
    out: Path | None = None
    """Run folder. Default: runs/RECIPE-DATA, numbered -2, -3 if it exists."""
    resume: bool = False
    """Resume the run in --out (default: the latest of this recipe and data set) with its own settings. Learning rate,
    clipping, micro-batch, checkpoints, device, workers, loggers and patience can be changed."""
    epochs: int | Literal["auto"] | None = None
    """Number of epochs; short for --schedule.epochs, and moves the milestones of a stepped schedule in proportion.
    auto: by the number of images, the default of the sais-lite recipes. More when resuming: only without cosine."""
    max_iterations: Count | None = None
    """Stop after this number of iterations, for a trial."""
    batch_size: int | Literal["auto"] | None = None
    """Images per step over all devices; short for --optim.batch-size, and scales the learning rate. auto: as many as
    fit into memory, with at least 50 steps per epoch."""
    lr: float | None = None
    """Learning rate for one batch; short for --optim.lr."""
    workers: int | None = None
    """Number of processes that read images; short for --run.workers."""
    device: str | None = None
    """Device: auto, cpu, cuda or mps; short for --run.device."""
    skip_broken: bool = False
    """Skip unreadable images and report their number, instead of stopping."""
    random_init: bool = False
    """Initialize the backbone randomly instead of from ImageNet weights."""
    report: bool = True
    """Write report.html into the run folder at the end."""
    weights: str | None = None
    """Fine-tune this checkpoint or run, or torchvision:fcos_resnet50_fpn (COCO). Classes with the same name keep their
    weights."""
    trust: bool = False
    """Import and run code outside of sais that only the checkpoint of --resume or --weights names. The environment
    variable SAIS_TRUST lists modules that are always trusted."""
    dry_run: bool = False
    """Check the data, and print network, iterations, memory and time of the run without training or writing."""
    timing: bool = True
    """--dry-run: estimate the time from some steps; --no-timing makes no step."""
    json: bool = False
    """Print the result, or that of --dry-run, as JSON on the standard output, and all other lines on stderr."""


def run(argv: Sequence[str]) -> int:
    """Run `sais train`."""
    start, words = open_recipe(argv)
    default = TrainArguments(recipe=RecipeOptions(experiment=start.experiment))
    arguments = parse(TrainArguments, words, PROG, default=default)
    require_recipe(start.name, "sais train")
    _check_dry_run(arguments)
    fields = check_command_line(TrainArguments, words, "sais train")
    # A file with both, such as the experiment.json of a run, has the rate of its own batch size.
    keep_lr = bool({"lr", "optim.lr"} & set(fields)) or (
        "optim.lr" in start.given and "optim.batch_size" not in start.given
    )
    experiment, notes = settle(start.experiment, arguments, keep_lr)
    paths = DataPaths(
        arguments.recipe.data,
        arguments.recipe.train_split,
        arguments.valid_split,
        arguments.recipe.train_annotations,
        arguments.recipe.train_images,
        arguments.valid_annotations,
        arguments.valid_images,
        arguments.recipe.classes,
        **vars(arguments.recipe.reading),
    )
    prepare_torch("train")
    from sais.distributed import process_group

    command = Command(start, arguments, paths, tuple(argv), fields, keep_lr)
    from sais.io.tolerant_output import TolerantOutput

    with TolerantOutput() as output, process_group(experiment.run.device) as world:
        code = _train(command, experiment, [*start.notes, *notes], world)
        if output.lost:
            print_text(f"note: {output.summary()}", file=sys.stderr)
        return code


def _check_dry_run(arguments: TrainArguments) -> None:
    """Raise ConfigError for options that do not go with --dry-run, or that have no effect without it."""
    if arguments.dry_run and (arguments.resume or int(os.environ.get("WORLD_SIZE", "1")) > 1):
        what = "--resume" if arguments.resume else "several processes"
        raise ConfigError(f"sais train: --dry-run is not for {what}. Leave one of them out.")
    if not arguments.timing and not arguments.dry_run:
        raise ConfigError("sais train: --no-timing has no effect without --dry-run. Leave it out.")


@dataclass(frozen=True)
class Command:
    """A command line of `sais train`."""

    start: RecipeStart
    arguments: TrainArguments
    paths: DataPaths
    words: tuple[str, ...]
    """The command line after `sais train`."""
    fields: tuple[str, ...]
    """Fields of the options that were given: "lr", "model.masks"."""
    keep_lr: bool
    """Whether the learning rate was given without a batch size, so that another batch size does not scale it."""

    @property
    def automatic(self) -> tuple[str, ...]:
        """The settings whose option was given as auto."""
        values = {name: getattr(self.arguments, name) for name in ("epochs", "batch_size")}
        values["size"] = self.arguments.recipe.size
        return tuple(SHORT_NAMES[name] for name, value in values.items() if value == "auto")

    @property
    def given(self) -> tuple[str, ...]:
        """The settings that options and settings files give, without the automatic ones."""
        names = (*changed_settings(self.fields), *self.start.given)
        return tuple(name for name in names if name not in self.automatic)


def _train(command: Command, experiment: Experiment, notes: list[str], world: World) -> int:
    """Train as one rank of `world`. Rank 0 chooses the folder and prints."""
    from sais.distributed import is_restarted
    from sais.engine.data_options import restore_data_options
    from sais.engine.trainer import train

    arguments, paths = command.arguments, command.paths
    name = f"{command.start.name}-{paths.name}"
    chosen = choose_folder(arguments.out, name, arguments.resume, is_restarted()) if world.is_main else (Path(), False)
    out, resume = world.broadcast(chosen)
    check_writable(out)
    paths, data_notes = world.broadcast(restore_data_options(paths, out) if resume else (paths, []))
    split = paths.read_train()
    changes: tuple[str, ...] = ()
    if resume:
        changes = tuple(name for name in changed_settings(command.fields) if name not in command.automatic)
        notes = [*_resume_notes(command, out, changes), *data_notes]
    else:
        _check_inputs(command, out)
        if arguments.resume:
            notes = [*notes, f"{out}: no checkpoint was saved before the run stopped; starting it from the beginning"]
        experiment, more = choose_settings(command, experiment, split, world)
        notes = [*notes, *more]
    if arguments.dry_run:
        return _dry_run(command, experiment, split, out, notes)
    if world.is_main:
        print_text(f"training {experiment.name} on {paths.name} into {out}")
    result = train(
        experiment,
        paths,
        out,
        dataset=split,
        resume=resume,
        max_iterations=arguments.max_iterations,
        skip_broken=arguments.skip_broken,
        random_init=arguments.random_init,
        weights=arguments.weights,
        world=world,
        changed_settings=changes,
        notes=notes,
        trust=arguments.trust,
    )
    if world.is_main:
        if arguments.report:
            print_text(_write_report(result))
        print_text(f"next: sais predict {result.out} YOUR_IMAGES")
        if arguments.json:
            print_json(_facts(result))
    return 0


def _facts(result: TrainResult) -> dict[str, Any]:
    """Return the result for JSON."""
    return {
        "out": str(result.out),
        "model": str(result.model),
        "best_model": None if result.best_model is None else str(result.best_model),
        "iterations": result.iterations,
        "seconds": round(result.seconds, 1),
        "unreadable_images": len(result.unreadable_images),
        "metrics": result.metrics,
    }


def _dry_run(command: Command, experiment: Experiment, split: DatasetSplit, out: Path, notes: list[str]) -> int:
    from sais.commands.dry_run import DryRun

    arguments = command.arguments
    names = ("weights", "random_init", "max_iterations", "timing", "trust")
    options = {name: getattr(arguments, name) for name in names}
    run = DryRun(experiment, command.paths, split, out, command.words, notes, options)
    return run.report(arguments.skip_broken, arguments.json)


def _check_inputs(command: Command, out: Path) -> None:
    """Raise InputError if the run would replace a file that it reads, such as the settings of an unstarted run."""
    recipe, arguments = command.arguments.recipe, command.arguments
    settings = [Path(word) for word in (*command.words[:1], recipe.config) if word and is_settings_file(str(word))]
    read = file_identities([*settings, *annotation_files(None, recipe.train_annotations, arguments.valid_annotations)])
    for name in RUN_FILES:
        if file_identities([out / name]) & read:
            raise InputError(f"{out / name}: would replace a file that is read. Choose another --out.")


def choose_settings(
    command: Command, experiment: Experiment, split: DatasetSplit, world: World
) -> tuple[Experiment, list[str]]:
    """Choose the settings that the command line leaves open: from the data, and the batch size also by the memory.

    Args:
        command: the command line.
        experiment: the settings that it gives.
        split: the training split.
        world: the ranks.

    Returns:
        The complete experiment, and notes for the log.
    """
    fit_memory = "optim.batch_size" in command.automatic
    requested = [name for name in command.automatic if name != "optim.batch_size"]
    given = (*command.given, *(["optim.batch_size"] if fit_memory else []))
    choose = settings_to_choose(command.start.recipe_name, given, requested)
    notes: list[str] = []
    if choose:
        recipe, keep_lr = command.start.recipe, command.keep_lr
        suggestion = suggest(measure(split), recipe, experiment, choose, world.world_size, keep_lr)
        experiment = suggestion.experiment
        notes = [*suggestion.notes, f"the same by hand: {ready_command(command, suggestion)}", *suggestion.advice]
    if fit_memory:
        experiment, more = fit_batch(experiment, split, world, command.keep_lr)
        notes += more
    check_experiment(experiment)
    if command.arguments.max_iterations is None:
        notes += [line.replace("(epochs)", "(--epochs)") for line in too_few_steps(len(split.images), experiment)]
    return experiment, notes


def ready_command(command: Command, suggestion: Suggestion) -> str:
    """Return the command line with the chosen settings as options.

    Args:
        command: the command line as given.
        suggestion: the chosen settings.
    """
    words, position = list(command.words), 0
    while position < len(words):
        option, _, value = words[position].partition("=")
        if option in ("--size", "--epochs") and "auto" in (value, *words[position + 1 : position + 2]):
            del words[position : position + (1 if value else 2)]
        else:
            position += 1
    return f"{shlex.join(['sais', 'train', *words])} {format_options(suggestion.settings)}"


def _resume_notes(command: Command, out: Path, changes: tuple[str, ...]) -> list[str]:
    """Return lines about the resumption of the run in `out`, of whose settings `changes` are replaced."""
    changed = f", except {', '.join(changes)}" if changes else ""
    notes = [f"resuming {out} with its stored settings{changed}"]
    if command.arguments.weights or command.arguments.random_init:
        notes.append("--weights and --random-init have no effect on a resumed run")
    if command.arguments.recipe.config:
        notes.append("--config has no effect on a resumed run")
    if command.automatic:
        notes.append("auto has no effect on a resumed run: its settings are stored")
    return notes


def fit_batch(experiment: Experiment, split: DatasetSplit, world: World, keep_lr: bool) -> tuple[Experiment, list[str]]:
    """Set the batch size to the largest that fits into the memory of every rank.

    Args:
        experiment: the settings.
        split: the training split; its size limits the batch (`MIN_STEPS_PER_EPOCH`).
        world: the ranks.
        keep_lr: keep the learning rate instead of scaling it with the batch size.

    Returns:
        The experiment with its batch size and learning rate, and notes for the log.
    """
    from sais.device import choose_device
    from sais.engine.auto_batch_size import find_batch_size
    from sais.engine.free_memory import free_memory

    device = choose_device(experiment.run.device)
    sharing = 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes in one memory
    estimate = find_batch_size(experiment, len(split.class_names), device, free_bytes=free_memory(device) // sharing)
    fitting = min(world.all_gather(estimate.batch_size)) * world.world_size
    limit = max(experiment.optim.batch_size, len(split.images) // MIN_STEPS_PER_EPOCH)
    batch = max(1, min(fitting, limit) // world.world_size) * world.world_size
    reason = f"{fitting} would fit; limited to {MIN_STEPS_PER_EPOCH} steps per epoch" if limit < fitting else estimate
    resized = replace_settings(experiment, "optim", batch_size=batch)
    scaled, notes = (resized, []) if keep_lr else scale_lr(experiment, resized)
    return scaled, [f"--batch-size auto: {batch} ({reason})", *notes]


def _write_report(result: TrainResult) -> str:
    """Write the run's report and return a line about it. The run is complete whatever fails here."""
    from sais.reports.run_report import write_report

    missing = ""
    if result.evaluation is None:
        missing = (
            "The final weights were not evaluated at the end of this run: it has no validation split, or it ended "
            "before an evaluation. `sais report` evaluates them."
        )
    try:
        return f"report: {write_report(result.out, result.evaluation, missing)}"
    except Exception as error:
        return f"no report was written ({type(error).__name__}: {error}); try sais report {result.out}"


def settle(start: Experiment, arguments: TrainArguments, keep_lr: bool) -> tuple[Experiment, list[str]]:
    """Apply the short options to the experiment of the command line.

    Args:
        start: the recipe.
        arguments: the command line.
        keep_lr: keep the learning rate where the batch size is not the recipe's.

    Returns:
        The experiment, and notes for the log.

    Raises:
        ConfigError: a setting is out of range.
    """
    notes: list[str] = []
    short = {name: getattr(arguments, name) for name in ("lr", "workers", "device")}
    short["batch_size"] = None if arguments.batch_size == "auto" else arguments.batch_size
    short |= {"seed": arguments.recipe.seed, "size": arguments.recipe.size}
    experiment = apply_short_options(arguments.recipe.experiment, short)
    epochs = arguments.epochs
    if isinstance(epochs, int) and experiment.schedule.milestones == start.schedule.milestones:
        experiment, notes = set_epochs(experiment, epochs)
    elif isinstance(epochs, int):
        experiment = replace_settings(experiment, "schedule", epochs=epochs)
    check_experiment(experiment)
    if not keep_lr:
        experiment, more = scale_lr(start, experiment)
        notes += more
    return experiment, notes
