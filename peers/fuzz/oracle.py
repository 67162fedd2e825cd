"""The rule that every case must keep: success, or one of our exceptions, in time, in memory, with no other effect.

A case reads inputs below `in` of its folder and works in `out`. `examine` runs it and returns what it did wrong: an
exception that is not a `SaisError`, more than 20 s of processor time or 4 GB, a process started or a network address
asked, a file written outside the folder, an input changed, removed or added.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sais.errors import SaisError

MAX_SECONDS = 20
"""Maximum processor time of a case, which does not depend on what else the machine does."""
MAX_WAIT = 150
"""Maximum time of a case in seconds: it may wait for a file for ever without using the processor. Long enough for an
export, 15 s of processor time, on a machine that does ten other things."""
MAX_BYTES = 4 * 2**30
MESSAGE = re.compile(r"\S.*?: \S.*[.)?]", re.DOTALL)
"""WHERE: WHAT. FIX."""
FOREIGN_EVENTS = frozenset(
    ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
)
"""Audit events of processes and network connections, which no file may cause."""
PROGRAMS = {"fc-match"}
"""Programs that sais itself starts: fontconfig finds a font for the letters of class names, given as numbers."""
WRITE_EVENTS = {
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.link",
    "os.symlink",
    "shutil.rmtree",
}
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
PLACES = ("/dev/", "/proc/self/fd/")
"""Places outside the folder that may be opened for writing."""


class CaseTimeoutError(BaseException):
    """A case ran for more than its time or `MAX_WAIT`; no handler of exceptions catches it."""


@dataclass(frozen=True)
class Case:
    """An input and what is done with it.

    Args:
        action: runs the case in the folder of its outputs, or raises SaisError.
        about: the case in one line: a command line, or the kind of file.
        may_add: whether files may be added next to the inputs.
        may_ask: whether it may start processes and use the network, because the user typed its input.
        may_change: folders of an earlier output, whose files may be replaced.
        work: multiple of `MAX_SECONDS` that the case may take, above 1 where valid input takes about as long.
    """

    action: Callable[[], object]
    about: str
    may_add: bool = False
    may_ask: bool = False
    may_change: tuple[Path, ...] = ()
    work: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a case did.

    Args:
        result: "success" or the name of the exception.
        fault: what it did wrong; empty if nothing.
        about: the case in one line.
        seconds: its processor time.
        bytes: peak memory of the process during the case.
    """

    result: str
    fault: str
    about: str
    seconds: float
    bytes: int


class Watch:
    """Records what a case does outside its folder; there is one for each process, since audit hooks stay."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._folder = ""
        self._forbidden: Set[str] = frozenset()
        sys.addaudithook(self._hook)

    @contextlib.contextmanager
    def watching(self, folder: Path, forbidden: Set[str]) -> Iterator[None]:
        """Record events while the context is active: those `forbidden`, and what is written outside `folder`."""
        self.events, self._folder, self._forbidden = [], os.path.realpath(folder), forbidden
        try:
            yield
        finally:
            self._folder = ""

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._folder:
            return
        if event == "socket.connect" and isinstance(arguments[1], (str, bytes)):
            return  # a socket of this machine, between the processes that read images
        if event == "subprocess.Popen" and os.path.basename(os.fsdecode(arguments[0])) in PROGRAMS:
            return
        if event in self._forbidden:
            self.events.append(f"{event} {arguments[:2]!r}"[:200])
        elif event == "os.mkdir" and os.path.isdir(arguments[0]):
            return
        elif event in WRITE_EVENTS or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITE_FLAGS
        ):
            for path in arguments[:2] if event in ("os.rename", "os.link") else arguments[:1]:
                if isinstance(path, (str, bytes, os.PathLike)) and not self._is_allowed(os.fsdecode(path)):
                    self.events.append(f"{event} {os.fsdecode(path)!r}"[:200])

    def _is_allowed(self, path: str) -> bool:
        if "\0" in path or path.startswith(PLACES) or "/__pycache__/" in path:
            return True
        parent, name = os.path.split(os.path.abspath(path))
        return Path(os.path.realpath(parent), name).is_relative_to(self._folder)


def examine(make: Callable[[Path], Case], folder: Path, untouched: Path, watch: Watch) -> Outcome:
    """Build a case in an empty folder, run it, and judge what it did.

    Args:
        make: writes the inputs into the folder that it is given and returns the case.
        folder: folder of the case.
        untouched: folder of the samples, which no case may change.
        watch: the recorder of this process.
    """
    shutil.rmtree(folder, ignore_errors=True)
    inputs, outputs, temporary = (folder / name for name in ("in", "out", "tmp"))
    for path in (inputs, outputs, temporary):
        path.mkdir(parents=True)
    case = make(inputs)
    before, samples = _listing(inputs, case.may_change), _listing(untouched)
    _reset_peak()
    held = _peak_bytes()  # by what this process did before
    start, directory = time.process_time(), Path.cwd()
    os.chdir(outputs)
    tempfile.tempdir = str(temporary)
    try:
        with watch.watching(folder, FOREIGN_EVENTS if not case.may_ask else frozenset()), _time_limit(case.work):
            result, fault = _judge(case.action)
    finally:
        os.chdir(directory)
        tempfile.tempdir = None
    seconds, peak = time.process_time() - start, _peak_bytes()
    if not fault:
        changes = [
            *_changes(before, _listing(inputs, case.may_change), case.may_add),
            *_changes(samples, _listing(untouched), False),
        ]
        foreign = "; ".join(dict.fromkeys([*watch.events, *changes]))
        fault = foreign or (f"{peak / 2**30:.1f} GB of memory" if peak - held > MAX_BYTES else "")
    return Outcome(result, fault, case.about, seconds, peak)


def run_command(argv: list[str]) -> None:
    """Run `sais` in this process.

    Raises:
        SaisError: it printed an error in one line and returned 2.
        AssertionError: it printed something else on an error, or another exit code.
    """
    from sais import cli

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(argv)
    errors = [line for line in err.getvalue().splitlines() if line.startswith("sais: error: ")]
    assert "Traceback" not in err.getvalue(), err.getvalue()[-1500:]
    if errors:
        assert (code, len(errors)) == (2, 1), f"exit code {code} with {errors}"
        raise SaisError(errors[0].removeprefix("sais: error: "))
    assert code == 0 or (code == 2 and out.getvalue()), f"exit code {code} without an error: {err.getvalue()[-500:]}"


def _judge(action: Callable[[], object]) -> tuple[str, str]:
    """Run an action; return its result and what was wrong."""
    try:
        action()
    except SaisError as error:
        text, name = str(error), type(error).__name__
        if not MESSAGE.fullmatch(text):
            return name, f"message without WHERE: WHAT. FIX.: {text[:300]!r}"
        if any(ord(character) < 32 and character != "\n" for character in text):
            return name, f"control characters in the message {text[:300]!r}"
        return name, ""
    except CaseTimeoutError:
        return (
            "timeout",
            f"more than the limit of processor time or {MAX_WAIT} s\n{traceback.format_exc()[-2500:]}",
        )
    except BaseException as error:
        return type(error).__name__, traceback.format_exc()[-2500:]
    return "success", ""


@contextlib.contextmanager
def _time_limit(work: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise CaseTimeoutError

    timers = (signal.ITIMER_PROF, signal.SIGPROF, work * MAX_SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, MAX_WAIT)
    for timer, number, seconds in timers:
        signal.signal(number, stop)
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _, _ in timers:
            signal.setitimer(timer, 0)


def _listing(folder: Path, excluded: Sequence[Path] = ()) -> dict[str, tuple[int, ...]]:
    """Return size, time of change, inode and type of every file below a folder, but not below `excluded`."""
    listing: dict[str, tuple[int, ...]] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if Path(parent, name) not in excluded]
        for name in names:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            listing[path] = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_mode)
    return listing


def _changes(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]], may_add: bool) -> Iterator[str]:
    for path in before.keys() - after.keys():
        yield f"removed {path}"
    for path in before.keys() & after.keys():
        if before[path] != after[path]:
            yield f"changed {path}"
    if not may_add:
        yield from (f"added {path}" for path in after.keys() - before.keys())


def _reset_peak() -> None:
    """Let the peak memory of this process start again from its memory now, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if match:
            return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
