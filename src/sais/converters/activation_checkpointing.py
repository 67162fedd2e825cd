"""Activation checkpointing: save less for backward and recompute the rest there.

Autograd saves the input of every convolution and of every norm: the map before a norm *and* the one after its ReLU. The
second follows from the first at almost no cost, so half of what the head's towers save can be recomputed ("norms"). By
option convolutions are recomputed too, and only the maps between the stages are saved ("all").

It is based on `torch.utils.checkpoint`, which stops recomputing a part as soon as it has everything that backward asks
for. A convolution asks only for its input, so a part that ends with a convolution does not compute it a second time.
On a CPU results are equal to the bit: the same functions of the same numbers, in the same precision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from timm.models._features import FeatureListNet
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from sais.converters.replacement import original_of, replace_module, share_members
from sais.errors import ConfigError
from sais.modeling.backbones import Backbone
from sais.modeling.head import Head, HeadOutputs
from sais.modeling.protonet import ProtoNet, upsample

CHECKPOINTING_MODES = ("none", "norms", "all")
"""What is recomputed: nothing; norms, activations, sums and upsampled maps; convolutions too."""


def apply_activation_checkpointing(model: nn.Module, mode: str) -> None:
    """Replace head, ProtoNet and stages of the backbone by modules that save less for backward, in place.

    Results, and all of evaluation, stay the same. A head of another class is recomputed as a whole with "all", and not
    at all with "norms".

    Args:
        model: network with the attributes `backbone` and `head`.
        mode: "none"; "norms": recompute norms, activations, sums and upsampled maps; "all": also convolutions, except
            those of the last stage of the backbone, whose maps are small.

    Raises:
        ConfigError: an unknown mode, or "all" with a backbone that does not consist of stages.
    """
    if mode not in CHECKPOINTING_MODES:
        raise ConfigError(
            f"run.activation_checkpointing {mode!r}: unknown. Choose one of {', '.join(CHECKPOINTING_MODES)}."
        )
    if mode == "none":
        return
    names = {module: name for name, module in model.named_modules()}
    stages = trained_stages(cast(Backbone, model.backbone))[:-1] if mode == "all" else []
    for stage in stages:
        replace_module(model, names[stage], CheckpointedModule(stage))
    for module, name in names.items():
        if type(module) is Head:
            replace_module(model, name, CheckpointedHead(module, mode))
        elif type(module) is ProtoNet:
            replace_module(model, name, CheckpointedProtoNet(module, mode))
        elif name == "head" and mode == "all":
            replace_module(model, name, CheckpointedModule(module))


def trained_stages(backbone: Backbone) -> list[nn.Module]:
    """Return the consecutive stages of a backbone's network, without those that are frozen entirely.

    Raises:
        ConfigError: the network does not consist of stages.
    """
    network: Any = backbone.network
    if isinstance(network, FeatureListNet):
        stages = list(network.children())
    elif hasattr(network, "blocks") and getattr(network, "feature_hooks", None) is None:
        stages = list(network.blocks)
    else:  # hooks that collect maps would collect them again in backward
        raise ConfigError(
            f"model.backbone {backbone.name!r}: its stages cannot be recomputed. Set run.activation_checkpointing to "
            "'norms'."
        )
    return [s for s in stages if list(s.children()) and any(p.requires_grad for p in s.parameters())]


def checkpointed(function: Callable[..., Any], *inputs: Any, within: nn.Module, random: bool = False) -> Any:
    """Call `function` on `inputs`, saving only the inputs for backward.

    Args:
        function: function of the inputs.
        inputs: tensors of any shape, or containers of them.
        within: module that runs; the statistics of its batch-norms are updated once, not again in backward.
        random: whether `function` draws random numbers (dropout), which must be the same when recomputed.
    """
    norms = [module for module in within.modules() if isinstance(module, _BatchNorm) and module.training]
    contexts: Any = {"context_fn": lambda: (contextlib.nullcontext(), _frozen_statistics(norms))} if norms else {}
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=random, **contexts)


@contextlib.contextmanager
def _frozen_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let the norms update copies of their statistics while the context lasts."""
    saved = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, saved, strict=True):
        for name, value in buffers.items():
            setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, saved, strict=True):
            for name, value in buffers.items():
                setattr(norm, name, value)


class CheckpointedModule(nn.Module):
    """A module that saves only its input for backward.

    Args:
        module: original module.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        share_members(self, module)

    def train(self, mode: bool = True) -> CheckpointedModule:
        """Set the mode of the original as well."""
        super().train(mode)
        cast(nn.Module, original_of(self)).training = mode
        return self

    def forward(self, inputs: Any) -> Any:
        """Compute the original's outputs from its inputs of any shape."""
        original = cast(nn.Module, original_of(self))
        if not (self.training and torch.is_grad_enabled()):
            return original(inputs)
        return checkpointed(original, inputs, within=self, random=True)


class CheckpointedHead(nn.Module):
    """A head that recomputes norms and activations of its towers in backward, by option their convolutions too.

    Args:
        head: original head.
        mode: "norms" or "all".
    """

    def __init__(self, head: Head, mode: str) -> None:
        super().__init__()
        share_members(self, head)
        self.mode = mode

    def forward(self, levels: list[Tensor]) -> HeadOutputs:
        """[P3 .. P7] (B, channels, h, w) -> predictions (B, L, .) of all levels."""
        head = cast(Head, original_of(self))
        if not (self.training and torch.is_grad_enabled()):
            outputs: HeadOutputs = head(levels)
            return outputs
        predict = partial(_predict_level, head)
        if self.mode == "all":
            return head.join([checkpointed(predict, level, within=self) for level in levels])
        return head.join([predict(level) for level in levels])


def _predict_level(head: Head, level: Tensor) -> tuple[Tensor | None, ...]:
    """Predict from one level (B, channels, h, w), saving only the outputs of the towers' convolutions."""
    ends, tails = [], nn.ModuleList()
    for tower in (head.classification_tower, head.regression_tower):
        pieces, tail = split_tower(tower)
        maps = level
        for number, piece in enumerate(pieces):
            maps = checkpointed(piece, maps, within=piece) if number else piece(maps)
        ends.append(maps)
        tails.append(tail)

    def predict(classification: Tensor, regression: Tensor) -> tuple[Tensor | None, ...]:
        return head.predict(tails[0](classification), tails[1](regression))

    predictions: tuple[Tensor | None, ...] = checkpointed(predict, *ends, within=tails)
    return predictions


def split_tower(tower: nn.Sequential) -> tuple[list[nn.Sequential], nn.Sequential]:
    """Split a tower of (convolution, norm, activation)s after its convolutions.

    Each piece but the first begins with a norm, so it can be recomputed from the output of the convolution before it.

    Returns:
        The pieces that end with a convolution, and the layers after the last one.
    """
    pieces: list[list[nn.Module]] = [[]]
    for layer in tower:
        if not _is_convolution(layer) and pieces[-1] and _is_convolution(pieces[-1][-1]):
            pieces.append([])
        pieces[-1].append(layer)
    tail = pieces.pop() if pieces[-1] and not _is_convolution(pieces[-1][-1]) else []
    return [nn.Sequential(*piece) for piece in pieces if piece], nn.Sequential(*tail)


def _is_convolution(layer: nn.Module) -> bool:
    while (original := original_of(layer)) is not None:
        layer = original
    return isinstance(layer, nn.Conv2d)


class CheckpointedProtoNet(nn.Module):
    """A ProtoNet that recomputes its upsampled map in backward, by option everything.

    Args:
        protonet: original ProtoNet.
        mode: "norms" or "all".
    """

    def __init__(self, protonet: ProtoNet, mode: str) -> None:
        super().__init__()
        share_members(self, protonet)
        self.mode = mode

    def forward(self, p3: Tensor) -> Tensor:
        """(B, in_channels, H / 8, W / 8) -> (B, K, H / 4, W / 4), not negative."""
        protonet = cast(ProtoNet, original_of(self))
        if not (self.training and torch.is_grad_enabled()):
            prototypes: Tensor = protonet(p3)
            return prototypes
        if self.mode == "all":  # without the last ReLU, whose output is saved in any case
            return functional.relu(checkpointed(lambda maps: _logits(protonet, maps), p3, within=self))
        if len(protonet.after) > 2:
            return functional.relu(_logits_from_convolutions(protonet, p3))
        convolution, activation = protonet.after
        maps = checkpointed(lambda maps: convolution(upsample(maps)), protonet.before(p3), within=protonet.after)
        return functional.relu(protonet.prototypes(activation(maps)))


def _logits(protonet: ProtoNet, p3: Tensor) -> Tensor:
    """Compute the prototypes (B, K, H / 4, W / 4) before their ReLU."""
    logits: Tensor = protonet.prototypes(protonet.after(upsample(protonet.before(p3))))
    return logits


def _logits_from_convolutions(protonet: ProtoNet, p3: Tensor) -> Tensor:
    """Compute the logits (B, K, H / 4, W / 4) of a ProtoNet with norms, saving only the outputs of its convolutions."""
    pieces, tail = split_tower(nn.Sequential(*(layer for block in protonet.before for layer in cast(Any, block))))
    maps = p3
    for number, piece in enumerate(pieces):
        maps = checkpointed(piece, maps, within=piece) if number else piece(maps)
    convolution, last = protonet.after[0], protonet.after[1:]
    maps = checkpointed(lambda maps: convolution(upsample(tail(maps))), maps, within=protonet)
    logits: Tensor = checkpointed(lambda maps: protonet.prototypes(last(maps)), maps, within=last)
    return logits
