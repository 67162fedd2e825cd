"""YAML from files that may be somebody else's: settings, and descriptions of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sais.errors import InputError, MissingDependencyError, SaisError

MAX_ALIASES, MAX_DEPTH = 10, 10
"""Maximum number of aliases, which can repeat a part any number of times, and nesting of a document."""
_MAX_PROBLEM = 100
"""Maximum number of characters of PyYAML's message."""


def parse_yaml(path: Path, text: str, error: type[SaisError] = InputError) -> Any:
    """Return the content of a YAML document.

    Args:
        path: its file, for messages.
        text: the document.
        error: exception for a malformed document: `InputError` of data, `ConfigError` of settings.

    Raises:
        SaisError: the document is malformed, nested too deeply, or has too many aliases; of the class `error`.
        MissingDependencyError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as problem:
        message = f'{path}: PyYAML is not installed. Run pip install "sais-seg[train]", or write JSON.'
        raise MissingDependencyError(message, "yaml", "train") from problem
    try:
        depth = aliases = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            if depth > MAX_DEPTH or aliases > MAX_ALIASES:
                raise error(f"{path}: nested too deeply, or too many aliases. Write plain values.")
        return yaml.safe_load(text)
    except SaisError:
        raise
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        reason = str(getattr(problem, "problem", ""))[:_MAX_PROBLEM]
        place = "" if mark is None else f" (line {mark.line + 1}: {reason})"
        raise error(f"{path}: not YAML{place}. Correct the file.") from problem
    except Exception as problem:  # PyYAML raises others for an impossible date, a deep nesting and more
        raise error(f"{path}: not YAML ({str(problem)[:_MAX_PROBLEM]}). Correct the file.") from problem
