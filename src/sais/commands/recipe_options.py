"""Options of the commands that start from a recipe: the data set, short names of common settings, every setting."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from sais.commands.options import FLAT
from sais.config import Experiment
from sais.data.options import DataOptions
from sais.errors import ConfigError
from sais.recipes import RECIPES, recipe
from sais.recipes.adjust import replace_settings
from sais.recipes.settings_file import SHORT_NAMES, apply_settings, is_settings_file, read_recipe, read_settings

MAX_TITLE = 100
"""Maximum length of the name of a run's folder that comes from a settings file."""


@dataclass(frozen=True)
class RecipeOptions:
    """Options that `sais train` and `sais draw-augmented` share."""

    data: Path | None = None
    """Folder of the data set: annotations/SPLIT.json and images/SPLIT; or its name in the folder $SAIS_DATA."""
    train_split: str = "train"
    """Training split."""
    train_annotations: Path | None = None
    """COCO JSON of the training split, with --train-images instead of --data."""
    train_images: Path | None = None
    """Folder of the images of --train-annotations."""
    classes: tuple[str, ...] = ()
    """Classes to use, such as cat dog; vehicle=car+truck merges classes. Default: all. Others are dropped."""
    reading: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    """Options of reading the data set."""
    config: Path | None = None
    """Settings file, JSON or YAML, such as the experiment.json of a run. Options on the command line override it."""
    size: Literal["auto"] | tuple[int, ...] = ()
    """Input size in pixels: height and width, or one number for both; short for --input.size. auto: by the size of the
    objects, the default of the sais-lite recipes."""
    seed: int | None = None
    """Random seed; short for --run.seed."""
    experiment: Annotated[Experiment, FLAT] = field(default_factory=Experiment)
    """Settings of the recipe."""


@dataclass(frozen=True)
class RecipeStart:
    """What a command line starts from: a recipe, changed by settings files."""

    name: str
    """Name of the recipe or settings file, empty without either; names the run's folder."""
    recipe_name: str
    """Name of the built-in recipe, empty for your own."""
    recipe: Experiment
    """The recipe as it is."""
    experiment: Experiment
    """The recipe with the values of the settings files."""
    given: tuple[str, ...] = ()
    """Names of the settings that the files give."""
    notes: tuple[str, ...] = ()
    """Lines for the log."""


def open_recipe(argv: Sequence[str]) -> tuple[RecipeStart, list[str]]:
    """Return the recipe that a command line starts from, and the words after it.

    A settings file may be given in place of the recipe or as the value of --config; the latter overrides the former.

    Args:
        argv: the command line after the command's name.

    Raises:
        SaisError: the recipe is unknown, or a settings file is wrong.
    """
    first, words = split_recipe(argv)
    files = [first] if is_settings_file(first) and first not in RECIPES else []
    config = _value_of(words, "--config")
    files += [config] if config.strip() else []  # a blank path is reported with the other options
    named = "" if first in files else first
    values: list[tuple[str, dict[str, Any]]] = []
    for file in files:
        if named:
            values.append((file, read_settings(Path(file))))
        else:
            named, settings = read_recipe(Path(file), RECIPES)
            values.append((file, settings))
    start = recipe(named) if named else Experiment()
    experiment, notes, given = start, [], []
    for file, settings in values:
        experiment, more = apply_settings(experiment, settings, file)
        notes += more
        given += [name for name in settings if "." in name]
    title = Path(first).stem if first in files else first or (Path(config).stem if config else "")
    if title == "experiment":  # the name is from the file, and becomes a part of the run's folder
        title = re.sub(r"[^\w.+-]+", "-", experiment.name)[:MAX_TITLE].strip(".-") or title
    built_in = named if named in RECIPES else ""
    return RecipeStart(title.replace(":", "."), built_in, start, experiment, tuple(given), tuple(notes)), words


def _value_of(words: Sequence[str], option: str) -> str:
    """Return the value of an option on a command line, empty where it is not given."""
    value = ""
    for position, word in enumerate(words):
        following = "".join(words[position + 1 : position + 2])
        if word == option and not following.startswith("--"):  # a missing value is reported by the parser
            value = following
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value


def split_recipe(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of the recipe in `argv` ("" without one) and the other words.

    The recipe is the first word, or any word that is the name of a built-in recipe.
    """
    words = list(argv)
    if words and not words[0].startswith("-"):
        return words[0], words[1:]
    for position, word in enumerate(words):
        if word in RECIPES:
            return word, words[:position] + words[position + 1 :]
    return "", words


def require_recipe(name: str, command: str) -> None:
    """Raise ConfigError where the command line names no recipe."""
    if not name:
        raise ConfigError(
            f"{command}: RECIPE missing. Give one of {', '.join(RECIPES)}, module:function, or a settings file."
        )


def changed_settings(given: Sequence[str]) -> tuple[str, ...]:
    """Return the settings among the options given: nothing else chooses them.

    Args:
        given: fields of options, as `check_command_line` returns them: "lr", "model.masks".
    """
    groups = {group.name for group in fields(Experiment)}
    names = [SHORT_NAMES.get(name, name) for name in given]
    return tuple(dict.fromkeys(name for name in names if "." in name and name.partition(".")[0] in groups))


def apply_short_options(experiment: Experiment, values: Mapping[str, object]) -> Experiment:
    """Return `experiment` with the settings of short options replaced.

    Args:
        experiment: the settings.
        values: value by short option, of `SHORT_NAMES`; None, () and a size "auto" leave the setting as it is.

    Raises:
        ConfigError: `size` has the wrong number of values.
    """
    for option, value in values.items():
        if value is None or value == () or (option == "size" and value == "auto"):
            continue
        if option == "size" and isinstance(value, tuple):
            value = input_size(value, experiment)
        group, _, name = SHORT_NAMES[option].partition(".")
        experiment = replace_settings(experiment, group, **{name: value})
    return experiment


def input_size(size: tuple[int, ...], experiment: Experiment) -> tuple[int, int]:
    """Return the two numbers of `input.size` that --size gives.

    Raises:
        ConfigError: neither two numbers, nor one for a fixed input.
    """
    if len(size) == 1 and experiment.input.mode == "fixed":
        return (size[0], size[0])
    if len(size) != 2:
        square = ", or one number for both" if experiment.input.mode == "fixed" else ""
        raise ConfigError(f"--size {' '.join(map(str, size))}: not a valid value. Give height and width{square}.")
    return (size[0], size[1])
