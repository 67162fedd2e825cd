"""A run under the file rules of Windows: crash, resume, fine-tuning, failure, end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

import sais
from sais.checkpoint import load_checkpoint
from sais.config import Experiment
from sais.engine.lock import LOCK_FILE, PRESERVE_LOCK_FILE, is_locked, lock_run
from sais.errors import InputError
from sais.io.atomic import atomic_write, replace_file
from tests.windows_rules import is_open, windows_file_rules


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Apply the file rules of Windows."""
    with windows_file_rules(monkeypatch):
        yield


@pytest.mark.usefixtures("windows")
def test_windows_file_rules_hold_for_open_and_mapped_files(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "a.bin"
    path.write_bytes(bytes(4096))
    with path.open("rb"), pytest.raises(PermissionError):
        path.unlink()
    mapped = torch.UntypedStorage.from_file(str(path), False, 4096)
    with pytest.raises(PermissionError):
        os.replace(path, tmp_path / "b.bin")
    del mapped
    os.replace(path, tmp_path / "b.bin")


@pytest.mark.usefixtures("windows")
def test_run_resumes_after_a_crash_and_ends(tiny: Experiment, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for iterations in (2, 4):  # the second run reads last.safetensors, replaces it and renames it to previous
        sais.train(tiny, shapes, out, max_iterations=iterations, resume=out.exists())
    content = (out / "last.safetensors").read_bytes()
    (out / "last.safetensors").write_bytes(content[:-100])  # what a crash of the disk leaves
    result = sais.train(tiny, shapes, out, resume=True)
    assert result.iterations == 6
    assert (out / "last.safetensors.corrupt").exists()
    assert not (out / "previous.safetensors").exists()
    assert not is_open(out / LOCK_FILE)


@pytest.mark.usefixtures("windows")
def test_failed_run_removes_its_files(shapes: Path, tiny: Experiment, tmp_path: Path) -> None:
    def fail(event: sais.TrainingEvent) -> None:
        raise InputError("callback: failed. Fix it.")

    with pytest.raises(InputError, match="callback: failed"):
        sais.train(tiny, shapes, tmp_path / "run", callbacks=[fail])
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("windows")
def test_load_checkpoint_keeps_no_file_mapped(trained: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained / "model.safetensors")
    assert not is_open(trained / "model.safetensors")
    assert checkpoint.tensors


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("links", [True, False])
def test_atomic_write_replaces_closed_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: os.listdir("/does/not/exist"))
    path, previous = tmp_path / "last", tmp_path / "previous"
    for number in range(3):
        with atomic_write(path, sync=True, previous=previous) as temporary:
            temporary.write_text(str(number))
    assert (path.read_text(), previous.read_text()) == ("2", "1")


def test_replace_file_waits_for_another_process_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = os.replace

    def busy_twice(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) < 3:
            raise PermissionError(13, "in use")
        original(source, target)

    (tmp_path / "a").write_text("new")
    monkeypatch.setattr("sais.io.atomic.os.replace", busy_twice)
    monkeypatch.setattr("sais.io.atomic.WAITS", True)
    replace_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    monkeypatch.setattr("sais.io.atomic.WAITS", False)
    calls.clear()
    with pytest.raises(PermissionError):
        replace_file(tmp_path / "b", tmp_path / "a")


def test_lock_file_remains_after_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows filelock would remove it, and the folder would count as that of another program."""
    assert (os.name == "nt") == PRESERVE_LOCK_FILE
    monkeypatch.setattr("sais.engine.lock.PRESERVE_LOCK_FILE", True)
    lock = lock_run(tmp_path)
    assert is_locked(tmp_path)
    lock.release()
    assert (tmp_path / LOCK_FILE).exists()
    assert is_locked(tmp_path) is False
    assert (tmp_path / LOCK_FILE).exists()
