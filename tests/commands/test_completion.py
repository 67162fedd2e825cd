"""`sais completion`: the scripts, asked by the shells themselves."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sais.cli import COMMANDS, arguments_of, main
from sais.commands.completion import completed_commands
from sais.commands.options import option_names
from sais.recipes import RECIPES

FISH_COMPLETIONS = "complete -C {line!r} | string replace -r '\\t.*' ''"
ASK_BASH = """
source "$1"
while read -r line; do
    read -ra COMP_WORDS <<< "$line"; COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    if [[ ${COMP_WORDS[COMP_CWORD]} == EMPTY ]]; then COMP_WORDS[COMP_CWORD]=""; fi
    _sais 2> /dev/null
    echo "${COMPREPLY[@]}"
done
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("completion")

    def script_of(shell: str) -> Path:
        path = folder / f"{shell}.script"
        if not path.exists():
            with contextlib.redirect_stdout(io.StringIO()) as output:
                assert main(["completion", shell]) == 0
            path.write_text(output.getvalue(), encoding="utf-8")
        return path

    return script_of


def program(name: str) -> str:
    """Return the path of a shell; skip the test without it."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def test_bash_completes_commands_options_and_values(scripts: Callable[[str], Path]) -> None:
    """Lines as bash splits them, and what the last word is completed to."""
    expected = {
        "sais ex": ["export"],
        "sais EMPTY": [*COMMANDS, "--help", "--version", "--quiet", "--debug"],
        "sais train sais-lite-": ["sais-lite-small-data"],
        "sais train EMPTY": [*RECIPES],
        "sais train sais-lite --optim.wei": ["--optim.weight-decay"],
        "sais predict m --no-dr": ["--no-draw"],
        "sais predict m --device c": ["cpu", "cuda"],
        "sais predict m --device = c": ["cpu", "cuda"],
        "sais predict m --device =": ["auto", "cpu", "cuda", "mps"],
        "sais bench models --precisions fp32 b": ["bf16"],
        "sais bench mas": ["masks"],
        "sais completion EMPTY": ["bash", "zsh", "fish"],
        "sais train --resume fcos-r50-": ["fcos-r50-area"],  # a flag has no value
        # bash itself completes the names of files
        "sais eval m --data x": [],
        "sais predict m x": [],
        "sais train --config EMPTY": [],
        "sais eval m": [],
        "sais unknown --lr": [],
    }
    command = [program("bash"), "--norc", "-c", ASK_BASH, "bash", str(scripts("bash"))]
    lines = "".join(f"{line}\n" for line in expected)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, check=True)
    assert dict(zip(expected, map(str.split, done.stdout.splitlines()), strict=True)) == expected


def pressed_tab(command: list[str], start: str, line: str, folder: Path) -> str:
    """Return the last word of a command line after the tab key in an interactive shell, in a folder."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.environ.update(TERM="dumb", HISTFILE="")
        os.execv(command[0], command)
    result, deadline = folder / "result.txt", time.monotonic() + 60
    os.write(terminal, f"{start}; PS1='rea''dy>'\n".encode())
    # Control-A and Control-E go to the start and the end of the line.
    keys = iter([f"sais {line}\t", "\x01printf '%s\\n' \x05 > result.txt\n", "exit\n"])
    output = b""
    with contextlib.suppress(OSError, StopIteration):  # the shell has ended
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.5)[0]:
                output += os.read(terminal, 65536)
            elif b"ready>" in output:  # the shell waits for a key
                os.write(terminal, next(keys).encode())
    os.close(terminal)
    os.waitpid(process, 0)
    return result.read_text().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no terminals")
def test_tab_in_an_interactive_bash(scripts: Callable[[str], Path], tmp_path: Path) -> None:
    command, start = [program("bash"), "--norc", "--noprofile", "-i"], f"source {scripts('bash')}"
    assert pressed_tab(command, start, "eval m --max-det", tmp_path) == "--max-detections"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no terminals")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("expo", "export"),
        ("train sais-lite-", "sais-lite-small-data"),
        ("eval m --max-det", "--max-detections"),
        ("predict m --palette color", "color-blind"),
        ("predict m --palette=color", "--palette=color-blind"),
        ("split annotations-of-the", "annotations-of-the-whole.json"),
    ],
)
def test_tab_in_an_interactive_zsh(scripts: Callable[[str], Path], line: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "annotations-of-the-whole.json").touch()
    start = f"autoload -Uz compinit && compinit -u -D && source {scripts('zsh')}"
    assert pressed_tab([program("zsh"), "-f", "-i"], start, line, tmp_path) == expected


def test_fish_completes_commands_options_and_values(
    scripts: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "labels.json").touch()
    lines = ["sais ex", "sais train sais-lite-", "sais predict m --device c", "sais predict train --max-de"]
    lines += ["sais split lab", "sais eval m --lr", "sais split --out lab"]
    commands = "\necho ---\n".join(FISH_COMPLETIONS.format(line=line) for line in lines)
    command = [program("fish"), "--no-config", "-c", f"source {scripts('fish')}\n{commands}"]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    answers = [part.split() for part in output.split("---")]
    assert answers == [
        ["export"],
        ["sais-lite-small-data"],
        ["cpu", "cuda"],
        ["--max-detections"],
        ["labels.json"],
        [],
        ["labels.json"],
    ]


def test_every_option_is_completed_and_explained() -> None:
    for command in completed_commands():
        names = {name for option in command.options for name in option.names}
        assert names >= set(option_names(arguments_of(command.name)))
        for option in command.options:
            assert option.help, (command.name, option.names)
            assert "\n" not in option.help
