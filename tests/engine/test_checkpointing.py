"""Between two steps: a signal that arrives while a run waits for its next batch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import sais.engine.trainer as engine
from sais.checkpoint import load_checkpoint
from sais.config import Experiment
from sais.engine.checkpointing import build_loader
from sais.engine.trainer import train


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)], ids=["SIGTERM", "SIGINT"]
)
def test_signal_ends_a_run_that_waits_for_a_batch(
    tiny: Experiment,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[BaseException],
) -> None:
    class Stuck:
        def __init__(self, loader: Any) -> None:
            self.loader = loader

        def __iter__(self) -> Iterator[Any]:
            yield next(iter(self.loader))
            os.kill(os.getpid(), number)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                pass
            raise AssertionError("the signal was ignored")

    def stuck(run: Any) -> tuple[Any, Any]:
        loader, batches = build_loader(run)
        return Stuck(loader), batches

    monkeypatch.setattr(engine, "build_loader", stuck)
    with pytest.raises(kind):
        train(tiny, shapes, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["iteration"] == 1
    assert "stopped and saved at iteration 1" in (tmp_path / "run/log.txt").read_text()
