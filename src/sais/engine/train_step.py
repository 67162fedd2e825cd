"""One optimizer step: a batch, split over micro-batches and ranks, through losses, backward and update.

If the assignment needs no predictions, the step is that of the whole batch however it is split: normalizers are summed
over all parts before the first loss, and gradients add up. `sais.modeling.criterion` describes the other case.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sais.device import precision_dtype
from sais.engine.optim import set_learning_rate
from sais.engine.train_state import TrainState
from sais.errors import ConfigError, SaisError
from sais.modeling.criterion import Assignment, Criterion, sum_normalizers
from sais.ops.letterbox import PADDING
from sais.ops.transfers import move_batch, move_ground_truths
from sais.structures import Batch, GroundTruth

LOSS_HISTORY = 100
"""Number of previous losses that a new one is compared with."""
EXPLODED_RATIO = 100.0
"""A loss above this multiple of the largest previous loss has diverged."""
MIN_EXPLODED_LOSS = 1000.0
"""A loss below this never counts as diverged."""
MAX_CONSECUTIVE_SKIPS = 10
"""Consecutive skipped batches that end a run which skips diverged losses."""


class DivergedLossError(SaisError):
    """A loss or its gradient is not finite, or diverged. Weights, optimizer and average are unchanged."""


def train_step(run: TrainState, batch: Batch | None, epoch: int, lr: float) -> dict[str, float] | None:
    """Make one optimizer step with this rank's share of a batch.

    Args:
        run: state of the run, updated in place.
        batch: B images and their ground truth; None if none of the share's images is readable.
        epoch: epoch, counted from 0.
        lr: learning rate before the factors of the parameter groups.

    Returns:
        The loss terms summed over all ranks, their "total", and the norm of the whole "gradient" before clipping. None
        if no rank has images: no step was made.

    Raises:
        DivergedLossError: the loss is not finite or diverged; nothing was changed.
    """
    settings = run.experiment
    torch.manual_seed(settings.run.seed * 1_000_003 + run.iteration + 7_919 * run.world.rank)  # dropout resumes too
    canvas = _largest_canvas(run, batch)
    if canvas[0] == 0:
        return None
    run.optimizer.zero_grad(set_to_none=True)
    names, values = _accumulate_gradients(run, batch, canvas, epoch)
    run.scaler.unscale_(run.optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in run.model.parameters() if p.grad is not None])
    scale = run.scaler.scale(values.new_ones(()))  # `get_scale` would wait
    results = torch.stack([*values.unbind(), norm.to(values), scale])
    *sums, gradient, scale = results.tolist()  # the only time that the host waits
    terms = dict(zip(names, sums, strict=True))
    loss = sum(sums)
    # fp16's scaler searches for the largest scale without overflow: it meets overflows, and skips those steps itself.
    is_searching = run.scaler.is_enabled() and scale > 1
    if problem := _problem(run, loss, gradient, is_searching):
        run.optimizer.zero_grad(set_to_none=True)
        run.scaler.update()
        ids = [i for share in run.world.all_gather([] if batch is None else batch.image_ids) for i in share]
        raise DivergedLossError(
            f"iteration {run.iteration + 1}, images {ids}: {problem}. Check their boxes with `sais doctor`, lower "
            "optim.lr, or set optim.grad_clip_norm to 35."
        )
    set_learning_rate(run.optimizer, lr)
    if settings.optim.grad_clip_norm is not None:
        nn.utils.clip_grads_with_norm_(run.model.parameters(), settings.optim.grad_clip_norm, norm)
    if math.isfinite(gradient):  # known on the host: `GradScaler.step` would wait for the device
        run.optimizer.step()
        if run.average:
            run.average.update(run.model)
    run.scaler.update()
    run.recent_losses = [*run.recent_losses, loss][-LOSS_HISTORY:]
    return {"total": loss} | terms | {"gradient": gradient}


def compute_losses(
    network: nn.Module, criterion: Criterion, batch: Batch, precision: str = "fp32", epoch: int = 0
) -> dict[str, Tensor]:
    """Compute the loss terms of a batch that is a whole step.

    Args:
        network: network in training mode.
        criterion: training objective of its architecture.
        batch: B images and their ground truth, on the network's device.
        precision: "fp32", "bf16" or "fp16".
        epoch: epoch, counted from 0.

    Returns:
        Weighted scalar terms by name; their sum is minimized.
    """
    assignment = None if criterion.needs_predictions else criterion.assign(batch, None, epoch)
    outputs = forward(network, batch.images, precision)
    if assignment is None:
        assignment = criterion.assign(batch, outputs, epoch)
    return criterion.losses(outputs, batch, assignment)


def forward(network: nn.Module, images: Tensor, precision: str) -> Any:
    """Run the network on canvases (B, 3, H, W), the only part of a step in lower precision."""
    dtype = precision_dtype(precision)
    if dtype == torch.float32:
        return network(images)
    with torch.autocast(images.device.type, dtype):
        return network(images)


def total(terms: dict[str, Tensor]) -> Tensor:
    """Sum scalar loss terms to the scalar that is minimized."""
    return torch.stack(list(terms.values())).sum()


def _accumulate_gradients(
    run: TrainState, batch: Batch | None, canvas: tuple[int, int], epoch: int
) -> tuple[list[str], Tensor]:
    """Add the gradients of the whole step to the parameters.

    Returns:
        The names of the loss terms, and the terms (number of names,) float32 summed over all ranks.
    """
    criterion, precision = run.criterion, run.experiment.run.precision
    parts, shares = _parts(run, batch, canvas)
    is_split = len(parts) > 1 or run.world.world_size > 1
    assigned: list[Assignment] = []
    values: Tensor | None = None
    names: list[str] = []
    for number, (part, share) in enumerate(zip(parts, shares, strict=True)):
        # Ranks add up their gradients once, in the last part.
        waits = isinstance(run.network, DistributedDataParallel) and number + 1 < len(parts)
        with cast(DistributedDataParallel, run.network).no_sync() if waits else contextlib.nullcontext():
            outputs = forward(run.network, part.images, precision)
            if criterion.needs_predictions:
                (assignment,) = sum_normalizers([criterion.assign(part, outputs, epoch)], run.world.sum)
            else:
                # Assigned on the host after the first forward pass was launched, which an accelerator then computes.
                assigned = assigned or sum_normalizers([criterion.assign(p, None, epoch) for p in parts], run.world.sum)
                assignment = assigned[number]
            if is_split and not assignment.normalizers:
                raise ConfigError(
                    f"model.architecture {run.experiment.model.architecture!r}: its losses have no normalizers, so a "
                    "batch cannot be split. Train it in one process without optim.micro_batch."
                )
            terms = criterion.losses(outputs, part, assignment)
            # DistributedDataParallel computes the mean over ranks; the step of the whole batch is the sum.
            factor = share * run.world.world_size
            loss = total(terms)
            run.scaler.scale(loss * factor if factor != 1 else loss).backward()
        names = list(terms)
        detached = torch.stack([term.detach().float() for term in terms.values()])
        if share != 1:
            detached = detached * share if share else torch.zeros_like(detached)
        values = detached if values is None else values + detached
    assert values is not None
    return names, run.world.sum(values)


def _parts(run: TrainState, batch: Batch | None, canvas: tuple[int, int]) -> tuple[list[Batch], list[float]]:
    """Split this rank's share into micro-batches, and return the weight of each in the loss.

    A rank without readable images computes an empty image of weight 0: it must take part in the step. If the assignment
    needs predictions, all ranks have the same number of parts, because normalizers are summed in each, and a part has
    the weight of its share of the rank's images.
    """
    parts: list[Batch] = []
    if batch is not None:
        parts = micro_batches(pad_batch(move_batch(batch, run.device), canvas), run.experiment.optim.micro_batch)
    shares = [1.0] * len(parts)
    count = max(1, len(parts))
    if run.criterion.needs_predictions:
        images = sum(len(part.image_ids) for part in parts)
        shares = [len(part.image_ids) / images for part in parts]
        count = int(run.world.maximum(torch.tensor([count])))
    missing = count - len(parts)
    empty = [empty_batch(canvas, run.device)] if missing else []
    return parts + empty * missing, shares + [0.0] * missing


def micro_batches(batch: Batch, size: int | None) -> list[Batch]:
    """Split a batch (B, .) into micro-batches of at most `size` images on the whole batch's canvas; None: one."""
    count = len(batch.image_ids)
    slices = [slice(i, i + (size or count)) for i in range(0, count, size or count)]
    return [Batch(batch.images[s], batch.ground_truths[s], batch.image_ids[s], batch.canvas_maps[s]) for s in slices]


def _largest_canvas(run: TrainState, batch: Batch | None) -> tuple[int, int]:
    """Return the largest canvas of any rank: locations in the padding count too. (0, 0) if no rank has images."""
    height, width = (batch.images.shape[2], batch.images.shape[3]) if batch else (0, 0)
    if run.world.world_size > 1:
        height, width = run.world.maximum(torch.tensor([height, width])).tolist()
    return height, width


def pad_batch(batch: Batch, canvas: tuple[int, int]) -> Batch:
    """Pad the images (B, 3, H, W) of a batch on the right and below to `canvas`, (height, width) in pixels."""
    height, width = batch.images.shape[2], batch.images.shape[3]
    if (height, width) == canvas:
        return batch
    images = _padding(len(batch.image_ids), canvas, batch.images.device)
    images[:, :, :height, :width] = batch.images
    return replace(batch, images=images)


def empty_batch(canvas: tuple[int, int], device: torch.device) -> Batch:
    """Return one image (1, 3, height, width) of padding without objects, for a rank without readable images."""
    boxes = torch.zeros(0, 4)
    objects = GroundTruth(boxes, torch.zeros(0, dtype=torch.int64), boxes.long(), torch.zeros(0, dtype=torch.uint8))
    return Batch(_padding(1, canvas, device), move_ground_truths([objects], device), [-1], [])


def _padding(count: int, canvas: tuple[int, int], device: torch.device) -> Tensor:
    color = torch.tensor(PADDING, dtype=torch.uint8, device=device)
    return color[None, :, None, None].expand(count, 3, *canvas).contiguous()


def _problem(run: TrainState, loss: float, gradient: float, is_searching: bool) -> str:
    """Return what is wrong with a loss and its gradient, "" if nothing is. The result is the same on all ranks."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(gradient) and not is_searching:
        return f"the loss is {loss:.3g}, but its gradient is {gradient}"
    if run.recent_losses and loss > max(MIN_EXPLODED_LOSS, EXPLODED_RATIO * max(run.recent_losses)):
        largest = f"the largest of the last {len(run.recent_losses)} is {max(run.recent_losses):.3g}"
        return f"the loss is {loss:.3g}, while {largest}"
    return ""
