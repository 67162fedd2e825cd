"""The command line of `sais train`, from which `sais tune` starts as well: its options and the settings it gives."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from sais.commands.arguments import parse
from sais.commands.dry_run import DRY_RUN_OPTIONS
from sais.commands.options import FLAT, Count, check_command_line
from sais.commands.recipe_options import (
    RecipeOptions,
    RecipeStart,
    apply_short_options,
    changed_settings,
    require_recipe,
)
from sais.config import Experiment, flatten, to_dict
from sais.data.paths import DataPaths
from sais.recipes.adjust import COUNTED_IN_EPOCHS, check_experiment, replace_settings, scale_lr, set_epochs
from sais.recipes.from_data import Suggestion, measure, settings_to_choose, suggest, too_few_steps
from sais.recipes.settings_file import SHORT_NAMES, format_options

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.distributed import World

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
    """Number of epochs; short for --schedule.epochs, and moves what is counted in epochs, such as milestones, in
    proportion. auto: by the number of images, the default of the sais-lite recipes. More when resuming: only without
    cosine."""
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


def read_command(
    start: RecipeStart, words: Sequence[str], argv: Sequence[str]
) -> tuple[Command, Experiment, list[str]]:
    """Read a command line of `sais train`.

    Args:
        start: what it starts from.
        words: the other words of the command line, without that of the recipe.
        argv: the whole command line after `sais train`.

    Returns:
        The command, the experiment that it gives, and notes for the log.

    Raises:
        SaisError: a mistake in the command line.
    """
    default = TrainArguments(recipe=RecipeOptions(experiment=start.experiment))
    arguments = parse(TrainArguments, words, PROG, default=default)
    require_recipe(start.name, "sais train")
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
    command = Command(start, arguments, paths, tuple(argv), fields, keep_lr)
    return command, experiment, [*start.notes, *notes]


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
    words, position = [word for word in command.words if word not in DRY_RUN_OPTIONS], 0
    while position < len(words):
        option, _, value = words[position].partition("=")
        if option in ("--size", "--epochs") and "auto" in (value, *words[position + 1 : position + 2]):
            del words[position : position + (1 if value else 2)]
        else:
            position += 1
    return f"{shlex.join(['sais', 'train', *words])} {format_options(suggestion.settings)}"


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
    if isinstance(arguments.epochs, int):
        own, of_recipe = (flatten(to_dict(settings)) for settings in (experiment, start))
        given = [name for name in COUNTED_IN_EPOCHS if own[name] != of_recipe[name]]
        experiment, notes = set_epochs(experiment, arguments.epochs, keep=given)
    check_experiment(experiment)
    if not keep_lr:
        experiment, more = scale_lr(start, experiment)
        notes += more
    return experiment, notes
