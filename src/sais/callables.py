"""Checks of functions of your own, which settings and options name."""

from __future__ import annotations

import inspect
from typing import Any

from sais.errors import ConfigError


def check_callable(function: Any, name: str, kind: str, *arguments: Any) -> None:
    """Check that an object that a setting names can be called with these arguments.

    Args:
        function: the object.
        name: its name in the setting.
        kind: kind of the named object for error messages, as for `sais.resolve.resolve`.
        arguments: positional arguments of the call.

    Raises:
        ConfigError: it is not callable, or takes other arguments.
    """
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        number = f"{len(arguments)} arguments" if arguments else "no arguments"
        raise ConfigError(
            f"{kind} {name!r}: cannot be called with {number} ({error}). Name another function."
        ) from error
