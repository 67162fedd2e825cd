"""A simulated accelerator: tensors of the device "meta" with values, and a count of what would make the host wait.

Inside `SimulatedDevice()` the device "meta" computes: its tensors hold a CPU tensor each, which every operation uses.
An operation that mixes its tensors with those of the host fails, as on a real device, and operations whose result the
host needs are counted: scalars that are read, copies to the host, and shapes that depend on values.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten
SHAPE_DEPENDS_ON_VALUES = {
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.unique_dim.default: "unique",
    aten.bincount.default: "bincount",
    aten.equal.default: "equal",
}
READS = (aten._local_scalar_dense.default, aten.item.default)
CREATIONS_FROM_HOST = (aten.lift_fresh.default, aten.lift_fresh_copy.default)


class DeviceTensor(Tensor):
    """A tensor of the simulated device."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        """Wrap a CPU tensor of any shape."""
        tensor = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=DEVICE
        )
        tensor.values = values
        return tensor

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Copy to the host for `tolist`, which subclasses lack."""
        if function is Tensor.tolist:
            return args[0].cpu().tolist()
        return torch._C._disabled_torch_function_impl(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse operations outside the mode."""
        raise RuntimeError(f"{function}: outside SimulatedDevice()")


class SimulatedDevice(TorchDispatchMode):
    """Let the device "meta" compute, and count host waits and operations."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        """Number of operations that would make the host wait, by kind."""
        self.copies_to_device = 0
        self.launches: Counter[str] = Counter()
        """Number of operations on the device, by name; views are none."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation on the CPU tensors inside."""
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
        target = kwargs.get("device")
        creates_on_device = target is not None and torch.device(target).type == DEVICE.type
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        if kwargs.pop("pin_memory", None):
            pass  # memory of the host that copies may read later; nothing to simulate
        to_host = bool(on_device) and target is not None and not creates_on_device
        self._count(function, args, kwargs, tensors, on_device, to_host, creates_on_device)
        result = function(*_inner(args), **_inner(kwargs))
        if creates_on_device or (on_device and not to_host):
            return _outer(result, args, kwargs)
        return result

    def _count(
        self,
        function: Any,
        args: Any,
        kwargs: Any,
        tensors: list[Tensor],
        on_device: list[Tensor],
        to_host: bool,
        creates: bool,
    ) -> None:
        if not on_device:
            self.copies_to_device += creates and bool(tensors)
            return
        self.launches[str(function)] += not function.is_view
        if function in READS:
            self.waits["read"] += 1
        elif to_host or (function is aten.copy_.default and not isinstance(args[0], DeviceTensor)):
            self.waits["copy to the host"] += 1
        elif function in SHAPE_DEPENDS_ON_VALUES:
            self.waits[SHAPE_DEPENDS_ON_VALUES[function]] += 1
        elif function is aten.repeat_interleave.Tensor:
            self.waits["repeat_interleave"] += kwargs.get("output_size") is None
            if args[0].values.is_contiguous() and args[0].values.storage_offset():
                raise RuntimeError(f"{function}: crashes on MPS for a part of a block (pytorch issue 167924)")
        elif function in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            self.waits["boolean index"] += any(index is not None and index.dtype == torch.bool for index in args[1])
            self.waits["index of the host"] += any(i is not None and not isinstance(i, DeviceTensor) for i in args[1])
        host = [t for t in tensors if not isinstance(t, DeviceTensor) and t.dim() > 0]
        if host and function is not aten.copy_.default and not _accepts_host_index(function):
            raise RuntimeError(f"{function}: tensors of the device and of the host together")


def _accepts_host_index(function: Any) -> bool:
    """Return whether an operation copies index tensors of the host to the device by itself, which waits."""
    return function in (aten.index.Tensor, aten.index_put_.default)


def _inner(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.values if isinstance(leaf, DeviceTensor) else leaf, tree)


def _outer(result: Any, args: Any, kwargs: Any) -> Any:
    """Wrap the results of an operation; results that are arguments (in-place operations) keep their identity."""
    known = {id(leaf.values): leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, DeviceTensor)}

    def wrap(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in known:
            return known[id(leaf)]
        with torch.inference_mode(False):  # else parts of tensors from outside of inference mode could not be made
            return DeviceTensor(leaf)

    return tree_map(wrap, result)


def module_to_device(module: nn.Module) -> nn.Module:
    """Move the parameters and buffers of a module to the simulated device, in place."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(DeviceTensor(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = DeviceTensor(buffer)
    return module


def to_host(tensor: Tensor) -> Tensor:
    """Return the values of a tensor of the simulated device, of any shape, without counting."""
    assert isinstance(tensor, DeviceTensor)
    return tensor.values.detach()
