"""Files that grow during a prediction: equal content, bounded memory, readable tables at any time, full disks."""

from __future__ import annotations

import json
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sais.errors import ResourceError
from sais.io import growing_files
from sais.io.growing_files import JsonEntries, RowFile, write_json


@pytest.mark.parametrize("limit", [2**24, 100])
def test_entries_are_written_as_json_writes_lists(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_files, "MAX_BYTES", limit)
    parts: list[list[Any]] = [[], [{"a": 1, "b": [1.5, None]}], [], [{"name": "café \udcff"}] * 40, [{}]]
    entries = JsonEntries(tmp_path)
    for part in parts:
        entries.extend(part)
        content = {"info": {"x": True}, "entries": entries, "end": []}
        write_json(tmp_path / "out.json", content)  # also between the parts
    expected = [entry for part in parts for entry in part]
    assert len(entries) == len(expected) == 42
    assert (tmp_path / "out.json").read_text() == json.dumps(content | {"entries": expected})
    entries.close()
    assert os.listdir(tmp_path) == ["out.json"]
    write_json(tmp_path / "empty.json", {"entries": JsonEntries()})
    assert json.loads((tmp_path / "empty.json").read_text()) == {"entries": []}


def test_many_entries_are_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing_files, "MAX_BYTES", 2**16)
    entries = JsonEntries(tmp_path)
    entry = {"text": "x" * 1000}
    tracemalloc.start()
    try:
        for _ in range(300):
            entries.extend([entry] * 10)
        write_json(tmp_path / "out.json", {"entries": entries})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        entries.close()
    assert (tmp_path / "out.json").stat().st_size > 3_000_000
    assert peak < 1_000_000


def test_rows_are_readable_before_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("of an earlier prediction")
    rows = RowFile(path, "a,b\n")
    assert path.read_text() == "of an earlier prediction"
    rows.append("1,2\n")
    assert path.read_text() == "a,b\n1,2\n"
    rows.append("3,\udcff\n")
    rows.close()
    assert path.read_text() == "a,b\n1,2\n3,\\udcff\n"
    RowFile(tmp_path / "empty.csv", "a,b\n").close()
    assert (tmp_path / "empty.csv").read_text() == "a,b\n"


def test_rows_do_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "table.csv").symlink_to(tmp_path / "other")
    rows = RowFile(tmp_path / "table.csv", "a\n")
    rows.append("1\n")
    rows.close()
    assert (tmp_path / "other").read_text() == "other"
    assert (tmp_path / "table.csv").read_text() == "a\n1\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux on which writes fail")
def test_full_disk_is_an_error_with_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowFile(tmp_path / "table.csv", "a\n")
    rows.append()
    rows._file = open("/dev/full", "a")  # type: ignore[assignment]  # noqa: SIM115
    with pytest.raises(ResourceError, match=r"table\.csv: cannot be written \(No space left on device\)"):
        rows.append("1\n")
    monkeypatch.setattr(growing_files, "MAX_BYTES", 10)

    def no_file(*words: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    entries = JsonEntries(tmp_path)
    monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
    with pytest.raises(ResourceError, match=r"cannot be written \(No space left on device\)"):
        entries.extend([1] * 20)
