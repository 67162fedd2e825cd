"""What a run tells: a progress bar on a terminal, plain lines elsewhere, two logs in its folder, and its loggers.

`log.jsonl` is for programs and reads as one uninterrupted run: one object a line, {"kind": "start" | "iteration" |
"evaluation" | "note" | "stop" | "end", "time": seconds since 1970, ...}. After a resume, lines from beyond the
checkpoint are dropped. `log.txt` is for people: what was said and when, interruptions and all; nothing is dropped.
Whoever holds `log.jsonl` is at the run (`sais.engine.lock`).
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sais._version import __version__
from sais.config import Experiment, to_dict
from sais.data.paths import DataPaths
from sais.engine.environment import describe_environment
from sais.engine.lock import is_locked
from sais.engine.logging.append_log import AppendLog
from sais.engine.logging.loggers import Loggers, check_loggers
from sais.errors import SaisError
from sais.evaluation.evaluate import Evaluation
from sais.evaluation.visualize import comparison_images, select_examples
from sais.io.atomic import write_text

LINE_EVERY = 30.0
"""Seconds between plain lines."""


def check_before_running(folder: Path, loggers: Sequence[str]) -> None:
    """Raise SaisError where another process is at the run in `folder`, or a logger's package is missing."""
    if is_locked(folder / "log.jsonl"):
        raise SaisError(f"{folder}: another process is at this run; wait for it, or choose another --out")
    check_loggers(loggers)


class RunLog:
    """Writes what happens in a run; use it as a context manager.

    Args:
        folder: of the run.
        total: iterations of the whole run.
        experiment: its settings; `run.loggers` among them.
        iteration: where it starts.
        measured: epochs that need no evaluation any more; later ones come again.

    Raises:
        SaisError: the logs cannot be opened, another process is at the run, or a logger cannot begin.
    """

    def __init__(self, folder: Path, total: int, experiment: Experiment, iteration: int = 0, measured: int = 0) -> None:
        self.path = folder / "log.jsonl"
        self.total = total
        self.console = Console(soft_wrap=True)
        self._experiment = experiment
        self._text = AppendLog(folder / "log.txt")
        self._lines = _without_what_comes_again(self.path, iteration, measured)
        self._said_lost = False
        self._judged: dict[int, Evaluation] = {}
        self._best_at = 0
        self._now = iteration
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
        try:
            self._loggers = Loggers(experiment.run.loggers, folder, to_dict(experiment), iteration, self.say)
        except SaisError:
            self._close()
            raise

    def __enter__(self) -> RunLog:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if error is not None:
            ended = {KeyboardInterrupt: "interrupted", SystemExit: "terminated by the system"}
            reason = ended.get(type(error), f"{type(error).__name__}: {error}")
            self.write("stop", iteration=self._now, reason=reason)
            self._add_text(f"stopped at iteration {self._now}: {reason}")
        self._loggers.end(complete=error is None and self._now >= self.total)
        if self._lines.lost or self._text.lost:
            lost = f"{self._lines.lost} lines of log.jsonl and {self._text.lost} of log.txt"
            self.console.print(f"{lost} could not be written", highlight=False, markup=False, emoji=False)
        self._close()

    def say(self, text: str) -> None:
        """A line for the person who watches, and for `log.txt`."""
        self.console.print(text, highlight=False, markup=False, emoji=False)
        self._add_text(text)

    def write(self, kind: str, **values: Any) -> None:
        """A line of `log.jsonl`. Where it cannot be written, the run goes on without it."""
        line = json.dumps({"kind": kind, "time": round(time.time(), 2), **values}, default=str)
        self._added(self._lines.add(line), self._lines)

    def start(self, data: DataPaths, notes: list[str], device: torch.device) -> None:
        """The first line of a run, and of each time that it is resumed: all that a report says of where it was made."""
        self.write(
            "start",
            iteration=self._first,
            total=self.total,
            experiment=to_dict(self._experiment),
            data=data.name,
            paths={name: _absolute(value) for name, value in vars(data).items()},
            notes=notes,
            machine=describe_environment(device) | {"sais": __version__, "host": platform.node()},
        )

    def iteration(self, iteration: int, epoch: int, losses: dict[str, float], lr: float, images: float) -> None:
        """Report iteration number `iteration` (from 1): its losses, learning rate and images per second."""
        self._now = iteration
        values = {"lr": lr, "images_per_second": round(images, 2)} | {k: round(v, 5) for k, v in losses.items()}
        self.write("iteration", iteration=iteration, epoch=epoch, **values)
        scalars = {name if name == "gradient" else f"loss/{name}": value for name, value in losses.items()}
        self._loggers.scalars(scalars | {"lr": lr, "images_per_second": images}, iteration)
        terms = " ".join(f"{k} {v:.3f}" for k, v in losses.items())
        status = f"epoch {epoch + 1} · {terms} · lr {lr:.1e} · {images:.1f} images/s"
        self._progress.update(self._task, completed=iteration, status=status)
        now = time.monotonic()
        if now - self._last_line > LINE_EVERY or iteration == self.total:
            self._last_line = now
            line = f"iteration {iteration}/{self.total} · {status} · {self._remaining(iteration)} left"
            if self.console.is_terminal:  # which has the bar
                self._add_text(line)
            else:
                self.say(line)

    def evaluation(self, iteration: int, epoch: int, evaluation: Evaluation, seconds: float) -> None:
        """Report an evaluation after `epoch` (from 0); it has metrics."""
        assert evaluation.metrics is not None
        keep_best = self._experiment.schedule.patience > 0  # whose weights a run without progress ends with
        self._judged = {at: one for at, one in self._judged.items() if keep_best and at == self._best_at}
        self._judged[iteration] = evaluation
        metrics = evaluation.metrics.to_dict()
        self.write("evaluation", iteration=iteration, epoch=epoch, seconds=round(seconds, 1), metrics=metrics)
        parts: list[str] = []
        scalars: dict[str, float] = {}
        for kind in ("box", "mask"):
            if metrics.get(kind):
                scores = metrics[kind]
                scalars |= {f"{kind}/{name}": scores[name] or 0.0 for name in ("AP", "AP50", "AP75")}
                parts.append(f"{kind} AP {scores['AP'] or 0:.3f} AP50 {scores['AP50'] or 0:.3f}")
        self.say(f"epoch {epoch + 1}: {' · '.join(parts)} ({seconds:.0f} s)")
        self._loggers.scalars(scalars, iteration)
        if len(self._loggers):
            try:
                images = comparison_images(
                    select_examples(evaluation.dataset_split), evaluation.dataset_split, evaluation.results
                )
            except Exception as error:  # images to look at are not worth a run
                self.say(f"no images of predictions: {type(error).__name__}: {error}")
                return
            self._loggers.images("predictions", images, iteration)

    def judged(self, iteration: int) -> Evaluation | None:
        """The evaluation of the weights after `iteration`, where it was the last one, or the best one from which
        `schedule.patience` counts."""
        return self._judged.get(iteration)

    def best(self, iteration: int) -> None:
        """The weights after `iteration` are the best so far."""
        self._best_at = iteration

    def _add_text(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._added(self._text.add(f"{stamp}  {' '.join(text.splitlines())}"), self._text)

    def _added(self, written: bool, lines: AppendLog) -> None:
        """Say once that the logs cannot be written."""
        if not written and not self._said_lost:
            self._said_lost = True
            told = f"{self.path.parent}: the logs cannot be written ({lines.reason}); the run goes on without them"
            self.console.print(told, highlight=False, markup=False, emoji=False)

    def _remaining(self, iteration: int) -> str:
        done = max(1, iteration - self._first)
        seconds = int((time.monotonic() - self._started) / done * (self.total - iteration))
        return f"{seconds // 3600}:{seconds % 3600 // 60:02}:{seconds % 60:02}"

    def _close(self) -> None:
        self._lines.close()
        self._text.close()


def _without_what_comes_again(path: Path, iteration: int, measured: int) -> AppendLog:
    """The log, held by us and open at its end, without lines from beyond the checkpoint and a line cut short."""
    lines = AppendLog(path, alone=True)
    kept, whole = [], path.read_bytes()
    for line in whole.splitlines(keepends=True):
        try:
            entry = json.loads(line)
            comes_again = entry["kind"] == "evaluation" and entry["epoch"] >= measured
            beyond = entry.get("iteration", 0) > iteration
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # the line that the killed process was writing
        if not comes_again and not beyond and line.endswith(b"\n"):
            kept.append(line)
    if b"".join(kept) != whole:
        try:
            write_text(path, b"".join(kept).decode())
        finally:
            lines.close()
        return AppendLog(path, alone=True)
    return lines


def _absolute(path: Any) -> Any:
    return os.path.abspath(path) if isinstance(path, Path) else path


class NullLog:
    """What the ranks but the first have for a log: everything of it that a run calls, and nothing is written."""

    def __enter__(self) -> NullLog:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Nothing."""

    def write(self, kind: str, **values: Any) -> None:
        """Nothing."""

    def start(self, data: DataPaths, notes: list[str], device: torch.device) -> None:
        """Nothing."""

    def iteration(self, iteration: int, epoch: int, losses: dict[str, float], lr: float, images: float) -> None:
        """Nothing."""

    def evaluation(self, iteration: int, epoch: int, evaluation: Evaluation, seconds: float) -> None:
        """Nothing."""

    def judged(self, iteration: int) -> None:
        """Nothing."""

    def best(self, iteration: int) -> None:
        """Nothing."""
