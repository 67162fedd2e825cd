"""Slow, broken and hostile connections: closed in time, and good requests in between are answered."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sais.serving import connections
from tests.serving.pixel_model import Running, encoded, noise, pixel_predictor, serving

WAIT = 30
IMAGE = encoded(noise(1))
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
GOOD = HEAD % len(IMAGE) + IMAGE


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_SECONDS", 0.3)
        patch.setattr(connections, "WRITE_SECONDS", 0.3)
        with serving(timeout=0.5, max_upload_mb=1) as running:
            yield running


@pytest.fixture(autouse=True)
def good_request_is_answered(server: Running) -> Iterator[None]:
    """After each test, a good request is answered."""
    yield
    assert server.client.post("/v1/predict", content=IMAGE, headers={"Content-Type": "image/png"}).status_code == 200


def connect(server: Running) -> socket.socket:
    opened = socket.create_connection(server.address, WAIT)
    opened.settimeout(WAIT)
    return opened


def read_all(opened: socket.socket) -> bytes:
    """Read until the server closes the connection."""
    received = b""
    try:
        while chunk := opened.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def statuses(received: bytes) -> list[int]:
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("start", [b"", b"G", b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_never_ends_is_closed_in_time(server: Running, start: bytes) -> None:
    with connect(server) as opened:
        opened.sendall(start)
        assert read_all(opened) == b""


def test_a_body_that_never_ends_gets_408(server: Running) -> None:
    with connect(server) as opened:
        opened.sendall(HEAD % 1000 + IMAGE[:20])
        received = read_all(opened)
    assert statuses(received) == [408]
    assert b"connection: close" in received.lower()
    assert json.loads(received.rpartition(b"\r\n\r\n")[2])["error"]["code"] == "upload_timeout"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00" + bytes(200),
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(50_000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http_is_refused_and_closed(server: Running, request_bytes: bytes) -> None:
    with connect(server) as opened:
        opened.sendall(request_bytes)
        received = read_all(opened)
    assert statuses(received) in ([400], [431], [])  # [] if the system discards the answer with what was not read
    if received:
        assert b"connection: close" in received.lower()


def test_an_early_answer_lets_the_client_finish_its_upload(server: Running) -> None:
    with connect(server) as opened:
        opened.sendall(HEAD % 5_000_000)
        opened.sendall(bytes(5_000_000) + GOOD)
        received = b""
        while len(statuses(received)) < 2:
            received += opened.recv(65536)
    assert statuses(received) == [413, 200]


def test_a_chunked_body_is_refused_at_the_limit(server: Running) -> None:
    with connect(server) as opened:
        opened.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            opened.sendall(b"10000\r\n" + bytes(2**16) + b"\r\n")
        received = opened.recv(65536)
        opened.sendall(b"10000\r\n")
        assert statuses(received + read_all(opened)) == [413]  # closed in time, without the end of the body


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    with connect(server) as opened:
        opened.sendall(GOOD + HEAD % 5 + b"hello" + GOOD)
        received = b""
        while len(statuses(received)) < 3:
            received += opened.recv(65536)
    assert statuses(received) == [200, 415, 200]


def test_an_upload_that_is_aborted_leaves_nothing(server: Running) -> None:
    for _ in range(20):
        with connect(server) as opened:
            opened.sendall(HEAD % 1000 + IMAGE[:50])
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with a reset
    own = "sais_requests_in_progress 1.0"  # the request of /metrics itself
    wait_for(lambda: own in server.client.get("/metrics").text.splitlines())


def test_a_client_that_never_reads_is_let_go(server: Running) -> None:
    with connect(server) as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n"
        with pytest.raises(ConnectionError):  # not the TimeoutError of a server that waits for ever
            while True:
                opened.sendall(request * 100)


def test_a_client_that_never_reads_its_last_response_is_let_go(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = threading.Event()
    closed = connections.Connection.connection_lost

    def connection_lost(self: connections.Connection, exc: Exception | None) -> None:
        closed(self, exc)
        lost.set()

    made = connections.Connection.connection_made

    def connection_made(self: connections.Connection, transport: Any) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(connections.Connection, "connection_made", connection_made)
    monkeypatch.setattr(connections.Connection, "connection_lost", connection_lost)
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(server.address)
        opened.settimeout(WAIT)
        requests = b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET /docs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        opened.sendall(requests + last)  # less than pauses the writing
        assert lost.wait(5)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"


def test_images_of_a_client_that_left_are_not_predicted() -> None:
    gate = threading.Event()
    gate.set()
    predictor: Any = pixel_predictor(gate)
    with serving({"pixels": predictor}) as running:
        gate.clear()
        before = len(predictor.backend.batches)
        service = running.client
        with connect(running) as first:
            first.sendall(GOOD)
            wait_for(lambda: len(predictor.backend.batches) == before + 1)
            with connect(running) as second:
                second.sendall(GOOD)
                wait_for(lambda: 'sais_queue_images{model="pixels"} 1.0' in service.get("/metrics").text)
            wait_for(lambda: 'sais_images_admitted{model="pixels"} 1.0' in service.get("/metrics").text)
            gate.set()
            assert statuses(first.recv(65536)) == [200]
        assert sum(predictor.backend.batches[before:]) == 1
        assert '"status": 499' in running.log.getvalue()


def test_connections_beyond_the_limit_get_503() -> None:
    with serving(max_connections=3) as running:
        opened = [connect(running) for _ in range(4)]
        for connection in opened:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        for connection in opened[:2]:  # the client of the test has a connection as well
            assert statuses(connection.recv(65536)) == [200]
        refused = [b"".join(iter(lambda opened=connection: opened.recv(65536), b"")) for connection in opened[2:]]
        for answer in refused:
            assert statuses(answer) == [503]
            head, _, body = answer.partition(b"\r\n\r\n")
            assert json.loads(body)["error"]["code"] == "overloaded"
            assert b"connection: close" in head.lower()
            assert b"retry-after: " in head.lower()
            assert b"content-security-policy: " in head.lower()
        entries = [json.loads(line) for line in running.log.getvalue().splitlines()]
        assert [entry["error"] for entry in entries if entry["status"] == 503] == ["overloaded"] * len(refused)
        for connection in opened:
            connection.close()
