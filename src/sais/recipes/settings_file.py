"""Settings files: JSON or YAML with groups of settings, such as the `experiment.json` that every run writes.

    name: sais-lite              # the recipe; its values are used where the file has none
    size: 512                    # the short names of the command line, or
    optim: {lr: 0.0005}          # groups as in `experiment.json`, or
    schedule.epochs: 30          # dotted names

`read_settings` reads a file and `apply_settings` changes an experiment accordingly.
"""

from __future__ import annotations

import json
import re
import reprlib
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sais.config import Experiment, flatten, from_dict, to_dict
from sais.config_ranges import check_ranges
from sais.errors import ConfigError, InputError
from sais.io.regular_file import read_regular_file
from sais.recipes.adjust import scale_lr, set_epochs
from sais.resolve import suggest

SUFFIXES = (".json", ".yaml", ".yml")
"""Suffixes of settings files; .json is JSON, the others are YAML."""
SHORT_NAMES = {
    "batch_size": "optim.batch_size",
    "lr": "optim.lr",
    "workers": "run.workers",
    "seed": "run.seed",
    "device": "run.device",
    "size": "input.size",
    "epochs": "schedule.epochs",
}
"""Short name -> the setting; also the short options of the commands."""
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?e[-+]?\d+", re.IGNORECASE)
"""A number such as 1e-3, which YAML 1.1 reads as a text because it has no decimal point."""
MAX_VALUES, MAX_DEPTH = 10_000, 8
"""Maximum number and nesting of the values in a settings file; a complete one has about 100 values."""


def is_settings_file(name: str) -> bool:
    """Return whether the name of a recipe is that of a settings file."""
    return name.endswith(SUFFIXES)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a settings file.

    Args:
        path: the JSON or YAML file.

    Returns:
        Dotted name of each setting -> its value: {"optim.lr": 0.0005}; `name` has no dot.

    Raises:
        InputError: the file cannot be read.
        ConfigError: it is not JSON or YAML, or contains an unknown setting.
        MissingDependencyError: PyYAML is not installed.
    """
    document = read_document(path)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a group of settings. Write settings as in the experiment.json of a run.")
    return settings_by_name(document, str(path))


def read_document(path: Path) -> Any:
    """Read the groups, lists and values of a JSON or YAML file; numbers such as 1e-3 and None are read as such.

    Raises:
        InputError: the file cannot be read.
        ConfigError: it is not JSON or YAML, or larger or nested deeper than settings can be.
        MissingDependencyError: PyYAML is not installed.
    """
    try:
        text = read_regular_file(path, "settings file").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file. Give a settings file in JSON or YAML.") from error
    return _copy(path, _parse(path, text))


def settings_by_name(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return settings by their dotted names.

    Args:
        settings: values by short name, dotted name or group.
        where: the file or function that the settings come from, for error messages.

    Raises:
        ConfigError: an unknown name, or a setting that is given twice.
    """
    values: dict[str, Any] = {}
    for name, value in flatten(settings).items():
        setting = SHORT_NAMES.get(name, name)
        if setting in values:
            raise ConfigError(f"{where}: {setting} is given twice. Remove one of the two values.")
        values[setting] = [value, value] if setting == "input.size" and isinstance(value, int) else value
    check_names(where, values)
    return values


def apply_settings(experiment: Experiment, values: Mapping[str, Any], where: str) -> tuple[Experiment, list[str]]:
    """Change the settings of an experiment to those of a file.

    As on the command line, another batch size scales the learning rate and another number of epochs moves what is
    counted in epochs, such as the milestones, unless the file gives these as well.

    Args:
        experiment: the settings to change.
        values: values by dotted name, as `read_settings` returns them.
        where: the file, for error messages.

    Returns:
        The experiment, and notes for the log.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """
    nested = to_dict(experiment)
    for name, value in values.items():
        group, dot, setting = name.partition(".")
        if dot:
            nested[group][setting] = value
        else:
            nested[group] = value
    changed: Experiment = from_dict(Experiment, nested, where)
    check_ranges(changed, where)
    notes: list[str] = []
    if "schedule.epochs" in values:
        epochs = changed.schedule.epochs
        nested["schedule"]["epochs"] = experiment.schedule.epochs
        changed, notes = set_epochs(from_dict(Experiment, nested, where), epochs, keep=values)
    if "optim.batch_size" in values and "optim.lr" not in values:
        changed, more = scale_lr(experiment, changed)
        notes += more
    return changed, notes


def read_recipe(path: Path, known: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Read a settings file that names its recipe.

    Args:
        path: the file.
        known: names of the recipes.

    Returns:
        The name of the recipe to start from, empty for the complete settings of a run of your own recipe, and the
        settings.

    Raises:
        ConfigError: the file has only some settings and names no known recipe.
    """
    values = read_settings(path)
    names, name = list(known), str(values.get("name", ""))
    if name in names or ":" in name:
        return name, values
    if len(values) > len(flatten(to_dict(Experiment()))) / 2:  # of a run, perhaps written before a setting was added
        return "", values
    if not name:
        raise ConfigError(f"{path}: names no recipe. Add name, one of {', '.join(names)}.")
    raise ConfigError(f"{path}: name {name[:100]!r} is not a recipe{suggest(name[:100], names)}")


def format_options(settings: Mapping[str, Any]) -> str:
    """Return settings as options of a command: {"input.size": (512, 512)} is "--size 512".

    Args:
        settings: value of each setting by its dotted name.
    """
    short = {setting: name for name, setting in SHORT_NAMES.items()}
    words: list[str] = []
    for name, value in settings.items():
        values = list(value) if isinstance(value, (tuple, list)) else [value]
        if name == "input.size" and len(set(values)) == 1:
            values = values[:1]
        texts = (str(int(item) if isinstance(item, float) and item.is_integer() else item) for item in values)
        words += ["--" + short.get(name, name).replace("_", "-"), *texts]
    return shlex.join(words)


def check_names(where: str, values: Mapping[str, Any]) -> None:
    """Raise ConfigError with the closest names for a setting that does not exist.

    Args:
        where: the file or function that the settings come from.
        values: values by dotted name.
    """
    known = flatten(to_dict(Experiment()))
    groups = {name.partition(".")[0] for name in known if "." in name}
    for name, value in values.items():
        if name in groups:
            raise ConfigError(
                f"{where}: {name}: {reprlib.repr(value)} is not a group of settings. Write its settings below it."
            )
        if name not in known:
            group, _, setting = name.rpartition(".")
            inside = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == group]
            close = suggest(setting[:100], inside) if inside and group else suggest(name[:100], [*known, *SHORT_NAMES])
            raise ConfigError(f"{where}: {name[:100]}: unknown setting{close}")


def _parse(path: Path, text: str) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: not JSON (line {error.lineno}: {error.msg}). Correct the file.") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not settings ({error!s:.100}). Correct the file.") from error
    from sais.io.yaml_document import parse_yaml

    return parse_yaml(path, text, ConfigError)


def _copy(path: Path, document: Any) -> Any:
    """Return the content of a settings file with the numbers and the None that YAML 1.1 reads as texts.

    Raises:
        ConfigError: the content is larger or nested deeper than settings can be; aliases of YAML can repeat a part any
            number of times.
    """
    count = 0

    def copy(value: Any, depth: int) -> Any:
        """Return the copy of a part of the content at a depth of nesting."""
        nonlocal count
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise ConfigError(
                f"{path}: more than {MAX_VALUES} values, or groups nested more than {MAX_DEPTH} deep. Remove what is "
                "no setting."
            )
        if isinstance(value, dict):
            return {str(key): copy(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [copy(item, depth + 1) for item in value]
        if isinstance(value, str) and path.suffix != ".json":
            return float(value) if _EXPONENT.fullmatch(value) else None if value == "None" else value
        return value

    return copy(document, 0)
