"""Shards spread over processes and machines by Ray: one actor for each GPU or share of the CPU cores.

Ray restarts actors that die and repeats their shards. Each actor has one shard at a time, so that the driver holds few
images of the plan in memory, and a dead machine costs one shard.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sais.errors import MissingDependencyError, ResourceError, SaisError
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.io.decoding import one_line
from sais.scaling.items import Shard
from sais.scaling.local_engine import ShardFailure
from sais.scaling.shard_worker import Job, ModelDescription, ModelFiles, ShardResult, ShardWorker

MAX_TEMPORARY_PATH = 40
"""Characters of a folder in which Ray's sockets have names that the system accepts (107 characters)."""
CONNECT_SECONDS = 10.0
REMOVE_ATTEMPTS = 20
_FOLDER = re.compile(r"ray-(\d+)-\w+")
OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory of the embedded Ray in addition to the model's files; results are files, not objects."""


@contextlib.contextmanager
def running_ray(address: str | None, workers: int, model_bytes: int) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine for the duration of the block.

    Ray on this machine has no dashboard, listens on the loopback interface only, requires a token that is drawn for
    this run, and sends no usage statistics. Where this process has imported or started Ray before, its settings hold.

    Args:
        address: address of a cluster, such as ``auto`` or ``ray://head:10001``; None for this machine.
        workers: number of workers, 0 for one for each core or GPU; on this machine it may exceed the number of cores.
        model_bytes: size of the model's files.

    Raises:
        MissingDependencyError: Ray is not installed.
        ResourceError: Ray cannot be started, or the cluster cannot be reached.
    """
    if "ray" not in sys.modules:  # it reads them when it is imported
        _set_environment(alone=address is None)
    try:
        import ray
    except ImportError:
        message = 'Ray is not installed. Run pip install "sais-seg[ray]".'
        raise MissingDependencyError(message, "ray", "ray") from None
    if ray.is_initialized():
        yield
        return
    folder = _make_folder() if address is None else ""
    settings: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}  # what fails is raised
    if address is None:
        settings |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES + model_bytes}
        settings["_temp_dir"] = folder if len(folder) <= MAX_TEMPORARY_PATH else None
        settings["num_cpus"] = max(workers, os.cpu_count() or 1)
    try:
        _start(address, settings)
        yield
    finally:
        ray.shutdown()
        if folder:
            _remove(Path(folder))


def _set_environment(alone: bool) -> None:
    """Set the variables that Ray reads when it is imported; `alone` for Ray on this machine only."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if alone:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # its name for: the loopback interface only
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _make_folder() -> str:
    """Create a folder for Ray's sockets and logs, named for this process; remove those of killed processes."""
    for leftover in leftover_folders(Path(tempfile.gettempdir())):
        shutil.rmtree(leftover, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"ray-{os.getpid()}-")


def _remove(folder: Path) -> None:
    """Remove the folder of Ray, whose processes may still write into it while they end."""
    for _ in range(REMOVE_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def leftover_folders(place: Path) -> list[Path]:
    """Return the folders for Ray in the folder for temporary files whose process has ended."""
    matches = ((path, _FOLDER.fullmatch(path.name)) for path in place.glob("ray-*"))
    return [path for path, match in matches if match is not None and not _is_running(int(match[1]))]


def _is_running(pid: int) -> bool:
    if os.name != "posix":  # Windows has no signal 0
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def _start(address: str | None, settings: dict[str, Any]) -> None:
    """Start Ray, or connect to a cluster.

    Raises:
        ResourceError: neither succeeds.
    """
    import ray

    if address is not None:
        _check_reachable(address)
    try:
        ray.init("local" if address is None else address, **settings)
    except Exception as error:  # Ray raises a plain Exception if it does not start within 30 s
        reason = one_line(error)[:500]
        if address is None:
            message = f"Ray: cannot be started on this machine ({reason}). Try again, or use the local engine."
            raise ResourceError(message) from error
        raise ResourceError(f"{address}: no cluster at this address ({reason}). Check the address.") from error


def _check_reachable(address: str) -> None:
    """Raise ResourceError if no process listens at HOST:PORT, for which Ray would wait many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # auto, or local
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise ResourceError(f"{address}: no cluster at this address ({reason}). Check the address.") from error


def read_model_files(source: str, files: list[Path]) -> ModelFiles:
    """Read the files of a model; the first is the one to open."""
    return ModelFiles(source, {path.name: np.fromfile(path, np.uint8) for path in files})


class ShardActor:
    """A `ShardWorker` in a process of Ray.

    The model comes with each call, as a reference: Ray cannot restart an actor whose constructor needs an object.

    Args:
        options: inference options.
        job: what all shards have in common.
        threads: number of processor threads.
    """

    def __init__(self, options: InferenceOptions, job: Job, threads: int) -> None:
        self._settings = options, job, threads
        self._worker: ShardWorker | None = None

    def describe(self, model: list[Any]) -> ModelDescription:
        """Open the model; see `ShardWorker.describe`. `model` is a list, in which Ray does not resolve references."""
        return self._open(model[0]).describe()

    def predict(self, model: list[Any], shard: Shard) -> ShardResult:
        """Predict a shard; see `ShardWorker.predict`."""
        return self._open(model[0]).predict(shard)

    def _open(self, reference: Any) -> ShardWorker:
        if self._worker is None:
            import ray

            self._worker = ShardWorker(ray.get(reference), *self._settings)
        return self._worker


@dataclass
class RayWorkers:
    """The actors of a run.

    Args:
        model: the files of the model; they are stored once and shared by the actors of a machine.
        options: inference options.
        job: what the shards have in common.
        workers: number of actors; 0 for one for each GPU, or for each core where no GPU is used.
        retries: number of further attempts for a shard.
    """

    model: ModelFiles
    options: InferenceOptions
    job: Job
    workers: int = 0
    retries: int = 2
    _actors: list[Any] = field(default_factory=list)
    _stored_model: Any = None
    """Reference that keeps the model's files in the object store, for actors that are restarted."""

    def start(self) -> ModelDescription:
        """Start the actors; return what the first one states about the model.

        Raises:
            SaisError: the model cannot be opened there.
        """
        import ray

        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0)) if self._uses_gpu else 0
        self.workers = self.workers or max(1, gpus or cores)
        node_cores = [int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"]]
        share = max(1, min(max(node_cores, default=1), cores // self.workers))
        actor = ray.remote(ShardActor).options(
            num_cpus=share,
            num_gpus=min(1.0, gpus / self.workers),
            max_restarts=-1,
            max_task_retries=self.retries,
        )
        self._stored_model = ray.put(self.model)
        self._actors = [actor.remote(self.options, self.job, share) for _ in range(self.workers)]
        try:
            description: ModelDescription = ray.get(self._actors[0].describe.remote([self._stored_model]))
        except ray.exceptions.RayError as error:
            raise _cause(error) from error
        return description

    @property
    def _uses_gpu(self) -> bool:
        """Whether the actors compute on GPUs, if there are any."""
        exported = Path(next(iter(self.model.files))).suffix in EXPORTED_SUFFIXES
        return self.options.device.startswith("cuda") or (self.options.device == "auto" and not exported)

    def run(self, shards: Iterable[Shard]) -> Iterator[ShardResult | ShardFailure]:
        """Predict shards; yield their results in the order in which they are done."""
        import ray

        iterator = iter(shards)
        # An actor gets a shard when it has opened the model: a cluster may have room for some of them only.
        tasks: dict[Any, tuple[Any, int | None]] = {
            actor.describe.remote([self._stored_model]): (actor, None) for actor in self._actors
        }
        while tasks:
            ready, _ = ray.wait(list(tasks), num_returns=1)
            actor, number = tasks.pop(ready[0])
            try:
                result = ray.get(ready[0])
            except ray.exceptions.RayError as error:
                if number is None:
                    raise _cause(error) from error
                result = ShardFailure(number, str(_cause(error)))
            shard = next(iterator, None)
            if shard is not None:
                retried = actor.predict.options(retry_exceptions=True)
                tasks[retried.remote([self._stored_model], shard)] = (actor, shard.number)
            if number is not None:
                yield result
            if shard is None and all(waiting is None for _, waiting in tasks.values()):
                return


def _cause(error: BaseException) -> SaisError:
    """Return the error of sais that a task raised, or one that states how its process ended."""
    import ray

    cause = getattr(error, "cause", None)
    if isinstance(cause, SaisError):
        return cause
    if isinstance(error, ray.exceptions.RayTaskError):
        lines = str(error).strip().splitlines()
        return ResourceError(f"worker: {lines[-1] if lines else type(error).__name__}. Report this if it is a bug.")
    if isinstance(error, ray.exceptions.RayActorError):
        return ResourceError(
            "worker: its process ended, usually because of too little memory. Use fewer workers, or a smaller batch."
        )
    return ResourceError(f"Ray: {one_line(error)[:500]}. Check the cluster.")
