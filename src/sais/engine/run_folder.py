"""The folder of a run: the names of its files, and the guarantee that nothing else in it is overwritten or removed.

A folder belongs to a run of sais if it holds `run.lock` or a checkpoint to resume from. In any other folder, files with
the names of a run's files belong to another program: training there is refused.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from sais.engine.lock import LOCK_FILE, is_locked, lock_run
from sais.errors import CheckpointError, InputError, SaisError

LAST, PREVIOUS, BEST, MODEL = "last.safetensors", "previous.safetensors", "best.safetensors", "model.safetensors"
"""The training state to resume from, the training state one checkpoint earlier, the best weights, the final weights."""
CHECKPOINTS = (LAST, PREVIOUS, BEST, MODEL)
SETTINGS, LOG, TEXT_LOG, LOGGER_IDS = "experiment.json", "log.jsonl", "log.txt", "loggers.json"
RUN_FILES = (*CHECKPOINTS, SETTINGS, LOG, TEXT_LOG, LOGGER_IDS, "report.html", "tensorboard", "wandb")
"""Names of everything that a run writes into its folder."""


def is_unstarted(folder: Path) -> bool:
    """Return whether a run was started in `folder` and ended before its first checkpoint."""
    return (folder / LOCK_FILE).is_file() and not any((folder / name).exists() for name in CHECKPOINTS)


def run_numbers(parent: Path, name: str) -> list[int]:
    """Return the numbers of the runs NAME (number 1), NAME-2, NAME-3 in a folder, ascending."""
    matches = (re.fullmatch(re.escape(name) + r"(?:-(\d+))?", path.name) for path in parent.glob(f"{name}*"))
    return sorted(int(match[1] or 1) for match in matches if match)


def numbered_folder(parent: Path, name: str, resume: bool = False) -> Path:
    """Return the folder of the next run called `name`, or of the latest one, which must exist, to resume it.

    Raises:
        CheckpointError: there is no run to resume.
    """
    numbers = run_numbers(parent, name)
    if resume and not numbers:
        raise CheckpointError(f"{parent / name}: no run to resume. Start a new run instead, or name its folder.")
    number = max(numbers, default=0) + (not resume)
    return parent / (name if number == 1 else f"{name}-{number}")


@contextlib.contextmanager
def claim_run_folder(folder: Path, resume: bool = False) -> Iterator[None]:
    """Lock a run's folder for this process. A new run that fails before its first checkpoint leaves no files behind.

    Only files and folders that were created inside the `with` block are removed, so that the same output folder can be
    used again.

    Args:
        folder: folder of the run, which may be missing.
        resume: whether the run is resumed from a checkpoint in this folder.

    Raises:
        InputError: the folder holds a run already, or files of another program that the run would overwrite.
        ResourceError: another process is training in this folder, or it cannot be written.
    """
    existed = folder.exists()
    present = {name for name in (*RUN_FILES, LOCK_FILE) if (folder / name).exists()}
    if not resume and not is_locked(folder):  # while another process trains there, locking fails below
        _check_free(folder, present)
    lock = lock_run(folder)
    try:
        yield
    except (SaisError, KeyboardInterrupt):
        if not any((folder / name).exists() for name in CHECKPOINTS):
            _remove([folder / name for name in RUN_FILES if name not in present])
            lock.release()
            if LOCK_FILE not in present:
                _remove([folder / LOCK_FILE])
            if not existed:
                with contextlib.suppress(OSError):  # a logger of the user's own wrote files there
                    folder.rmdir()
        raise
    finally:
        lock.release()


def _check_free(folder: Path, present: set[str]) -> None:
    for name in CHECKPOINTS:
        if name in present:
            raise InputError(f"{folder}: contains a run already ({name}). Resume it, or choose another output folder.")
    if present and LOCK_FILE not in present:
        raise InputError(
            f"{folder}: contains files of another program ({', '.join(sorted(present))}). Choose another output folder."
        )


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
