"""Text files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO, Any

import pytest

from sais.errors import SaisError
from sais.io.atomic import write_text


def test_a_new_text_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.md"
    for text in ("the old one, which is longer\n", "貓\n", "a name \udcff of no UTF-8\n"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text.replace("\udcff", "\\udcff")
        assert os.listdir(path.parent) == ["a.md"]
    if os.name != "nt":  # Windows has no such modes
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_full_disk_leaves_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.md"
    write_text(path, "old")
    opened = os.fdopen

    def on_a_full_disk(*arguments: Any, **options: Any) -> IO[bytes]:
        file = opened(*arguments, **options)
        whole = file.write

        def half(content: bytes) -> int:
            whole(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(file, "write", half)
        return file

    monkeypatch.setattr(os, "fdopen", on_a_full_disk)
    with pytest.raises(SaisError, match=r"a\.md: cannot be written \(No space left on device\); .* free some space"):
        write_text(path, "new and longer")
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["a.md"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SaisError, match=r"a\.md: cannot be written .*; choose another place"):
        write_text(tmp_path / "file" / "a.md", "text")
    assert (tmp_path / "file").read_text() == "in the way"
