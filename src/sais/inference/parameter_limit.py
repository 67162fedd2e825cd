"""A limit on the size of the network that the settings in a file describe: its weights are in the file as well."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sais.errors import CheckpointError

SPARE_PARAMETERS = 110_000_000
"""Parameters that a network may have in addition to its stored ones: a backbone is built with its classifier, which has
124 million in the VGG networks. The limit also has three times the stored ones."""


@contextlib.contextmanager
def limit_parameters(tensors: dict[str, Tensor], path: Path) -> Iterator[None]:
    """Stop the building of a network that is far larger than its stored weights, before its memory is used.

    Args:
        tensors: weights (of any shape) of the network.
        path: path of their file, for the error message.

    Raises:
        CheckpointError: the network that is built in the `with` block has too many parameters.
    """
    stored = sum(tensor.numel() for tensor in tensors.values())
    limit, count, thread = 3 * stored + SPARE_PARAMETERS, 0, threading.get_ident()

    def add(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        if parameter is None or threading.get_ident() != thread:
            return
        count += parameter.numel()
        if count > limit:
            raise CheckpointError(
                f"{path}: its settings describe a network of more than {count} parameters, but it has weights for "
                f"{stored}. Use a file that `sais train` has written."
            )

    handle = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        handle.remove()
