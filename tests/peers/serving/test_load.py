"""The load of the service: memory is measured after the requests of the plan, in one command."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peers.serving import load
from peers.serving.clients import LoadResult
from sais.errors import ResourceError

PLAN = load.LoadPlan(Path("model.onnx"), [Path("a.jpg")])


def test_memory_is_measured_after_the_requests_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Counter[str]()

    def send(url: str, images: Any, clients: int, seconds: float, locust: str | None) -> LoadResult:
        sent["requests"] += round(70 * seconds)
        return LoadResult(seconds, Counter({200: round(70 * seconds), 503: 3}))

    monkeypatch.setattr(load, "send_load", send)
    service: Any = SimpleNamespace(url="http://127.0.0.1:1", resident_bytes=lambda: 400_000_000 + sent["requests"])
    (first, before), (last, after) = load._memory(PLAN, service)
    assert first == pytest.approx(load.MEMORY_REQUESTS[0], abs=100)
    assert last == pytest.approx(load.MEMORY_REQUESTS[1], abs=100)
    assert (before, after) == (400_000_000 + first, 400_000_000 + last)


def test_a_service_that_answers_nothing_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "send_load", lambda *arguments: LoadResult(2.0, Counter({0: 9})))
    service: Any = SimpleNamespace(url="http://127.0.0.1:1", resident_bytes=lambda: 1)
    with pytest.raises(ResourceError, match="no request was answered"):
        load._memory(PLAN, service)
