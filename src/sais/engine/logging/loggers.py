"""Where a run's curves and images go beside its folder: TensorBoard, Weights & Biases, MLflow, or what you write.

A logger is opened by a function of `LOGGERS` (or "module:function" of your own) that takes the run's folder, its
settings as `to_dict` gives them and the iteration it goes on from, 0 for a fresh run. No logger can stop a run: one
that fails is left out from then on, and that is said once.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sais.errors import SaisError
from sais.io.atomic import write_text
from sais.resolve import suggest


class Logger(Protocol):
    """What a run tells its loggers."""

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """Numbers by name ("loss/total", "lr", "mask/AP") after an iteration (from 1)."""
        ...

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """Images (H, W, 3) uint8 RGB, of sizes of their own; the same ones under one name every time."""
        ...

    def end(self, complete: bool = True) -> None:
        """The process is done with the run, which is `complete` or was stopped."""
        ...


Open = Callable[[Path, dict[str, Any], int], Logger]


class TensorBoard:
    """Curves and images in the run's folder: `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, settings: dict[str, Any], iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """A point of each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """One image panel for each image."""
        for number, image in enumerate(images):
            self._writer.add_image(f"{name}/{number}", image, iteration, dataformats="HWC")

    def end(self, complete: bool = True) -> None:
        """Write what is still held."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the project "sais", or of the one that WANDB_PROJECT names; a resumed run goes on in the same one.

    A curve's x is our iteration: wandb's own step cannot go back, which a resumed run may have to.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], iteration: int) -> None:
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "sais"),
            name=folder.resolve().name,
            dir=str(folder),
            config=settings,
            id=_identity(folder, "wandb", lambda: uuid.uuid4().hex[:10]),
            resume="allow",
        )
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """A point of each curve."""
        self._run.log({**values, "iteration": iteration})

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """One panel of all images."""
        self._run.log({name: [self._image(image) for image in images], "iteration": iteration})

    def end(self, complete: bool = True) -> None:
        """Send what is still held."""
        self._run.finish(exit_code=0 if complete else 1)


class MLflow:
    """A run of the experiment "sais", or of the one that MLFLOW_EXPERIMENT_NAME names, on the server of
    MLFLOW_TRACKING_URI; a resumed run goes on in the same one.

    A server takes a while to answer, so numbers go there together, every few seconds.
    """

    TOGETHER = 500
    """Numbers sent at once; the server takes 1000."""
    SECONDS = 10.0
    """Between sendings."""

    def __init__(self, folder: Path, settings: dict[str, Any], iteration: int) -> None:
        # Its own patience is over after many minutes, in which the training would stand still.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient()
        self._run = _identity(folder, "mlflow", lambda: self._create(folder.resolve().name))
        if iteration:
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._client.log_batch(self._run, params=[Param(name, text) for name, text in _flat(settings)])
        self._waiting: list[Any] = []
        self._sent = time.monotonic()

    def _create(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sais")
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        return str(self._client.create_run(experiment_id, run_name=name).info.run_id)

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """A point of each curve, sent with others."""
        now = int(time.time() * 1000)
        self._waiting += [self._metric(name, value, now, iteration) for name, value in values.items()]
        if len(self._waiting) >= self.TOGETHER or time.monotonic() - self._sent > self.SECONDS:
            self._send()

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """A file for each image and time, below the name."""
        self._send()
        for number, image in enumerate(images):
            self._client.log_image(self._run, image, f"{name}/{number}/{iteration:07}.png")

    def end(self, complete: bool = True) -> None:
        """Send what is still held."""
        self._send()
        self._client.set_terminated(self._run, "FINISHED" if complete else "KILLED")

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._sent = time.monotonic()
        for first in range(0, len(waiting), self.TOGETHER):
            self._client.log_batch(self._run, metrics=waiting[first : first + self.TOGETHER])


LOGGERS: dict[str, Open] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}
"""What `--run.loggers` may name."""

PACKAGES = {"tensorboard": ("tensorboard", "train"), "wandb": ("wandb", "wandb"), "mlflow": ("mlflow", "mlflow")}
"""Logger -> (what it needs, the extra of `sais-seg` that brings it)."""


IDENTITIES = "loggers.json"
"""File of a run's folder: logger -> the id by which its server knows the run."""


class Loggers:
    """The loggers of a run as one. What one of them raises is said, and that one is left out from then on.

    Args:
        names: of `LOGGERS`, or "module:function".
        folder: of the run.
        settings: as `to_dict` gives them.
        iteration: the run goes on from here; 0 for a fresh one.
        say: called with a line for the person who watches.

    Raises:
        SaisError: as `check_loggers`; or a logger that cannot begin a fresh run, for want of a login for instance. A
            resumed run goes on without it: it may have been started by a machine, at night.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, settings: dict[str, Any], iteration: int, say: Callable[[str], None]
    ) -> None:
        check_loggers(names)
        if not iteration:
            (folder / IDENTITIES).unlink(missing_ok=True)  # of a run that stopped here before it had saved anything
        self._say = say
        self._loggers: dict[str, Logger] = {}
        for name in dict.fromkeys(names):
            try:
                self._loggers[name] = _opener(name)(folder, settings, iteration)
            except Exception as error:
                if not iteration:
                    self.end(complete=False)
                    raise SaisError(
                        f"the logger {name} cannot begin ({_in_one_line(error)}); mend that, or leave it out of "
                        "--run.loggers"
                    ) from error
                self._left_out(name, error)

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """As `Logger.scalars`, to all."""
        self._tell(lambda logger: logger.scalars(values, iteration))

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """As `Logger.images`, to all."""
        self._tell(lambda logger: logger.images(name, images, iteration))

    def end(self, complete: bool = True) -> None:
        """As `Logger.end`, to all."""
        self._tell(lambda logger: logger.end(complete))
        self._loggers = {}

    def __len__(self) -> int:
        """How many there still are."""
        return len(self._loggers)

    def _tell(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:  # of any package, of any kind: none is worth a run
                del self._loggers[name]
                self._left_out(name, error)

    def _left_out(self, name: str, error: Exception) -> None:
        self._say(f"the logger {name} failed and is left out from here on: {_in_one_line(error)}")


def check_loggers(names: Sequence[str]) -> None:
    """Raise SaisError where a name is unknown or the package of a logger is not installed: before anything long."""
    for name in names:
        _opener(name)
        package, extra = PACKAGES.get(name, ("", ""))
        if package:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise SaisError(
                    f'the logger {name} needs {package}: pip install "sais-seg[{extra}]", or leave it out of '
                    "--run.loggers"
                ) from error


def _opener(name: str) -> Open:
    if name in LOGGERS:
        return LOGGERS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise SaisError(f"--run.loggers: unknown logger '{name}'{suggest(name, LOGGERS)}, or module:function")
    if os.getcwd() not in sys.path and "" not in sys.path:  # as `python -m` would: the user's file lies here
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SaisError(f"the logger '{name}' cannot be imported ({error}); run where it lies") from error


def _identity(folder: Path, name: str, make: Callable[[], str]) -> str:
    """The id by which a logger's server knows the run: kept in the run's folder, for when it is resumed."""
    path = folder / IDENTITIES
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if name not in known:
        known[name] = make()
        write_text(path, json.dumps(known) + "\n")
    return str(known[name])


def _flat(settings: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """(dotted name, value as text) of each setting."""
    flat: list[tuple[str, str]] = []
    for name, value in settings.items():
        flat += _flat(value, f"{above}{name}.") if isinstance(value, dict) else [(above + name, str(value))]
    return flat


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
