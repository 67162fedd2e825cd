"""Options of a command, read from its dataclass of arguments, and the check of a command line against them.

The check runs before tyro parses the same words: it knows the renamed options and the nearest names, and reports a
mistake in one line.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from sais.commands.renamed import RENAMED_OPTIONS
from sais.errors import ConfigError
from sais.resolve import suggest

FLAT = tyro.conf.arg(name="")
"""Marks a dataclass field whose own fields are options without a prefix: ``Annotated[InferenceOptions, FLAT]``."""
NEGATIVE_NUMBER = frozenset("0123456789.")
"""What follows the minus sign of a value, as opposed to an option."""


@dataclass(frozen=True)
class Minimum:
    """Smallest value of an option: ``Annotated[int, Minimum(1)]``."""

    value: float


@dataclass(frozen=True)
class Maximum:
    """Largest value of an option: ``Annotated[int, Minimum(1), Maximum(9)]``."""

    value: float


Count = Annotated[int, Minimum(1), Maximum(10**9)]
"""A whole number of 1 or more."""
Seed = Annotated[int, Minimum(0), Maximum(2**32 - 1)]
"""A random seed."""
Side = Annotated[int, Minimum(1), Maximum(16_384)]
"""Height or width of an image in pixels."""
Workers = Annotated[int, Minimum(0), Maximum(1024)]
"""A number of processes or threads that read images."""
_MAX_WHOLE_NUMBER = 2**63
"""Whole numbers beyond it fit into no array and no file."""


@dataclass(frozen=True)
class Option:
    """An option or a positional argument of a command.

    Args:
        name: "--optim.lr" of an option; "MODEL" of a positional argument.
        field: the dotted path of its field below the arguments, without the names of `FLAT` fields: "optim.lr".
        hint: its type, without `Annotated`.
        default: its default, `dataclasses.MISSING` where a value is required.
        minimum: the smallest number allowed, or None.
        maximum: the largest number allowed, or None.
        positional: whether it is given by place instead of by name.
        aliases: further names.
        owner: the dataclass that has the field.
    """

    name: str
    field: str
    hint: Any
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    positional: bool = False
    aliases: tuple[str, ...] = ()
    owner: type = object

    @property
    def names(self) -> tuple[str, ...]:
        """Every spelling on the command line: of a flag, also the negative one."""
        if self.positional:
            return ()
        if self.hint is not bool:
            return (self.name, *self.aliases)
        group, dot, name = self.name[2:].rpartition(".")
        return (self.name, f"--{group}{dot}no-{name}", *self.aliases)


def options_of(kind: type, default: Any = None) -> list[Option]:
    """Return the options and positional arguments of the dataclass `kind`.

    Args:
        kind: the dataclass of a command's arguments.
        default: an instance that holds the defaults; None for those of the class.
    """
    return list(_options(kind, default, ""))


def option_names(kind: type) -> list[str]:
    """Return every spelling of every option of `kind`: --data, --skip-broken, --no-skip-broken, --model.backbone."""
    return [name for option in options_of(kind) for name in option.names]


def check_command_line(kind: type, argv: Sequence[str], command: str) -> tuple[str, ...]:
    """Check the words `argv` against the options of `kind`.

    Args:
        kind: the dataclass of the command's arguments.
        argv: the command line after the command's name.
        command: the command as typed, for messages: "sais train".

    Returns:
        The fields of the options that were given, in order: "optim.lr", "model.masks".

    Raises:
        ConfigError: an option is unknown, renamed or lacks a value, a value is of the wrong type or too small, or a
            positional argument or a required option is missing, or an argument superfluous.
    """
    options = options_of(kind)
    by_name = {name: option for option in options for name in option.names}
    positionals = [option for option in options if option.positional]
    given: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if not _is_option(word):
            words.insert(0, word)
            if not positionals:
                raise ConfigError(f"{command}: unexpected argument {word!r}. See {command} --help.")
            option, values = positionals.pop(0), []
        else:
            name, equals, value = word.partition("=")
            name = name.replace("_", "-")
            if name not in by_name:
                raise ConfigError(f"{command}: {_unknown(name, list(by_name), command)}")
            option, values = by_name[name], [value] if equals else []
        values += _take(words, _max_values(option.hint) - len(values))
        _check_values(option, values, command)
        given.append(option.field)
    required = positionals + [option for option in options if not option.positional and option.field not in given]
    missing = [option.name for option in required if option.default is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"{command}: {' and '.join(missing)} missing. See {command} --help.")
    return tuple(dict.fromkeys(given))


def _options(kind: type, default: Any, prefix: str) -> Iterator[Option]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, extras = _without_extras(hints[field.name])
        value = _default(field) if default is None else getattr(default, field.name)
        if dataclasses.is_dataclass(hint):
            inner = prefix if FLAT in extras else f"{prefix}{field.name}."
            yield from _options(typing.cast(type, hint), None if value is dataclasses.MISSING else value, inner)
            continue
        positional = tyro.conf.Positional in extras
        configuration = next((extra for extra in extras if isinstance(extra, type(FLAT))), None)
        metavar = getattr(configuration, "metavar", None) or field.name.upper()
        yield Option(
            metavar if positional else "--" + (prefix + field.name).replace("_", "-"),
            prefix + field.name,
            hint,
            value,
            next((extra.value for extra in extras if isinstance(extra, Minimum)), None),
            next((extra.value for extra in extras if isinstance(extra, Maximum)), None),
            positional,
            tuple(getattr(configuration, "aliases", None) or ()),
            kind,
        )


def _without_extras(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type without its `Annotated` metadata, and the metadata; also of ``Annotated[int, ...] | None``."""
    if typing.get_origin(hint) is Annotated:
        inner, extras = _without_extras(hint.__origin__)
        return inner, (*hint.__metadata__, *extras)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        members = [_without_extras(member) for member in typing.get_args(hint)]
        return typing.Union[tuple(inner for inner, _ in members)], tuple(e for _, extras in members for e in extras)  # noqa: UP007
    if typing.get_origin(hint) is tuple:
        members = [_without_extras(member) for member in typing.get_args(hint)]
        extras = tuple(extra for _, extras in members for extra in extras)
        return tuple[tuple(inner for inner, _ in members)], extras  # type: ignore[misc]
    return hint, ()


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _is_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and word[1] not in NEGATIVE_NUMBER


def _take(words: list[str], limit: float) -> list[str]:
    """Remove and return the values at the start of `words`, at most `limit`."""
    taken: list[str] = []
    while words and len(taken) < limit and not _is_option(words[0]):
        taken.append(words.pop(0))
    return taken


def _unknown(name: str, known: list[str], command: str) -> str:
    new = RENAMED_OPTIONS.get(name)
    if new in known:
        return f"{name} has been renamed. Use {new}."
    hint = suggest(name, known)
    if hint.startswith(";"):  # no similar name, and the whole list fills a screen
        return f"unknown option {name}. See {command} --help."
    return f"unknown option {name}{hint}"


def _check_values(option: Option, values: list[str], command: str) -> None:
    where = option.name if option.positional else " ".join([option.name, *values])
    if option.hint is bool:
        if values:
            raise ConfigError(f"{command}: {where}: the option takes no value. Use {' or '.join(option.names[:2])}.")
        return
    if not values and _max_values(option.hint) == 1:
        raise ConfigError(f"{command}: {option.name}: the value is missing. Give {describe(option.hint)}.")
    if not _fits(option.hint, values):
        if any(re.fullmatch(r"[+-]?\d{19,}", value) for value in values):
            raise ConfigError(f"{command}: {where}: must be a number of at most 18 digits.")
        what = f"{' '.join(values)!r} is not valid" if option.positional else "not a valid value"
        raise ConfigError(f"{command}: {where}: {what}. Give {describe(option.hint)}.")
    for number in (number for number in map(_number, values) if number is not None):
        if option.minimum is not None and not number >= option.minimum:
            raise ConfigError(f"{command}: {where}: less than the minimum. Give {option.minimum:.10g} or more.")
        if option.maximum is not None and not number <= option.maximum:
            raise ConfigError(f"{command}: {where}: more than the maximum. Give {option.maximum:.10g} or less.")


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:  # a word such as "auto"
        return None


def _max_values(hint: Any) -> float:
    """Return the number of values of an option, at most; infinity for a tuple of any length."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        return 0
    if origin in (types.UnionType, typing.Union):
        return max(_max_values(member) or 1 for member in arguments)
    if origin is tuple:
        return float("inf") if arguments[-1] is Ellipsis else len(arguments)
    return 1


def _fits(hint: Any, values: Sequence[str]) -> bool:
    """Return whether `values`, as typed, are a value of the type `hint`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(member, values) for member in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return all(_fits(arguments[0], [value]) for value in values)
        return len(values) == len(arguments) and all(map(_fits, arguments, [[value] for value in values]))
    if len(values) != 1:
        return False
    if origin is Literal:
        return values[0] in map(str, arguments)
    if hint is types.NoneType:
        return values[0] == "None"
    if hint is bool:
        return values[0] in ("True", "False")
    if hint in (int, float):
        try:
            number = hint(values[0])
        except ValueError:
            return False
        return hint is float or abs(number) < _MAX_WHOLE_NUMBER
    is_blank = not values[0].strip()
    return "\0" not in values[0] and (not is_blank or (hint is str and not values[0]))


def describe(hint: Any) -> str:
    """Return what a value of the type `hint` is, for a message: "a number", "one of none, norms, all"."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(member) for member in arguments if member is not types.NoneType)
    if origin is tuple:
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        plural = {int: "whole numbers", float: "numbers"}.get(arguments[0], "values")
        return f"{count}{plural}" if plural != "values" else f"{count or 'any number of '}{describe(arguments[0])}"
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(map(str, arguments))
    return {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}.get(hint, "a path")
