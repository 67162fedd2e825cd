"""`sais completion SHELL`: print a script that completes commands, options and values in bash, zsh or fish."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from sais.commands.arguments import parse
from sais.commands.completion_scripts import CompletedCommand, CompletedOption, script
from sais.commands.options import Option, options_of
from sais.commands.table import COMMANDS, arguments_of
from sais.text import print_document

EVERYWHERE = {
    "--help": "list the options",
    "--quiet": "show errors only",
    "--debug": "show the traceback of an error",
    "--no-cache": "read large annotation files again",
}
"""Options of every command -> help."""
RECIPE_COMMANDS = ("train", "tune", "recipes", "draw-augmented", "bench", "reproduce")
"""Commands that a recipe is given to by place."""
DEVICES = ("auto", "cpu", "cuda", "mps")
MAX_HELP = 90
"""Maximum number of characters of the help of an option."""


@dataclass(frozen=True)
class CompletionArguments:
    """Print a script for the completion of commands, options, recipes and file names by the shell.

    bash: sais completion bash > ~/.local/share/bash-completion/completions/sais
    zsh: sais completion zsh > ~/.zfunc/_sais, with "fpath+=~/.zfunc; autoload -Uz compinit; compinit" in ~/.zshrc
    fish: sais completion fish > ~/.config/fish/completions/sais.fish

    It starts no Python when it completes. Write it again after an update of sais.
    """

    shell: Annotated[tyro.conf.Positional[Literal["bash", "zsh", "fish"]], tyro.conf.arg(metavar="SHELL")]
    """Shell that the script is for."""


def run(argv: Sequence[str]) -> int:
    """Run `sais completion`."""
    arguments = parse(CompletionArguments, argv, "sais completion SHELL")
    print_document(script(arguments.shell, completed_commands()))
    return 0


def completed_commands() -> list[CompletedCommand]:
    """Return every command with its options, as the scripts complete them."""
    from sais.recipes import RECIPES

    commands = []
    for name, row in COMMANDS.items():
        options = options_of(arguments_of(name))
        words = [value for option in options if option.positional for value in choices_of(option.hint)]
        words += RECIPES if name in RECIPE_COMMANDS else ["compare"] if name == "runs" else []
        completed = [completed_option(option) for option in options if not option.positional]
        everywhere = [CompletedOption((option,), text, "flag") for option, text in EVERYWHERE.items()]
        commands.append(CompletedCommand(name, row.summary, tuple(words), (*completed, *everywhere)))
    return commands


def completed_option(option: Option) -> CompletedOption:
    """Return an option as the scripts complete it: the spellings, a line of help, and what its value is."""
    choices = choices_of(option.hint)
    last = option.field.rpartition(".")[2]
    if last == "device":
        choices = DEVICES
    elif last == "format" and not choices:
        from sais.data.formats import FORMATS

        choices = ("auto", *FORMATS)
    is_number = not choices and members_of(option.hint) <= {int, float, types.NoneType}
    kind: Literal["flag", "text", "files"] = "flag" if option.hint is bool else "text" if is_number else "files"
    return CompletedOption(option.names, help_of(option), kind, choices, takes_several(option.hint))


def choices_of(hint: Any) -> tuple[str, ...]:
    """Return the words that a type allows: those of its `Literal`, also inside of a tuple or an optional type."""
    if typing.get_origin(hint) is Literal:
        return tuple(map(str, typing.get_args(hint)))
    arguments = [argument for argument in typing.get_args(hint) if argument is not Ellipsis]
    return tuple(dict.fromkeys(choice for argument in arguments for choice in choices_of(argument)))


def members_of(hint: Any) -> set[Any]:
    """Return the types of single values that a type has: {int, NoneType} of ``tuple[int, ...] | None``."""
    arguments = [argument for argument in typing.get_args(hint) if argument is not Ellipsis]
    return {member for argument in arguments for member in members_of(argument)} if arguments else {hint}


def takes_several(hint: Any) -> bool:
    """Return whether an option of a type takes more than one value."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(map(takes_several, typing.get_args(hint)))
    return typing.get_origin(hint) is tuple


def help_of(option: Option) -> str:
    """Return the first sentence of the help of an option, in one line."""
    text = " ".join(field_docstrings(option.owner).get(option.field.rpartition(".")[2], "").split())
    sentence = text.split(". ")[0].rstrip(".").replace("`", "")
    return textwrap.shorten(sentence, MAX_HELP, placeholder=" ...")


@functools.cache
def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, docstring in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(docstring, ast.Expr):
            texts[ast.unparse(field.target)] = ast.literal_eval(docstring.value)
    return texts
