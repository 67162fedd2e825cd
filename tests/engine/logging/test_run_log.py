"""The logs of a run: one story after a resume, lines for people, a full disk, one process at a time."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sais.config import Experiment
from sais.data.formats import read_dataset
from sais.data.paths import DataPaths
from sais.engine.lock import LOCK_FILE, is_locked, lock_run
from sais.engine.logging.append_log import AppendLog
from sais.engine.logging.run_log import RunLog
from sais.engine.trainer import train
from sais.errors import ResourceError
from sais.evaluation.coco_metrics import coco_metrics
from sais.evaluation.evaluate import Evaluation

LOSSES = {"total": 2.0, "box": 1.25}


class Disk:
    """A file on a disk with so many bytes left."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.content = b""

    def write(self, content: bytes) -> int:
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = content[: self.left]
        self.left -= len(written)
        self.content += written
        return len(written)

    def close(self) -> None:
        pass


@pytest.fixture
def quiet(tiny: Experiment) -> Experiment:
    """No loggers."""
    return replace(tiny, run=replace(tiny.run, loggers=()))


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_resumed_log_equals_an_uninterrupted_one_and_text_keeps_everything(quiet: Experiment, tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).touch()
    with pytest.raises(KeyboardInterrupt), RunLog(tmp_path, 10, quiet) as log:
        for iteration in range(1, 6):
            log.iteration(iteration, (iteration - 1) // 2, LOSSES, 0.1, 4.0)
            if iteration in (2, 4):
                log.write("evaluation", iteration=iteration, epoch=iteration // 2 - 1, metrics={})
        raise KeyboardInterrupt
    assert entries(tmp_path)[-1]["kind"] == "stop"
    assert entries(tmp_path)[-1]["reason"] == "interrupted"
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "iteration", "iteration": 1, "tot')  # killed while it wrote
    with (tmp_path / "log.txt").open("a") as file:
        file.write("half a li")
    # The checkpoint is of iteration 4, and epoch 2 has still to be evaluated.
    with RunLog(tmp_path, 10, quiet, iteration=4, evaluated_epochs=1) as log:
        log.print("resumed")
        log.iteration(5, 2, LOSSES, 0.1, 4.0)
    logged = [(e["kind"], e["iteration"]) for e in entries(tmp_path)]
    wanted = [("iteration", i) for i in (1, 2)] + [("evaluation", 2)] + [("iteration", i) for i in (3, 4, 5)]
    assert logged == wanted
    text = (tmp_path / "log.txt").read_text().splitlines()
    assert text[0].endswith("  stopped at iteration 5: interrupted")
    assert text[1] == "half a li"  # alone in its line
    assert text[2].endswith("  resumed")


def test_text_log_has_every_printed_message_also_on_a_terminal(
    quiet: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    (tmp_path / LOCK_FILE).touch()
    with RunLog(tmp_path, 2, quiet) as log:
        assert log._progress.shows_bar
        log.print("two\nlines [bold]as they are")
        log.iteration(1, 0, LOSSES, 0.01, 3.5)
        log.iteration(2, 0, LOSSES, 0.01, 3.5)
    lines = [line.split("  ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines[0] == "two lines [bold]as they are"
    assert lines[1:] == ["iteration 2/2 · epoch 1 · total 2.000 box 1.250 · lr 1.0e-02"]
    printed = capsys.readouterr()
    assert printed.out.splitlines() == lines  # the bar is on stderr
    assert "2/2 " in printed.err
    assert "━━━━" in printed.err


def test_progress_lines_are_logged_each_half_minute(
    quiet: Experiment, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = read_dataset(shapes, "valid")
    evaluation = Evaluation(coco_metrics(split, []), [], split)
    with RunLog(tmp_path, 100, quiet) as log:
        seconds = [0.0]
        start = log._progress._samples[0][0]
        monkeypatch.setattr(log._progress, "_last_line", start)
        monkeypatch.setattr(log._progress, "_clock", lambda: start + seconds[0])
        for iteration in range(1, 71):
            seconds[0] = float(iteration)
            log.iteration(iteration, 2, LOSSES, 0.1, 8.0)
            if iteration == 40:
                log.evaluation(40, 2, evaluation, 1.0)
                with log.evaluating(20) as progress:
                    progress(5)
    epochs = quiet.schedule.epochs
    wanted = [
        f"epoch 3/{epochs} 30/100 · loss 2.000 · 8.00 images/s · 1:10 left",
        f"epoch 3/{epochs} 60/100 · loss 2.000 · AP 0.000 · 8.00 images/s · 0:40 left",
    ]
    assert capsys.readouterr().err.splitlines() == wanted
    logged = [line.split("  ", 1)[1] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line for line in logged if " left" in line] == wanted


def test_full_disk_loses_log_lines_and_warns_once(
    quiet: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, 9, quiet) as log:
        log._entries.close()
        disk: Any = Disk(left=100)
        log._entries._file = disk
        for number in range(4):
            log.write("note", number=number, text="x" * 30)
        disk.left = 1000  # somebody made room
        log.write("note", number=4)
    lines = disk.content.decode().splitlines()
    assert [json.loads(lines[0])["number"], json.loads(lines[-1])["number"]] == [0, 4]
    assert len(lines) == 3  # the torn one stands alone
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[1])
    output = capsys.readouterr().out
    assert output.count("the logs cannot be written (the disk is full); the run continues without them") == 1
    assert "3 lines of log.jsonl and 0 of log.txt could not be written" in output


def test_a_run_on_a_disk_that_fills_up_is_finished(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(lines: AppendLog, line: str) -> bool:
        lines.lost, lines.reason = lines.lost + 1, "No space left on device"
        return False

    monkeypatch.setattr(AppendLog, "add", full)
    assert train(tiny, DataPaths(shapes), tmp_path / "run").iterations == 6
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert capsys.readouterr().out.count("cannot be written (No space left on device)") == 1


def test_train_refuses_a_folder_that_another_process_trains_in(quiet: Experiment, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    lock = lock_run(out)
    assert is_locked(out)
    with pytest.raises(ResourceError, match="another process is training in this folder"):
        train(quiet, DataPaths(shapes), out)
    with pytest.raises(ResourceError, match="another process is training in this folder"):
        lock_run(out)
    assert os.listdir(out) == ["run.lock"]  # settings and logs are those of the process that holds the lock
    assert is_locked(out)  # probing does not release the lock
    lock.release()
    assert is_locked(out) is False
    assert is_locked(tmp_path / "missing") is False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forked processes here")
def test_lock_run_is_released_by_a_kill_although_forked_readers_live_on(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib\nfrom sais.engine.lock import lock_run\n"
        "lock = lock_run(pathlib.Path(sys.argv[1]))\n"
        "if os.fork() == 0: print(os.getpid(), flush=True)\nsignal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        worker = int(child.stdout.readline())
        assert is_locked(tmp_path) is True
        child.send_signal(signal.SIGKILL)
        child.wait()
        try:
            assert is_locked(tmp_path) is False
        finally:
            os.kill(worker, signal.SIGKILL)


def test_start_entry_names_the_machine(quiet: Experiment, shapes: Path, tmp_path: Path) -> None:
    with RunLog(tmp_path, 3, quiet) as log:
        log.start("shapes", vars(DataPaths(shapes)), ["a note"], torch.device("cpu"))
    (start,) = entries(tmp_path)
    assert start["total"] == 3
    assert start["data"] == "shapes"
    assert start["paths"]["data"] == str(shapes)
    assert start["paths"]["valid"] == "valid"
    assert {"device", "name", "torch", "sais", "host"} <= start["machine"].keys()
    assert start["experiment"]["run"]["loggers"] == []


def test_the_evaluation_of_the_last_weights_is_kept(quiet: Experiment, shapes: Path, tmp_path: Path) -> None:
    index = read_dataset(shapes, "valid")
    evaluation = Evaluation(coco_metrics(index, []), [], index)
    with RunLog(tmp_path, 3, quiet) as log:
        assert log.evaluation_at(2) is None
        log.evaluation(2, 0, evaluation, 1.0)
        assert log.evaluation_at(2) is evaluation
        assert log.evaluation_at(3) is None  # of weights that have moved on
