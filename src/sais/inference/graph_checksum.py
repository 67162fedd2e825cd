"""The checksum in an exported file, by which damage is detected: a damaged graph can crash its runtime.

The checksum is an entry of the file's metadata: a prefix for each format, and the SHA-256 of the whole file (and of the
`.bin` next to an `.xml`) as it is with 64 zeros in place of the number. A file that another program has converted
contains the prefix of another format or none: it is opened only if the user trusts it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from sais.errors import CheckpointError, ResourceError

ENTRY = "checksum"
"""Name of the entry of the metadata."""
PREFIXES = {".onnx": "sais-sha256-onnx:", ".xml": "sais-sha256-openvino:"}
"""Suffix of an exported file -> start of the entry."""
_ZEROS = "0" * 64


def placeholder(suffix: str) -> str:
    """Return the entry of a file that is not sealed yet.

    Args:
        suffix: suffix of the file, of `PREFIXES`.
    """
    return PREFIXES[suffix] + _ZEROS


def seal(path: Path) -> None:
    """Replace the placeholder in a written file by the file's checksum.

    Args:
        path: path of an `.onnx` file, or of an `.xml` file with its `.bin` next to it.
    """
    content = bytearray(path.read_bytes())
    position = content.rfind(placeholder(_suffix(path)).encode())
    if position < 0:
        raise ValueError(f"{path}: no placeholder of a checksum")
    with path.open("r+b") as file:
        file.seek(position + len(PREFIXES[_suffix(path)]))
        file.write(_digest(content, path).encode())


def check_seal(path: Path) -> None:
    """Check that an exported file is as sais wrote it.

    Raises:
        CheckpointError: the file has no checksum, or has been changed since it was exported.
        ResourceError: the file cannot be read.
    """
    prefix = PREFIXES[_suffix(path)].encode()
    try:
        content = bytearray(path.read_bytes())
        position = content.rfind(prefix)
        if position < 0:
            raise CheckpointError(
                f"{path}: no checksum of sais, so another program wrote or changed it, and a malformed graph can crash "
                "its runtime. Export a model with sais, or set trust=True if you trust the file."
            )
        number = slice(position + len(prefix), position + len(prefix) + len(_ZEROS))
        stored = bytes(content[number])
        content[number] = _ZEROS.encode()[: len(stored)]
        valid = stored == _digest(content, path).encode()
    except OSError as error:
        raise ResourceError(f"{path}: cannot be read ({error.strerror or error}). Check its permissions.") from error
    if not valid:
        raise CheckpointError(
            f"{path}: changed since it was exported (checksum mismatch). Copy it again, or export it again. Set "
            "trust=True if another program has changed it on purpose."
        )


def _suffix(path: Path) -> str:
    return ".xml" if path.suffix == ".xml" else ".onnx"


def _digest(content: bytearray, path: Path) -> str:
    """Return the SHA-256 of a file's content, and of the weights next to it."""
    digest = hashlib.sha256(content)
    weights = path.with_suffix(".bin")
    if _suffix(path) == ".xml" and weights.is_file():
        digest.update(weights.read_bytes())
    return digest.hexdigest()
