"""The service on Ray Serve: the application of `sais serve`, in replicas that Ray adds, removes and replaces.

    serve run sais.serving.ray_serve:app models=runs/cats/model.onnx
    serve deploy deploy/ray/serve.yaml

A replica has its own copy of the models and forms batches of the requests that Ray sends to it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import ray
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from ray import serve
from ray.serve import Application

from sais.errors import ConfigError
from sais.inference.options import InferenceOptions
from sais.resolve import suggest
from sais.serving.access_log import AccessLog
from sais.serving.app import create_app
from sais.serving.launch import model_paths, open_models, read_api_keys
from sais.serving.options import ServingOptions

DEPLOYMENT = "sais"
"""Name of the deployment, by which a configuration file changes its number of replicas and their resources."""


@dataclass(frozen=True)
class RaySettings:
    """What a replica serves.

    Args:
        models: paths of the models by name, as each machine finds them.
        serving: settings and limits of each replica.
        inference: default inference options of requests.
        api_key_env: name of an environment variable of the replicas with the API key that requests must have.
        api_key_file: file with the API keys that requests must have, one in each line.
        access_log: whether replicas write a line of JSON for each response.
        min_replicas, max_replicas: minimum and maximum number of replicas.
        num_cpus, num_gpus: CPUs and GPUs of each replica; it uses as many threads.
    """

    models: dict[str, Path]
    serving: ServingOptions = dataclasses.field(default_factory=ServingOptions)
    inference: InferenceOptions = dataclasses.field(default_factory=InferenceOptions)
    api_key_env: str | None = None
    api_key_file: Path | None = None
    access_log: bool = True
    min_replicas: int = 1
    max_replicas: int = 4
    num_cpus: float = 1
    num_gpus: float = 0


def app(arguments: dict[str, Any]) -> Application:
    """Return the application for Ray Serve.

    Args:
        arguments: options by name, as texts or values: `models` (NAME=PATH or a path, several in a list or separated
            by commas, or paths by name), the fields of `ServingOptions` and `InferenceOptions`, and the others of
            `RaySettings`.

    Raises:
        ConfigError: an unknown option, or one without a valid value.
        InputError: no model, or two with the same name.
    """
    settings = read_settings(arguments)

    def build() -> FastAPI:
        return build_replica(settings)

    options = settings.serving
    deploy = serve.deployment(
        name=DEPLOYMENT,
        # Ray sends a replica enough requests at once for full batches; the others wait at the proxy, with a limit.
        max_ongoing_requests=options.queue,
        max_queued_requests=4 * options.queue,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": 2 * options.max_batch,
        },
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        graceful_shutdown_timeout_s=2 * options.timeout + 5,
    )
    return deploy(serve.ingress(build)()).bind()


def build_replica(settings: RaySettings) -> FastAPI:
    """Open the models in a replica, with the CPUs that Ray gives it, and return their application."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns about each malformed form
    cpus = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    inference, serving = settings.inference, settings.serving
    models = open_models(settings.models, dataclasses.replace(inference, threads=inference.threads or cpus))
    serving = dataclasses.replace(serving, decoders=serving.decoders or cpus)
    keys = read_api_keys(settings.api_key_env, settings.api_key_file)
    return create_app(models, serving, keys, AccessLog(None if settings.access_log else False), ready_first=True)


def read_settings(arguments: dict[str, Any]) -> RaySettings:
    """Return the settings of options by name; see `app`."""
    values = dict(arguments)
    models = values.pop("models", None) or []
    if isinstance(models, dict):
        models = [f"{name}={path}" for name, path in models.items()]
    paths = model_paths(models.split(",") if isinstance(models, str) else list(models))
    serving, inference, own = (
        [field.name for field in dataclasses.fields(cls)] for cls in (ServingOptions, InferenceOptions, RaySettings)
    )
    own = [name for name in own if name not in ("models", "serving", "inference")]
    known = ["models", *own, *serving, *inference]
    for name in values:
        if name not in known:
            raise ConfigError(f"{name}: unknown option{suggest(name, known)}. Give options of `sais serve`.")

    def given(cls: type, names: list[str]) -> dict[str, Any]:
        return {name: _convert(cls, name, values[name]) for name in names if name in values}

    absolute = {name: Path(os.path.abspath(path)) for name, path in paths.items()}  # replicas run in other folders
    settings = RaySettings(
        absolute,
        ServingOptions(**given(ServingOptions, serving)),
        InferenceOptions(**given(InferenceOptions, inference)),
        **given(RaySettings, own),
    )
    if not 0 <= settings.min_replicas <= settings.max_replicas or settings.max_replicas < 1:
        raise ConfigError(
            f"min_replicas {settings.min_replicas}, max_replicas {settings.max_replicas}: not a range. Give a minimum "
            "of 0 or more and a maximum of at least that and 1."
        )
    return settings


def _convert(cls: type, name: str, value: Any) -> Any:
    """Return the value of a field, which may be a text, such as "0.5"; with commas for several; paths are absolute."""
    hint = get_type_hints(cls)[name]
    if isinstance(value, str) and get_origin(hint) is tuple:
        value = value.split(",")
    try:
        converted = TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Input ")
        problem = problem[:1].lower() + problem[1:]
        raise ConfigError(f"{name}: {value!r}: {problem}. Give a value as for `sais serve`.") from None
    return Path(os.path.abspath(converted)) if isinstance(converted, Path) else converted
