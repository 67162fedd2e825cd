"""Files that are whole or not there at all: what every report, result and list of detections is written with."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sais.errors import SaisError


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    # A file's name that is no UTF-8 reaches us as lone surrogates; it is no reason to lose a report.
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary neighbor first, then renamed. Makes missing folders. Of several
    processes at the same file the last one wins.

    Raises:
        SaisError: the file cannot be written; what stood at `path` still stands.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp makes files for the owner only
        os.replace(temporary, path)
    except OSError as error:
        remedy = "choose another place, mend its permissions or free some space"
        raise SaisError(f"{path}: cannot be written ({error.strerror}); {remedy}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):  # also after Ctrl-C
            os.unlink(temporary)
