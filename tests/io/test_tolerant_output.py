"""Output to a closed pipe or a full disk is lost and counted; nothing is raised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sais.io.tolerant_output import TolerantOutput

SCRIPT = """
import sys
from sais.io.tolerant_output import TolerantOutput

if sys.argv[1] == "pipe":
    sys.stdin.read()  # until the reader has closed the pipe
with TolerantOutput() as output:
    for number in range(3):
        print("line", number, flush=True)
    print("progress", file=sys.stderr)
open(sys.argv[2], "w").write(output.summary())
"""


def start(way: str, result: Path, stdout: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, way, str(result)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE)


def test_closed_pipe_costs_lines(tmp_path: Path) -> None:
    process = start("pipe", tmp_path / "lost", subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(b"")
    assert (process.returncode, errors) == (0, b"progress\n")
    assert (tmp_path / "lost").read_text() == "3 lines of output could not be written (Broken pipe)"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_full_disk_costs_lines(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start("disk", tmp_path / "lost", full.fileno())
    _, errors = process.communicate(b"")
    assert (process.returncode, errors) == (0, b"progress\n")
    assert "lines of output could not be written (No space left on device)" in (tmp_path / "lost").read_text()


def test_streams_are_restored_and_their_attributes_remain(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with TolerantOutput() as output:
        assert sys.stdout.encoding == before[0].encoding
        sys.stdout.write("text\n")
        sys.stdout.writelines(["more\n"])
    assert (sys.stdout, sys.stderr) == before
    assert (output.lost, output.summary()) == (0, "")
    assert capsys.readouterr().out == "text\nmore\n"
