"""Commands where modules, functions and signals of POSIX are missing, as on Windows, on a terminal of code page 1252.

Python's own library keeps the route of this system, so this shows what the package itself needs, not what Windows does.
Files opened without an encoding, which is that of the code page there, raise an error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("faster_coco_eval")

PRELUDE = """
import multiprocessing, os, signal, sys, warnings

for name in ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
FUNCTIONS = (
    "chown chroot fchmod fchown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid getpgrp getpriority "
    "getsid getuid killpg lchown mkfifo mknod nice openpty posix_fadvise pread preadv pwrite register_at_fork "
    "sched_getaffinity sched_setaffinity sched_yield sendfile setpgid setpriority setsid statvfs sync sysconf uname "
    "wait3 wait4"
).split()
SIGNALS = ["SIG" + name for name in "ALRM CHLD CONT HUP KILL PIPE QUIT STOP TSTP USR1 USR2 WINCH".split()]


def hide(module, names):
    # Packages other than sais keep them: numpy and torch for Linux need some.
    hidden = {name: module.__dict__.pop(name) for name in names}

    def find(name):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if name not in hidden or caller.split(".")[0] == "sais":
            raise AttributeError(f"module {module.__name__} has no attribute {name}")
        return hidden[name]

    module.__getattr__ = find


hide(os, FUNCTIONS)
hide(signal, SIGNALS)
multiprocessing.set_start_method("spawn")
warnings.filterwarnings("error", category=EncodingWarning, module=r"sais\\.")
"""
SCRIPT = (
    PRELUDE
    + """
if __name__ == "__main__":
    from sais.cli import main

    for line in sys.stdin.read().splitlines():
        status = main(line.split("\\t"))
        if status:
            sys.exit(f"{line!r} ended with {status}")
"""
)


def run(tmp_path: Path, *commands: list[str]) -> str:
    """Run commands one after the other in a process without POSIX, and return what they print."""
    script = tmp_path / "main.py"
    script.write_text(SCRIPT, encoding="utf-8")
    source = Path(__file__).resolve().parents[1] / "src"
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONIOENCODING": "cp1252", "OMP_NUM_THREADS": "1"}
    completed = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", str(script)],
        input="\n".join("\t".join(command) for command in commands).encode("cp1252"),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    assert completed.returncode == 0, completed.stderr.decode("cp1252")
    return completed.stdout.decode("cp1252")


def test_commands_without_torch_need_no_posix(tmp_path: Path) -> None:
    shapes = ["make-shapes", "daten é", "--train", "4", "--valid", "2", "--size", "96"]
    output = run(tmp_path, ["--version"], ["recipes"], shapes, ["doctor", "daten é"])
    assert "daten é" in output
    for path in (tmp_path / "daten é" / "annotations").glob("*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        document["categories"][0]["name"] = "деталь 部品"  # not in code page 1252
        path.write_text(json.dumps(document), encoding="utf-8")
    assert r"\u90e8\u54c1" in run(tmp_path, ["doctor", "daten é"])


@pytest.mark.slow
def test_training_and_prediction_need_no_posix(tmp_path: Path) -> None:
    """With a process that reads images, started by spawn."""
    shapes = ["make-shapes", "daten é", "--train", "8", "--valid", "2", "--size", "96"]
    train = ["train", "sais-lite", "--data", "daten é", "--out", "läufe/eins", "--size", "64", "--batch-size", "4"]
    train += ["--epochs", "1", "--workers", "1", "--device", "cpu", "--random-init"]
    run(
        tmp_path,
        shapes,
        train,
        ["predict", "läufe/eins", "daten é/images/valid", "--out", "bilder", "--device", "cpu", "--score", "0.01"],
        ["eval", "läufe/eins", "--data", "daten é", "--device", "cpu"],
        ["report", "läufe/eins"],
    )
    assert len(list((tmp_path / "bilder").rglob("*.jpg"))) == 2
    assert (tmp_path / "läufe" / "eins" / "model.safetensors").exists()
    assert list((tmp_path / "läufe" / "eins").glob("*.html"))
