"""Loggers for experiment trackers: TensorBoard, Weights & Biases and MLflow."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sais.config import flatten
from sais.engine.run_folder import LOGGER_IDS
from sais.io.atomic import write_text


class TensorBoard:
    """Write TensorBoard events into the run's folder; view them with `tensorboard --logdir runs`."""

    def __init__(self, folder: Path, settings: dict[str, Any], iteration: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """Log a point of each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """Log one panel for each image (H, W, 3)."""
        for number, image in enumerate(images):
            self._writer.add_image(f"{name}/{number}", image, iteration, dataformats="HWC")

    def end(self, complete: bool = True) -> None:
        """Write all buffered events."""
        self._writer.close()


class WeightsAndBiases:
    """Log to Weights & Biases, into the project WANDB_PROJECT (default "sais"); a resumed run continues its wandb run.

    The x axis of curves is the iteration: wandb's own step cannot decrease, which resuming may require.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], iteration: int) -> None:
        import wandb

        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "sais"),
            name=folder.resolve().name,
            dir=str(folder),
            config=settings,
            id=_stored_id(folder, "wandb", lambda: uuid.uuid4().hex[:10]),
            resume="allow",
        )
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """Log a point of each curve."""
        self._run.log({**values, "iteration": iteration})

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """Log one panel with all images (H, W, 3)."""
        self._run.log({name: [self._image(image) for image in images], "iteration": iteration})

    def end(self, complete: bool = True) -> None:
        """Send all buffered values."""
        self._run.finish(exit_code=0 if complete else 1)


class MLflow:
    """Log to the MLflow server MLFLOW_TRACKING_URI, into the experiment MLFLOW_EXPERIMENT_NAME (default "sais"); a
    resumed run continues its MLflow run.

    Requests to a server are slow, so numbers are sent in groups every few seconds.
    """

    GROUP_SIZE = 500
    """Maximum number of values in one request; the server accepts 1000."""
    INTERVAL = 10.0
    """Seconds between requests."""

    def __init__(self, folder: Path, settings: dict[str, Any], iteration: int) -> None:
        # By default a request is retried for many minutes, during which training would be blocked.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient()
        self._run = _stored_id(folder, "mlflow", lambda: self._create(folder.resolve().name))
        if iteration:
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._client.log_batch(
                self._run, params=[Param(name, str(value)) for name, value in flatten(settings).items()]
            )
        self._pending: list[Any] = []
        self._last_request = time.monotonic()

    def _create(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sais")
        existing = self._client.get_experiment_by_name(experiment)
        experiment_id = existing.experiment_id if existing else self._client.create_experiment(experiment)
        return str(self._client.create_run(experiment_id, run_name=name).info.run_id)

    def scalars(self, values: dict[str, float], iteration: int) -> None:
        """Add a point to each curve; points are sent in groups."""
        now = int(time.time() * 1000)
        self._pending += [self._metric(name, value, now, iteration) for name, value in values.items()]
        if len(self._pending) >= self.GROUP_SIZE or time.monotonic() - self._last_request > self.INTERVAL:
            self._send()

    def images(self, name: str, images: list[np.ndarray], iteration: int) -> None:
        """Log a file for each image (H, W, 3) and iteration, in a folder called `name`."""
        self._send()
        for number, image in enumerate(images):
            self._client.log_image(self._run, image, f"{name}/{number}/{iteration:07}.png")

    def end(self, complete: bool = True) -> None:
        """Send all buffered values and set the state of the run."""
        self._send()
        self._client.set_terminated(self._run, "FINISHED" if complete else "KILLED")

    def _send(self) -> None:
        pending, self._pending = self._pending, []
        self._last_request = time.monotonic()
        for first in range(0, len(pending), self.GROUP_SIZE):
            self._client.log_batch(self._run, metrics=pending[first : first + self.GROUP_SIZE])


def _stored_id(folder: Path, name: str, create: Callable[[], str]) -> str:
    """Return the id of the run on a logger's server. It is stored in the run's folder for resuming."""
    path = folder / LOGGER_IDS
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        ids = {}
    if not isinstance(ids, dict):
        ids = {}
    if name not in ids:
        ids[name] = create()
        write_text(path, json.dumps(ids) + "\n")
    return str(ids[name])
