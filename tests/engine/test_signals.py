"""Signals that end a run: which ones, and when at once."""

from __future__ import annotations

import signal

import pytest

pytest.importorskip("torch")

import sais.engine.signals as signals
from sais.engine.signals import StopRequest

HANGUP = getattr(signal, "SIGHUP", signal.SIGINT)
"""Signal of a closed terminal; Windows has none."""


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


def test_signals_of_the_program_that_python_is_part_of_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python knows no such handler and cannot restore it."""
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    handlers = signal.getsignal
    monkeypatch.setattr(signals.signal, "getsignal", lambda number: None)
    with StopRequest(), signals.ignore_worker_deaths():
        assert [handlers(number) for number in signals.SIGNALS] == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_exit_on_signals_raises_once_and_then_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(signals, "exit_soon", codes.append)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in signals.SIGNALS}
    try:
        signal.signal(HANGUP, signal.SIG_IGN)  # as after `nohup`
        signals.exit_on_signals()
        assert signal.getsignal(HANGUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # Python's own KeyboardInterrupt otherwise
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert caught.value.code == 143
        assert codes == [143]
        assert callable(signal.getsignal(signal.SIGTERM))  # or the next one would end pytest
        signal.raise_signal(signal.SIGTERM)  # the same request: `timeout` sends it to a process and to its group
        ended: list[int] = []
        monkeypatch.setattr(signals.os, "_exit", ended.append)
        monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.0)
        signal.raise_signal(signal.SIGTERM)
        assert ended == [143]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
