"""The application: a FastAPI object around predictors, for `sais serve`, Ray Serve and tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from sais.inference.predictor import Predictor
from sais.serving import metrics as metrics_module
from sais.serving.access_log import AccessLog
from sais.serving.docs_page import docs_page
from sais.serving.examples import Examples
from sais.serving.metrics import Metrics
from sais.serving.middleware import Gateway, error_response
from sais.serving.openapi import completed
from sais.serving.options import ServingOptions
from sais.serving.request_error import RequestError
from sais.serving.schemas import ExampleList, ModelList, Prediction, PredictQuery, Status, error_responses
from sais.serving.security import AllowedHosts, ApiKeys
from sais.serving.service import Service

STATIC = Path(__file__).parent / "static"
"""Folder of the page."""
IMAGE_BODY = {
    "image/*": {"schema": {"type": "string", "format": "binary", "minLength": 1}},
    "application/octet-stream": {"schema": {"type": "string", "format": "binary", "minLength": 1}},
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {"images": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
            "required": ["images"],
            "additionalProperties": False,
        }
    },
}
"""Documentation of the body of a prediction."""


def create_app(
    models: dict[str, Predictor],
    options: ServingOptions | None = None,
    api_keys: Sequence[str] = (),
    log: AccessLog | None = None,
    ready_first: bool = False,
) -> FastAPI:
    """Return the application that serves predictors.

    Args:
        models: predictors by name; the first one is the default.
        options: settings and limits; the defaults if None.
        api_keys: keys of which a request must have one; without any, all requests are allowed.
        log: access log; None writes it to the standard output.
        ready_first: whether nothing is accepted before the models are warmed up, for a process that shares its address
            with others; otherwise requests get 503 until then.

    Raises:
        InputError: the folder of the example images does not exist or is empty.
    """
    options = options or ServingOptions()
    metrics = Metrics()
    service = Service(models, options, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        service.start()
        if ready_first:
            await loop.run_in_executor(None, service.wait_until_ready)
        yield
        await loop.run_in_executor(None, service.close)

    app = FastAPI(
        title="sais",
        description="Instance segmentation: images in; classes, scores, boxes and masks out.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the address of a redirect would be made from the header Host
        lifespan=lifespan,
    )
    app.state.service = service
    hosts, keys = AllowedHosts(options.allowed_hosts), ApiKeys(api_keys)
    app.add_middleware(Gateway, hosts=hosts, api_keys=keys, metrics=metrics, log=log or AccessLog())
    if options.cors:  # outside of the gateway: a browser asks for permission without the API key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=["Retry-After"],
        )
    _add_error_handlers(app)
    _add_prediction(app, service)
    _add_examples(app, Examples(options.examples))
    _add_operations(app, service, metrics)
    _add_page(app)
    app.openapi = completed(app.openapi, service, bool(api_keys))  # type: ignore[method-assign]
    return app


def _add_prediction(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", tags=["prediction"], responses=error_responses(401))
    async def list_models() -> ModelList:
        """List the models."""
        return ModelList.model_validate({"models": service.model_list()})

    @app.post(
        "/v1/predict",
        tags=["prediction"],
        response_class=Response,
        responses={
            200: {
                "model": Prediction,
                "description": "Detections as JSON, or with Accept: image/png the drawn image.",
                "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
            },
            **error_responses(400, 401, 404, 408, 413, 415, 422, 503),
        },
        openapi_extra={"requestBody": {"required": True, "content": IMAGE_BODY}},
    )
    async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
        """Detect the objects in one image, or in several of a form."""
        return await service.predict(request, query, wants_drawing(request.headers.get("accept", "")))


def _add_examples(app: FastAPI, examples: Examples) -> None:
    @app.get("/v1/examples", tags=["examples"])
    async def list_examples() -> ExampleList:
        """List the example images."""
        return ExampleList.model_validate({"examples": examples.entries()})

    @app.get(
        "/v1/examples/{name}",
        tags=["examples"],
        response_class=Response,
        responses={
            200: {"content": {"image/*": {}}, "description": "The image."},
            **error_responses(404, 422),
        },
    )
    def read_example(name: str, thumbnail: bool = False) -> Response:
        """Return an example image, or its thumbnail."""
        headers = {"Cache-Control": "max-age=3600"}
        if thumbnail:
            return Response(examples.thumbnail(name), media_type="image/jpeg", headers=headers)
        parts, size, media_type = examples.open(name)
        return StreamingResponse(parts, media_type=media_type, headers=headers | {"Content-Length": str(size)})


def _add_operations(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["operations"])
    async def health() -> Status:
        """Return whether the process is alive."""
        return Status(status="alive")

    @app.get("/readyz", tags=["operations"], responses=error_responses(503))
    async def ready() -> Status:
        """Return whether the models are loaded and warmed up."""
        if not service.ready:
            raise RequestError(503, "not_ready", "the models are being loaded. Try again.", retry_after=1)
        return Status(status="ready")

    @app.get(
        "/metrics",
        tags=["operations"],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Metrics."}, **error_responses(401)},
    )
    def read_metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(metrics.text(), media_type=metrics_module.CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    static_files = StaticFiles(directory=STATIC)

    async def static(scope: Scope, receive: Receive, send: Send) -> None:
        if "\0" in scope["path"]:  # which os.stat refuses with a ValueError; up to 0.50, Starlette passes it on
            raise HTTPException(404)
        await static_files(scope, receive, send)

    app.mount("/static", static, name="static")


def _add_error_handlers(app: FastAPI) -> None:
    async def request_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        request.scope["state"]["details"]["error"] = error.code
        return error_response(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await request_error(request, _invalid(error.errors()))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, message = {
            404: ("not_found", "there is nothing at this address. GET /docs lists the addresses."),
            405: ("method_not_allowed", "the address has other methods. See the header Allow, or GET /docs."),
        }.get(error.status_code, ("bad_request", "the request is malformed. GET /docs describes the interface."))
        headers = dict(error.headers or {})
        return await request_error(request, RequestError(error.status_code, code, message, headers=headers))

    app.add_exception_handler(RequestError, request_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)


def _invalid(errors: Sequence[Any]) -> RequestError:
    """Return the error for invalid options, of which the first is named."""
    first = errors[0]
    name = str(first["loc"][1] if len(first["loc"]) > 1 else first["loc"][0])
    unknown = first["type"] == "extra_forbidden"
    problem = "unknown option" if unknown else str(first["msg"]).removeprefix("Input should be ")
    message = f"{name:.60}: {problem if unknown else 'must be ' + problem:.200}. GET /docs describes the options."
    return RequestError(422, "invalid_option", message)


def wants_drawing(accept: str) -> bool:
    """Return whether a header Accept prefers image/png to application/json."""
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in item.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[media_type] = float(weight)
        except ValueError:
            weights[media_type] = 0.0
    drawing = weights.get("image/png", weights.get("image/*", 0.0))
    return drawing > max(weights.get("application/json", 0.0), weights.get("application/*", 0.0))
