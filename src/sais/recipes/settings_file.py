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
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sais.config import Experiment, flatten, from_dict, to_dict
from sais.errors import ConfigError, InputError, MissingDependencyError
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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise InputError(f"{path}: cannot be read ({reason}). Give a settings file in JSON or YAML.") from error
    document = _parse(path, text)
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a group of settings. Write settings as in the experiment.json of a run.")
    return settings_by_name({str(key): value for key, value in document.items()}, str(path))


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

    As on the command line, another batch size scales the learning rate and another number of epochs moves the
    milestones, unless the file gives these as well.

    Args:
        experiment: the settings to change.
        values: values by dotted name, as `read_settings` returns them.
        where: the file, for error messages.

    Returns:
        The experiment, and notes for the log.

    Raises:
        ConfigError: a value of the wrong type.
    """
    nested = to_dict(experiment)
    for name, value in values.items():
        group, dot, setting = name.partition(".")
        if dot:
            nested[group][setting] = value
        else:
            nested[group] = value
    changed: Experiment = from_dict(Experiment, nested, where)
    notes: list[str] = []
    if "schedule.epochs" in values and "schedule.milestones" not in values:
        epochs = changed.schedule.epochs
        nested["schedule"]["epochs"] = experiment.schedule.epochs
        changed, notes = set_epochs(from_dict(Experiment, nested, where), epochs)
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
    raise ConfigError(f"{path}: name {name!r} is not a recipe{suggest(name, names)}")


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
            raise ConfigError(f"{where}: {name}: {value!r} is not a group of settings. Write its settings below it.")
        if name not in known:
            group, _, setting = name.rpartition(".")
            inside = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == group]
            close = suggest(setting, inside) if inside and group else suggest(name, [*known, *SHORT_NAMES])
            raise ConfigError(f"{where}: {name}: unknown setting{close}")


def _parse(path: Path, text: str) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: not JSON (line {error.lineno}: {error.msg}). Correct the file.") from error
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            f'{path}: PyYAML is not installed. Run pip install "sais-seg[train]", or write JSON.', "yaml", "train"
        ) from error
    try:
        return _plain(yaml.safe_load(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" (line {mark.line + 1}: {getattr(error, 'problem', '')})"
        raise ConfigError(f"{path}: not YAML{place}. Correct the file.") from error


def _plain(value: Any) -> Any:
    """Return a value of a YAML file with the numbers and the None that YAML 1.1 reads as texts."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return None if value == "None" else value
