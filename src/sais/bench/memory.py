"""Memory: the peak of a fresh process, the peak of a GPU, and the bytes that a training step keeps for backward.

The last does not depend on the machine: every tensor that autograd keeps, each storage once, parameters and buffers
left out. Taking the difference of a step on two pictures and a step on one leaves what one more picture costs; what is
kept once a step, however many pictures there are (convolution weights with a frozen batch-norm folded in), is given
apart.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sais.structures import SaisError

LOSSES = "losses"
"""The part that whatever is kept outside of the named parts belongs to."""


@dataclass(frozen=True)
class Saved:
    """Bytes kept for backward."""

    per_picture: dict[str, int]
    """Part -> bytes that one more picture adds."""
    per_step: int
    """Bytes that do not grow with the number of pictures."""

    @property
    def total(self) -> int:
        """Bytes that one more picture adds, of all parts."""
        return sum(self.per_picture.values())


def saved_per_picture(model: Any, losses: Callable[[int], dict[str, Any]], parts: dict[str, Any]) -> Saved:
    """What one more training picture keeps for backward, part by part.

    Args:
        model: the network in training mode; its parameters and buffers are not counted.
        losses: number of pictures -> the terms of a step on as many copies of one picture.
        parts: name -> module of the network, or several; what is saved while one of them runs is its own.
    """
    one, two = (saved_bytes(model, lambda n=n: losses(n), parts) for n in (1, 2))  # type: ignore[misc]
    per_picture = {name: two[name] - one[name] for name in one}
    return Saved(per_picture, sum(one.values()) - sum(per_picture.values()))


def saved_bytes(model: Any, losses: Callable[[], dict[str, Any]], parts: dict[str, Any]) -> dict[str, int]:
    """Bytes that autograd keeps when backward begins, each storage once, by part; the rest under "losses"."""
    import torch

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


def peak_resident(reset: bool = False) -> int | None:
    """Peak of this process's resident memory in bytes; None where the system does not tell.

    `reset` forgets earlier peaks where the system lets us: what importing took for a moment would hide what a frugal
    way adds.
    """
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        with open("/proc/self/status") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def in_fresh_process(function: str, *arguments: Any) -> Any:
    """What "module:function" returns in a process of its own, which nothing of this one's past disturbs.

    Arguments and result travel as JSON; a sequence among the arguments arrives as a tuple.

    Raises:
        SaisError: it failed, with its last words.
    """
    code = "import sys, json; from sais.bench.memory import _answer; _answer(sys.argv[1], json.loads(sys.argv[2]))"
    paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code, function, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        if done.returncode < 0:
            last = f"killed by signal {-done.returncode}, as where memory runs out; measure something smaller"
        raise SaisError(f"measuring in a process of its own failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _answer(function: str, arguments: list[Any]) -> None:
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(*_as_tuples(arguments))
    print("\n" + json.dumps(result))


def _as_tuples(value: Any) -> Any:
    """Lists, as JSON has them, into the tuples that settings are made of."""
    if isinstance(value, list):
        return tuple(_as_tuples(one) for one in value)
    return {key: _as_tuples(one) for key, one in value.items()} if isinstance(value, dict) else value
