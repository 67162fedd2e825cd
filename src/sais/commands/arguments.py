"""Functions that the commands share: parsing into a dataclass, checks of the installation and of output folders."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from sais.commands.help_text import description_of, join_lines_of_help
from sais.commands.hub_models import with_local_models
from sais.commands.options import (
    FLAT,
    Count,
    Minimum,
    Seed,
    Side,
    Workers,
    check_command_line,
    option_names,
    options_of,
)
from sais.errors import MissingDependencyError, ResourceError
from sais.io.atomic import check_writable

__all__ = [
    "FLAT",
    "Count",
    "Minimum",
    "Seed",
    "Side",
    "Workers",
    "check_writable",
    "make_folder",
    "need_package",
    "need_torch",
    "option_names",
    "parse",
    "prepare_torch",
    "progress_bar",
    "with_json_file",
]

Arguments = TypeVar("Arguments")


def parse(kind: type[Arguments], argv: Sequence[str], prog: str, default: Arguments | None = None) -> Arguments:
    """Parse a command line into a dataclass. The docstring under a field is the option's help.

    Args:
        kind: the dataclass of the command's arguments.
        argv: the words after the command's name.
        prog: the command with its positional arguments, for the usage line: "sais eval MODEL".
        default: an instance that holds the defaults; None for those of the class.

    Raises:
        ConfigError: an unknown or renamed option, or a missing or wrong value.
        SaisError: a model of the Hub cannot be fetched.
        SystemExit: `argv` asks for help.
    """
    command = " ".join(prog.split()[:2])
    description = None
    if {"-h", "--help"} & set(argv):
        join_lines_of_help()
        description = description_of(kind)
    else:
        check_command_line(kind, argv, command)
    if any(option.positional for option in options_of(kind)):  # tyro lists them in the usage line
        prog = command
    start = tyro.MISSING_NONPROP if default is None else default
    arguments = tyro.cli(kind, prog=prog, description=description, args=list(argv), default=start)
    return with_local_models(arguments)


def with_json_file(argv: Sequence[str]) -> list[str]:
    """Return a command line with the file of --json as --json=FILE; without a file it is -, the standard output."""
    words = list(argv)
    for position, word in enumerate(argv):
        if word == "--json":
            value = "".join(words[position + 1 : position + 2])
            named = bool(value) and (value == "-" or not value.startswith("-"))
            words[position : position + 1 + named] = [f"--json={value if named else '-'}"]
            return words
    return words


def need_torch(command: str) -> None:
    """Raise MissingDependencyError unless PyTorch is installed."""
    need_package(command, "torch", "train", "PyTorch")


def need_package(command: str, package: str, extra: str, name: str = "") -> None:
    """Raise MissingDependencyError unless a package is installed, before the work starts.

    Args:
        command: name of the command.
        package: name by which the package is imported.
        extra: extra of `sais-seg` that installs it.
        name: name of the package in the message; by default that by which it is imported.
    """
    if importlib.util.find_spec(package) is None:
        message = f'sais {command}: {name or package} is not installed. Run pip install "sais-seg[{extra}]".'
        raise MissingDependencyError(message, package=package, extra=extra)


def prepare_torch(command: str) -> None:
    """Require PyTorch and set the memory allocator for networks, which a command may do in its own process."""
    need_torch(command)
    from sais.engine.allocator import keep_big_blocks

    keep_big_blocks()


@contextlib.contextmanager
def progress_bar(label: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` items on stderr; yield a function that advances it by a number of items."""
    from sais.io.progress import Progress

    with Progress(label, total, unit) as progress:
        yield progress.advance


def make_folder(folder: Path) -> None:
    """Create a folder and its parents unless they exist.

    Raises:
        ResourceError: the folder cannot be created; even root has no permission in places such as /proc.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{folder}: the folder cannot be created ({error.strerror}). Choose another output folder."
        ) from error
