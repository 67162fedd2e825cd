"""Help texts: descriptions are wrapped for the terminal, with the items of their lists on lines of their own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sais.cli import COMMANDS, arguments_of, main
from sais.commands.help_text import description_of


@dataclass
class Described:
    """Measure one thing, with a first line that is so long that it does not fit into forty columns.

    first: an item.
    second: another item, which is continued
    on the next line.

    The end.
    """


def test_description_is_wrapped_and_its_items_are_kept_apart() -> None:
    assert description_of(Described, 40).lstrip("\0").splitlines() == [
        "Measure one thing, with a first line",
        "that is so long that it does not fit",
        "into forty columns.",
        "",
        "first: an item.",
        "second: another item, which is continued",
        "on the next line.",
        "",
        "The end.",
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_descriptions_fit_a_terminal(command: str) -> None:
    assert max(map(len, description_of(arguments_of(command), 80).splitlines())) <= 81  # with its mark


def test_help_is_printed_as_it_was_wrapped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["bench", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("masks: ") for line in lines)
    assert not any("\0" in line for line in lines)
