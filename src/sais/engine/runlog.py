"""What a run tells: a progress bar on a terminal, plain lines elsewhere, `log.jsonl` and TensorBoard in its folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

LINE_EVERY = 30.0
"""Seconds between plain lines where there is no terminal."""


class RunLog:
    """Writes what happens in a run; use it as a context manager.

    `log.jsonl` has one object a line: {"kind": "start" | "iteration" | "evaluation" | "note" | "end", ...}. After
    a resume, lines from beyond the checkpoint are dropped, so that the file reads as one uninterrupted run.

    Args:
        folder: of the run.
        total: iterations of the whole run.
        iteration: where it starts.
        measured: epochs that need no evaluation any more; later ones come again.
    """

    def __init__(self, folder: Path, total: int, iteration: int = 0, measured: int = 0) -> None:
        self.path = folder / "log.jsonl"
        self.total = total
        self._drop_beyond(iteration, measured)
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)
        self.console = Console(soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("training", total=total, completed=iteration, status="")
        self._started = time.monotonic()
        self._first = iteration
        self._last_line = 0.0

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._file.close()
        self._board.close()

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        self.console.print(text, highlight=False, markup=False, emoji=False)

    def write(self, kind: str, **values: Any) -> None:
        """A line of `log.jsonl`."""
        self._file.write(json.dumps({"kind": kind, "time": round(time.time(), 2), **values}) + "\n")
        self._file.flush()

    def iteration(self, iteration: int, epoch: int, losses: dict[str, float], lr: float, pictures: float) -> None:
        """Report iteration number `iteration` (from 1): its losses, learning rate and pictures per second."""
        values = {"lr": lr, "pictures_per_second": round(pictures, 2)} | {k: round(v, 5) for k, v in losses.items()}
        self.write("iteration", iteration=iteration, epoch=epoch, **values)
        for name, value in losses.items():
            self._board.add_scalar(f"loss/{name}", value, iteration)
        self._board.add_scalar("lr", lr, iteration)
        terms = " ".join(f"{k} {v:.3f}" for k, v in losses.items())
        status = f"epoch {epoch + 1} · {terms} · lr {lr:.1e} · {pictures:.1f} pictures/s"
        self._progress.update(self._task, completed=iteration, status=status)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self._last_line > LINE_EVERY or iteration == self.total):
            self._last_line = now
            self.say(f"iteration {iteration}/{self.total} · {status} · {self._remaining(iteration)} left")

    def evaluation(self, iteration: int, epoch: int, metrics: dict[str, Any], seconds: float) -> None:
        """Report an evaluation after `epoch` (from 0): metrics as `Metrics.to_dict` gives them."""
        self.write("evaluation", iteration=iteration, epoch=epoch, seconds=round(seconds, 1), metrics=metrics)
        parts = []
        for kind in ("box", "mask"):
            if metrics.get(kind):
                scores = metrics[kind]
                for name in ("AP", "AP50", "AP75"):
                    self._board.add_scalar(f"{kind}/{name}", scores[name] or 0.0, iteration)
                parts.append(f"{kind} AP {scores['AP'] or 0:.3f} AP50 {scores['AP50'] or 0:.3f}")
        self.say(f"epoch {epoch + 1}: {' · '.join(parts)} ({seconds:.0f} s)")

    def _remaining(self, iteration: int) -> str:
        done = max(1, iteration - self._first)
        seconds = int((time.monotonic() - self._started) / done * (self.total - iteration))
        return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"

    def _drop_beyond(self, iteration: int, measured: int) -> None:
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line the killed process was writing
            comes_again = entry.get("kind") == "evaluation" and entry["epoch"] >= measured
            if entry.get("iteration", 0) <= iteration and not comes_again:
                kept.append(line)
        self.path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


class Silence:
    """What the ranks but the first have for a log: everything of it that a run calls, and nothing is written."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Nothing."""

    def write(self, kind: str, **values: Any) -> None:
        """Nothing."""

    def iteration(self, iteration: int, epoch: int, losses: dict[str, float], lr: float, pictures: float) -> None:
        """Nothing."""

    def evaluation(self, iteration: int, epoch: int, metrics: dict[str, Any], seconds: float) -> None:
        """Nothing."""
