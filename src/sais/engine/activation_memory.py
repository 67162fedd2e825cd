"""Memory of the activations that a training step saves for backward, which is the same on every machine.

All tensors that autograd saves are counted, each storage once, without parameters and buffers. The difference between a
step on two images and a step on one is the cost of one more image; what is saved once a step, however many images there
are (convolution weights with a frozen batch-norm fused in), is reported separately.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LOSSES = "losses"
"""Name of the part for everything that is saved outside of the named parts."""


@dataclass(frozen=True)
class SavedActivations:
    """Bytes saved for backward."""

    per_image: dict[str, int]
    """Bytes that one more image adds, by part."""
    per_step: int
    """Bytes that do not depend on the number of images."""

    @property
    def total(self) -> int:
        """Bytes that one more image adds, over all parts."""
        return sum(self.per_image.values())


def saved_bytes_per_image(
    model: Any, losses: Callable[[int], dict[str, Any]], parts: dict[str, Any]
) -> SavedActivations:
    """Measure the bytes that one more training image saves for backward, by part.

    Args:
        model: network in training mode; its parameters and buffers are not counted.
        losses: function from a number of images to the loss terms of a step on that many copies of one image.
        parts: module or modules of the network by name; tensors saved while one of them runs belong to it.
    """
    single, double = (saved_bytes(model, lambda n=n: losses(n), parts) for n in (1, 2))  # type: ignore[misc]
    per_image = {name: double[name] - single[name] for name in single}
    return SavedActivations(per_image, sum(single.values()) - sum(per_image.values()))


def saved_bytes(model: Any, losses: Callable[[], dict[str, Any]], parts: dict[str, Any]) -> dict[str, int]:
    """Measure the bytes saved when backward starts, each storage once, by part; all others count as "losses".

    Args:
        model: network in training mode; its parameters and buffers are not counted.
        losses: function that computes the loss terms of a step.
        parts: module or modules of the network by name.
    """
    counted = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved: list[tuple[str, weakref.ref[_SavedTensor]]] = []  # weak: tensors that autograd releases are not counted
    running = [LOSSES]

    def pack(tensor: torch.Tensor) -> _SavedTensor:
        holder = _SavedTensor(tensor)
        saved.append((running[-1], weakref.ref(holder)))
        return holder

    hooks = []
    for name, modules in parts.items():
        for module in modules if isinstance(modules, tuple) else (modules,):
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
            hooks.append(module.register_forward_hook(lambda *_: running.pop() and None))
    part_bytes = dict.fromkeys((*parts, LOSSES), 0)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
            terms = losses()
        for part, reference in saved:
            holder = reference()
            storage = holder.tensor.untyped_storage() if holder is not None else None
            if storage is not None and storage.data_ptr() not in counted:
                counted.add(storage.data_ptr())
                part_bytes[part] += storage.nbytes()
        del terms
    finally:
        for hook in hooks:
            hook.remove()
    return part_bytes


class _SavedTensor:
    """A tensor saved by autograd."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


def peak_bytes(function: Callable[[], None]) -> int:
    """Return the maximum bytes of tensors that `function` creates and that exist at the same time, backward included.

    It is for the CPU, where the peak memory of a process includes everything before. Temporary memory of libraries is
    not counted.
    """
    with _StorageTracker() as tracker:
        function()
    return tracker.peak


class _StorageTracker(TorchDispatchMode):
    """Track every storage that operations create, and through weak references when it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._tracked: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        inputs = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(results):
            if isinstance(leaf, torch.Tensor) and id(leaf.untyped_storage()) not in inputs | self._tracked.keys():
                self._track(leaf.untyped_storage())
        return results

    def _track(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def release(_: Any) -> None:
            self.current -= size
            del self._tracked[key]

        self._tracked[key] = weakref.ref(storage, release)
        self.current += size
        self.peak = max(self.peak, self.current)
