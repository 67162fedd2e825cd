"""The folder of a run: the one that is given, or runs/RECIPE-DATA with a number."""

from __future__ import annotations

import contextlib
from pathlib import Path

from sais.engine.run_folder import is_unstarted, numbered_folder, run_numbers
from sais.errors import CheckpointError, InputError


def run_folder(out: Path | None, name: str, resume: bool) -> Path:
    """Choose the folder of a run.

    Args:
        out: folder that the user gave; None: runs/NAME, numbered if it exists, or the latest one to resume.
        name: name of the run, RECIPE-DATA.
        resume: whether a run is resumed.

    Raises:
        CheckpointError: there is no run to resume.
        InputError: `out` is not empty, and the run is not resumed.
    """
    if out is not None:
        if resume and not out.is_dir():
            raise CheckpointError(f"{out}: no run to resume. Start one without --resume.")
        if not resume and out.is_dir() and any(out.iterdir()) and not is_unstarted(out):
            raise InputError(f"{out}: is not empty. Resume the run with --resume, or choose another --out.")
        return out
    if resume and not run_numbers(Path("runs"), name):
        raise CheckpointError(
            f"runs/{name}: no run to resume. Start one without --resume, or name its folder with --out."
        )
    return numbered_folder(Path("runs"), name, resume)


def choose_folder(out: Path | None, name: str, resume: bool, restarted: bool) -> tuple[Path, bool]:
    """Choose the folder of a run, and whether to resume it.

    Args:
        out: folder that the user gave, or None.
        name: name of the run, RECIPE-DATA.
        resume: whether the user asked to resume.
        restarted: whether torchrun restarted the process; the run is then resumed if it has a checkpoint.
    """
    if restarted and not resume:
        with contextlib.suppress(CheckpointError):  # the run has not created its folder
            folder = run_folder(out, name, resume=True)
            unfinished = not (folder / "model.safetensors").exists()
            if unfinished and not is_unstarted(folder) and any(folder.glob("*.safetensors")):
                return folder, True
    folder = run_folder(out, name, resume)
    return folder, resume and not is_unstarted(folder)
