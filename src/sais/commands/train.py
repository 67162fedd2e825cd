"""`sais train RECIPE --data DIR`: train a model. Every setting of the recipe is an option."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.commands.arguments import check_writable, prepare_torch
from sais.commands.input_files import annotation_files
from sais.commands.recipe_options import changed_settings, open_recipe
from sais.commands.run_folders import choose_folder
from sais.commands.train_command import Command, TrainArguments, choose_settings, read_command, settle
from sais.config import Experiment
from sais.engine.run_folder import RUN_FILES
from sais.errors import ConfigError, InputError
from sais.io.outputs import file_identities
from sais.recipes.settings_file import is_settings_file
from sais.text import print_json, print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.distributed import World
    from sais.engine.trainer import TrainResult

__all__ = ["TrainArguments", "changed_settings", "run", "settle"]


def run(argv: Sequence[str]) -> int:
    """Run `sais train`."""
    start, words = open_recipe(argv)
    command, experiment, notes = read_command(start, words, argv)
    arguments = command.arguments
    _check_dry_run(arguments)
    prepare_torch("train")
    from sais.distributed import process_group
    from sais.io.tolerant_output import TolerantOutput

    with TolerantOutput() as output, process_group(experiment.run.device) as world:
        code = _train(command, experiment, notes, world)
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
