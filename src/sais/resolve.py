"""Resolve names in settings: a row of a literal table, or ``module:attribute`` in the user's own code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from sais.errors import ConfigError

NAMED_MODULES: set[str] = set()
"""Modules of your own code that this process has imported by name: `sais.trust` trusts them."""
MAX_LISTED = 40


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint with the known words most similar to `word`.

    Args:
        word: unknown word.
        known: valid words.

    Returns:
        ", did you mean 'a' or 'b'?", or "; known are a, b, c." if no word is similar, at most `MAX_LISTED`.
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    if close:
        return ", did you mean " + " or ".join(repr(match) for match in close) + "?"
    others = f" and {len(known) - MAX_LISTED} others" if len(known) > MAX_LISTED else ""
    return "; known are " + ", ".join(known[:MAX_LISTED]) + others + "."


def resolve(name: str, table: Mapping[str, Any], kind: str) -> Any:
    """Return the row of `table` called `name`, or the attribute that ``module:attribute`` names.

    The current directory is searched as well, so that a file next to the user's command is found.

    Args:
        name: a key of `table`, or ``module:attribute`` (``my_losses:smooth_l1``).
        table: the built-in choices by name; empty where only ``module:attribute`` is possible.
        kind: kind of the named object for error messages: "assigner", "box loss".

    Raises:
        ConfigError: no such row, module or attribute.
    """
    if name in table:
        return table[name]
    module, separator, attribute = name.partition(":")
    if not (separator and module and attribute):
        example = f"'my_module:{kind.replace(' ', '_')}'"
        if not table:
            raise ConfigError(f"{kind} {name!r}: not of the form 'module:attribute'. Write for example {example}.")
        raise ConfigError(
            f"{kind} {name!r}: unknown{suggest(name, table)} Write 'module:attribute' for your own code, such as "
            f"{example}."
        )
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{kind} {name!r}: no module {error.name!r}. Install it, or run from its folder.") from error
    except (ImportError, SyntaxError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{kind} {name!r}: module {module!r} cannot be imported ({error}). Fix it.") from error
    if module.partition(".")[0] != __name__.partition(".")[0]:
        NAMED_MODULES.add(module)
    try:
        return getattr(loaded, attribute)
    except AttributeError as error:
        raise ConfigError(f"{kind} {name!r}: module {module!r} has no {attribute!r}. Check the spelling.") from error
