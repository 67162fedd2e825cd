"""One optimizer step: a batch, perhaps in micro-batches and over several ranks, through losses, backward and update.

However the batch is split, the step is that of the whole batch: what the losses are divided by is summed over all parts
before the first loss (`system.summed`), and gradients add up.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sais.engine.architecture import Assignment, sum_normalizers
from sais.engine.optim import set_learning_rate
from sais.engine.train_state import TrainState
from sais.errors import SaisError
from sais.ops.letterbox import PADDING
from sais.structures import Batch, GroundTruth

LOSS_HISTORY = 100
"""Losses that a new one is compared with."""
EXPLODED_RATIO = 100.0
"""Times the greatest remembered loss: that is no loss any more."""
MIN_EXPLODED_LOSS = 1000.0
"""A loss below this never counts as exploded."""
MAX_CONSECUTIVE_SKIPS = 10
"""So many bad losses one after the other stop a run that skips them."""


class BadLossError(SaisError):
    """A loss or its gradient is no number, or exploded. Weights, optimizer and average are as they were."""


def train_step(run: TrainState, batch: Batch | None, epoch: int, lr: float) -> dict[str, float] | None:
    """One optimizer step on the rank's share of a batch: the system's losses, backward, update.

    Args:
        batch: None where none of the share can be read.

    Returns:
        The terms of all ranks together, their "total", and the norm of the whole "gradient" before clipping. None where
        no rank has anything: no step was made.

    Raises:
        BadLossError: nothing was changed.
    """
    settings = run.experiment
    torch.manual_seed(settings.run.seed * 1_000_003 + run.iteration + 7_919 * run.world.rank)  # dropout resumes too
    height, width = _canvas(run, batch)
    if height == 0:
        return None
    run.optimizer.zero_grad(set_to_none=True)
    terms = _backward(run, batch, (height, width), epoch)
    total = sum(terms.values())
    run.scaler.unscale_(run.optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in run.model.parameters() if p.grad is not None])
    gradient = float(norm)
    # fp16's scaler looks for the greatest scale without overflow: it meets some, and passes over those steps itself.
    searching = run.scaler.is_enabled() and run.scaler.get_scale() > 1
    if bad := _complaint(run, total, gradient, searching):
        run.optimizer.zero_grad(set_to_none=True)
        run.scaler.update()
        ids = [i for share in run.world.all_gather([] if batch is None else batch.image_ids) for i in share]
        raise BadLossError(
            f"{bad} at iteration {run.iteration + 1}, images {ids}: look at their boxes with `sais check`, or lower "
            "--optim.lr or set --optim.grad-clip-norm 35"
        )
    set_learning_rate(run.optimizer, lr)
    if settings.optim.grad_clip_norm is not None:
        nn.utils.clip_grads_with_norm_(run.model.parameters(), settings.optim.grad_clip_norm, norm)
    scale = run.scaler.get_scale()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    if run.average and run.scaler.get_scale() >= scale:  # a lower scale says that the update was passed over
        run.average.update(run.model)
    run.recent_losses = [*run.recent_losses, total][-LOSS_HISTORY:]
    return {"total": total} | terms | {"gradient": gradient}


def _backward(run: TrainState, batch: Batch | None, canvas: tuple[int, int], epoch: int) -> dict[str, float]:
    """Gradients of the whole step into the parameters; the terms of all ranks together."""
    share = pad_batch(batch.to(run.device), canvas) if batch else empty_batch(canvas, run.device)
    counts = 0.0 if batch is None else float(run.world.world_size)
    parts = micro_batches(share, run.experiment.optim.micro_batch)
    values: Tensor | None = None
    names: list[str] = []
    for number, (part, matching) in enumerate(zip(parts, _matchings(run, parts, epoch), strict=True)):
        # Ranks add up once, at the last part.
        waits = isinstance(run.network, DistributedDataParallel) and number + 1 < len(parts)
        with cast(DistributedDataParallel, run.network).no_sync() if waits else contextlib.nullcontext():
            rest = () if matching is None else (matching,)
            terms = run.architecture.losses(run.network, part, run.experiment, epoch, *rest)
            total = torch.stack(list(terms.values())).sum()
            # DistributedDataParallel takes the mean over ranks, where the whole batch has the sum.
            run.scaler.scale(total * counts if counts != 1 else total).backward()
        names = list(terms)
        detached = torch.stack([term.detach().float() for term in terms.values()])
        values = detached if values is None else values + detached
    assert values is not None
    return dict(zip(names, run.world.sum(values if batch else torch.zeros_like(values)).tolist(), strict=True))


def _matchings(run: TrainState, parts: list[Batch], epoch: int) -> list[Assignment] | list[None]:
    """What each micro-batch is held against, with the normalizers of the whole step; None where it is the whole."""
    match = run.architecture.match
    if len(parts) == run.world.world_size == 1:
        return [None]
    if match is None:
        raise SaisError(
            f"a batch of {run.architecture.name} cannot be split: its losses know no normalizers; train it in one process, "
            "without --optim.micro-batch"
        )
    return sum_normalizers([match(part, run.experiment, epoch) for part in parts], run.world.sum)


def micro_batches(batch: Batch, size: int | None) -> list[Batch]:
    """The batch in pieces of at most `size` images; their canvas is the whole batch's."""
    count = len(batch.image_ids)
    pieces = [slice(i, i + (size or count)) for i in range(0, count, size or count)]
    return [Batch(batch.images[p], batch.ground_truths[p], batch.image_ids[p], batch.canvas_maps[p]) for p in pieces]


def _canvas(run: TrainState, batch: Batch | None) -> tuple[int, int]:
    """The largest canvas of any rank: padding has locations too, and they count. (0, 0) where no rank has images."""
    height, width = (batch.images.shape[2], batch.images.shape[3]) if batch else (0, 0)
    if run.world.world_size > 1:
        height, width = run.world.maximum(torch.tensor([height, width])).tolist()
    return height, width


def pad_batch(batch: Batch, canvas: tuple[int, int]) -> Batch:
    """The batch with its images padded right and below to `canvas`."""
    height, width = batch.images.shape[2], batch.images.shape[3]
    if (height, width) == canvas:
        return batch
    images = _padding(len(batch.image_ids), canvas, batch.images.device)
    images[:, :, :height, :width] = batch.images
    return replace(batch, images=images)


def empty_batch(canvas: tuple[int, int], device: torch.device) -> Batch:
    """An empty image for a rank whose own are all broken: it must take part in the step, and counts nothing in it."""
    none = torch.zeros(0, 4)
    objects = GroundTruth(none, torch.zeros(0, dtype=torch.int64), none.long(), torch.zeros(0, dtype=torch.uint8))
    return Batch(_padding(1, canvas, device), [objects.to(device)], [-1], [])


def _padding(count: int, canvas: tuple[int, int], device: torch.device) -> Tensor:
    color = torch.tensor(PADDING, dtype=torch.uint8, device=device)
    return color[None, :, None, None].expand(count, 3, *canvas).contiguous()


def _complaint(run: TrainState, total: float, gradient: float, searching: bool) -> str:
    """What is wrong with a loss and its gradient; "" where nothing is. The same on all ranks."""
    if not math.isfinite(total):
        return f"the loss is {total}"
    if not math.isfinite(gradient) and not searching:
        return f"the loss is {total:.3g}, but its gradient is {gradient}"
    if run.recent_losses and total > max(MIN_EXPLODED_LOSS, EXPLODED_RATIO * max(run.recent_losses)):
        return f"the loss is {total:.3g}, where the greatest of the last {len(run.recent_losses)} was {max(run.recent_losses):.3g}"
    return ""
