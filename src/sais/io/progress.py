"""Progress of long work, on stderr: a bar on a terminal and in a notebook, a plain line each 30 s elsewhere.

stdout is for results. A bar is one line that is never wider than the terminal: where it is narrow, the less important
parts are left out. `NO_COLOR` and `TERM=dumb` are honored by rich; a dumb terminal gets plain lines.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sais.text import is_quiet, printable, short_name

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID
    from rich.text import Text

LINE_INTERVAL = 30.0
"""Seconds between plain lines."""
REFRESH_INTERVAL = 0.25
"""Minimum number of seconds between two updates of a bar."""
SPEED_WINDOW = 60.0
"""Seconds over which the speed, and from it the remaining time, is averaged."""
NOTEBOOK_WIDTH = 100
"""Number of characters of a line in a notebook."""
MIN_BAR, MAX_BAR = 8, 40
"""Minimum and maximum number of characters of a bar."""


class Progress:
    """Show the progress of work; use it as a context manager.

    Args:
        label: what is done, such as "training".
        total: number of items; 0 if it is unknown.
        unit: plural name of an item.
        done: number of items done before, for work that is resumed.
        console: console for the bar or the lines, by default on stderr.
        line_interval: seconds between plain lines.
        speed_window: seconds over which the speed is averaged; infinite for all of the work.
        work: function from N to the work of the first N items, in any unit, where items do not take equal time.
        clock: function that returns the time in seconds.
        write_line: function called with each plain line in addition to showing it, also while a bar is shown.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str = "images",
        *,
        done: int = 0,
        console: Console | None = None,
        line_interval: float = LINE_INTERVAL,
        speed_window: float = SPEED_WINDOW,
        work: Callable[[int], float] = float,
        clock: Callable[[], float] = time.monotonic,
        write_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        if console is None:
            from rich.console import Console

            # FORCE_COLOR colors the log of a CI job, which is no place for a bar all the same.
            interactive = None if _is_terminal(sys.stderr) and not is_quiet() else False
            console = Console(stderr=True, soft_wrap=True, force_interactive=interactive, quiet=is_quiet())
        self.label, self.total, self.done, self.unit = label, total, done, unit
        self.values: dict[str, str] = {}
        self._clock, self._line_interval, self._write_line = clock, line_interval, write_line
        self._console, self._speed_window, self._work = console, speed_window, work
        self._samples = deque([(clock(), done)])
        self._speed: float | None = None
        self._last_line = self._last_refresh = clock()
        self._notebook = _notebook_display() if console.is_jupyter else None
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self.shows_bar = self._notebook is not None or console.is_interactive

    def __enter__(self) -> Progress:
        if self._notebook is None and self.shows_bar:
            self._bar = _rich_bar(self._console, self._render)
            self._task = self._bar.add_task(self.label, total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._notebook is not None:
            self._notebook(self.line(NOTEBOOK_WIDTH))

    def advance(self, items: int = 1) -> None:
        """Add to the number of items done."""
        self.update(self.done + items)

    def update(
        self,
        done: int,
        values: Mapping[str, str] | None = None,
        speed: float | None = None,
    ) -> None:
        """Set the number of items done. Cheap: what is shown is refreshed a few times a second.

        Args:
            done: number of items done.
            values: texts shown next to the bar by name, such as {"loss": "1.234"}, the most important first.
            speed: images per second; by default the number of items per second.
        """
        now = self._clock()
        self.done, self._speed = done, speed
        if values is not None:
            self.values = dict(values)
        if self._speed_window < float("inf") and now - self._samples[-1][0] >= REFRESH_INTERVAL:
            self._samples.append((now, done))
            while now - self._samples[0][0] > self._speed_window and len(self._samples) > 2:
                self._samples.popleft()
        if now - self._last_line >= self._line_interval:
            self._last_line = now
            self._add_line()
        if self._notebook is not None and (now - self._last_refresh >= 2 * REFRESH_INTERVAL or done >= self.total):
            self._last_refresh = now
            self._notebook(self.line(NOTEBOOK_WIDTH))

    @contextlib.contextmanager
    def stage(self, label: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
        """Show other work for a while, such as the evaluation after an epoch; yield a function that advances it."""
        outer = (self.label, self.total, self.done, self.unit, self.values, self._speed, self._samples, self._work)
        self.label, self.total, self.done, self.unit, self.values, self._speed = label, total, 0, unit, {}, None
        self._work = float
        self._samples = deque([(self._clock(), 0)])
        try:
            yield self.advance
        finally:
            self.label, self.total, self.done, self.unit, self.values, self._speed, self._samples, self._work = outer

    @property
    def seconds_left(self) -> float | None:
        """Estimated remaining seconds; None before there is an estimate."""
        (start, first), now = self._samples[0], self._clock()
        if self.done <= first or now <= start or not self.total:
            return None
        before, done, total = (self._work(items) for items in (first, self.done, self.total))
        return max(0.0, (total - done) * (now - start) / (done - before))

    def line(self, width: int) -> str:
        """Return the progress as one line of at most `width` characters, with a bar."""
        return self._render(width, ascii_only=False).plain

    def plain_line(self) -> str:
        """Return the progress as a line for a log file, without a bar."""
        return " · ".join([f"{short_name(self.label)} {self._count}", *self._parts()])

    @property
    def _count(self) -> str:
        return f"{self.done}/{self.total}" if self.total else str(self.done)

    def _parts(self) -> list[str]:
        """Return the texts next to the bar, in the order in which they are shown."""
        parts = [printable(f"{name} {value}".strip()) for name, value in self.values.items()]
        speed = self._speed
        (start, first), now = self._samples[0], self._clock()
        if speed is None and self.done > first and now > start:
            speed = (self.done - first) / (now - start)
        if speed is not None:
            parts.append(f"{format_number(speed)} {'images' if self._speed is not None else self.unit}/s")
        if self.done < self.total and (left := self.seconds_left) is not None:
            parts.append(f"{format_seconds(left)} left")
        return parts

    def _render(self, width: int, ascii_only: bool) -> Text:
        """Return the line with the bar; parts that do not fit into `width` are left out."""
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        parts = self._parts()
        count = self._count
        label = short_name(self.label)
        # By importance: the time left, the values in their order, the speed; the label goes first.
        order = sorted(range(len(parts)), key=lambda i: (not parts[i].endswith(" left"), i))
        room = width - len(count) - 1 - MIN_BAR
        if cell_len(label) + 1 + sum(len(part) + 1 for part in parts) <= room or not parts:
            label = set_cell_size(label, min(cell_len(label), max(0, room - 1)))
        else:
            label = ""
        room -= cell_len(label) + bool(label)
        shown = set()
        for i in order:
            if cell_len(parts[i]) + 1 <= room:
                room -= cell_len(parts[i]) + 1
                shown.add(i)
        bar_width = min(MAX_BAR, MIN_BAR + room)
        text = Text(no_wrap=True, overflow="crop", end="")
        if label:
            text.append(f"{label} ", "bold")
        text.append(f"{count} ")
        if bar_width > 0 and self.total:
            filled = round(bar_width * min(1.0, self.done / max(1, self.total)))
            text.append(("#" if ascii_only else "━") * filled, "green")
            text.append(("-" if ascii_only else "─") * (bar_width - filled), "bright_black")
        for i, part in enumerate(parts):
            if i in shown:
                text.append(f" {part}")
        text.truncate(width)
        return text

    def _add_line(self) -> None:
        line = self.plain_line()
        self._write_line(line)
        if not self.shows_bar:
            print_line(self._console, line)


def print_line(console: Console, text: str) -> None:
    """Print a line as it is: not wrapped, without markup or highlighting; control characters are escaped."""
    console.print(printable(text), highlight=False, markup=False, emoji=False, soft_wrap=True)


def format_seconds(seconds: float) -> str:
    """Return a duration as h:mm:ss, or m:ss below an hour."""
    whole = round(seconds)
    minutes = f"{whole % 3600 // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{minutes.zfill(5)}" if whole >= 3600 else minutes


def format_number(value: float) -> str:
    """Return a number with about three digits: 0.052, 3.46, 27.3, 1250."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def _rich_bar(console: Console, render: Callable[[int, bool], Text]) -> RichProgress:
    """Create a display of one line that is refreshed by a thread of its own."""
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn
    from rich.table import Column

    class Line(ProgressColumn):
        """The whole line as one column, in the width of the terminal."""

        def render(self, task: Task) -> Text:
            """Render the line."""
            return render(console.width - 1, not console.encoding.startswith("utf"))

    return RichProgress(
        Line(Column(no_wrap=True)),
        console=console,
        transient=True,
        refresh_per_second=1 / REFRESH_INTERVAL,
        # Redirected output is printed above the bar, to stderr: only where both are the same terminal.
        redirect_stdout=_is_terminal(sys.stdout),
        redirect_stderr=_is_terminal(sys.stderr),
    )


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # no stream, or a closed one
        return False


def _notebook_display() -> Callable[[str], None] | None:
    """Return a function that replaces the text of one output of a notebook cell; None without IPython."""
    try:
        display = importlib.import_module("IPython.display").display
    except ImportError:
        return None
    handle = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)
