"""Reading of whole files that strangers may have made: regular files only, and not larger than a limit."""

from __future__ import annotations

import stat
from pathlib import Path

from sais import input_limits
from sais.errors import InputError, ResourceError


def is_regular_file(path: Path) -> bool:
    """Return whether a path is a regular file; opening a pipe would wait for a writer forever."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def read_regular_file(path: Path, kind: str = "file") -> bytes:
    """Return the content of a regular file of at most `input_limits.MAX_JSON_BYTES`.

    Args:
        path: The file.
        kind: What the file is, for error messages, such as "annotation file".

    Raises:
        InputError: The file is missing, cannot be read, or is a folder, a pipe or a device.
        ResourceError: The file is too large, or memory does not suffice.
    """
    limit = input_limits.MAX_JSON_BYTES
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: a pipe or device, not a regular file. Copy its content to a file.")
        if status.st_size > limit:
            size = f"{status.st_size / 2**30:.1f} GB"
            raise ResourceError(f"{path}: {kind} of {size}, above the limit of {limit / 2**30:g} GB. Split it.")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such {kind}. Check the path.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder, not a file. Name the {kind}.") from error
    except (OSError, ValueError) as error:  # no permission, a name that is too long or contains NUL
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}). Check the path and its permissions.") from error
    except MemoryError as error:
        raise ResourceError(f"{path}: not enough memory to read it. Free memory, or split it.") from error
