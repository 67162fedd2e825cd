"""The service on a local Ray: two replicas that answer as `sais serve` does."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from sais.errors import ConfigError, InputError
from sais.inference.predictor import Predictor
from tests.serving.pixel_model import serving

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="no Ray (extra ray)"),
    pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning"),  # of Ray, for pydantic
]

WAIT = 120
EXACT = ("class_id", "class_name", "area", "mask")


@pytest.fixture(scope="module")
def ray_serve() -> Iterator[Any]:
    """Yield the module. It imports Ray, which reads settings then."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("READY_CHECK", "HEALTH_CHECK"):  # on a machine with other work, Ray would replace a slow proxy
            patch.setenv(f"RAY_SERVE_PROXY_{name}_TIMEOUT_S", str(WAIT))
        from sais.serving import ray_serve

        yield ray_serve


def test_options_are_texts_or_values_and_paths_are_absolute(
    ray_serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {
        "models": "cats=runs/cats.onnx",
        "score": "0.25",
        "max_batch": "4",
        "cors": "https://a.example",
        "queue": 9,
    }
    settings = ray_serve.read_settings(words | {"tiles": "auto", "max_replicas": "3", "examples": "images"})
    assert settings.models == {"cats": tmp_path / "runs/cats.onnx"}
    assert (settings.inference.score, settings.inference.tiles) == (0.25, "auto")
    assert (settings.serving.max_batch, settings.serving.queue) == (4, 9)
    assert (settings.serving.cors, settings.serving.examples) == (("https://a.example",), tmp_path / "images")
    assert (settings.min_replicas, settings.max_replicas, settings.access_log) == (1, 3, True)
    assert ray_serve.read_settings({"models": "m.onnx", "score": "auto"}).inference.score == "auto"
    two = {"a": tmp_path / "m.onnx", "b": tmp_path / "n.onnx"}
    for models in ("a=m.onnx,b=n.onnx", ["a=m.onnx", "b=n.onnx"], {"a": "m.onnx", "b": "n.onnx"}):
        assert ray_serve.read_settings({"models": models}).models == two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no MODEL given"),
        ({"models": "m.onnx", "scor": 1}, "scor: unknown option, did you mean 'score'"),
        ({"models": "m.onnx", "serving": 1}, "serving: unknown option"),
        ({"models": "m.onnx", "max_batch": "many"}, "max_batch: 'many': "),
        ({"models": "m.onnx", "max_batch": 0}, "max_batch: 0 is not between"),
        ({"models": "m.onnx", "score": 2}, "score"),
        ({"models": "m.onnx", "min_replicas": 5}, "min_replicas 5, max_replicas 4: not a range"),
    ],
)
def test_wrong_options_are_errors_before_anything_is_deployed(
    ray_serve: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, InputError), match=message):
        ray_serve.app(arguments)


def test_the_configuration_file_deploys_the_application(ray_serve: Any, root: Path) -> None:
    yaml = pytest.importorskip("yaml")
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((root / "deploy/ray/serve.yaml").read_text(encoding="utf-8"))
    schema = ServeDeploySchema.model_validate(content)
    assert schema.http_options.host == "127.0.0.1"
    [application] = schema.applications
    assert application.import_path == f"{ray_serve.__name__}:{ray_serve.app.__name__}"
    settings = ray_serve.read_settings(application.args)
    assert settings.models == {"cats": Path("/models/cats.onnx")}
    assert settings.serving.allowed_hosts == ("localhost",)  # as `sais serve` has where only this machine reaches it
    assert [deployment.name for deployment in application.deployments] == [ray_serve.DEPLOYMENT]
    assert schema.http_options.request_timeout_s > 2 * settings.serving.timeout


@pytest.fixture(scope="module")
def deployed(ray_serve: Any, exported: Any) -> Iterator[tuple[str, Path]]:
    """Deploy two replicas on a local Ray; yield their address and the model."""
    import ray
    from ray import serve

    model = exported("masks.onnx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with contextlib.suppress(TimeoutError):  # Ray waits for a minute: the proxy may need longer
            serve.start(http_options={"host": "127.0.0.1", "port": port})
        options = {"models": {"shapes": model}, "score": 0.03, "min_replicas": 2, "access_log": False}
        serve.run(ray_serve.app(options), name="sais", route_prefix="/")
        yield f"http://127.0.0.1:{port}", model
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.slow
def test_two_replicas_answer_as_the_service_does(deployed: tuple[str, Path], shapes: Path) -> None:
    url, model = deployed
    paths = sorted((shapes / "images" / "train").iterdir())
    headers = {"Content-Type": "image/jpeg"}

    def answer(client: httpx.Client, path: Path) -> Any:
        response = client.post("/v1/predict", content=path.read_bytes(), headers=headers)
        assert response.status_code == 200, response.text
        return response.json()["images"]

    with (
        httpx.Client(base_url=url, timeout=WAIT) as client,
        ThreadPoolExecutor(8) as pool,
        serving({"shapes": Predictor(model, score=0.03, threads=1)}) as server,
    ):
        assert client.get("/readyz").json() == {"status": "ready"}
        assert client.get("/v1/models").json() == server.client.get("/v1/models").json()
        answers = list(pool.map(lambda path: answer(client, path), paths * 2))
        expected = [answer(server.client, path) for path in paths] * 2
        assert any(images[0]["objects"] for images in expected)
        for (image,), (reference,) in zip(answers, expected, strict=True):
            assert_equal(image, reference)
        assert len(start_times(client)) == 2
        assert client.get("/").text == server.client.get("/").text
        for body, status in ((b"hello", 415), (b"", 400)):
            response = client.post("/v1/predict", content=body, headers=headers)
            reference = server.client.post("/v1/predict", content=body, headers=headers)
            assert response.status_code == reference.status_code == status
            assert response.json() == reference.json()
            assert response.headers["content-security-policy"] == reference.headers["content-security-policy"]


def assert_equal(image: dict[str, Any], reference: dict[str, Any]) -> None:
    """Compare two answers; scores and boxes are equal up to rounding, because their batches may differ."""
    assert len(image["objects"]) == len(reference["objects"])
    for entry, other in zip(image["objects"], reference["objects"], strict=True):
        assert entry["score"] == pytest.approx(other["score"], abs=1e-5)
        assert entry["box"] == pytest.approx(other["box"], abs=1e-2)
        assert [entry[name] for name in EXACT] == [other[name] for name in EXACT]
    assert (image["width"], image["height"]) == (reference["width"], reference["height"])


def start_times(client: httpx.Client) -> set[str]:
    """Return the times at which the processes started that answer, until there are two."""
    times: set[str] = set()
    end = time.monotonic() + WAIT
    while len(times) < 2 and time.monotonic() < end:
        text = client.get("/metrics").text
        match = re.search(r"^process_start_time_seconds (\S+)$", text, re.MULTILINE)
        assert match is not None
        times.add(match[1])
    return times
