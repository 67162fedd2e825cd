"""The HTTP interface: answers equal those of the predictor, errors have the right status and reveal nothing."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.requests import ClientDisconnect

from sais.inference.predictor import Predictor
from sais.ops import rle
from sais.results.detections import Detections
from sais.results.draw import draw
from sais.serving.access_log import AccessLog
from sais.serving.answers import SLICE_BYTES, HeldResponse
from sais.serving.schemas import Prediction
from sais.serving.security import CONTENT_SECURITY_POLICY
from tests.serving.pixel_model import CLASSES, Running, encoded, noise, pixel_predictor, serving

KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    models = {"pixels": pixel_predictor(), "other": pixel_predictor(classes=("bright",))}
    with serving(models, max_images=4, max_upload_mb=1, max_megapixels=0.2, max_tiles=20) as server:
        yield server


def objects(response: Any, image: int = 0) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    content = response.json()
    Prediction.model_validate(content)
    return content["images"][image]["objects"]  # type: ignore[no-any-return]


def assert_equal(answers: list[dict[str, Any]], detections: Detections) -> None:
    assert len(answers) == len(detections) > 0
    assert [answer["class_id"] for answer in answers] == detections.labels.tolist()
    assert [answer["class_name"] for answer in answers] == [CLASSES[label] for label in detections.labels]
    np.testing.assert_allclose([answer["score"] for answer in answers], detections.scores, atol=1e-6)
    np.testing.assert_allclose([answer["box"] for answer in answers], detections.boxes, atol=1e-3)
    assert [answer["area"] for answer in answers] == detections.area.tolist()
    assert [answer["mask"] for answer in answers] == detections.rle()


def test_prediction_equals_the_predictor(running: Running) -> None:
    image = noise(1)
    response = running.post(encoded(image))
    expected = running.predictors["pixels"](image)
    assert_equal(objects(response), expected)
    content = response.json()
    assert (content["model"], content["images"][0]["name"]) == ("pixels", None)
    assert (content["images"][0]["height"], content["images"][0]["width"]) == image.shape[:2]
    assert set(content["timing_ms"]) == {"decode", "queue", "predict", "encode"}


def test_polygons_and_png_have_the_pixels_of_the_masks(running: Running) -> None:
    from sais.ops.outlines import fill_rings

    image = noise(2)
    masks = running.predictors["pixels"](image).masks()
    for answer, mask in zip(objects(running.post(encoded(image), masks="polygons")), masks, strict=True):
        rings = [np.array(ring) for ring in answer["mask"]["polygons"]]
        np.testing.assert_array_equal(fill_rings(rings, mask.shape), mask)
    for answer, mask in zip(objects(running.post(encoded(image), masks="png")), masks, strict=True):
        x1, y1, x2, y2 = answer["mask"]["box"]
        bits = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["mask"]["png"]))))
        np.testing.assert_array_equal(bits, mask[y1:y2, x1:x2])
        assert mask.sum() == bits.sum()
    assert [answer["mask"] for answer in objects(running.post(encoded(image), masks="none"))] == [None, None]


def test_images_of_a_form_are_answered_in_their_order(running: Running) -> None:
    images = [noise(seed, size) for seed, size in ((3, (48, 80)), (4, (80, 48)), (5, (30, 30)))]
    names = ["a.png", "../../etc/passwd", "\x1b[31m\N{LATIN SMALL LETTER E WITH ACUTE}.png"]
    files = [("images", (name, encoded(image), "image/png")) for name, image in zip(names, images, strict=True)]
    response = running.client.post("/v1/predict", files=files)
    for i, image in enumerate(images):
        assert_equal(objects(response, i), running.predictors["pixels"](image))
    assert [entry["name"] for entry in response.json()["images"]][:2] == names[:2]
    assert "\x1b" not in response.json()["images"][2]["name"]


def test_drawing_equals_draw(running: Running) -> None:
    image = noise(6)
    response = running.post(encoded(image), accept="image/png")
    assert response.headers["content-type"] == "image/png"
    expected = draw(image, running.predictors["pixels"](image), 0)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.content))), expected)


def test_coordinates_are_those_of_the_upright_image(running: Running) -> None:
    image = noise(7, (40, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    entry = running.post(encoded(image, "JPEG", exif=exif, quality=100)).json()["images"][0]
    assert (entry["height"], entry["width"]) == (90, 40)
    assert entry["objects"][0]["mask"]["size"] == [90, 40]


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({"score": 0.45}, {"score": 0.45}),
        ({"max_detections": 1}, {"max_detections": 1}),
        ({"classes": ["bright"]}, {"classes": ("bright",)}),
        ({"tta_flip": "true"}, {"tta_flip": True}),
        ({"tile": 64, "score": 0}, {"tiles": 64, "score": 0.0}),
        ({"tile": "auto"}, {"tiles": "auto"}),
    ],
)
def test_options_of_a_request_are_those_of_the_predictor(
    running: Running, query: dict[str, Any], options: dict[str, Any]
) -> None:
    image = noise(8, (150, 200))
    predictor = running.predictors["pixels"]
    expected = Predictor(predictor.backend, predictor.options, **options)(image)
    assert_equal(objects(running.post(encoded(image), **query)), expected)
    assert_equal(objects(running.post(encoded(image))), predictor(image))  # the next request has the defaults


def test_requests_choose_a_model(running: Running) -> None:
    entries = running.client.get("/v1/models").json()["models"]
    assert [(entry["name"], entry["default"], entry["classes"]) for entry in entries] == [
        ("pixels", True, list(CLASSES)),
        ("other", False, list(CLASSES)),
    ]
    assert (entries[0]["input_size"], entries[0]["score"]) == ([64, 96], 0.1)
    image = noise(9)
    assert_equal(objects(running.post(encoded(image), model="other")), running.predictors["other"](image))
    assert [answer["class_name"] for answer in objects(running.post(encoded(image), model="other"))] == ["bright"]


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file that states a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + chunks


JPEG = encoded(noise(0), "JPEG")
BAD_BODIES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "no body": (b"", {}, 400, "no_image"),
    "cut JPEG": (JPEG[: len(JPEG) // 2], {}, 400, "corrupt_image"),
    "text": (b"hello", {}, 415, "unsupported_image"),
    "PDF": (b"%PDF-1.7", {}, 415, "unsupported_image"),
    "ZIP": (b"PK\x03\x04" + bytes(100), {}, 415, "unsupported_image"),
    "bomb": (png_header(100_000, 100_000), {}, 413, "image_too_large"),
    "large image": (encoded(np.zeros((450, 450, 3), np.uint8)), {}, 413, "image_too_large"),
    "large body": (bytes(1_000_001), {}, 413, "request_too_large"),
    "JSON body": (b"[" * 10_000, {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
    "no boundary": (b"--", {"Content-Type": "multipart/form-data"}, 400, "malformed_form"),
    "cut form": (b"--x\r\n\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "malformed_form"),
    "no form": (b"hello", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "malformed_form"),
    "empty form": (b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, 400, "no_image"),
}
"""Name -> body, headers, status and code of the error."""


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies_have_the_right_status(running: Running, name: str) -> None:
    body, headers, status, code = BAD_BODIES[name]
    response = running.client.post("/v1/predict", content=body, headers={"Content-Type": "image/jpeg"} | headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert_reveals_nothing(response.text)


def assert_reveals_nothing(text: str) -> None:
    for word in ("Traceback", "site-packages", "/work", "/tmp", ".py", "0x", "pip "):
        assert word not in text


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"score": "nan"}, 422, "invalid_option"),
        ({"score": 2}, 422, "invalid_option"),
        ({"masks": "jpeg"}, 422, "invalid_option"),
        ({"max_detections": 0}, 422, "invalid_option"),
        ({"max_detections": 10**30}, 422, "invalid_option"),
        ({"max_detections": 1001}, 422, "invalid_option"),
        ({"tile": 31}, 422, "invalid_option"),
        ({"tile": 32}, 422, "too_many_tiles"),
        ({"classes": "cat"}, 422, "unknown_class"),
        ({"model": "../../etc/passwd"}, 404, "unknown_model"),
        ({"trust": "true"}, 422, "invalid_option"),
    ],
)
def test_bad_options_have_the_right_status(running: Running, query: dict[str, Any], status: int, code: str) -> None:
    response = running.post(encoded(noise(0, (300, 400))), **query)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.json()["error"]["message"].endswith(".")


def test_forms_with_too_many_images_or_other_parts_are_refused(running: Running) -> None:
    image = encoded(noise(0))
    many = [("images", ("a.png", image, "image/png"))] * 1000
    response = running.client.post("/v1/predict", files=many)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "too_many_images")
    response = running.client.post("/v1/predict", files=[*many[:1], ("model", ("x", b"y", "text/plain"))])
    assert (response.status_code, response.json()["error"]["code"]) == (422, "unknown_part")
    response = running.client.post("/v1/predict", files=many[:2], headers={"Accept": "image/png"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "several_images")
    response = running.client.post("/v1/predict", files=[*many[:1], ("images", ("b.jpg", JPEG[:200], "image/jpeg"))])
    assert (response.status_code, response.json()["error"]["message"][:8]) == (400, "image 2:")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/predict", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/nothing", 404),
        ("GET", "/v1/examples/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/static/..%2fapp.py", 404),
        ("GET", "/static/%00", 404),
    ],
)
def test_other_addresses_have_errors_as_json(running: Running, method: str, path: str, status: int) -> None:
    response = running.client.request(method, path)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"code", "message"}


def test_an_exception_is_a_500_that_reveals_nothing(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    running.backend.failure = lambda canvases: RuntimeError("secret of /work/model.onnx")
    try:
        response = running.post(encoded(noise(1)))
    finally:
        running.backend.failure = lambda canvases: None
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert_reveals_nothing(response.text)
    assert "secret of /work/model.onnx" in capfd.readouterr().err  # the operator reads it
    assert running.post(encoded(noise(1))).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/nothing", "/docs", "/openapi.json", "/v1/predict"])
def test_responses_have_security_headers(running: Running, path: str) -> None:
    headers = running.client.get(path).headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert "server" not in headers
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/docs"])
def test_head_has_the_headers_of_get(running: Running, path: str) -> None:
    head, get = running.client.head(path), running.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


def test_docs_need_no_script_and_list_every_path(running: Running) -> None:
    text = running.client.get("/docs").text
    assert "<script" not in text
    assert "style=" not in text
    for path in running.client.get("/openapi.json").json()["paths"]:
        assert path in text


def test_openapi_lists_classes_and_limits(running: Running) -> None:
    document = running.client.get("/openapi.json").json()
    parameters = {entry["name"]: entry["schema"] for entry in document["paths"]["/v1/predict"]["post"]["parameters"]}
    assert parameters["classes"]["items"]["enum"] == sorted(CLASSES)
    assert parameters["max_detections"]["maximum"] == 1000
    body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert body["schema"]["properties"]["images"]["maxItems"] == 4
    assert "securitySchemes" not in document["components"]
    assert document["info"]["version"] == "1"


def test_metrics_count_requests_images_and_batches(running: Running) -> None:
    def value(name: str) -> float:
        lines = running.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    name = 'sais_images_total{model="pixels"}'
    before = value(name)
    running.post(encoded(noise(1)))
    running.post(b"hello")
    assert value(name) == before + 1
    assert value('sais_errors_total{code="unsupported_image"}') >= 1
    assert value('sais_requests_total{path="/v1/predict",status="200"}') >= 1
    assert value('sais_batch_images_count{model="pixels"}') >= 1
    for stage in ("decode", "queue", "predict", "encode"):
        assert value(f'sais_stage_seconds_count{{model="pixels",stage="{stage}"}}') >= 1
    assert value("sais_images_admitted") == value("sais_queue_images") == 0
    assert "python" not in running.client.get("/metrics").text


def test_the_access_log_has_a_line_of_json_for_each_response() -> None:
    with serving() as server:
        server.post(encoded(noise(1)))
        server.client.get("/a%0ab" + "c" * 1000)
    lines = [json.loads(line) for line in server.log.getvalue().splitlines()]
    lines = [line for line in lines if line["path"] != "/healthz"]  # of `serving`
    assert [(line["status"], line["method"]) for line in lines] == [(200, "POST"), (404, "GET")]
    assert (lines[0]["model"], lines[0]["images"], lines[0]["objects"]) == ("pixels", 1, 2)
    assert len(lines[1]["path"]) <= 200


def test_a_log_that_cannot_be_written_fails_no_request(capfd: pytest.CaptureFixture[str]) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    log = AccessLog(Closed())
    log.write("GET", "/", 200, 0.1, "127.0.0.1")
    log.write("GET", "/", 200, 0.1, "127.0.0.1")
    assert capfd.readouterr().err == "note: the access log cannot be written (Broken pipe)\n"


def test_an_answer_is_held_until_the_client_has_read_it() -> None:
    async def answer() -> None:
        sent: list[dict[str, Any]] = []
        reads = asyncio.Event()
        held = asyncio.Event()

        async def send(message: Any) -> None:
            if len(sent) == 2:
                held.set()
                await reads.wait()
            sent.append(message)

        released: list[bool] = []
        content = bytes(range(256)) * 1000
        response = HeldResponse(content, "image/png", lambda: released.append(True), 30)
        task = asyncio.ensure_future(response({"type": "http"}, None, send))  # type: ignore[arg-type]
        await held.wait()
        assert not released
        reads.set()
        await task
        assert released == [True]
        assert b"".join(message["body"] for message in sent[1:]) == content
        assert [message["more_body"] for message in sent[1:]] == [True, True, True, False]
        assert max(len(message["body"]) for message in sent[1:]) == SLICE_BYTES

        async def never(message: Any) -> None:
            await asyncio.Event().wait()

        with pytest.raises(ClientDisconnect):
            response = HeldResponse(content, "image/png", lambda: released.append(True), 0.01)
            await response({"type": "http"}, None, never)  # type: ignore[arg-type]
        assert released == [True, True]

    asyncio.run(answer())


def test_an_api_key_is_needed_where_the_service_has_one() -> None:
    with serving(api_keys=(KEY, "another-secret-key")) as server:
        image = encoded(noise(1))
        wrong: tuple[dict[str, str | bytes], ...] = (
            {},
            {"X-API-Key": KEY[:-1]},
            {"Authorization": b"Bearer \xe9"},
            {"Authorization": f"Basic {KEY}"},
        )
        for headers in wrong:
            response = server.client.post("/v1/predict", content=image, headers=headers)  # type: ignore[arg-type]
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "unauthorized"
            assert server.client.get("/metrics", headers=headers).status_code == 401  # type: ignore[arg-type]
        for headers in ({"X-API-Key": KEY}, {"Authorization": "Bearer another-secret-key"}):
            response = server.client.post("/v1/predict", content=image, headers=headers | {"Content-Type": "image/png"})
            assert response.status_code == 200
            assert server.client.get("/v1/models", headers=headers).status_code == 200
        assert server.client.get("/healthz").status_code == server.client.get("/readyz").status_code == 200
        assert "securitySchemes" in server.client.get("/openapi.json").json()["components"]


def test_cors_is_on_for_named_origins_only() -> None:
    with serving(cors=("https://example.com",), api_keys=(KEY,)) as server:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
        response = server.client.options("/v1/predict", headers=asked | {"Origin": "https://example.com"})
        assert response.status_code == 200  # a browser asks without the key
        for origin, allowed in (("https://example.com", "https://example.com"), ("https://evil.example", None)):
            response = server.client.get("/v1/models", headers={"Origin": origin})
            assert response.status_code == 401
            assert response.headers.get("access-control-allow-origin") == allowed


def test_examples_are_listed_and_nothing_else_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / "a b.png").write_bytes(encoded(noise(1, (400, 600))))
    (folder / "notes.txt").write_text("secret")
    (tmp_path / "outside.png").write_bytes(encoded(noise(2)))
    with serving(examples=folder) as server:
        [entry] = server.client.get("/v1/examples").json()["examples"]
        assert entry["name"] == "a b.png"
        response = server.client.get(entry["url"])
        assert (response.content, response.headers["content-type"]) == (encoded(noise(1, (400, 600))), "image/png")
        thumbnail = Image.open(io.BytesIO(server.client.get(entry["thumbnail_url"]).content))
        assert thumbnail.size == (320, 213)
        for name in ("notes.txt", "..%2foutside.png", "..%2f..%2fetc%2fpasswd", "%00"):
            assert server.client.get(f"/v1/examples/{name}").status_code == 404


def test_rle_is_that_of_pycocotools(running: Running) -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    image = noise(11)
    masks = running.predictors["pixels"](image).masks()
    for answer, mask in zip(objects(running.post(encoded(image))), masks, strict=True):
        np.testing.assert_array_equal(mask_api.decode(answer["mask"]).astype(bool), mask)
        np.testing.assert_array_equal(rle.decode(answer["mask"]), mask)
