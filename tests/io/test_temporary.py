"""Temporary folders of killed processes are removed, and never those of live ones or of other programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sais.io import temporary
from sais.io.atomic import atomic_write, write_text
from sais.io.temporary import PATTERN, create_temporary_folder, remove_leftovers, temporary_folder
from sais.io.video import VideoWriter

KILLED = """
import os, signal, sys
from pathlib import Path
from sais.io.atomic import atomic_write

with atomic_write(Path(sys.argv[1])) as path:
    path.write_text("half")
    if len(sys.argv) > 2:
        print("waiting", flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""

posix = pytest.mark.skipif(os.name != "posix", reason="process numbers are not looked up on Windows")


@posix
def test_atomic_write_removes_the_temporary_folder_of_a_killed_process_only(tmp_path: Path) -> None:
    foreign = [".a.bin.writing", ".tmpAbCdEf", "b.5f2b81c0-x-9e8d7c6b-0.writing", ".last.1-2-3.writing"]
    for name in foreign:
        (tmp_path / name).write_text("foreign")
    (tmp_path / "pymp-12345678").mkdir()
    command = (sys.executable, "-c", KILLED, tmp_path / "a.bin")
    assert subprocess.run(command).returncode == -9
    assert sum(PATTERN.fullmatch(path.name) is not None for path in tmp_path.iterdir()) == 1
    with subprocess.Popen((*command, "wait"), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as alive:
        assert alive.stdout is not None
        assert alive.stdin is not None
        alive.stdout.readline()  # it is writing, and has removed the folder of the killed one
        assert sum(PATTERN.fullmatch(path.name) is not None for path in tmp_path.iterdir()) == 1
        write_text(tmp_path / "b.txt", "text")
        assert sum(PATTERN.fullmatch(path.name) is not None for path in tmp_path.iterdir()) == 1
        alive.stdin.close()
    assert remove_leftovers(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == sorted([*foreign, "pymp-12345678", "b.txt"])


@posix
def test_remove_leftovers_judges_other_machines_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(temporary, "_machine", lambda: "0123abcd")
        patch.setattr(temporary, "_token", lambda pid: "01234567")
        folders = [create_temporary_folder(tmp_path) for _ in range(2)]
    old = folders[0].stat().st_mtime - temporary.FOREIGN_SECONDS - 60
    os.utime(folders[0], (old, old))
    assert remove_leftovers(tmp_path) == 1
    assert os.listdir(tmp_path) == [folders[1].name]


@posix
def test_remove_leftovers_recognizes_an_earlier_process_of_the_same_number(tmp_path: Path) -> None:
    """As in a container that was restarted, whose first process always has the number 1."""
    own = create_temporary_folder(tmp_path)
    match = PATTERN.fullmatch(own.name)
    assert match is not None
    (tmp_path / own.name.replace(match[3], "0" * 8)).mkdir()
    (tmp_path / own.name.replace(f"-{os.getpid()}-", "-1-")).mkdir()  # of a process that is alive
    assert remove_leftovers(tmp_path) == 1
    assert own.exists()


def test_remove_leftovers_of_names_that_nobody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_machine", lambda: "0123abcd")
    for name in ("last.safetensors", "a-name-that-is-longer-than-the-limit.safetensors", "report.html"):
        folder = create_temporary_folder(tmp_path, f".{name}")
        folder.rename(tmp_path / folder.name.replace(f"-{os.getpid()}-", "-1-"))
    names = ("last.safetensors", "a-name-that-is-longer-than-the-limit.safetensors")
    monkeypatch.setattr(temporary, "_machine", lambda: "ffffffff")
    assert remove_leftovers(tmp_path, names) == 2
    assert os.listdir(tmp_path)[0].startswith(".report.html.")


def test_temporary_folder_is_removed_after_an_interrupt(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path) as folder:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_atomic_write_accepts_the_longest_file_name(tmp_path: Path) -> None:
    path = tmp_path / ("貓" * 80 + ".safetensors")
    with atomic_write(path) as temporary_path:
        temporary_path.write_text("text")
    assert os.listdir(tmp_path) == [path.name]


def test_video_writer_leaves_nothing_after_an_interrupt(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4") as _:
        assert len(os.listdir(tmp_path)) == 1
        assert PATTERN.fullmatch(os.listdir(tmp_path)[0]) is not None
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
