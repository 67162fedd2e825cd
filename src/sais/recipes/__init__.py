"""Recipes: functions that return a whole `Experiment`. Their docstrings give command, cost and expected result.

`sais train NAME` starts from the row of that name, from "module:function" of your own, or from a settings file such as
the `experiment.json` of a run. To add a recipe, write a function in `paper.py` (reproduces the paper) or `zoo.py`
(other models), a row here and a test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sais.config import Experiment
from sais.errors import ConfigError
from sais.recipes import paper, zoo
from sais.recipes.settings_file import apply_settings, is_settings_file, read_recipe
from sais.resolve import resolve

RECIPES: dict[str, Callable[[], Experiment]] = {
    "sais-lite": zoo.sais_lite,
    "sais-lite-small-data": zoo.sais_lite_small_data,
    "sais-lite1": zoo.sais_lite1,
    "sais-lite2": zoo.sais_lite2,
    "paper-lite0": zoo.paper_lite0,
    "sais-r50-640": paper.sais_r50_640,
    "sais-r50-768": paper.sais_r50_768,
    "sais-r50-640-slim": zoo.sais_r50_640_slim,
    "sais-r50-plus": zoo.sais_r50_plus,
    "sais-r50-plus-slim": zoo.sais_r50_plus_slim,
    "sais-r50-finetune": zoo.sais_r50_finetune,
    "sais-r101-768": paper.sais_r101_768,
    "sais-x101-768": paper.sais_x101_768,
    "fcos-r50": paper.fcos_r50,
    "fcos-r50-area": paper.fcos_r50_area,
    "sais-r50-768-no-fusion": paper.sais_r50_768_no_fusion,
    "sais-r50-768-area": paper.sais_r50_768_area,
    "sais-r50-keep-ratio-area": paper.sais_r50_keep_ratio_area,
}
"""Name of a recipe -> the function that returns it."""


def recipe(name: str) -> Experiment:
    """Return the experiment of a recipe.

    Args:
        name: a key of `RECIPES`, "module:function" of your own, which returns an `Experiment`, or a settings file
            (`sais.recipes.settings_file`).

    Raises:
        ConfigError: there is no such recipe, it returns something else, or the file has an unknown setting.
        InputError: the file cannot be read.
    """
    if is_settings_file(name) and name not in RECIPES:
        start, values = read_recipe(Path(name), RECIPES)
        return apply_settings(recipe(start) if start else Experiment(), values, name)[0]
    build = resolve(name, RECIPES, "recipe")
    if name not in RECIPES:
        from sais.callables import check_callable

        check_callable(build, name, "recipe")
    experiment = build()
    if not isinstance(experiment, Experiment):
        kind = type(experiment).__name__
        raise ConfigError(f"recipe {name!r}: it returns {kind}, not a sais.Experiment. Return an Experiment.")
    return experiment
