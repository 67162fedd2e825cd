"""Files are written completely or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from sais.errors import InputError, ResourceError
from sais.io.atomic import atomic_write, check_writable, write_text


def test_write_text_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.md"
    for text in ("the old text, which is longer\n", "貓\n", "a name \udcff that is not UTF-8\n"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text.replace("\udcff", "\\udcff")
        assert os.listdir(path.parent) == ["a.md"]
    if os.name != "nt":  # Windows has no such modes
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_atomic_write_keeps_the_old_content_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    write_text(path, "old")
    with (
        pytest.raises(ResourceError, match=r"a\.md: cannot be written \(No space left on device\)"),
        atomic_write(path) as temporary,
    ):
        temporary.write_text("new and lo")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.md"]


def test_atomic_write_removes_its_temporary_file_after_an_interrupt(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.md"]


def test_atomic_write_refuses_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match=r"a\.md: cannot be written"):
        write_text(tmp_path / "file" / "a.md", "text")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("links", [True, False])
def test_atomic_write_keeps_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path, previous = tmp_path / "last", tmp_path / "previous"
    for number in range(3):
        with atomic_write(path, sync=True, previous=previous) as temporary:
            temporary.write_text(str(number))
    assert path.read_text() == "2"
    assert previous.read_text() == "1"
    assert sorted(os.listdir(tmp_path)) == ["last", "previous"]


def test_check_writable_refuses_a_thousand_folders(tmp_path: Path) -> None:
    """Python creates and removes them by recursion, which ended in a traceback and in a crash."""
    check_writable(tmp_path / "/".join("a" * 100))
    with pytest.raises(InputError, match="folders below each other, above the limit of 200"):
        check_writable(tmp_path / "/".join("a" * 1000))
