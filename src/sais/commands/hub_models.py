"""Models of the Hugging Face Hub on the command line: fetched when the words are parsed, and stated in one line."""

from __future__ import annotations

import dataclasses
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from sais.errors import CheckpointError, ResourceError
from sais.hub import fetch_model, is_hub_address, is_repository
from sais.text import print_text

Arguments = TypeVar("Arguments")
FIELDS = ("model", "models", "weights", "first", "second")
"""Names of the fields of arguments that are models: paths, or NAME=PATH."""


def with_local_models(arguments: Arguments) -> Arguments:
    """Return the arguments of a command with the paths of fetched files for models of the Hub.

    Args:
        arguments: instance of a dataclass.

    Raises:
        SaisError: a model cannot be fetched; see `sais.hub.fetch_model`.
    """
    changes: dict[str, Any] = {}
    for name in FIELDS:
        value = getattr(arguments, name, None)
        if isinstance(value, (str, Path)):
            changes[name] = type(value)(local_model(value))
        elif isinstance(value, tuple):
            changes[name] = tuple(_with_name(word) for word in value)
    return dataclasses.replace(arguments, **changes) if changes else arguments  # type: ignore[type-var]


def local_model(model: str | Path) -> str | Path:
    """Return the path of a model: a local one as it is, hf://owner/name and owner/name from the Hub.

    A local file or folder wins, and owner/name is a repository only if there is no local folder `owner`. What was
    fetched is printed in one line on stderr, as results go to stdout.

    Raises:
        SaisError: as `sais.hub.fetch_model` raises it.
    """
    if not is_hub_address(model) and not (is_repository(model) and find_spec("huggingface_hub") is not None):
        return model
    try:
        fetched = fetch_model(model, progress=sys.stderr.isatty())
    except (CheckpointError, ResourceError) as error:
        if is_hub_address(model):
            raise
        raise type(error)(f"{model}: no such file or folder, and not on the Hub: {error}") from error
    print_text(f"note: fetched {fetched}", file=sys.stderr)
    return fetched.path


def _with_name(word: str) -> str:
    """Return PATH or NAME=PATH with a local path."""
    name, equals, source = word.rpartition("=")
    return f"{name}{equals}{local_model(source)}"
