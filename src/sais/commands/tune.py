"""`sais tune RECIPE --data DIR`: search learning rate, input size and augmentation of a recipe on your images."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sais.commands.arguments import check_writable, need_package, parse, prepare_torch, progress_bar
from sais.commands.options import FLAT, Count, option_names, options_of
from sais.commands.recipe_options import RecipeOptions, RecipeStart, open_recipe, require_recipe, split_recipe
from sais.commands.train_command import Command, choose_settings, read_command
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.errors import ConfigError, InputError, ResourceError
from sais.recipes.settings_file import format_options
from sais.text import pad, print_json, print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.engine.tuning import Search

PROG = "sais tune RECIPE"


@dataclass(frozen=True)
class TuneArguments:
    """Search learning rate, input size and augmentation of a recipe on your data: trials of full training runs.

    The first trial has the recipe's own values; the others are chosen by optuna from the results so far. Trials behind
    the median of the others are ended early. The best settings are those with the best AP on the validation split, so
    that this AP is too high: keep a test split for the final evaluation. The same command continues a search that
    was interrupted, and with more --trials one that is complete.
    """

    recipe: Annotated[RecipeOptions, FLAT] = field(default_factory=RecipeOptions)
    """Data set and recipe."""
    valid_split: str = "valid"
    """Validation split, on which trials are compared; never the test split."""
    valid_annotations: Path | None = None
    """COCO JSON of the validation split, with --valid-images."""
    valid_images: Path | None = None
    """Folder of the images of --valid-annotations."""
    out: Path | None = None
    """Folder of the search, with the run folder of each trial. Default: runs/tune-RECIPE-DATA."""
    trials: Count = 20
    """Number of trials in all, those of an earlier call included."""
    search: tuple[Literal["lr", "size", "augment"], ...] = ("lr", "size", "augment")
    """Settings to search: the learning rate from a quarter to four times that of the recipe, the input size from 0.75
    to 1.5 times, and scale jitter, mosaic, copy-paste and photometric augmentation."""
    pruning: bool = True
    """End trials early that are behind the median of the others; --no-pruning completes all."""
    epochs: int | Literal["auto"] | None = None
    """Number of epochs of each trial. Default: as in `sais train`."""
    batch_size: int | None = None
    """Images per step; short for --optim.batch-size, and scales the learning rate."""
    workers: int | None = None
    """Number of processes that read images; short for --run.workers."""
    device: str | None = None
    """Device: auto, cpu, cuda or mps; short for --run.device."""
    skip_broken: bool = False
    """Skip unreadable images and report their number, instead of stopping."""
    random_init: bool = False
    """Initialize the backbone randomly instead of from ImageNet weights."""
    weights: str | None = None
    """Fine-tune this checkpoint or run in each trial."""
    trust: bool = False
    """Import and run code outside of sais that only the checkpoint of --weights names."""
    json: bool = False
    """Print the trials and the best command as JSON on the standard output, and all other lines on stderr."""


OWN_OPTIONS = ("out", "trials", "search", "pruning", "json")
"""Fields of `TuneArguments` that `sais train` does not have, or that mean something else there."""


def run(argv: Sequence[str]) -> int:
    """Run `sais tune`."""
    start, words = open_recipe(argv)
    arguments = parse(TuneArguments, words, PROG, TuneArguments(recipe=RecipeOptions(experiment=start.experiment)))
    require_recipe(start.name, "sais tune")
    _check(arguments)
    own = [name for option in options_of(TuneArguments) if option.field in OWN_OPTIONS for name in option.names]
    remaining, first = without_options(words, own), split_recipe(argv)[0]  # the recipe may follow one of these options
    command, experiment, notes = read_command(start, remaining, [first, *remaining] if first else remaining)
    need_package("tune", "optuna", "tune")
    prepare_torch("tune")
    out = arguments.out or Path("runs", f"tune-{start.name}-{command.paths.name}")
    _check_folder(out)
    split, valid_split = _read_splits(command)
    from sais.distributed import SINGLE_PROCESS
    from sais.engine.lock import lock_run
    from sais.engine.tuning import SEARCH_LOCK, Search, search_space

    experiment, more = choose_settings(command, experiment, split, SINGLE_PROCESS)
    more = [line for line in more if not line.startswith("the same by hand")]  # of a run, not of a search
    space = search_space(experiment, arguments.search)
    lock = lock_run(out, SEARCH_LOCK)
    try:
        search = Search(out, experiment, space, _inputs(arguments, command.paths), experiment.schedule.epochs)
        print_text(f"tuning {experiment.name} on {command.paths.name} into {out}", *notes, *more, sep="\n")
        _run_trials(arguments, search, experiment, command.paths, (split, valid_split))
        _print_results(arguments, command, start, search)
    finally:
        lock.release()
    return 0


def _inputs(arguments: TuneArguments, paths: DataPaths) -> dict[str, Any]:
    """Return what the results of a search depend on in addition to its settings, as JSON."""
    recipe = arguments.recipe
    of_recipe = ("train_split", "train_annotations", "train_images", "classes")
    own = ("valid_split", "valid_annotations", "valid_images", "weights", "random_init", "skip_broken")
    inputs = {"data": paths.name, **vars(recipe.reading)}
    inputs |= {name: getattr(recipe, name) for name in of_recipe} | {name: getattr(arguments, name) for name in own}
    content: dict[str, Any] = json.loads(json.dumps(inputs, default=str))
    return content


def without_options(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a command line without some options and their values."""
    remaining: list[str] = []
    skipping = False
    for word in words:
        if word.startswith("--"):
            skipping = word.partition("=")[0] in names
        if not skipping:
            remaining.append(word)
    return remaining


def _check(arguments: TuneArguments) -> None:
    """Raise an error for a command line whose search would be wrong, before anything is read."""
    from sais.data.formats.unsplit import is_held_out

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("sais tune: not for several processes. Run it without torchrun.")
    if not arguments.search:
        raise ConfigError("--search: no settings to search. Give any of lr, size, augment.")
    if arguments.recipe.size == "auto":
        raise ConfigError("--size auto: the default of sais tune where the recipe allows it. Leave it out.")
    stem = "" if arguments.valid_annotations is None else arguments.valid_annotations.stem
    for name in (arguments.valid_split, stem.removeprefix("instances_")):
        if name.startswith("test") and is_held_out(name):
            raise InputError(
                f"sais tune: {name} is a test split. Settings that are selected on it make its AP too good: give a "
                "validation split; sais split makes one."
            )


def _check_folder(out: Path) -> None:
    """Raise an error where the search cannot be written, or would be among other files."""
    from sais.engine.tuning import JOURNAL, SEARCH_LOCK

    check_writable(out)
    present = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if present - {SEARCH_LOCK} and JOURNAL not in present:
        raise InputError(f"{out}: is not empty, and contains no search to continue. Choose another --out.")


def _read_splits(command: Command) -> tuple[DatasetSplit, DatasetSplit]:
    split = command.paths.read_train()
    valid_split = command.paths.read_valid(split.class_names)
    if valid_split is None:
        raise InputError(
            f"{command.paths.name}: no validation split to compare trials on. Make one with sais split, or give "
            "--valid-split."
        )
    return split, valid_split


def _run_trials(
    arguments: TuneArguments,
    search: Search,
    experiment: Experiment,
    paths: DataPaths,
    splits: tuple[DatasetSplit, DatasetSplit],
) -> None:
    """Run the trials that are missing, each as a training run in its own folder; print a line for each."""
    from sais.engine.run_folder import is_unstarted
    from sais.engine.train_step import DivergedLossError
    from sais.engine.trainer import train
    from sais.engine.tuning import TrialWatcher, apply_trial
    from sais.reports.run_record import read_run

    missing = max(0, arguments.trials - len(search.finished))
    with progress_bar("tuning", missing * experiment.schedule.epochs, "epochs") as advance:
        for trial, settings, folder in search.trials(arguments.trials):
            watcher = TrialWatcher(trial, arguments.pruning, advance)
            score, reason = None, ""
            try:
                train(
                    apply_trial(experiment, settings),
                    paths,
                    folder,
                    dataset=splits[0],
                    valid_dataset=splits[1],
                    resume=folder.is_dir() and not is_unstarted(folder),
                    skip_broken=arguments.skip_broken,
                    random_init=arguments.random_init,
                    weights=arguments.weights,
                    callbacks=[watcher],
                    verbose=False,
                    notes=[f"trial {trial.number} of sais tune: {format_options(settings)}"],
                    trust=arguments.trust,
                )
                score = (read_run(folder).best() or (0.0, 0))[0]
            except (DivergedLossError, ResourceError) as error:
                if isinstance(error.__cause__, OSError):  # a full disk ends the search; the trial can be resumed
                    raise
                reason = str(error)
            search.end(trial, score, watcher.pruned)
            outcome = f"failed: {reason}" if score is None else f"AP {score:.3f}"
            early = ", stopped early" if watcher.pruned else ""
            print_text(f"trial {trial.number}: {format_options(settings)}: {outcome}{early}")


def _print_results(arguments: TuneArguments, command: Command, start: RecipeStart, search: Search) -> None:
    """Print a table of the trials, the best first, and the command that trains with the best settings."""
    rows = search.results()
    best = next((row for row in rows if row["state"] == "complete"), None)
    if best is None:
        raise ResourceError(f"{search.out}: no trial has been completed. Give more --trials, or a smaller --size.")
    # The epochs of trials may be few: the recipe's are better for the model.
    searched = {option for row in rows for option in row["settings"]}
    names = [name for name in option_names(TuneArguments) if _names_setting(name, searched | {"schedule.epochs"})]
    words = ["sais", "train", *without_options(command.words, names)]
    ready = f"{shlex.join(words)} {format_options(best['settings'])}"
    if arguments.json:
        print_json({"out": str(search.out), "best": best, "command": ready, "trials": rows})
        return
    _print_table(rows)
    print_text(f"the best settings as a file: {best['folder']}/experiment.json", f"next: {ready}", sep="\n")


def _names_setting(option: str, settings: set[str]) -> bool:
    """Return whether an option is one of some settings, by its short or its dotted name."""
    from sais.recipes.settings_file import SHORT_NAMES

    name = option.removeprefix("--").replace("-", "_")
    return SHORT_NAMES.get(name, name) in settings


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row["settings"]))
    table = [["trial", "AP", "state", *(name.rpartition(".")[2] for name in names)]]
    for row in rows:
        score = "-" if row["AP"] is None else f"{row['AP']:.3f}"
        table.append([str(row["trial"]), score, row["state"], *(_cell(row["settings"].get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print_text("  ".join(map(pad, cells, widths)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(f"{item:g}" for item in value)
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)
