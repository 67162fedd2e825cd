"""Options of the commands that start from a recipe: the data set, short names of common settings, every setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from sais.commands.options import FLAT
from sais.config import Experiment
from sais.errors import ConfigError
from sais.recipes import RECIPES
from sais.recipes.adjust import replace_settings


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
    size: tuple[int, ...] = ()
    """Input size in pixels: height and width, or one number for both; short for --input.size."""
    seed: int | None = None
    """Random seed; short for --run.seed."""
    experiment: Annotated[Experiment, FLAT] = field(default_factory=Experiment)
    """Settings of the recipe."""


SHORT_OPTIONS = {
    "batch_size": "optim.batch_size",
    "lr": "optim.lr",
    "workers": "run.workers",
    "seed": "run.seed",
    "device": "run.device",
    "size": "input.size",
    "epochs": "schedule.epochs",
}
"""Short option -> the setting it changes."""


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
        raise ConfigError(f"{command}: RECIPE missing. Give one of {', '.join(RECIPES)}, or module:function.")


def apply_short_options(experiment: Experiment, values: Mapping[str, object]) -> Experiment:
    """Return `experiment` with the settings of short options replaced.

    Args:
        experiment: the settings.
        values: value by short option, of `SHORT_OPTIONS`; None and () leave the setting as it is.

    Raises:
        ConfigError: `size` has the wrong number of values.
    """
    for option, value in values.items():
        if value is None or value == ():
            continue
        if option == "size" and isinstance(value, tuple):
            value = input_size(value, experiment)
        group, _, name = SHORT_OPTIONS[option].partition(".")
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
