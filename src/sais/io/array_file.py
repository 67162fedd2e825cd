"""Files of numpy arrays that are mapped into memory, so that all processes of a machine share one copy.

A file has a header in JSON, then the arrays, each at a multiple of 64 bytes. Unlike a pickle it cannot contain code.
Checksums of header and arrays show a file that was damaged.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from sais.io.atomic import atomic_write

_MAGIC = b"SAIS\x89arr"
_START = struct.Struct("<8sQI")
"""Magic number, length of the header in bytes, its CRC-32."""
_MAX_HEADER_BYTES = 2**28
_ALIGNMENT = 64
_PIECE_BYTES = 2**20
_KINDS = ("<i8", "<i4", "<f8", "<f4", "|u1", "|b1")
"""Types of arrays; others are not written, and not read."""


def write_arrays(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write a file atomically.

    Args:
        path: The file.
        header: Values that JSON can hold.
        arrays: Arrays (any shape) by name, of integers of 32 or 64 bits, floats, bytes or bool.

    Raises:
        ResourceError: The file cannot be written.
        ValueError: An array has another type.
    """
    entries: list[dict[str, Any]] = []
    offset = 0
    for name, array in arrays.items():
        if array.dtype.str not in _KINDS:
            raise ValueError(f"array {name}: type {array.dtype}")
        checksum = zlib.crc32(_content(array))
        entry = {"name": name, "type": array.dtype.str, "shape": array.shape, "offset": offset, "crc": checksum}
        entries.append(entry)
        offset = _aligned(offset + array.nbytes)
    text = json.dumps({"header": header, "arrays": entries}).encode()
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        start = _START.pack(_MAGIC, len(text), zlib.crc32(text)) + text
        file.write(start.ljust(_aligned(len(start)), b"\0"))
        for array in arrays.values():
            file.write(_content(array))
            file.write(bytes(_aligned(array.nbytes) - array.nbytes))


def map_arrays(path: Path, verify: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header and the arrays (any shape, read-only) of a file, mapped into memory.

    Args:
        path: The file.
        verify: Whether the checksums of the arrays are verified, which reads the whole file.

    Raises:
        OSError: The file is missing or cannot be read.
        ValueError: It is not such a file, or it is damaged.
    """
    with path.open("rb") as file:
        magic, length, checksum = _START.unpack(file.read(_START.size).ljust(_START.size, b"\0"))
        if magic != _MAGIC or length > _MAX_HEADER_BYTES:
            raise ValueError("not a file of arrays")
        text = file.read(length)
        if len(text) != length or zlib.crc32(text) != checksum:
            raise ValueError("damaged header")
        content = json.loads(text)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = _aligned(_START.size + length)
        arrays = {}
        for entry in content["arrays"]:
            shape, offset = tuple(entry["shape"]), start + entry["offset"]
            if entry["type"] not in _KINDS or min((*shape, entry["offset"])) < 0:
                raise ValueError(f"array {entry['name']}: type {entry['type']}, shape {shape}")
            array = np.frombuffer(memory, entry["type"], math.prod(shape), offset)
            if verify:
                file.seek(offset)
                if _checksum(file, array.nbytes) != entry["crc"]:
                    raise ValueError(f"array {entry['name']}: damaged")
            arrays[entry["name"]] = array.reshape(shape)
    return content["header"], arrays


def _checksum(file: Any, length: int) -> int:
    """Return the CRC-32 of the next bytes of a file, read in pieces: mapped pages would count as memory in use."""
    checksum = 0
    while length > 0:
        piece = file.read(min(length, _PIECE_BYTES))
        if not piece:
            return -1
        checksum, length = zlib.crc32(piece, checksum), length - len(piece)
    return checksum


def _content(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT
