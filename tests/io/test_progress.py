"""Progress: lines that are whole at every width, plain lines where there is no terminal, a clean stdout."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from sais.io.progress import LINE_INTERVAL, Progress, format_number, format_seconds

VALUES = {"loss": "1.234", "AP": "0.312"}


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def terminal(width: int, **options: Any) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, soft_wrap=True, legacy_windows=False, **options
    )


def half_done(console: Console, clock: Clock, label: str = "epoch 3/20") -> Progress:
    progress = Progress(label, 2000, console=console, clock=clock)
    clock.time = 30.0
    progress.update(1000, VALUES, speed=27.3)
    return progress


def test_line_has_all_parts_at_80_columns() -> None:
    progress = half_done(terminal(80), Clock())
    line = progress.line(79)
    assert line.startswith("epoch 3/20 1000/2000 ━━━━━━")
    assert line.endswith(" loss 1.234 AP 0.312 27.3 images/s 0:30 left")
    assert len(line) == 79
    assert abs(line.count("━") - line.count("─")) <= 1  # half done
    assert line.count("━") >= 4


def test_line_drops_the_least_important_parts_where_it_is_narrow() -> None:
    progress = half_done(terminal(60), Clock())
    line = progress.line(59)
    assert "loss 1.234 AP 0.312" in line
    assert line.endswith("0:30 left")
    assert "images/s" not in line
    assert progress.line(30).endswith("0:30 left")
    assert progress.line(12).startswith("1000/2000")
    for width in (1, 5, 8, 20, 33, 47, 59, 79, 119, 199):
        assert cell_len(progress.line(width)) <= width
    assert cell_len(half_done(terminal(80), Clock(), "評価中 " * 9).line(40)) <= 40


@pytest.mark.parametrize("width", [60, 80, 200])
def test_bar_is_one_line_that_is_not_wrapped(width: int) -> None:
    console = terminal(width)
    with half_done(console, Clock()) as progress:
        assert progress.shows_bar
    assert isinstance(console.file, io.StringIO)
    plain = Console(file=io.StringIO(), width=width)
    frames = [frame for frame in console.file.getvalue().split("\r") if "1000/2000" in frame]
    assert frames
    for frame in frames:
        text = plain.render_str("").from_ansi(frame).plain.rstrip("\n")
        assert "\n" not in text
        assert cell_len(text) < width


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": "unknown"}])
def test_dumb_terminals_get_plain_lines(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    console, clock = terminal(80), Clock()
    with Progress("checking", 100, console=console, clock=clock) as progress:
        clock.time = LINE_INTERVAL
        progress.update(50)
    assert isinstance(console.file, io.StringIO)
    assert "\r" not in console.file.getvalue()
    assert console.file.getvalue().splitlines() == ["checking 50/100 · 1.67 images/s · 0:30 left"]


def test_force_color_without_a_terminal_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert not Progress("checking", 100).shows_bar


def test_no_color_removes_colors_and_keeps_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = terminal(80)
    with half_done(console, Clock()):
        pass
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert "━" in written
    assert "\x1b[32m" not in written
    assert "\x1b[90m" not in written


def test_a_line_each_half_minute_without_a_terminal() -> None:
    console, clock = Console(file=io.StringIO(), width=40), Clock()
    lines: list[str] = []
    with Progress("training", 100, console=console, clock=clock, write_line=lines.append) as progress:
        for second in range(1, 96):
            clock.time = second
            progress.update(second, VALUES, speed=3.0)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == lines  # not wrapped at 40 columns
    assert [line.split(" · ")[0] for line in lines] == [f"training {n}/100" for n in (30, 60, 90)]
    assert lines[0] == "training 30/100 · loss 1.234 · AP 0.312 · 3.00 images/s · 1:10 left"


def test_short_work_without_a_terminal_prints_nothing() -> None:
    console = Console(file=io.StringIO())
    with Progress("checking", 3, console=console) as progress:
        for _ in range(3):
            progress.advance()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""


def test_seconds_left_follow_the_last_minute_or_all_of_the_work() -> None:
    for window in (60.0, float("inf")):
        clock = Clock()
        progress = Progress("work", 200, console=Console(file=io.StringIO()), clock=clock, speed_window=window)
        assert progress.seconds_left is None
        for second, done in [*((t, 10 * t) for t in range(1, 10)), *((t, 90 + t - 9) for t in range(10, 71))]:
            clock.time = float(second)
            progress.update(min(done, 100 if window == 60.0 else done))
        if window == 60.0:
            assert progress.seconds_left is not None
            assert progress.seconds_left > 300  # the fast start is forgotten
        else:
            assert progress.seconds_left == pytest.approx((200 - 151) * 70 / 151)


def test_seconds_left_follow_the_work_of_unequal_items() -> None:
    clock = Clock()
    progress = Progress("work", 100, console=Console(file=io.StringIO()), clock=clock, work=lambda items: items**2)
    clock.time = 25.0
    progress.update(50)  # a quarter of the work
    assert progress.seconds_left == pytest.approx(75)
    with progress.stage("other work", 10) as advance:
        clock.time = 30.0
        advance(5)
        assert progress.seconds_left == pytest.approx(5)
    clock.time = 25.0
    assert progress.seconds_left == pytest.approx(75)


def test_stage_shows_other_work_and_restores_the_first() -> None:
    progress = half_done(terminal(80), Clock())
    before = progress.line(79)
    with progress.stage("evaluating", 40) as advance:
        advance(10)
        assert progress.line(79).startswith("evaluating 10/40 ")
        assert "AP" not in progress.line(79)
    assert progress.line(79) == before


def test_work_of_unknown_length_is_counted() -> None:
    clock = Clock()
    progress = Progress("video.mp4", 0, "frames", console=terminal(80), clock=clock)
    clock.time = 10.0
    progress.update(25)
    assert progress.line(79) == "video.mp4 25  2.50 frames/s"
    assert progress.plain_line() == "video.mp4 25 · 2.50 frames/s"


def test_update_draws_nothing_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing belongs to the thread that refreshes the bar, so that a fast loop is not slowed down."""
    calls: list[int] = []
    clock = Clock()
    progress = Progress("work", 10_000, console=terminal(80), clock=clock)
    monkeypatch.setattr(progress, "_render", lambda *_: calls.append(1))
    for i in range(10_000):
        progress.update(i, VALUES)
    assert not calls
    assert len(progress._samples) == 1  # one sample per refresh interval, not one per update


def test_notebook_output_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = types.SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    module: Any = types.ModuleType("IPython.display")
    module.display = lambda data, raw, display_id: handle
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    clock = Clock()
    console = Console(file=io.StringIO(), force_jupyter=True)
    with Progress("predicting", 100, console=console, clock=clock) as progress:
        for second in range(1, 101):
            clock.time = second
            progress.advance()
    assert progress.shows_bar
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    assert shown[-1].startswith("predicting 100/100 ━")
    assert len(shown) == 101
    assert all(len(line) <= 100 for line in shown)


def test_format_seconds_and_numbers() -> None:
    assert [format_seconds(s) for s in (0, 59.6, 754, 3600, 90_061)] == ["0:00", "1:00", "12:34", "1:00:00", "25:01:01"]
    assert [format_number(v) for v in (0.0523, 3.456, 27.25, 1250)] == ["0.052", "3.46", "27.2", "1250"]


SCRIPT = """
import sys, time
from sais.io.progress import Progress
with Progress("training", 400) as progress:
    for i in range(401):
        progress.update(i, {"loss": "1.234", "AP": "0.312"}, speed=27.3)
        if i % 200 == 100:
            print("result " + 120 * "x", flush=True)
        time.sleep(0.001)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("piped", [False, True])
def test_bar_in_a_pseudo_terminal_keeps_stdout_clean(columns: int, piped: bool, root: Path) -> None:
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(root / "src"), "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=slave,
        stdout=subprocess.PIPE if piped else slave,
        stderr=slave,
        env=environment,
    )
    os.close(slave)
    written = b""
    with contextlib.suppress(OSError):  # Linux reports the end of a pseudo-terminal as an error
        while part := os.read(master, 65536):
            written += part
    os.close(master)
    results = "result " + 120 * "x"
    if piped:
        assert child.stdout is not None
        assert child.stdout.read().decode().splitlines() == [results, results]
        child.stdout.close()
    assert child.wait() == 0
    screen = written.decode()
    assert screen.count(results) == (0 if piped else 2)
    from rich.text import Text

    lines = [Text.from_ansi(part).plain for part in screen.replace("\n", "\r").split("\r")]
    bars = [line for line in lines if "/400 " in line]
    assert bars
    assert max(cell_len(line) for line in bars) < columns
    assert "loss 1.234" in bars[-1]
    assert "400/400" in bars[-1]
