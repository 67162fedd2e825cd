"""Completion scripts for bash, zsh and fish, made from tables of commands and options. No script starts Python."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sais._version import __version__

ListOfWords = Callable[[Sequence[str]], str]
"""Function that writes words as a list of the shell."""
HEADER = f"# Completion of sais {__version__}. Written by `sais completion`; write it again after an update."


@dataclass(frozen=True)
class CompletedOption:
    """An option of a command."""

    names: tuple[str, ...]
    """Every spelling: --draw, --no-draw."""
    help: str
    """Help in one line."""
    kind: Literal["flag", "text", "files"]
    """What its value is where there are no choices: none, a text or number, or a file."""
    choices: tuple[str, ...] = ()
    """Values to choose from."""
    several: bool = False
    """Whether it takes more than one value."""


@dataclass(frozen=True)
class CompletedCommand:
    """A command."""

    name: str
    summary: str
    """Help in one line."""
    words: tuple[str, ...]
    """Words that may be given by place, in addition to files."""
    options: tuple[CompletedOption, ...]


def script(shell: Literal["bash", "zsh", "fish"], commands: Sequence[CompletedCommand]) -> str:
    """Return the completion script of a shell."""
    lines = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)
    return "\n".join(lines)


def _bash(commands: Sequence[CompletedCommand]) -> Iterator[str]:
    """Yield the lines for bash 3.2 and later."""
    names = " ".join(command.name for command in commands)
    yield from (HEADER, "_sais() {", '    local command="" option="" kind=files values="" words="" options="" i')
    yield '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"'
    yield "    COMPREPLY=()"
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '        if [[ -z $command && ${COMP_WORDS[i]} != -* ]]; then command="${COMP_WORDS[i]}"; fi'
    yield '        if [[ ${COMP_WORDS[i]} == --* ]]; then option="${COMP_WORDS[i]}"; fi'
    yield "    done"
    yield "    if [[ -z $command ]]; then"
    yield f'        COMPREPLY=($(compgen -W "{names} --help --version --quiet --debug" -- "$current"))'
    yield "        return"
    yield "    fi"
    yield "    # bash passes --option=value as three words"
    yield '    if [[ $current == "=" ]]; then current=""; fi'
    yield '    if [[ $previous == "=" ]]; then previous="$option"; fi'
    yield from _words_of_commands(commands, lambda words: f'"{" ".join(words)}"')
    yield from _values_of_options(commands, lambda words: f'"{" ".join(words)}"')
    yield "    if [[ $current == -* ]]; then"
    yield '        COMPREPLY=($(compgen -W "$options" -- "$current"))'
    yield "    elif [[ $kind == flag ]]; then"
    yield '        COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "    elif [[ -n $values ]]; then"
    yield '        COMPREPLY=($(compgen -W "$values" -- "$current"))'
    yield "        compopt +o default 2> /dev/null"
    yield "    elif [[ $kind == text ]]; then"
    yield "        compopt +o default 2> /dev/null"
    yield "    fi"
    yield from ("}", "complete -o default -o bashdefault -F _sais sais")


def _zsh(commands: Sequence[CompletedCommand]) -> Iterator[str]:
    """Yield the lines for zsh; with descriptions."""
    yield from ("#compdef sais", HEADER, "_sais() {")
    yield '    local command="" option="" kind=files current="$words[CURRENT]" previous="$words[CURRENT-1]" i'
    yield "    local -a commands options values places"
    yield "    for ((i = 2; i < CURRENT; i++)); do"
    yield '        if [[ -z $command && $words[i] != -* ]]; then command="$words[i]"; fi'
    yield '        if [[ $words[i] == --* ]]; then option="$words[i]"; fi'
    yield "    done"
    yield "    if [[ -z $command ]]; then"
    described = " ".join(_described(command.name, command.summary) for command in commands)
    yield f"        commands=({described})"
    yield "        if [[ $current == -* ]]; then compadd -- --help --version --quiet --debug"
    yield "        else _describe -t commands 'command of sais' commands; fi"
    yield "        return"
    yield "    fi"
    yield "    if [[ $current == --*=* ]]; then"
    yield '        option="${current%%=*}" previous="$option"'
    yield "        compset -P '*='"
    yield "        current=''"
    yield "    fi"
    lines = _words_of_commands(commands, lambda words: f"({' '.join(words)})", described=True)
    yield from (line.replace("words=", "places=") for line in lines)
    yield from _values_of_options(commands, lambda words: f"({' '.join(words)})")
    yield "    if [[ $current == -* ]]; then"
    yield "        _describe -o 'option' options"
    yield "    elif [[ $kind == flag ]]; then"
    yield "        (( $#places )) && compadd -a places"
    yield "        _files"
    yield "    elif (( $#values )); then"
    yield "        compadd -a values"
    yield "    elif [[ $kind == files ]]; then"
    yield "        _files"
    yield "    fi"
    yield "}"
    yield 'if [[ $funcstack[1] == _sais ]]; then _sais "$@"; else compdef _sais sais; fi'


def _fish(commands: Sequence[CompletedCommand]) -> Iterator[str]:
    """Yield the lines for fish; with descriptions."""
    yield from (HEADER, "function __sais_command")
    yield "    for word in (commandline -opc)[2..-1]"
    yield "        if not string match -q -- '-*' $word"
    yield "            echo $word"
    yield "            return"
    yield from ("        end", "    end", "    return 1", "end")
    first = "-n 'not __sais_command > /dev/null'"
    yield f"complete -c sais {first} -f"
    for command in commands:
        yield f"complete -c sais {first} -f -a {command.name} -d {_fish_text(command.summary)}"
    for name in ("help", "version", "quiet", "debug"):
        yield f"complete -c sais {first} -l {name}"
    for command in commands:
        start = f"complete -c sais -n 'contains -- {command.name} (__sais_command)'"
        if command.words:
            yield f"{start} -a {shlex.quote(' '.join(command.words))}"
        for option in command.options:
            values = {"flag": "", "text": " -x", "files": " -r -F"}[option.kind]
            if option.choices:
                values = f" -x -a {shlex.quote(' '.join(option.choices))}"
            for name in option.names:
                yield f"{start} -l {name.removeprefix('--')}{values} -d {_fish_text(option.help)}"


def _words_of_commands(
    commands: Iterable[CompletedCommand], as_list: ListOfWords, described: bool = False
) -> Iterator[str]:
    """Yield the lines that set `options` and `words` of the command, for bash and zsh."""
    yield '    case "$command" in'
    for command in commands:
        options = [
            _described(name, option.help) if described else name for option in command.options for name in option.names
        ]
        yield f"        {command.name})"
        yield f"            options={as_list(options)}"
        yield f"            words={as_list(command.words)} ;;"
    yield "    esac"


def _values_of_options(commands: Iterable[CompletedCommand], as_list: ListOfWords) -> Iterator[str]:
    """Yield the lines that set `kind` and `values`, of the last option where the word may be a value of it."""
    several: list[str] = []
    cases: dict[str, list[str]] = {}
    for command in commands:
        for option in command.options:
            patterns = [f'"{command.name} {name}"' for name in option.names]
            several += patterns if option.several else []
            setting = f"values={as_list(option.choices)}" if option.choices else f"kind={option.kind}"
            if setting != "kind=files":
                cases.setdefault(setting, []).extend(patterns)
    yield '    if [[ $previous != "$option" || -z $option ]]; then'
    yield '        case "$command $option" in'
    yield f"            {'|'.join(several)}) ;;"
    yield '            *) option="" kind=flag ;;'
    yield "        esac"
    yield "    fi"
    yield '    case "$command $option" in'
    for setting, patterns in cases.items():
        yield f"        {'|'.join(patterns)}) {setting} ;;"
    yield "    esac"


def _described(name: str, text: str) -> str:
    """Return a name and its description, as zsh's _describe reads them."""
    escaped = f"{name.replace(':', chr(92) + ':')}:{text.replace(':', chr(92) + ':')}"
    return shlex.quote(escaped)


def _fish_text(text: str) -> str:
    r"""Return a text in single quotes of fish, where \ and ' are escaped."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
