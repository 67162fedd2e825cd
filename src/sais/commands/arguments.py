"""What the commands share: arguments parsed into a dataclass, errors in one line, a check of where output goes."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import itertools
import os
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from sais.errors import SaisError
from sais.resolve import suggest

Arguments = TypeVar("Arguments")

FLAT = "experiment"
"""A field of this name holds settings whose groups are options of their own: --model.masks, not --experiment...."""


def parse(kind: type[Arguments], argv: Sequence[str], prog: str, default: Arguments | None = None) -> Arguments:
    """Parse `argv` into the dataclass `kind`; the docstring under a field is its help, `default` its defaults.

    Raises:
        SaisError: an unknown option (with the nearest names), a missing or a wrong value. One line.
        SystemExit: after --help.
    """
    if not {"-h", "--help"} & set(argv):
        _check_options(kind, argv, prog)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                kind, args=list(argv), prog=prog, default=tyro.MISSING_NONPROP if default is None else default
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise SaisError(_one_line(said.getvalue(), prog)) from None


def option_names(kind: type) -> list[str]:
    """Every option of the arguments `kind`, as typed: --data, --skip-broken, --no-skip-broken, --model.backbone ..."""
    return ["--" + name for name in _names(kind, "")]


def _names(kind: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint: Any = hints[field.name]
        if typing.get_origin(hint) is Annotated:
            if tyro.conf.Positional in hint.__metadata__:
                continue
            hint = hint.__origin__
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            yield from _names(typing.cast(type, hint), "" if field.name == FLAT else f"{prefix}{name}.")
            continue
        yield prefix + name
        if hint is bool:
            yield f"{prefix}no-{name}"


def _check_options(kind: type, argv: Sequence[str], prog: str) -> None:
    known = option_names(kind)
    for word in argv:
        if not word.startswith("--"):
            continue
        option = word.partition("=")[0].replace("_", "-")
        if option not in known:
            hint = suggest(option, known)
            if hint.startswith(";") and len(known) > 20:  # nothing like it, and the whole list fills a screen
                hint = ""
            command = " ".join(prog.split()[:2])
            raise SaisError(f"{command}: unknown option {option}{hint} ({command} --help lists them)")


def _one_line(box: str, prog: str) -> str:
    """The message that tyro puts into a box: a title, the message, a rule, hints. Drawn with lines where the terminal
    has them, without a frame elsewhere."""
    inner = [line.strip("╭╮╰╯│").rstrip() for line in box.splitlines()]
    inner = [line for line in inner if line.strip()][1:]  # without the title
    if inner and _is_rule(inner[0]):
        inner = inner[1:]
    message = list(itertools.takewhile(lambda line: not _is_rule(line), inner))
    command = " ".join(prog.split()[:2])
    if message and message[0].strip().startswith("Missing from"):
        indents = [len(line) - len(line.lstrip()) for line in message[1:]]
        wanted = [line.strip() for line, indent in zip(message[1:], indents, strict=True) if indent == min(indents)]
        return f"{command} needs {', '.join(wanted)} ({command} --help)"
    return f"{command}: " + " ".join(line.strip() for line in message) + f" ({command} --help)"


def _is_rule(line: str) -> bool:
    return set(line.strip()) <= {"─", "-"}


def need_torch(command: str) -> None:
    """Raise SaisError, naming the extra to install, where PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise SaisError(f'sais {command} needs PyTorch: pip install "sais-seg[train]"')


def prepare_torch(command: str) -> None:
    """For a command that runs a network: `need_torch`, and an allocator that suits networks (the process is ours)."""
    need_torch(command)
    from sais.engine.allocator import keep_big_blocks

    keep_big_blocks()


@contextlib.contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with ETA on stderr; gives the function to call with the number of images done since the last call."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    # Without a terminal rich would still end with an empty line, and stderr is for errors there.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, advance=done)


def check_writable(folder: Path) -> None:
    """Raise SaisError where `folder` cannot be made or written to. Makes nothing."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise SaisError(f"{folder}: {place} is not a folder; choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SaisError(f"{folder}: {place} cannot be written to; choose another --out or mend its permissions")


def make_folder(folder: Path) -> None:
    """Make a folder where there is none yet. Raises SaisError where that fails, which even root meets, as in /proc."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaisError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error
