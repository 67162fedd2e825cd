"""Run folders: files of other programs are neither overwritten nor removed, and failed starts leave nothing behind."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sais.engine.trainer as engine
from sais.checkpoint import load_checkpoint
from sais.config import Experiment, to_dict
from sais.data.paths import DataPaths
from sais.engine.lock import is_locked
from sais.engine.run_folder import RUN_FILES, claim_run_folder, is_missing, is_unstarted
from sais.engine.trainer import train
from sais.errors import InputError, ResourceError
from sais.resolve import NAMED_MODULES

FOREIGN = {
    "experiment.json": "{}",
    "log.jsonl": "another program's log\n",
    "log.txt": "text",
    "loggers.json": "{}",
    "tensorboard/events": "curves",
    "wandb/run": "run",
    "notes.md": "notes",
}


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read_files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_train_refuses_a_folder_with_files_of_another_program(tiny: Experiment, shapes: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "run", FOREIGN)
    with pytest.raises(InputError, match="files of another program"):
        train(tiny, DataPaths(shapes), tmp_path / "run")
    assert read_files(tmp_path / "run") == FOREIGN


@pytest.mark.parametrize("name", [name for name in RUN_FILES if "." in name])
def test_claim_run_folder_refuses_each_name_of_a_run_file(name: str, tmp_path: Path) -> None:
    write_files(tmp_path, {name: "content"})
    with pytest.raises(InputError, match=name), claim_run_folder(tmp_path):
        raise AssertionError("the folder was claimed")
    assert read_files(tmp_path) == {name: "content"}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["experiment.json", "log.jsonl", "log.txt", "tensorboard/events"])
def test_claim_run_folder_refuses_files_of_others_next_to_a_lock_or_a_checkpoint(
    name: str, resume: bool, tmp_path: Path
) -> None:
    """Neither a file called run.lock nor a copied checkpoint makes the log of another program one of sais."""
    files = {name: FOREIGN[name], "last.safetensors" if resume else "notes.md": "content"}
    if not resume and name in ("experiment.json", "log.jsonl"):
        files["run.lock"] = ""
    write_files(tmp_path, files)
    with pytest.raises(InputError, match="files of another program"), claim_run_folder(tmp_path, resume):
        raise AssertionError("the folder was claimed")
    assert read_files(tmp_path) == files


@pytest.mark.parametrize("name", ["log.jsonl", "log.txt", "tensorboard", "run.lock", "last.safetensors"])
def test_claim_run_folder_follows_no_links(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    write_files(out, {"run.lock": "", "experiment.json": json.dumps(to_dict(Experiment()))})
    (out / name).unlink(missing_ok=True)
    (tmp_path / "own").write_text("own")
    (out / name).symlink_to(tmp_path / "own")
    for resume in (False, True):
        with pytest.raises(InputError, match=f"{name}: is a symbolic link"), claim_run_folder(out, resume):
            raise AssertionError("the folder was claimed")
    assert (tmp_path / "own").read_text() == "own"


def test_claim_run_folder_resumes_copied_runs(tmp_path: Path) -> None:
    log = '{"kind": "start"}\n'
    for number, files in enumerate(({}, {"log.jsonl": log, "log.txt": "text"}, {"run.lock": "", "log.txt": "text"})):
        out = tmp_path / str(number)
        write_files(out, {"last.safetensors": "content", **files})
        with claim_run_folder(out, resume=True):
            assert is_locked(out) is True
        assert read_files(out) == {"last.safetensors": "content", **files} | {"run.lock": ""}


def test_train_keeps_other_files_if_the_first_step_fails(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    write_files(out, {"notes.md": "notes", "checkpoints/mine.pt": "weights"})
    monkeypatch.setattr(engine, "train_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, DataPaths(shapes), out)
    assert read_files(out) == {"notes.md": "notes", "checkpoints/mine.pt": "weights"}
    with pytest.raises(KeyboardInterrupt):
        train(tiny, DataPaths(shapes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_claim_run_folder_restarts_a_run_killed_before_its_first_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = json.dumps(to_dict(Experiment()))
    write_files(out, {"run.lock": "", "log.jsonl": "", "experiment.json": settings, "tensorboard/events": "curves"})
    assert is_unstarted(out)
    with pytest.raises(KeyboardInterrupt), claim_run_folder(out):
        write_files(out, {"wandb/run": "run"})
        raise KeyboardInterrupt
    assert sorted(read_files(out)) == ["experiment.json", "log.jsonl", "run.lock", "tensorboard/events"]
    with claim_run_folder(out):
        write_files(out, {"last.safetensors": ""})
    assert not is_unstarted(out)
    with pytest.raises(InputError, match="contains a run already"), claim_run_folder(out):
        pass


def test_resume_does_not_import_loggers_that_only_the_checkpoint_names(
    tiny: Experiment,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "strange_logger.py").write_text("from sais.engine.logging.trackers import TensorBoard as Own\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = replace(tiny, run=replace(tiny.run, loggers=("strange_logger:Own",)))
    out = tmp_path / "run"
    train(own, DataPaths(shapes), out, max_iterations=1)
    monkeypatch.delitem(sys.modules, "strange_logger")
    NAMED_MODULES.discard("strange_logger")  # as in a new process
    train(tiny, DataPaths(shapes), out, max_iterations=2, resume=True)
    assert "strange_logger" not in sys.modules
    assert "logger strange_logger:Own of the checkpoint is not used" in capsys.readouterr().out
    starts = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if '"start"' in line]
    assert [start["experiment"]["run"]["loggers"] for start in starts] == [["strange_logger:Own"], []]
    train(own, DataPaths(shapes), out, max_iterations=3, resume=True, changed_settings=("run.loggers",))
    assert "strange_logger" in sys.modules


@pytest.mark.parametrize("restores", [False, True])
def test_train_reports_a_renamed_folder_and_ends_at_the_next_save(
    restores: bool,
    tiny: Experiment,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quiet = replace(tiny, run=replace(tiny.run, loggers=()))  # TensorBoard's thread fails without its folder
    out, renamed = tmp_path / "run", tmp_path / "renamed"
    moves = {5: lambda: out.rename(renamed)} | ({6: lambda: renamed.rename(out)} if restores else {})
    step = engine.train_step

    def moving(run: Any, *arguments: Any) -> Any:
        moves.get(run.iteration + 1, lambda: None)()
        return step(run, *arguments)

    monkeypatch.setattr(engine, "train_step", moving)
    if restores:
        train(quiet, DataPaths(shapes), out)
        assert "run is back; the run continues" in capsys.readouterr().out
        return
    with pytest.raises(ResourceError, match=r"renamed or removed, so that the run cannot be saved after iteration 6"):
        train(quiet, DataPaths(shapes), out)
    assert "ERROR: " in capsys.readouterr().out
    assert not out.exists()  # it is not created again
    assert load_checkpoint(renamed / "last.safetensors").state["iteration"] == 3
    monkeypatch.setattr(engine, "train_step", step)
    assert train(tiny, DataPaths(shapes), renamed, resume=True).iterations == 6


@pytest.mark.parametrize("name", ["run.lock", "experiment.json", "log.jsonl"])
def test_a_folder_without_some_files_is_not_missing(name: str, tmp_path: Path) -> None:
    """Somebody removes the lock file, which looks stale, while the run goes on: it must be saved all the same."""
    assert is_missing(tmp_path)
    assert is_missing(tmp_path / "nowhere")
    (tmp_path / name).touch()
    assert not is_missing(tmp_path)


def test_resume_removes_what_killed_saves_have_left(tiny: Experiment, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny, DataPaths(shapes), out, max_iterations=1)
    foreign = [".tmpnotes", ".tmp123456", ".notes.writing", ".report.html.0123abcd-1-01234567-0.writing"]
    for name in foreign[:3]:
        (out / name).write_text("foreign")
    (out / foreign[3]).mkdir()  # being written by a process of another machine
    left = out / ".last.safetensors.0123abcd-1-01234567-0.writing"
    left.mkdir()
    shutil.copy(out / "last.safetensors", left)
    train(tiny, DataPaths(shapes), out, resume=True, max_iterations=2)
    assert sorted(path.name for path in out.glob(".*")) == sorted(foreign)
