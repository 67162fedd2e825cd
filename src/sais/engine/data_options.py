"""Options of reading the data of a resumed run: those it was started with, from its log."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sais.data.paths import DataPaths, stored_fields
from sais.engine.run_folder import LOG

RESTORED = ("classes", "crowds_as_objects", "merge_duplicate_images", "format", "outside_images")
"""Fields of `DataPaths` without which a resumed run would train on other objects."""
MAX_LINE_BYTES = 2**26
"""Maximum length of the first entry."""


def restore_data_options(paths: DataPaths, out: Path) -> tuple[DataPaths, list[str]]:
    """Return paths with the classes and the options of reading that a run was started with, unless they are given.

    Args:
        paths: data set to resume with.
        out: folder of the run.

    Returns:
        The paths, and a line for the log if options were restored.
    """
    stored = _stored_paths(out / LOG)
    defaults = {name: getattr(DataPaths, name) for name in RESTORED}
    open_names = [name for name in RESTORED if getattr(paths, name) == defaults[name]]
    restored = {name: stored[name] for name in open_names if stored.get(name, defaults[name]) != defaults[name]}
    if not restored:
        return paths, []
    values = (f"{name} {', '.join(value) if name == 'classes' else value}" for name, value in restored.items())
    return replace(paths, **restored), [f"data options, as at the start of the run: {'; '.join(values)}"]


def _stored_paths(log: Path) -> dict[str, Any]:
    """Return the fields of `DataPaths` in the first entry of a log; empty if there are none."""
    try:
        with log.open("rb") as file:
            entry = json.loads(file.readline(MAX_LINE_BYTES).decode("utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return {}
    return stored_fields(entry.get("paths")) if isinstance(entry, dict) else {}
