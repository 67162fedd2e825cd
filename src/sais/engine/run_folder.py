"""The folder of a run: the names of its files, and the guarantee that nothing else in it is overwritten or removed.

A folder belongs to a run of sais if it holds `run.lock`, or a log or settings that sais has written. In any other
folder, files with the names of a run's files belong to another program: training there, also resuming, is refused. So
are symbolic links in place of a run's files, which would be followed.
"""

from __future__ import annotations

import contextlib
import json
import os
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
_LOG_START = b'{"kind": "'
_SETTINGS_GROUPS = {"input", "model", "optim", "schedule"}
"""Groups of settings in every `experiment.json`."""


def is_unstarted(folder: Path) -> bool:
    """Return whether a run was started in `folder` and ended before its first checkpoint."""
    return (folder / LOCK_FILE).is_file() and not any((folder / name).exists() for name in CHECKPOINTS)


def is_missing(folder: Path) -> bool:
    """Return whether the folder of a run that this process has locked has been renamed or removed since.

    A folder from which only the lock file was removed, as a stale one, is still that of the run.
    """
    for name in (LOCK_FILE, SETTINGS, LOG):
        try:
            os.stat(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # a network drive that does not respond: not known to be gone
            return False
        return False
    return True


def run_numbers(parent: Path, name: str) -> list[int]:
    """Return the numbers of the runs NAME (number 1), NAME-2, NAME-3 in a folder, ascending."""
    names = os.listdir(parent) if parent.is_dir() else []
    matches = (re.fullmatch(re.escape(name) + r"(?:-(\d+))?", folder) for folder in names)
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
        InputError: the folder holds a run already, or files of another program that the run would change.
        ResourceError: another process is training in this folder, or it cannot be written.
    """
    from sais.io.temporary import remove_leftovers

    existed = folder.exists()
    present = {name for name in (*RUN_FILES, LOCK_FILE) if os.path.lexists(folder / name)}
    _check_own(folder, present, resume)
    if not resume and not is_locked(folder):  # while another process trains there, locking fails below
        _check_free(folder, present)
    lock = lock_run(folder)
    remove_leftovers(folder, CHECKPOINTS)  # of killed processes
    try:
        yield
    except (SaisError, KeyboardInterrupt, SystemExit):
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
    """Raise InputError if a new run would replace an earlier one."""
    for name in CHECKPOINTS:
        if name in present:
            raise InputError(f"{folder}: contains a run already ({name}). Resume it, or choose another output folder.")


def _check_own(folder: Path, present: set[str], resume: bool) -> None:
    """Raise InputError if files with the names of a run's files belong to another program."""
    for name in sorted(present):
        if (folder / name).is_symlink():
            raise InputError(f"{folder / name}: is a symbolic link, which is not followed. Choose another folder.")
    own = {name for name, is_own in ((LOG, _is_own_log), (SETTINGS, _is_own_settings)) if is_own(folder / name)}
    marked = LOCK_FILE in present or (resume and own)  # a run that is resumed may have been copied without its lock
    foreign = (present & {LOG, SETTINGS}) - own if marked else present - set(CHECKPOINTS)
    if foreign:
        names = ", ".join(sorted(foreign))
        raise InputError(f"{folder}: contains files of another program ({names}). Choose another output folder.")


def _is_own_log(path: Path) -> bool:
    """Return whether `log.jsonl` begins as sais writes it; it is empty or incomplete if a run was killed early."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _LOG_START.startswith(file.read(len(_LOG_START)))


def _is_own_settings(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= _SETTINGS_GROUPS


def _remove(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
