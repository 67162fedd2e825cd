"""Host names that requests may address: a page elsewhere whose name resolves to this machine reads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sais.cli import main
from sais.errors import ConfigError
from sais.serving.options import ServingOptions
from sais.serving.request_error import RequestError
from sais.serving.security import AllowedHosts
from sais.serving.server import is_loopback, open_socket
from tests.serving.pixel_model import encoded, noise, serving


def allows(names: tuple[str, ...], host: str | None) -> bool:
    try:
        AllowedHosts(names).check(host)
    except RequestError as error:
        return error.status != 421
    return True


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("sais.example", True),
        ("SAIS.example.:8000", True),
        ("a.models.example:80", True),
        ("a.b.models.example", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("192.168.7.3", True),
        (None, True),
        ("models.example", False),
        ("evilmodels.example", False),
        ("*.models.example", True),
        ("a." * 30_000, False),
        ("evil.example:8000", False),
        ("sais.example.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("sais.example@evil.example", False),
        ("[::1].evil.example", True),  # no browser sends it: the text in the brackets decides
        ("", False),
    ],
)
def test_hosts_are_names_of_the_list_and_addresses(host: str | None, allowed: bool) -> None:
    assert allows(("sais.example", "*.models.example"), host) is allowed
    assert allows((), host)
    assert allows(("*", "sais.example"), host)


def test_requests_for_other_hosts_are_refused_before_anything_else() -> None:
    with serving(allowed_hosts=("localhost",), api_keys=("a-key-of-the-test",)) as server:
        for path in ("/", "/v1/models", "/metrics", "/healthz"):
            response = server.client.get(path, headers={"Host": "evil.example"})
            assert (response.status_code, response.json()["error"]["code"]) == (421, "unknown_host")
        image, key = encoded(noise(1)), {"X-API-Key": "a-key-of-the-test", "Content-Type": "image/png"}
        assert server.client.post("/v1/predict", content=image, headers=key | {"Host": "evil.example"}).is_error
        assert server.client.post("/v1/predict", content=image, headers=key | {"Host": "localhost:1"}).is_success
        assert server.client.post("/v1/predict", content=image, headers=key).is_success  # 127.0.0.1


@pytest.mark.parametrize(
    ("host", "words", "expected"),
    [
        ("127.0.0.1", (), ("localhost", "*.localhost")),
        ("localhost", ("sais.example",), ("sais.example", "localhost", "*.localhost")),
        ("0.0.0.0", (), ()),
        ("0.0.0.0", ("sais.example",), ("sais.example",)),
    ],
)
def test_names_of_this_machine_are_allowed_where_it_alone_is_served(
    host: str,
    words: tuple[str, ...],
    expected: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[Any] = []
    monkeypatch.setattr("sais.commands.serve.Application.__call__", lambda application: application)
    monkeypatch.setattr("sais.serving.server.run_server", lambda factory, *rest: started.append(factory()) or 0)
    (tmp_path / "model.onnx").touch()
    options = ["--allowed-hosts", *words] if words else []
    assert main(["serve", str(tmp_path / "model.onnx"), "--host", host, "--port", "0", *options]) == 0
    assert started[0].arguments.serving.allowed_hosts == expected
    assert ("only this machine" in capsys.readouterr().out) is (host != "0.0.0.0")


def test_every_loopback_address_is_one() -> None:
    for host, expected in (("127.0.0.1", True), ("127.0.0.2", True), ("0.0.0.0", False)):
        with open_socket(host, 0) as opened:
            assert is_loopback(opened) is expected


@pytest.mark.parametrize("name", ["", "https://sais.example", "sais.example:8000", "*example", "a b", "a..b"])
def test_names_with_a_scheme_or_a_port_are_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a host name"):
        ServingOptions(allowed_hosts=(name,))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_quiet_service_writes_no_access_log_in_any_process(
    workers: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[Any] = []
    monkeypatch.setattr("sais.commands.serve.Application.__call__", lambda application: application)
    monkeypatch.setattr("sais.serving.server.end_worker_with_parent", lambda: None)
    monkeypatch.setattr("sais.serving.server.run_server", lambda factory, *rest: started.append(factory()) or 0)
    (tmp_path / "model.onnx").touch()
    words = ["serve", str(tmp_path / "model.onnx"), "--port", "0", "--workers", workers]
    assert (main(words), main([*words, "--quiet"])) == (0, 0)
    assert [application.arguments.access_log for application in started] == [True, False]
