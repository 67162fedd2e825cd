"""`sais serve MODEL...`: answer predictions over HTTP, with a page in the browser."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sais.commands.arguments import FLAT, Count, parse
from sais.commands.open_predictor import check_model, open_predictor
from sais.commands.options import Maximum, Minimum
from sais.errors import InputError, SaisError
from sais.inference.options import InferenceOptions
from sais.serving.options import ServingOptions
from sais.text import error_message, is_quiet, print_text, printable

if TYPE_CHECKING:
    from fastapi import FastAPI

    from sais.inference.predictor import Predictor


@dataclass(frozen=True)
class ServeArguments:
    """Answer predictions over HTTP: a page at /, POST /v1/predict, /docs for the interface, /metrics for Prometheus.

    Listens on this machine only, unless --host opens it to the network. SIGTERM and Ctrl-C finish what was accepted.
    """

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL")]
    """Model files, folders of training runs, or exported files (.onnx and .xml need no PyTorch); NAME=PATH names one.
    Requests choose a model by its name; the first one is the default."""
    host: str = "127.0.0.1"
    """Address to listen on: 0.0.0.0 for all networks of this machine."""
    port: Annotated[int, Minimum(0), Maximum(65_535)] = 8000
    """Port to listen on; 0 for a free one, which is printed."""
    workers: Annotated[Count, Maximum(256)] = 1
    """Number of processes, each with its own copy of the models; one that dies is replaced."""
    serving: Annotated[ServingOptions, FLAT] = field(default_factory=ServingOptions)
    inference: Annotated[InferenceOptions, FLAT] = field(default_factory=InferenceOptions)
    api_key_env: str | None = None
    """Name of an environment variable with the API key that requests must have."""
    api_key_file: Path | None = None
    """File with the API keys that requests must have, one in each line."""
    access_log: bool = True
    """Write a line of JSON for each response to the standard output; --no-access-log writes none."""


def run(argv: Sequence[str]) -> int:
    """Run `sais serve`."""
    arguments = parse(ServeArguments, argv, "sais serve MODEL")
    from sais.serving.launch import model_paths, read_api_keys

    try:
        paths = model_paths(arguments.models)
    except InputError as error:
        raise InputError(f"sais serve: {error}") from None
    for path in paths.values():
        check_model(path)
    keys = read_api_keys(arguments.api_key_env, arguments.api_key_file)
    from sais.serving.security import LOOPBACK_NAMES
    from sais.serving.server import WorkerFactory, address_of, is_loopback, open_socket, run_server

    opened = open_socket(arguments.host, arguments.port)
    local = is_loopback(opened)
    if local:
        hosts = (*arguments.serving.allowed_hosts, *LOOPBACK_NAMES)
        arguments = replace(arguments, serving=replace(arguments.serving, allowed_hosts=hosts))
    if is_quiet():  # processes of their own know nothing of --quiet
        arguments = replace(arguments, access_log=False)
    application = Application(arguments, paths, keys)
    app = application() if arguments.workers == 1 else None  # errors are reported before anything listens
    names = ", ".join(map(printable, paths))
    print_text(
        f"serving {names} at {address_of(opened)}", *_notes(arguments.host, local, bool(keys)), sep="\n", flush=True
    )
    if app is not None:
        return run_server(lambda: app, opened, arguments.serving)
    return run_server(WorkerFactory(application, report_error), opened, arguments.serving, arguments.workers)


@dataclass(frozen=True)
class Application:
    """Makes the application in any process: opens the models and builds the routes.

    Args:
        arguments: command line.
        paths: paths of the models by name.
        keys: API keys.
    """

    arguments: ServeArguments
    paths: dict[str, Path]
    keys: tuple[str, ...]

    def __call__(self) -> FastAPI:
        """Return the application."""
        import logging

        from sais.inference.backends.onnxruntime import passive_threads
        from sais.serving.access_log import AccessLog
        from sais.serving.app import create_app

        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it warns about each malformed form

        with passive_threads():
            models: dict[str, Predictor] = {
                name: open_predictor("serve", path, self.arguments.inference) for name, path in self.paths.items()
            }
        log = AccessLog(None if self.arguments.access_log else False)
        return create_app(models, self.arguments.serving, self.keys, log, ready_first=self.arguments.workers > 1)


def report_error(error: Exception) -> None:
    """Print the error with which a process could not start."""
    if not isinstance(error, SaisError):
        raise error
    print_text(f"sais: error: {error_message(error)}", file=sys.stderr, flush=True)


def _notes(host: str, local: bool, has_keys: bool) -> list[str]:
    """Return lines about who can reach the service."""
    if local:
        return ["only this machine can reach it; --host 0.0.0.0 opens it to the network, best with --api-key-file"]
    notes = [f"everyone who reaches {printable(host)} can use it; --api-key-file limits it"]
    return [*([] if has_keys else notes), "HTTP is not encrypted: put a proxy with TLS in front of it"]
