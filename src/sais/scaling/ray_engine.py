"""Shards spread over processes and machines by Ray: one actor for each GPU or share of the CPU cores.

Ray restarts actors that die and repeats their shards. Each actor has one shard at a time, so that the driver holds few
images of the plan in memory, and a dead machine costs one shard.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sais.errors import ResourceError, SaisError
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.io.decoding import one_line
from sais.scaling.items import Shard
from sais.scaling.local_engine import ShardFailure
from sais.scaling.shard_worker import Job, ModelDescription, ModelFiles, ShardResult, ShardWorker

PING_GROUP = "ping"
PING_SECONDS = 10.0
"""Seconds between two questions whether a worker is alive."""
LOST_SECONDS = 300.0
"""Seconds without a reply after which a worker counts as lost; Ray may need minutes to restart one."""
START_SECONDS, REPORT_SECONDS = 600.0, 30.0
"""Seconds in which a worker must start, perhaps on a new machine, and after which waiting is reported."""


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

    def ping(self) -> None:
        """Return at once, also during a shard: in a concurrency group of its own."""

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
class _Ping:
    """The last question to an actor whether it is alive."""

    answer: Any
    since: float
    """Time since which the actor has not replied, in seconds."""


@dataclass
class RayWorkers:
    """The actors of a run.

    Args:
        model: the files of the model; they are stored once and shared by the actors of a machine.
        options: inference options.
        job: what the shards have in common.
        workers: number of actors; 0 for one for each GPU, or for each core where no GPU is used.
        retries: number of further attempts for a shard.
        report: function called with lines about lost or missing workers.
    """

    model: ModelFiles
    options: InferenceOptions
    job: Job
    workers: int = 0
    retries: int = 2
    report: Callable[[str], None] = lambda line: None
    _actors: list[Any] = field(default_factory=list)
    _tasks: dict[Any, tuple[int, Shard | None]] = field(default_factory=dict)
    """Result -> number of its actor, and its shard; None while the actor opens the model."""
    _pings: dict[int, _Ping] = field(default_factory=dict)
    _losses: Counter[int] = field(default_factory=Counter)
    """Number of a shard -> number of workers that were lost with it."""
    _needs: str = ""
    """What a worker needs, in words."""
    _stored_model: Any = None
    """Reference that keeps the model's files in the object store, for actors that are restarted."""

    def start(self) -> ModelDescription:
        """Start the actors; return what the first one that is ready states about the model.

        Raises:
            ResourceError: no worker has started after `START_SECONDS`.
            SaisError: the model cannot be opened there.
        """
        import ray

        resources = ray.cluster_resources()
        cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0)) if self._uses_gpu else 0
        self.workers = self.workers or max(1, gpus or cores)
        node_cores = [int(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["Alive"]]
        share = max(1, min(max(node_cores, default=1), cores // self.workers))
        gpu_share = min(1.0, gpus / self.workers)
        self._needs = f"{share} CPU cores" + (f" and {gpu_share:g} GPU" if gpu_share else "")
        remote: Any = ray.remote(concurrency_groups={PING_GROUP: 1})  # type: ignore[call-overload]
        actor = remote(ShardActor).options(
            num_cpus=share, num_gpus=gpu_share, max_restarts=-1, max_task_retries=self.retries
        )
        self._stored_model = ray.put(self.model)
        self._actors = [actor.remote(self.options, self.job, share) for _ in range(self.workers)]
        # An actor gets a shard when it has opened the model: a cluster may have room for some of them only.
        for number, started in enumerate(self._actors):
            self._tasks[started.describe.remote([self._stored_model])] = number, None
        try:
            description: ModelDescription = ray.get(self._wait_for_worker())
        except ray.exceptions.RayError as error:
            raise _cause(error) from error
        return description

    @property
    def _uses_gpu(self) -> bool:
        """Whether the actors compute on GPUs, if there are any."""
        exported = Path(next(iter(self.model.files))).suffix in EXPORTED_SUFFIXES
        return self.options.device.startswith("cuda") or (self.options.device == "auto" and not exported)

    def run(self, shards: Iterable[Shard]) -> Iterator[ShardResult | ShardFailure]:
        """Predict shards; yield their results in the order in which they are done.

        Raises:
            ResourceError: no worker is left, or none has started after `START_SECONDS`.
        """
        import ray

        iterator, returned, idle = iter(shards), list[Shard](), list[int]()
        while True:
            while idle:
                shard = returned.pop() if returned else next(iterator, None)
                if shard is None:
                    break
                number = idle.pop()
                self._pings.pop(number, None)
                task = self._actors[number].predict.options(retry_exceptions=True)
                self._tasks[task.remote([self._stored_model], shard)] = number, shard
            busy = any(shard is not None for _, shard in self._tasks.values())
            if idle and not busy:
                return
            if busy:
                ready = ray.wait(list(self._tasks), num_returns=1, timeout=PING_SECONDS)[0]
            else:
                ready = [self._wait_for_worker()]
            for task in ready:
                number, shard = self._tasks.pop(task)
                idle.append(number)
                result = self._result(task, shard)
                if result is not None:
                    yield result
            for shard in self._lost_shards():
                if self._losses[shard.number] <= self.retries:
                    returned.append(shard)
                else:
                    yield ShardFailure(shard.number, f"worker: lost {self._losses[shard.number]} times. Check it.")

    def _result(self, task: Any, shard: Shard | None) -> ShardResult | ShardFailure | None:
        """Return the result of a task; None for one that has opened the model."""
        import ray

        try:
            result: ShardResult = ray.get(task)
        except ray.exceptions.RayError as error:
            if shard is None:
                raise _cause(error) from error
            return ShardFailure(shard.number, str(_cause(error)))
        return None if shard is None else result

    def _wait_for_worker(self) -> Any:
        """Wait for an actor that has opened the model; return the reference to its description.

        Raises:
            ResourceError: there is none, or none is ready after `START_SECONDS`.
        """
        import ray

        if not self._tasks:
            raise ResourceError("Ray: all workers were lost. Check the cluster, then repeat the command to continue.")
        start, reported = time.monotonic(), False
        while True:
            if ready := ray.wait(list(self._tasks), num_returns=1, timeout=min(REPORT_SECONDS, START_SECONDS))[0]:
                return ready[0]
            resources = ray.available_resources()
            free = f"{resources.get('CPU', 0):g} CPU cores and {resources.get('GPU', 0):g} GPUs are free"
            if time.monotonic() - start >= START_SECONDS:
                raise ResourceError(
                    f"Ray: no worker has started in {START_SECONDS:.0f} s. Each needs {self._needs}, and {free}. Use "
                    "more workers, which need less each, or wait until the cluster has room."
                )
            if not reported:
                self.report(f"Ray: waiting for a worker, which needs {self._needs}; {free}")
                reported = True

    def _lost_shards(self) -> list[Shard]:
        """Return the shards of actors that have not replied for `LOST_SECONDS`; give up these actors."""
        import ray

        lost = []
        for task, (number, shard) in list(self._tasks.items()):
            if shard is None or self._is_alive(number):
                continue
            del self._tasks[task]
            ray.kill(self._actors[number], no_restart=True)
            self._losses[shard.number] += 1
            lost.append(shard)
            self.report(
                f"Ray: a worker has not replied for {LOST_SECONDS:.0f} s and is given up, with its machine if that is "
                f"lost; others predict its shard {shard.number}"
            )
        return lost

    def _is_alive(self, number: int) -> bool:
        """Return whether an actor has replied in the last `LOST_SECONDS`; ask it again each `PING_SECONDS`."""
        import ray

        now = time.monotonic()
        ping = self._pings.get(number)
        if ping is not None:
            if now - ping.since < PING_SECONDS:
                return True
            if not ray.wait([ping.answer], timeout=0)[0]:
                return now - ping.since < LOST_SECONDS
            try:
                ray.get(ping.answer)
            except ray.exceptions.RayError:  # it is being restarted, perhaps elsewhere
                if now - ping.since >= LOST_SECONDS:
                    return False
                now = ping.since
        question = self._actors[number].ping.options(concurrency_group=PING_GROUP, max_task_retries=0)
        self._pings[number] = _Ping(question.remote(), now)
        return True


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
