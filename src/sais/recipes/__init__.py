"""The recipes: functions that return a whole `Experiment`. Their docstrings give command, cost and expected result.

`sais train NAME` starts from the row of that name; outside the package "their.module:function" works as well.
To add one: a function in `paper.py` (reproduces the paper) or `zoo.py` (goes on from it), a row here, a test.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from sais.config import Experiment
from sais.errors import SaisError
from sais.recipes import paper, zoo
from sais.resolve import suggest

RECIPES: dict[str, Callable[[], Experiment]] = {
    "sais-lite": zoo.sais_lite,
    "sais-lite-small-data": zoo.sais_lite_small_data,
    "sais-lite1": zoo.sais_lite1,
    "sais-lite2": zoo.sais_lite2,
    "paper-lite0": zoo.paper_lite0,
    "sais-r50-640": paper.sais_r50_640,
    "sais-r50-768": paper.sais_r50_768,
    "sais-r50-640-slim": zoo.sais_r50_640_slim,
    "sais-r101-768": paper.sais_r101_768,
    "sais-x101-768": paper.sais_x101_768,
    "fcos-r50": paper.fcos_r50,
    "fcos-r50-area": paper.fcos_r50_area,
    "sais-r50-768-no-fusion": paper.sais_r50_768_no_fusion,
    "sais-r50-768-area": paper.sais_r50_768_area,
    "sais-r50-keep-ratio-area": paper.sais_r50_keep_ratio_area,
}


def recipe(name: str) -> Experiment:
    """The experiment of a recipe: a name of `RECIPES`, or "module:function" of your own.

    Raises:
        SaisError: no such recipe (with the nearest names), or one that does not return an Experiment.
    """
    build = _imported(name) if ":" in name else RECIPES.get(name)
    if build is None:
        raise SaisError(f"unknown recipe '{name}'{suggest(name, RECIPES)}")
    experiment = build()
    if not isinstance(experiment, Experiment):
        raise SaisError(f"recipe '{name}' returns {type(experiment).__name__}, not a sais.Experiment")
    return experiment


def _imported(name: str) -> Callable[[], Experiment]:
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:  # as `python -m` would: the user's file lies here
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, ValueError) as error:
        raise SaisError(f"recipe '{name}': cannot import {module} ({error}); run where it lies") from error
    except AttributeError as error:
        raise SaisError(f"recipe '{name}': {module} has no function {function}") from error
