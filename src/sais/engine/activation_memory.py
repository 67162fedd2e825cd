"""The bytes that a training step keeps for backward. They do not depend on the machine.

Every tensor that autograd keeps, each storage once, parameters and buffers left out. Taking the difference of a step on
two images and a step on one leaves what one more image costs; what is kept once a step, however many images there
are (convolution weights with a frozen batch-norm folded in), is given apart.
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
"""The part that whatever is kept outside of the named parts belongs to."""


@dataclass(frozen=True)
class SavedActivations:
    """Bytes kept for backward."""

    per_image: dict[str, int]
    """Part -> bytes that one more image adds."""
    per_step: int
    """Bytes that do not grow with the number of images."""

    @property
    def total(self) -> int:
        """Bytes that one more image adds, of all parts."""
        return sum(self.per_image.values())


def saved_bytes_per_image(
    model: Any, losses: Callable[[int], dict[str, Any]], parts: dict[str, Any]
) -> SavedActivations:
    """What one more training image keeps for backward, part by part.

    Args:
        model: the network in training mode; its parameters and buffers are not counted.
        losses: number of images -> the terms of a step on as many copies of one image.
        parts: name -> module of the network, or several; what is saved while one of them runs is its own.
    """
    one, two = (saved_bytes(model, lambda n=n: losses(n), parts) for n in (1, 2))  # type: ignore[misc]
    per_image = {name: two[name] - one[name] for name in one}
    return SavedActivations(per_image, sum(one.values()) - sum(per_image.values()))


def saved_bytes(model: Any, losses: Callable[[], dict[str, Any]], parts: dict[str, Any]) -> dict[str, int]:
    """Bytes that autograd keeps when backward begins, each storage once, by part; the rest under "losses"."""
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: list[tuple[str, weakref.ref[_Kept]]] = []  # weak: what autograd lets go again is not kept
    running = [LOSSES]

    def pack(tensor: torch.Tensor) -> _Kept:
        one = _Kept(tensor)
        kept.append((running[-1], weakref.ref(one)))
        return one

    hooks = []
    for name, modules in parts.items():
        for module in modules if isinstance(modules, tuple) else (modules,):
            hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
            hooks.append(module.register_forward_hook(lambda *_: running.pop() and None))
    counted = dict.fromkeys((*parts, LOSSES), 0)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
            terms = losses()
        for part, reference in kept:
            one = reference()
            storage = one.tensor.untyped_storage() if one is not None else None
            if storage is not None and storage.data_ptr() not in known:
                known.add(storage.data_ptr())
                counted[part] += storage.nbytes()
        del terms
    finally:
        for hook in hooks:
            hook.remove()
    return counted


class _Kept:
    """A tensor in autograd's hands."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


def peak_bytes(function: Callable[[], None]) -> int:
    """The most bytes that tensors made while `function` runs took at one time, backward and all.

    On a CPU, where the peak of a process cannot be told from what it had before. Libraries' own working memory is not
    seen.
    """
    with _Living() as living:
        function()
    return living.greatest


class _Living(TorchDispatchMode):
    """Sees every operation, and so every storage that comes; weak references tell when it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.greatest = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        given = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        for one in tree_leaves(results):
            if isinstance(one, torch.Tensor) and id(one.untyped_storage()) not in given | self._seen.keys():
                self._follow(one.untyped_storage())
        return results

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.greatest = max(self.greatest, self.now)
