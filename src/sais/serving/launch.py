"""What a launcher of the service needs: paths of models by name, API keys, predictors for the server."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from sais.errors import ConfigError, InputError
from sais.hub import name_in_cache
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor

MIN_KEY_LETTERS = 8
"""Minimum number of characters of an API key."""


def model_paths(words: Sequence[str]) -> dict[str, Path]:
    """Return the paths of models by name: NAME=PATH, or a path whose name is that of its file or run folder.

    Raises:
        InputError: no model, or two with the same name.
    """
    if not words:
        raise InputError("no MODEL given. Give a model file, a run folder or an exported file.")
    paths: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            name, path = _default_name(Path(word)), word
        if not name or not path:
            raise InputError(f"{word!r} is not of the form NAME=PATH. Give cats=runs/cats, for instance.")
        if name in paths:
            raise InputError(f"two models have the name {name!r}. Name them: first=PATH second=PATH.")
        paths[name] = Path(path)
    return paths


def _default_name(path: Path) -> str:
    """Return runs/cats -> cats, runs/cats/model.onnx -> cats, cats.onnx -> cats; the repository of a Hub model."""
    path = path.resolve()
    if repository := name_in_cache(path):
        return repository
    stem = path.stem if path.suffix else path.name
    folder = path.parent.name
    return folder if stem in ("model", "best", "last") and folder else stem


def read_api_keys(variable: str | None, path: Path | None) -> tuple[str, ...]:
    """Return the API keys of an environment variable and of a file with one in each line.

    Args:
        variable: name of the variable; None for none.
        path: path of the file; None for none.

    Raises:
        ConfigError: a key is missing or too short to be secret.
        InputError: the file cannot be read.
    """
    keys: list[str] = []
    if variable is not None:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise ConfigError(f"API key: the environment variable {variable} is not set. Set it to the key.")
        keys.append(key)
    if path is not None:
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read. Give a text file with an API key in each line.") from error
        in_file = [line for line in lines if line and not line.startswith("#")]
        keys += in_file
        if not in_file:
            raise ConfigError(f"{path}: no API key in it. Write a key in each line.")
    for key in keys:
        if len(key) < MIN_KEY_LETTERS:
            raise ConfigError(
                f"API key: {len(key)} characters are too few. Use {MIN_KEY_LETTERS} or more, from a random generator."
            )
    return tuple(keys)


def open_models(paths: Mapping[str, Path], options: InferenceOptions) -> dict[str, Predictor]:
    """Open models for a server, whose threads sleep while they wait for each other.

    Args:
        paths: paths of the models by name.
        options: default inference options of requests.

    Raises:
        SaisError: a model cannot be opened, or does not support the options.
    """
    from sais.engine.allocator import keep_big_blocks
    from sais.inference.backends.onnxruntime import passive_threads

    keep_big_blocks()
    with passive_threads():
        return {name: Predictor(path, options) for name, path in paths.items()}
