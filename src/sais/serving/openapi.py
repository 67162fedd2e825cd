"""The OpenAPI document: the schemas of the routes, completed by what only this service knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sais.serving.security import PROTECTED
from sais.serving.service import Service

MAX_LISTED_CLASSES = 2000
"""Maximum number of class names that the document lists."""


def completed(generate: Callable[[], dict[str, Any]], service: Service, has_keys: bool) -> Callable[[], dict[str, Any]]:
    """Return a function that generates the document once, with the classes, the limits and the API key.

    Args:
        generate: function that generates the document of the routes.
        service: models and limits.
        has_keys: whether requests need an API key.
    """
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(generate())
            _add_limits(document, service)
            if has_keys:
                _add_keys(document)
        return document

    return openapi


def _add_limits(document: dict[str, Any], service: Service) -> None:
    operation = document["paths"]["/v1/predict"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    form["properties"]["images"]["maxItems"] = service.options.max_images
    parameters = {entry["name"]: entry for entry in operation["parameters"]}
    parameters["max_detections"]["schema"]["maximum"] = service.options.max_objects
    names = sorted({name for model in service.models.values() for name in model.predictor.class_names})
    if len(names) <= MAX_LISTED_CLASSES:
        parameters["classes"]["schema"]["items"]["enum"] = names


def _add_keys(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    for path, methods in document["paths"].items():
        if path.startswith(PROTECTED):
            for operation in methods.values():
                operation["security"] = [{"header": []}, {"bearer": []}]
