"""The log of a run: progress and lines for people, two log files in its folder, and its loggers.

`log.jsonl` is for programs and reads as one uninterrupted run: one object a line, {"kind": "start" | "iteration" |
"evaluation" | "note" | "stop" | "end", "time": seconds since 1970, ...}. On resuming, lines from after the checkpoint
are dropped. `log.txt` is for people: every printed line with its time, interruptions included; nothing is dropped.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from sais._version import __version__
from sais.config import Experiment, to_dict
from sais.engine.logging.append_log import AppendLog
from sais.engine.run_folder import LOG, TEXT_LOG, is_missing
from sais.errors import ResourceError, SaisError
from sais.io.atomic import write_text
from sais.text import one_line, print_text

if TYPE_CHECKING:
    from rich.console import Console

    from sais.evaluation.evaluate import Evaluation


class RunLog:
    """Log the events of a run; use it as a context manager. The run's folder must be locked by this process.

    Args:
        folder: folder of the run.
        total: number of iterations of the whole run.
        experiment: settings of the run, `run.loggers` among them.
        iteration: iteration that the run starts from, 0 for a new run.
        evaluated_epochs: number of epochs whose evaluation is done; logged evaluations of later epochs are dropped.
        verbose: whether lines and progress are printed, in addition to the files.

    Raises:
        SaisError: the log files cannot be opened, or a logger cannot start.
    """

    def __init__(
        self,
        folder: Path,
        total: int,
        experiment: Experiment,
        iteration: int = 0,
        evaluated_epochs: int = 0,
        verbose: bool = True,
    ) -> None:
        from sais.data.transforms.multi_scale import relative_pixels
        from sais.engine.logging.loggers import Loggers
        from sais.io.progress import Progress
        from sais.io.tolerant_output import TolerantOutput

        self.path = folder / LOG
        self.total = total
        self._verbose = verbose
        self._experiment = experiment
        self._text = AppendLog(folder / TEXT_LOG)
        _drop_repeated_entries(self.path, iteration, evaluated_epochs)
        self._entries = AppendLog(self.path)
        self._loss_reported = False
        self._output = TolerantOutput()
        self._folder_missing = False
        self._evaluations: dict[int, Evaluation] = {}
        self._best_iteration = 0
        self._first_iteration = self._iteration = iteration
        self._progress = Progress(
            "training",
            total,
            "steps",
            done=iteration,
            console=None if verbose else _silent_console(),
            speed_window=float("inf"),
            work=partial(relative_pixels, experiment.augment, per_epoch=max(1, total // experiment.schedule.epochs)),
            write_line=self._add_text,
        )
        self._latest_ap: dict[str, str] = {}
        try:
            self._loggers = Loggers(experiment.run.loggers, folder, to_dict(experiment), iteration, self.print)
        except SaisError:
            self._close()
            raise

    def __enter__(self) -> RunLog:
        self._output.__enter__()
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        if error is not None:
            reasons = {KeyboardInterrupt: "interrupted", SystemExit: "terminated by the system"}
            reason = reasons.get(type(error), f"{type(error).__name__}: {error}")
            self.write("stop", iteration=self._iteration, reason=reason)
            self._add_text(f"stopped at iteration {self._iteration}: {reason}")
        self._loggers.end(complete=error is None and self._iteration >= self.total)
        if self._entries.lost or self._text.lost:
            lost = f"{self._entries.lost} lines of {LOG} and {self._text.lost} of {TEXT_LOG}"
            self._show(f"{lost} could not be written")
        self._output.__exit__(kind, error, trace)
        if self._output.lost:
            self._add_text(self._output.summary())
        self._close()

    def print(self, text: str) -> None:
        """Print a line and add it to `log.txt`."""
        self._show(text)
        self._add_text(text)

    def write(self, kind: str, **values: Any) -> None:
        """Add an entry to `log.jsonl`. If it cannot be written, the run continues without it."""
        line = json.dumps({"kind": kind, "time": round(time.time(), 2), **values}, default=str)
        self._report_loss(self._entries.add(line), self._entries)

    def start(
        self, data: str, paths: dict[str, Any], notes: list[str], device: torch.device, convolutions: str = "direct"
    ) -> None:
        """Log the start of a run, or of its continuation: settings, data, machine and versions.

        Args:
            data: name of the data set.
            paths: fields of `DataPaths`; empty if the data set is in memory.
            notes: remarks on the start, such as the source of the weights.
            device: device that the run trains on.
            convolutions: how 3x3 convolutions are computed, see `describe_convolutions`.
        """
        from sais.engine.environment import describe_environment

        self.write(
            "start",
            iteration=self._first_iteration,
            total=self.total,
            experiment=to_dict(self._experiment),
            data=data,
            paths={name: _absolute(value) for name, value in paths.items()},
            notes=notes,
            machine=describe_environment(device)
            | {"sais": __version__, "host": platform.node(), "convolutions": convolutions},
        )

    def iteration(self, iteration: int, epoch: int, losses: dict[str, float], lr: float, speed: float) -> None:
        """Log an iteration.

        Args:
            iteration: number of the iteration, from 1.
            epoch: number of the epoch, from 0.
            losses: loss terms by name, and the norm of the gradient.
            lr: learning rate.
            speed: images per second.
        """
        self._iteration = iteration
        self._check_folder()
        values = {"lr": lr, "images_per_second": round(speed, 2)} | {k: round(v, 5) for k, v in losses.items()}
        self.write("iteration", iteration=iteration, epoch=epoch, **values)
        scalars = {name if name == "gradient" else f"loss/{name}": value for name, value in losses.items()}
        self._loggers.scalars(scalars | {"lr": lr, "images_per_second": speed}, iteration)
        total_loss = {"loss": f"{losses['total']:.3f}"} if "total" in losses else {}
        self._progress.label = f"epoch {epoch + 1}/{self._experiment.schedule.epochs}"
        self._progress.update(iteration, total_loss | self._latest_ap, speed)
        if iteration == self.total:
            terms = " ".join(f"{k} {v:.3f}" for k, v in losses.items())
            self.print(f"iteration {iteration}/{self.total} · epoch {epoch + 1} · {terms} · lr {lr:.1e}")

    @contextlib.contextmanager
    def evaluating(self, images: int) -> Iterator[Callable[[int], None]]:
        """Show the progress of an evaluation; yield a function called with the number of images done since before."""
        with self._progress.stage("evaluating", images) as advance:
            yield advance

    def evaluation(self, iteration: int, epoch: int, evaluation: Evaluation, seconds: float) -> None:
        """Log an evaluation that has metrics.

        Args:
            iteration: iteration whose weights were evaluated.
            epoch: number of the epoch, from 0.
            evaluation: metrics and detections on the validation split.
            seconds: duration of the evaluation in seconds.
        """
        from sais.evaluation.coco_metrics import format_ap

        assert evaluation.metrics is not None
        keep_best = self._experiment.schedule.patience > 0  # an early stop ends with the best weights
        self._evaluations = {
            number: evaluation
            for number, evaluation in self._evaluations.items()
            if keep_best and number == self._best_iteration
        }
        self._evaluations[iteration] = evaluation
        metrics = evaluation.metrics.to_dict()
        self.write("evaluation", iteration=iteration, epoch=epoch, seconds=round(seconds, 1), metrics=metrics)
        parts: list[str] = []
        scalars: dict[str, float] = {}
        for kind in ("box", "mask"):
            if metrics.get(kind):
                scores = metrics[kind]
                names = [name for name in ("AP", "AP50", "AP75") if scores[name] is not None]
                scalars |= {f"{kind}/{name}": scores[name] for name in names}
                parts.append(f"{kind} AP {format_ap(scores['AP'])} AP50 {format_ap(scores['AP50'])}")
                self._latest_ap = {"AP": format_ap(scores["AP"])}  # of masks, where the model has them
        self.print(f"epoch {epoch + 1}: {' · '.join(parts)} ({seconds:.0f} s)")
        self._loggers.scalars(scalars, iteration)
        if len(self._loggers):
            self._log_example_images(evaluation, iteration)

    def evaluation_at(self, iteration: int) -> Evaluation | None:
        """Return the evaluation of the weights after `iteration`, if it is the last one, or the best one of a run with
        `schedule.patience`."""
        return self._evaluations.get(iteration)

    def mark_best(self, iteration: int) -> None:
        """Record that the weights after `iteration` are the best so far."""
        self._best_iteration = iteration

    def _log_example_images(self, evaluation: Evaluation, iteration: int) -> None:
        from sais.evaluation.visualize import comparison_images, select_examples

        split = evaluation.dataset_split
        try:
            images = comparison_images(select_examples(split), split, evaluation.results, score=evaluation.score)
        except Exception as error:  # example images are not worth a run
            self.print(f"no images of predictions: {type(error).__name__}: {error}")
            return
        self._loggers.images("predictions", images, iteration)

    def _show(self, text: str) -> None:
        if self._verbose:
            print_text(one_line(text), flush=True)

    def _add_text(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        self._report_loss(self._text.add(f"{stamp}  {one_line(text)}"), self._text)

    def _check_folder(self) -> None:
        """Print at once that the run's folder is gone, and when it is back."""
        missing, folder = is_missing(self.path.parent), self.path.parent
        if missing and not self._folder_missing:
            self.print(
                f"ERROR: {folder} has been renamed or removed. Restore it, or the run ends at its next checkpoint"
            )
        elif self._folder_missing and not missing:
            self.print(f"{folder} is back; the run continues")
        self._folder_missing = missing

    def _report_loss(self, written: bool, log: AppendLog) -> None:
        """Print once that the logs cannot be written."""
        if not written and not self._loss_reported:
            self._loss_reported = True
            self._show(f"{self.path.parent}: the logs cannot be written ({log.reason}); the run continues without them")

    def _close(self) -> None:
        self._entries.close()
        self._text.close()


def _silent_console() -> Console:
    """Return a console that shows nothing."""
    from rich.console import Console

    return Console(file=io.StringIO(), force_terminal=False, force_jupyter=False)


def _drop_repeated_entries(path: Path, iteration: int, evaluated_epochs: int) -> None:
    """Remove incomplete lines from a log, and entries of iterations and evaluations that will be repeated."""
    if not path.exists():
        return
    try:
        retained, content = [], path.read_bytes()
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror}). Fix its permissions.") from error
    for line in content.splitlines(keepends=True):
        try:
            entry = json.loads(line)
            repeated = entry["kind"] == "evaluation" and entry["epoch"] >= evaluated_epochs
            after_checkpoint = entry.get("iteration", 0) > iteration
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the killed process was writing this line
        if not repeated and not after_checkpoint and line.endswith(b"\n"):
            retained.append(line)
    if b"".join(retained) != content:
        write_text(path, b"".join(retained).decode())


def _absolute(path: Any) -> Any:
    return os.path.abspath(path) if isinstance(path, Path) else path


class NullLog:
    """Log of the ranks other than 0: it has the methods of `RunLog` and writes nothing."""

    def __enter__(self) -> NullLog:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def print(self, text: str) -> None:
        """Do nothing."""

    def write(self, kind: str, **values: Any) -> None:
        """Do nothing."""

    def start(
        self, data: str, paths: dict[str, Any], notes: list[str], device: torch.device, convolutions: str = "direct"
    ) -> None:
        """Do nothing."""

    def iteration(self, iteration: int, epoch: int, losses: dict[str, float], lr: float, speed: float) -> None:
        """Do nothing."""

    def evaluation(self, iteration: int, epoch: int, evaluation: Evaluation, seconds: float) -> None:
        """Do nothing."""

    def evaluating(self, images: int) -> contextlib.nullcontext[Callable[[int], None]]:
        """Return a context whose function does nothing."""
        return contextlib.nullcontext(lambda done: None)

    def evaluation_at(self, iteration: int) -> None:
        """Return None: only rank 0 keeps evaluations."""

    def mark_best(self, iteration: int) -> None:
        """Do nothing."""
