"""Replace modules of a built network from outside.

A replacement shares parameters, buffers and sub-modules with the module it replaces, under the same names. So the state
dict of the network does not change, and the original can be put back.
"""

from __future__ import annotations

from typing import cast

from torch import nn


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` at the dotted `name` in `network`."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def share_members(replacement: nn.Module, original: nn.Module) -> None:
    """Give a replacement the members of its original, and let `original_of` find the original."""
    replacement._parameters = original._parameters
    replacement._buffers = original._buffers
    replacement._modules = original._modules
    replacement._non_persistent_buffers_set = original._non_persistent_buffers_set
    replacement.training = original.training
    vars(replacement)["original"] = (original,)  # a tuple, so that it is not registered as a sub-module


def original_of(module: nn.Module) -> nn.Module | None:
    """Return the module that `module` replaces, None if it is no replacement."""
    originals = module.__dict__.get("original")  # torch.compile of torch 2.6 knows no `vars`
    return cast(nn.Module, originals[0]) if originals else None


def restore_originals(network: nn.Module) -> None:
    """Put all originals back into `network`."""
    for name, child in list(network.named_children()):
        while (original := original_of(child)) is not None:
            original.training = child.training
            setattr(network, name, original)
            child = original
        restore_originals(child)
