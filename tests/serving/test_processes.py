"""Real processes of the service: their end under load, and a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sais.cli import main
from sais.errors import CheckpointError, ConfigError, InputError, ResourceError
from sais.inference.predictor import Predictor
from sais.serving.launch import model_paths, read_api_keys
from sais.serving.options import ServingOptions
from sais.serving.server import WorkerFactory, open_socket, run_server
from tests.benchmark.test_without_torch import ABSENT
from tests.serving.pixel_model import encoded, make_app, noise

ROOT = Path(__file__).resolve().parents[2]
WAIT = 60
SERVE = """
import sys
from sais.serving.options import ServingOptions
from sais.serving.server import WorkerFactory, address_of, open_socket, run_server
from tests.serving.pixel_model import make_app

if __name__ == "__main__":
    opened = open_socket("127.0.0.1", 0)
    print(address_of(opened), flush=True)
    sys.exit(run_server(WorkerFactory(make_app, print), opened, ServingOptions(), int(sys.argv[1])))
"""


@contextmanager
def started(folder: Path, workers: int) -> Iterator[tuple[Any, str]]:
    """Start a service of `pixel_model` in a process of its own; yield it and its address."""
    script = folder / "serve.py"
    script.write_text(SERVE, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, str(script), str(workers)]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            wait_until_ready(url, process)
            yield process, url
        finally:
            process.kill()
            process.communicate()


def wait_until_ready(url: str, process: Any) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=WAIT).status_code == 200:
                return
        except httpx.TransportError:  # it does not listen yet
            pass
    raise AssertionError(f"the service is not ready; it ended with {process.poll()}")


class Load:
    """Clients that send one image after the other until the service refuses connections.

    Args:
        url: address of the service.
        clients: number of clients, each with a connection of its own.
    """

    def __init__(self, url: str, clients: int) -> None:
        self.url = url
        self.answers = 0
        self.served: set[int] = set()
        self.faults: list[str] = []
        self.running = True
        self._answered = threading.Condition()
        self._threads = [threading.Thread(target=self._send, args=(seed,)) for seed in range(clients)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, answers: int) -> None:
        """Wait for a number of answers, and for one to each client: all are connected then."""

        def answered() -> bool:
            return self.answers >= answers and len(self.served) == len(self._threads)

        with self._answered:
            assert self._answered.wait_for(answered, WAIT)

    def finish(self) -> None:
        """Wait for the end of all clients."""
        for thread in self._threads:
            thread.join(WAIT)

    def _send(self, seed: int) -> None:
        image = encoded(noise(seed))
        with httpx.Client(base_url=self.url, timeout=WAIT) as client:
            while self.running:
                try:
                    response = client.post("/v1/predict", content=image, headers={"Content-Type": "image/png"})
                except httpx.ConnectError:
                    return
                except httpx.TransportError as error:  # the next request opens another connection
                    self.faults.append(repr(error))
                    continue
                if response.status_code != 200:
                    self.faults.append(response.text)
                with self._answered:
                    self.answers += 1
                    self.served.add(seed)
                    self._answered.notify_all()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_request(tmp_path: Path, number: int) -> None:
    with started(tmp_path, workers=1) as (process, url):
        load = Load(url, clients=8)
        load.wait_for(50)
        process.send_signal(number)
        assert process.wait(WAIT) == 0
        load.finish()
    assert load.faults == []
    entries = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines() if line[0] == "{"]
    predictions = [entry["status"] for entry in entries if entry["path"] == "/v1/predict"]
    assert predictions == [200] * load.answers  # every request that was accepted has been answered and received


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    with started(tmp_path, workers=2) as (process, url):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.is_file():
            pytest.skip("the processes are found in /proc of Linux")
        workers = {int(word) for word in children.read_text().split()} - {process.pid}
        workers = {pid for pid in workers if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}
        assert len(workers) == 2
        load = Load(url, clients=4)
        load.wait_for(20)
        os.kill(min(workers), signal.SIGKILL)
        end = time.monotonic() + WAIT
        replaced: set[int] = set()
        while len(replaced) < 2 and time.monotonic() < end:
            pids = {int(word) for word in children.read_text().split()} - {min(workers)}
            replaced = {pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}
        assert len(replaced) == 2
        load.wait_for(load.answers + 20)
        assert len(load.faults) <= 4  # those of the killed process
        images = [
            line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith("sais_images_total")
        ]
        assert len(images) == 1  # of all processes
        assert float(images[0].split()[1]) > 40
        process.send_signal(signal.SIGTERM)
        load.finish()  # connections are refused
        assert process.wait(WAIT) == 0


def test_models_have_the_names_of_their_runs(tmp_path: Path) -> None:
    words = ("runs/cats", "runs/dogs/model.safetensors", "birds.onnx", "fish=x/y.xml")
    assert list(model_paths(words)) == ["cats", "dogs", "birds", "fish"]
    assert model_paths(words)["fish"] == Path("x/y.xml")
    for wrong in ((), ("runs/cats", "other/cats"), ("=x",), ("x=",)):
        with pytest.raises(InputError):
            model_paths(wrong)


def test_api_keys_come_from_the_environment_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAIS_TEST_KEY", "a-key-of-the-environment")
    path = tmp_path / "keys"
    path.write_text("# keys\nfirst-secret-key\n\nsecond-secret-key\n")
    assert read_api_keys("SAIS_TEST_KEY", path) == ("a-key-of-the-environment", "first-secret-key", "second-secret-key")
    with pytest.raises(ConfigError, match="SAIS_UNSET is not set"):
        read_api_keys("SAIS_UNSET", None)
    with pytest.raises(InputError, match="cannot be read"):
        read_api_keys(None, tmp_path / "no")
    path.write_bytes(b"\xef\xbb\xbfkey-of-an-editor-of-windows\r\n")
    assert read_api_keys(None, path) == ("key-of-an-editor-of-windows",)
    path.write_text("short\n")
    with pytest.raises(ConfigError, match="too few"):
        read_api_keys(None, path)
    path.write_text("# no key\n")
    with pytest.raises(ConfigError, match="no API key"):
        read_api_keys(None, path)


def test_a_port_in_use_is_an_error_of_one_line() -> None:
    with open_socket("127.0.0.1", 0) as first:
        first.listen(1)
        with pytest.raises(ResourceError, match="port"):
            open_socket("127.0.0.1", first.getsockname()[1])
    with pytest.raises(ResourceError):
        open_socket("no-such-host.invalid", 0)


def test_threads_of_onnx_runtime_sleep_in_the_server_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    entries: list[str] = []

    def open_session(path: str, settings: Any, providers: list[str]) -> Any:
        try:
            entries.append(settings.get_session_config_entry("session.intra_op.allow_spinning"))
        except RuntimeError:  # not set
            entries.append("")
        raise ValueError("not a model")

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    path = tmp_path / "model.onnx"
    path.touch()
    assert main(["serve", str(path), "--port", "0", "--trust"]) == 2
    with pytest.raises(CheckpointError):
        Predictor(path, trust=True)
    assert entries == ["0", ""]


@pytest.mark.parametrize("workers", [1, 2])
def test_two_services_that_start_on_one_port_are_an_error_of_one_line(workers: int) -> None:
    """While the first loads its models it does not listen, and the system lets the second have the port."""
    with open_socket("127.0.0.1", 0) as first, open_socket("127.0.0.1", first.getsockname()[1]) as second:
        first.listen(1)
        with pytest.raises(ResourceError, match="Choose another port"):
            run_server(make_app, second, ServingOptions(), workers)


def test_a_process_that_cannot_start_ends_the_service() -> None:
    reported: list[Exception] = []

    def fail() -> Any:
        raise InputError("no such model")

    with pytest.raises(SystemExit) as stop:
        WorkerFactory(fail, reported.append)()
    assert stop.value.code == 3  # uvicorn's supervisor ends then, instead of starting it again
    assert [str(error) for error in reported] == ["no such model"]


def test_serve_names_the_extra_and_the_missing_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path / "missing.onnx")]) == 2
    assert "no such model" in capsys.readouterr().err
    (tmp_path / "model.onnx").touch()
    monkeypatch.delitem(sys.modules, "sais.serving.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(tmp_path / "model.onnx")]) == 2
    assert 'pip install "sais-seg[serve]"' in capsys.readouterr().err


@pytest.mark.slow
def test_serve_needs_no_torch_and_answers_like_predict(tmp_path: Path, exported: Any, shapes: Path) -> None:
    """Of an .onnx file, with two models; batched answers of several clients equal those of the predictor."""
    from concurrent.futures import ThreadPoolExecutor

    model = exported("raw.onnx")
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'src'}"}
    words = ["serve", f"a={model}", f"b={model}", "--port", "0", "--score", "0.03", "--threads", "1"]
    command = [sys.executable, "-m", "sais", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            threading.Thread(target=process.stdout.read, daemon=True).start()
            wait_until_ready(url, process)
            predictor = Predictor(model, score=0.03, threads=1)
            paths = sorted((shapes / "images" / "train").iterdir()) * 2
            with httpx.Client(base_url=url, timeout=WAIT) as client, ThreadPoolExecutor(8) as pool:

                def post(index: int) -> Any:
                    headers = {"Content-Type": "image/jpeg"}
                    content = paths[index].read_bytes()
                    query = {"model": "ab"[index % 2]}
                    return client.post("/v1/predict", content=content, headers=headers, params=query).json()

                answers = list(pool.map(post, range(len(paths))))
            for answer, path in zip(answers, paths, strict=True):
                expected = predictor(path)
                objects = answer["images"][0]["objects"]
                assert [entry["class_id"] for entry in objects] == expected.labels.tolist()
                assert [entry["score"] for entry in objects] == pytest.approx(expected.scores, abs=1e-5)
                assert [entry["mask"] for entry in objects] == expected.rle()
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT) == 0
        finally:
            process.kill()
