"""The recipe, input size and number of epochs that suit a data set, with the training command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sais.recipes import recipe
from sais.recipes.from_data import measure, suggest
from sais.recipes.settings_file import format_options

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit

FIRST_RECIPE = "sais-lite"
"""The recipe to start with."""


@dataclass(frozen=True)
class Recommendation:
    """A recommended training run."""

    recipe: str
    """Name of the recipe."""
    size: tuple[int, int]
    """(H, W) of the network's input."""
    epochs: int
    batch_size: int
    command: str
    """The training command, which chooses the settings from the data."""
    full_command: str
    """The same with all settings."""
    reason: str
    """Why, in one line."""
    advice: tuple[str, ...] = ()
    """What the settings cannot correct, a sentence each."""

    def lines(self) -> list[str]:
        """Return lines of text for the terminal."""
        return [f"recommended: {self.command}", self.reason, f"the same by hand: {self.full_command}", *self.advice]


def recommend_training(split: DatasetSplit, options: Sequence[str]) -> Recommendation | None:
    """Return the training run that suits a split; None for a split without images.

    Args:
        split: the training split.
        options: words of the command line that name the data: --data my_data.
    """
    if not split.images:
        return None
    suggestion = suggest(measure(split), recipe(FIRST_RECIPE))
    command = shlex.join(["sais", "train", FIRST_RECIPE, *options])
    experiment = suggestion.experiment
    height, width = experiment.input.size
    return Recommendation(
        FIRST_RECIPE,
        (height, width),
        experiment.schedule.epochs,
        experiment.optim.batch_size,
        command,
        f"{command} {format_options(suggestion.settings)}",
        suggestion.notes[0],
        suggestion.advice,
    )
