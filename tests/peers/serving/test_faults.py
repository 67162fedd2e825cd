"""A small part of `python -m peers.serving faults`, and the clients of `load`, with a small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from peers.serving.clients import LoadResult, _from_locust, send_load
from peers.serving.faults import attack_address
from peers.serving.hostile import KINDS
from tests.serving.pixel_model import encoded, noise, serving

QUICK = [name for name in KINDS if name not in ("slow senders", "large bodies")]
"""Kinds that need neither the time of a timeout nor 100 MB."""


def test_hostile_requests_get_the_right_status_and_good_ones_an_answer() -> None:
    with serving(timeout=5, allowed_hosts=("localhost",)) as server:
        report = attack_address(server.address, 200, seed=1, names=QUICK)
    assert report.faults == []
    assert report.good == 21
    assert {name for name, _ in report.statuses} == set(QUICK)
    assert '"status": 500' not in server.log.getvalue()


def test_faults_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        server.backend.failure = lambda canvases: RuntimeError("bug")
        report = attack_address(server.address, 1, names=["other content"])
    assert any("good request: 500" in fault for fault in report.faults)


def test_clients_count_answers_and_latencies(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded(noise(1), "JPEG"))
    with serving() as server:
        result = send_load(server.url, [path], clients=2, seconds=0.3, locust=None)
    assert set(result.statuses) == {200}
    assert result.statuses[200] == result.latencies.total() > 2
    assert 0 < result.percentile(0.5) <= result.percentile(0.99)
    assert result.throughput == pytest.approx(result.statuses[200] / result.seconds)


def test_results_of_locust_are_read_by_status() -> None:
    entries = [
        {"name": "200", "num_requests": 4, "response_times": {"10": 3, "50": 1}},
        {"name": "503", "num_requests": 2, "response_times": {"1": 2}},
    ]
    result = _from_locust(entries, 2.0)
    assert (result.statuses, result.throughput) == ({200: 4, 503: 2}, 2.0)
    assert (result.percentile(0.5), result.percentile(0.99)) == (10, 50)
    assert LoadResult().throughput == 0
