"""The training command that suits a data set, for `sais check`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sais.recipes import recipe
from sais.recipes.from_data import measure, suggest
from sais.recipes.settings_file import format_options

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit

FIRST_RECIPE = "sais-lite"
"""The recipe to start with."""


def recommend(split: DatasetSplit, options: Sequence[str]) -> list[str]:
    """Return lines with the training command for a split, what it chooses from the data, and the same with options.

    Args:
        split: the training split.
        options: options that name the data: --data my_data.
    """
    if not split.images:
        return []
    suggestion = suggest(measure(split), recipe(FIRST_RECIPE))
    command = shlex.join(["sais", "train", FIRST_RECIPE, *options])
    return [
        f"recommended: {command}",
        suggestion.notes[0],
        f"the same by hand: {command} {format_options(suggestion.settings)}",
        *suggestion.advice,
    ]
