"""Processes that end, as from a crash of a decoder, when they open an image with a certain name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CRASH = "crash.jpg"
"""End of the names of images that end each process that opens them."""
_SITE = f"""
import os, sys

def abort(event, arguments):
    if event == "open" and str(arguments[0]).endswith({CRASH!r}):
        os.abort()

sys.addaudithook(abort)
"""


def let_processes_crash(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let Python processes that are started from now on crash; this one does not.

    Args:
        folder: folder to write to.
        patch: object that restores the environment.
    """
    (folder / "sitecustomize.py").write_text(_SITE)
    patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
