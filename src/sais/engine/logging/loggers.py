"""The loggers of a run: the interface, the table of loggers, and how failing ones are removed.

A logger is created by a row of `LOGGERS`, or by a "module:function" of the user's own, which takes the run's folder,
its settings as `to_dict` returns them, and the iteration that the run starts from (0 for a new run). No logger can stop
a run: one that fails is removed, and that is reported once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sais.engine.run_folder import LOGGER_IDS
from sais.errors import MissingDependencyError, ResourceError
from sais.resolve import resolve


class Logger(Protocol):
    """Interface of a logger."""

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """Log numbers by name ("loss/total", "lr", "mask/AP") after an iteration (from 1)."""
        ...

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """Log images (H, W, 3) uint8 RGB of different sizes; one name always has the same images."""
        ...

    def end(self, complete: bool = True) -> None:
        """Finish logging; `complete` is False if the run was stopped early."""
        ...


OpenLogger = Callable[[Path, dict[str, Any], int], Logger]
"""Constructor of a logger: (folder of the run, settings, iteration that the run starts from) -> logger."""


def _tensorboard(folder: Path, settings: dict[str, Any], iteration: int) -> Logger:
    from sais.engine.logging.trackers import TensorBoard

    return TensorBoard(folder, settings, iteration)


def _wandb(folder: Path, settings: dict[str, Any], iteration: int) -> Logger:
    from sais.engine.logging.trackers import WeightsAndBiases

    return WeightsAndBiases(folder, settings, iteration)


def _mlflow(folder: Path, settings: dict[str, Any], iteration: int) -> Logger:
    from sais.engine.logging.trackers import MLflow

    return MLflow(folder, settings, iteration)


LOGGERS: dict[str, OpenLogger] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
"""Loggers by name, for `run.loggers`; "module:function" names a logger of the user's own."""

PACKAGES = {"tensorboard": ("tensorboard", "train"), "wandb": ("wandb", "wandb"), "mlflow": ("mlflow", "mlflow")}
"""Logger -> (required package, extra of `sais-seg` that installs it)."""


class Loggers:
    """All loggers of a run. A logger that raises an exception is removed, and that is reported once.

    Args:
        names: names of `LOGGERS`, or "module:function".
        folder: folder of the run.
        settings: settings of the run as `to_dict` returns them.
        iteration: iteration that the run starts from, 0 for a new run.
        report: function called with a line of text for the user.

    Raises:
        ConfigError: a name is unknown.
        MissingDependencyError: the package of a logger is not installed.
        ResourceError: a logger of a new run cannot start, for example without a login. A resumed run continues without
            that logger, since it may have been restarted unattended.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        settings: dict[str, Any],
        iteration: int,
        report: Callable[[str], None],
    ) -> None:
        check_loggers(names)
        if not iteration:
            (folder / LOGGER_IDS).unlink(missing_ok=True)  # left by a run that ended before its first checkpoint
        self._report = report
        self._loggers: dict[str, Logger] = {}
        for name in dict.fromkeys(names):
            try:
                self._loggers[name] = _constructor(name)(folder, settings, iteration)
            except Exception as error:
                if not iteration:
                    self.end(complete=False)
                    raise ResourceError(
                        f"run.loggers: the logger {name} cannot start ({_summarize(error)}). Fix it, or remove it from "
                        "run.loggers."
                    ) from error
                self._report_removal(name, error)

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """Call `Logger.scalars` of all loggers."""
        self._call_all(lambda logger: logger.scalars(values, iteration))

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """Call `Logger.images` of all loggers, with images (H, W, 3) uint8 RGB."""
        self._call_all(lambda logger: logger.images(name, images, iteration))

    def end(self, complete: bool = True) -> None:
        """Call `Logger.end` of all loggers."""
        self._call_all(lambda logger: logger.end(complete))
        self._loggers = {}

    def __len__(self) -> int:
        """Return the number of working loggers."""
        return len(self._loggers)

    def _call_all(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:  # of any package and any kind: none is worth a run
                del self._loggers[name]
                self._report_removal(name, error)

    def _report_removal(self, name: str, error: Exception) -> None:
        self._report(f"the logger {name} failed and is not used any more: {_summarize(error)}")


def check_loggers(names: Sequence[str]) -> None:
    """Check before a run starts that all loggers exist and that their packages are installed.

    Args:
        names: names of `LOGGERS`, or "module:function".

    Raises:
        ConfigError: a name is unknown.
        MissingDependencyError: the package of a logger is not installed.
    """
    for name in names:
        _constructor(name)
        package, extra = PACKAGES.get(name, ("", ""))
        if package:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise MissingDependencyError(
                    f'run.loggers: the logger {name} needs {package}. pip install "sais-seg[{extra}]", or remove it '
                    "from run.loggers.",
                    package,
                    extra,
                ) from error


def _constructor(name: str) -> OpenLogger:
    constructor: OpenLogger = resolve(name, LOGGERS, "logger")
    return constructor


def _summarize(error: Exception) -> str:
    """Return class and text of an error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
