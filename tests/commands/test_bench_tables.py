"""Tables of `sais bench` on narrow and wide terminals and in files."""

from __future__ import annotations

import pytest
from rich.console import Console

from sais.commands import bench_tables

COLUMNS = ("model", "preprocess", "network", "postprocess", "end to end", "end to end, retaining allocator", "memory")
ROWS = [["sais-lite", *["28.4"] * 5, "121 MiB"], ["first.onnx", *["1042.1"] * 5, "161 MiB"]]


@pytest.mark.parametrize(
    ("terminal", "width", "first_column"),
    [
        (True, 80, ["model", *COLUMNS[1:]]),
        (True, 140, ["model", "sais-lite", "first.onnx"]),
        (False, 80, ["model", "sais-lite", "first.onnx"]),  # a file, whose width is not that of a terminal
    ],
)
def test_table_exchanges_rows_and_columns_on_a_narrow_terminal(
    terminal: bool,
    width: int,
    first_column: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    if terminal:
        console = Console(force_terminal=True, no_color=True, width=width)
        monkeypatch.setattr(bench_tables, "_console", lambda: console)
    bench_tables.print_table("title", COLUMNS, ROWS, "A note of some words. " * 10)
    lines = [line for line in capsys.readouterr().out.splitlines() if set("┃│") & set(line)]
    cells = [line.replace("\x1b[1m", "").replace("\x1b[0m", "").replace("┃", "│").split("│")[1] for line in lines]
    assert [cell.strip() for cell in cells] == first_column


def test_brackets_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    cells = ["half precision[fp16]", "ended [/with] a tag", ":smile:"]
    bench_tables.print_table("[table]", ["a", "b", "c"], [cells], "note [1]")
    output = capsys.readouterr().out
    assert all(text in output for text in (*cells, "[table]", "note [1]"))
