"""Simulated rules of other systems: no file of Windows is replaced or removed while this process has it open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def open_files() -> set[str]:
    """Return the real paths of all files that this process has open or mapped into its memory (Linux)."""
    paths = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            paths.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # the descriptor of the listing itself
            continue
    with open("/proc/self/maps", encoding="utf-8") as file:
        paths |= {line.split(maxsplit=5)[5].strip() for line in file if len(line.split(maxsplit=5)) == 6}
    return paths


@contextmanager
def windows_file_rules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make replacing, renaming and removing a file fail inside the block while this process has it open."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("the simulation needs /proc")

    def guard(function: Callable[..., Any], arguments: int) -> Callable[..., Any]:
        def guarded(*paths: Any, **options: Any) -> Any:
            folders = [options.get(name) for name in ("dir_fd", "src_dir_fd", "dst_dir_fd")]
            parent = next((os.readlink(f"/proc/self/fd/{fd}") for fd in folders if fd is not None), "")
            for path in paths[:arguments]:
                whole = os.path.realpath(os.path.join(parent, os.fspath(path)))
                if os.path.isfile(whole) and whole in open_files():
                    raise PermissionError(13, "The process cannot access the file because it is in use", str(path))
            return function(*paths, **options)

        return guarded

    with monkeypatch.context() as patch:
        for name, arguments in (("replace", 2), ("rename", 2), ("unlink", 1), ("remove", 1)):
            patch.setattr(os, name, guard(getattr(os, name), arguments))
        yield


def is_open(path: Path) -> bool:
    """Return whether this process has a file open or mapped."""
    return str(path.resolve()) in open_files()
