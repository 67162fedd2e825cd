"""Where a run lies: the folder that is given, or runs/RECIPE-DATA with a number; and what is there already."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from sais.engine.run_folder import is_unstarted
from sais.errors import SaisError


def run_folder(out: Path | None, name: str, resume: bool) -> Path:
    """The folder of the run: `out`, or runs/NAME, numbered where that exists; with `resume` the latest that exists.

    Raises:
        SaisError: nothing to resume, or `out` holds a run already and resuming was not asked for.
    """
    if out is not None:
        if resume and not out.is_dir():
            raise SaisError(f"{out}: no run to resume; leave out --resume to start one")
        if not resume and out.is_dir() and any(out.iterdir()) and not stopped_early(out):
            raise SaisError(f"{out} is not empty; go on with it (--resume) or choose another --out")
        return out
    numbers = [int(m[1] or 1) for p in Path("runs").glob(name + "*") if (m := _numbered(p.name, name))]
    if resume:
        if not numbers:
            raise SaisError(f"runs/{name}: no run to resume; leave out --resume to start one, or name it with --out")
        number = max(numbers)
    else:
        number = max(numbers, default=0) + 1
    return Path("runs") / (name if number == 1 else f"{name}-{number}")


def choose_folder(out: Path | None, name: str, resume: bool, restarted: bool) -> tuple[Path, bool]:
    """The folder of the run, and whether there is something to go on with. A run that torchrun started again goes on
    with what it had saved, or begins once more."""
    if restarted and not resume:
        with contextlib.suppress(SaisError):  # nothing there yet
            begun = run_folder(out, name, resume=True)
            unfinished = not (begun / "model.safetensors").exists()
            if unfinished and not stopped_early(begun) and any(begun.glob("*.safetensors")):
                return begun, True
    folder = run_folder(out, name, resume)
    return folder, resume and not stopped_early(folder)


def stopped_early(out: Path) -> bool:
    """Return whether a run was started in `out` and ended before its first checkpoint."""
    return is_unstarted(out)


def _numbered(folder: str, name: str) -> re.Match[str] | None:
    return re.fullmatch(re.escape(name) + r"(?:-(\d+))?", folder)
