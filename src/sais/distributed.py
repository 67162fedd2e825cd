"""Training on several devices or machines: processes started by `torchrun`, connected by torch.distributed.

    torchrun --nproc-per-node 2 -m sais train sais-lite --data DIR

Other launchers, such as Ray Train, may have connected them already.
Each process is a *rank* with its share of every batch. The losses of a rank are divided by normalizers summed over all
ranks, and DistributedDataParallel adds up the gradients, so that the result equals that of one process with the whole
batch. Only rank 0 writes files and prints.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from sais.errors import ConfigError, ResourceError

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """The processes of a run, as seen from one of them. In a single process every method returns its argument."""

    rank: int = 0
    """Number of this process, from 0."""
    world_size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine, which is the number of its GPU."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the elementwise sum over all ranks of a tensor of any shape on the rank's device."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """Return the elementwise maximum over all ranks of a tensor of any shape."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def broadcast(self, value: Value) -> Value:
        """Return the value of rank 0."""
        if self.world_size > 1:
            box = [value]
            dist.broadcast_object_list(box, device=torch.device("cpu"))
            return box[0]
        return value

    def all_gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in their order."""
        if self.world_size > 1:
            values: list[Any] = [None] * self.world_size
            dist.all_gather_object(values, value)
            return values
        return [value]

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks on rank 0, and an empty list on all other ranks."""
        if self.world_size > 1:
            values: list[Any] | None = [None] * self.world_size if self.is_main else None
            dist.gather_object(value, values)
            return values or []
        return [value]

    def wrap_model(self, model: nn.Module, device: torch.device, sync_buffers: bool = True) -> nn.Module:
        """Wrap a model so that its gradients are averaged over all ranks; return it unchanged in a single process.

        The graph is not declared static: the number of micro-batches may change from step to step.

        Args:
            model: model with equal weights on all ranks, each of which receives a gradient in every step.
            device: device of the model.
            sync_buffers: whether each forward pass copies the buffers of rank 0, which is needed if training changes
                them.
        """
        if self.world_size == 1:
            return model
        devices = [device.index] if device.type == "cuda" else None
        wrapped = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
        wrapped.broadcast_buffers = sync_buffers  # an argument of that name would also leave out the first copy
        return wrapped


SINGLE_PROCESS = World()


def is_launched() -> bool:
    """Return whether `torchrun` (or a launcher that sets the same variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ


def launched_world_size() -> int:
    """Return the number of processes that `process_group` connects."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def is_restarted() -> bool:
    """Return whether `torchrun` restarted this process after one had died, so that the run is to be resumed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextlib.contextmanager
def process_group(device: str = "auto") -> Iterator[World]:
    """Connect the processes that `torchrun` started for the duration of the block; without it, yield a single process.

    Processes that are connected already remain so; their backend must be gloo, or ``cpu:gloo,cuda:nccl`` with GPUs.

    Args:
        device: setting `run.device`; with "auto" and CUDA each rank uses the GPU of its local number.

    Raises:
        ConfigError: more ranks than GPUs, or connected processes that cannot exchange what is on the CPU.
        ResourceError: another rank died.
    """
    connected = dist.is_initialized()
    if launched_world_size() == 1:
        yield SINGLE_PROCESS
        return
    if connected and "cpu:" not in dist.get_backend_config():
        raise ConfigError(
            f"process group: its backend {dist.get_backend_config()} cannot exchange names and metrics, which are on "
            "the CPU. Connect the processes with cpu:gloo,cuda:nccl, or with gloo."
        )
    rank = dist.get_rank() if connected else int(os.environ["RANK"])
    world = World(rank, launched_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    on_gpus = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpus and world.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"run.device: {torch.cuda.device_count()} GPUs for {os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes "
            "on this machine. Start at most one process per GPU, or train on the cpu."
        )
    if "TORCHELASTIC_RUN_ID" in os.environ:  # started by torchrun, which cannot end its ranks if it is killed
        from sais.parent_process import end_with_parent

        end_with_parent(os.getppid(), signal.SIGTERM)
    try:
        if not connected:
            _join(world, on_gpus)
        elif on_gpus:
            torch.cuda.set_device(world.local_rank)
        yield world
    except RuntimeError as error:  # dist.DistBackendError is one
        if not _is_lost_connection(error):
            raise
        raise ResourceError(
            f"rank {world.rank} of {world.world_size}: another rank stopped or died; its error message is above. The "
            "last checkpoint is intact: resume the run, or let torchrun restart it."
        ) from error
    finally:
        if not connected:
            _leave()


def _join(world: World, on_gpus: bool) -> None:
    """Connect to the other ranks."""
    # DistributedDataParallel imports this module. If a process group exists by then, it becomes the default of the
    # module's arguments and is never destroyed.
    importlib.import_module("torch.distributed.nn.functional")
    store, _, _ = next(rendezvous("env://", world.rank, world.world_size))
    # torchrun keeps its store when it restarts ranks (torch 2.14), and for all connections of a rank. It still contains
    # the addresses of dead ranks and of connections that have ended.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    connection = store.add(f"start-{start}/connections-of-rank-{world.rank}", 1)
    store = dist.PrefixStore(f"start-{start}/connection-{connection}", store)  # type: ignore[attr-defined]
    if on_gpus:
        torch.cuda.set_device(world.local_rank)
    backend, device = ("cpu:gloo,cuda:nccl", torch.device("cuda", world.local_rank)) if on_gpus else ("gloo", None)
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.world_size, device_id=device)


def _leave() -> None:
    """Disconnect from the other ranks, and end the threads of the connection.

    A thread that outlives the process group may release its last tensor while Python ends. It then waits for Python's
    lock and is ended, which aborts the process ("terminate called without an active exception").
    """
    if not dist.is_initialized():
        return
    error = sys.exc_info()[1]
    while error is not None:  # the variables of functions that it has ended contain the network
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()  # a network wrapped by DistributedDataParallel refers to itself, and to the process group
    # After the death of a rank this may block in other ranks, which torchrun then ends.
    dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    """Return whether a collective operation failed because another process is gone."""
    texts = ("connection closed by peer", "connection reset by peer", "connection refused", "broken pipe", "timed out")
    message = str(error).lower()
    is_collective = any(name in message for name in ("gloo", "nccl", "socket"))
    return is_collective and any(text in message for text in texts)
