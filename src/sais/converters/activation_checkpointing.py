"""What is kept for backward, and what is made again there.

Autograd keeps the input of every convolution and of every norm: the map before a norm *and* the one after its ReLU.
The second follows from the first at next to no cost, so half of what the head's towers keep can be made again. By
choice the convolutions are computed twice as well, and only the maps between the stages are kept.

It rests on `torch.utils.checkpoint`. While it computes a part again it stops as soon as everything that backward asks
for is there, and a convolution asks for its input alone. So a part that ends with a convolution does not compute that
one a second time. Results do not change by a bit: the same functions of the same numbers, in the same precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

CHECKPOINTING_MODES = ("none", "norms", "all")
"""What is made again: nothing; norms, activations, sums and doubled maps; convolutions too."""


def checkpointed(function: Callable[..., Any], *inputs: Any, within: nn.Module, random: bool = False) -> Any:
    """`function` of `inputs`, of which only the inputs are kept for backward.

    Args:
        within: what runs; the statistics of its batch-norms move once, not a second time in backward.
        random: `function` draws numbers (dropout), which must come out the same the second time.
    """
    norms = [one for one in within.modules() if isinstance(one, _BatchNorm) and one.training]
    contexts: Any = {"context_fn": lambda: (contextlib.nullcontext(), _unmoved(norms))} if norms else {}
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=random, **contexts)


@contextlib.contextmanager
def _unmoved(norms: list[_BatchNorm]) -> Iterator[None]:
    """While it lasts the norms follow their statistics in copies."""
    kept = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        for name, value in buffers.items():
            setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, value in buffers.items():
                setattr(norm, name, value)


def checkpoint_stages(stages: Iterable[nn.Module], again: bool) -> None:
    """Let modules keep their inputs alone, in training, or all as usual. Their names and their results stay.

    A module of its own around each would change the names; so the function that each calls is replaced, of the one
    object. A copy of it, as a moving average makes, calls its own.
    """
    for stage in stages:
        if again:
            stage.forward = partial(_stage_again, stage)
        elif getattr(vars(stage).get("forward"), "func", None) is _stage_again:
            del stage.forward


def _stage_again(stage: nn.Module, maps: Tensor) -> Any:
    forward = partial(type(stage).forward, stage)
    if not (stage.training and torch.is_grad_enabled()):
        return forward(maps)
    return checkpointed(forward, maps, within=stage, random=True)


def split_tower(tower: nn.Sequential) -> tuple[list[nn.Sequential], nn.Sequential]:
    """A tower of (convolution, norm, activation)s, cut behind its convolutions, and what follows the last of them.

    Each piece but the first begins with a norm, and so can be made again from what the convolution before it gave.
    """
    pieces: list[list[nn.Module]] = [[]]
    for layer in tower:
        if not isinstance(layer, nn.Conv2d) and pieces[-1] and isinstance(pieces[-1][-1], nn.Conv2d):
            pieces.append([])
        pieces[-1].append(layer)
    last = pieces.pop() if pieces[-1] and not isinstance(pieces[-1][-1], nn.Conv2d) else []
    return [nn.Sequential(*piece) for piece in pieces if piece], nn.Sequential(*last)
