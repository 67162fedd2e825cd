"""One run on several devices or machines: started by `torchrun`, held together by torch.distributed.

    torchrun --nproc-per-node 2 -m sais train sais-lite --data DIR

Each process is a *rank* with its own share of every batch. What a rank computes is divided by what all ranks together
have to divide by, and DistributedDataParallel adds the gradients up, so that the result is that of one process with the
whole batch. The first rank alone writes and speaks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from sais.errors import SaisError

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them. Alone, every method gives back what it was given."""

    rank: int = 0
    """This process, from 0."""
    world_size: int = 1
    """How many there are."""
    local_rank: int = 0
    """This process among those of its machine: the number of its GPU."""

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks of a tensor that lies on the rank's device."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def maximum(self, values: Tensor) -> Tensor:
        """The greatest over all ranks, element by element."""
        if self.world_size > 1:
            values = values.clone()
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def broadcast(self, value: Value) -> Value:
        """What the first rank was given."""
        if self.world_size > 1:
            box = [value]
            dist.broadcast_object_list(box, device=torch.device("cpu"))
            return box[0]
        return value

    def all_gather(self, value: Value) -> list[Value]:
        """What every rank was given, in their order."""
        if self.world_size > 1:
            values: list[Any] = [None] * self.world_size
            dist.all_gather_object(values, value)
            return values
        return [value]

    def gather(self, value: Value) -> list[Value]:
        """What every rank was given, for the first rank alone; nothing for the others."""
        if self.world_size > 1:
            values: list[Any] | None = [None] * self.world_size if self.is_main else None
            dist.gather_object(value, values)
            return values or []
        return [value]

    def wrap_model(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model with its gradients added up over all ranks; the model itself where there is one rank."""
        if self.world_size == 1:
            return model
        devices = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)


SINGLE_PROCESS = World()


def is_launched() -> bool:
    """Whether `torchrun` (or something that sets the same variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ and "MASTER_ADDR" in os.environ


def is_restarted() -> bool:
    """Whether `torchrun` started this process again after one had died: the run is to be resumed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextlib.contextmanager
def process_group(device: str = "auto") -> Iterator[World]:
    """The ranks that `torchrun` started, for as long as the run lasts; alone where it did not.

    Args:
        device: as `run.device`; with "auto" and CUDA each rank takes the GPU of its local number.

    Raises:
        SaisError: more ranks than GPUs, or another rank died.
    """
    if not is_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield SINGLE_PROCESS
        return
    ranks = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")))
    on_gpus = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpus and ranks.local_rank >= torch.cuda.device_count():
        raise SaisError(
            f"{torch.cuda.device_count()} GPUs for {os.environ.get('LOCAL_WORLD_SIZE', 'more')} processes on this "
            "machine; give torchrun --nproc-per-node at most that number, or train with --device cpu"
        )
    try:
        _join(ranks, on_gpus)
        yield ranks
    except RuntimeError as error:  # dist.DistBackendError is one
        if not _lost(error):
            raise
        raise SaisError(
            f"rank {ranks.rank} of {ranks.world_size} lost another rank, which stopped or died; its own message stands "
            "above. The last checkpoint is as it was: go on with --resume, or let torchrun do so with --max-restarts"
        ) from error
    finally:
        if dist.is_initialized():
            # Where a rank died, the others may hang in saying good-bye to it; torchrun ends them.
            dist.destroy_process_group()


def _join(ranks: World, on_gpus: bool) -> None:
    """Meet the other ranks."""
    store, _, _ = next(rendezvous("env://", ranks.rank, ranks.world_size))
    # torchrun starts ranks again with the store of before (torch 2.14), in which the addresses of the dead still stand.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"start-{start}", store)  # type: ignore[attr-defined]
    if on_gpus:
        torch.cuda.set_device(ranks.local_rank)
    backend, device = ("cpu:gloo,cuda:nccl", torch.device("cuda", ranks.local_rank)) if on_gpus else ("gloo", None)
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size, device_id=device)


def _lost(error: RuntimeError) -> bool:
    """Whether a collective failed since another process is gone."""
    words = ("connection closed by peer", "connection reset by peer", "connection refused", "broken pipe", "timed out")
    said = str(error).lower()
    return any(word in said for word in words) and ("gloo" in said or "nccl" in said or "socket" in said)
