"""Signals that end a run: which ones, and when at once."""

from __future__ import annotations

import signal

import pytest

pytest.importorskip("torch")

import sais.engine.signals as signals
from sais.engine.signals import StopRequest


def test_stop_request_ends_immediately_on_a_second_interrupt() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopRequest() as stop, stop.immediately(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit), stop.immediately():
            raise AssertionError("a signal was received before")


def test_stop_request_ends_immediately_on_a_later_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """One received at once is the same request: systemd and torchrun send it to a process and to its group."""
    with StopRequest():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.0)
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_stop_request_ignores_a_hangup_that_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.signal is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
