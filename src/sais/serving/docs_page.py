"""The page /docs: the interface as plain HTML, made from the OpenAPI document; it needs no script."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

_EXAMPLES = {
    "/v1/predict": (
        "curl --data-binary @image.jpg -H 'Content-Type: image/jpeg' 'http://127.0.0.1:8000/v1/predict?score=0.5'",
        "curl -F images=@a.jpg -F images=@b.jpg http://127.0.0.1:8000/v1/predict",
        "curl -F images=@image.jpg -H 'Accept: image/png' -o drawn.png http://127.0.0.1:8000/v1/predict",
    ),
    "/v1/models": ("curl http://127.0.0.1:8000/v1/models",),
}
"""Path -> command lines."""


def docs_page(openapi: dict[str, Any]) -> str:
    """Return the HTML of an OpenAPI document."""
    body = "\n".join(_sections(openapi))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>sais: HTTP interface</title>\n'
        f'<link rel="stylesheet" href="/static/docs.css">\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _sections(openapi: dict[str, Any]) -> Iterator[str]:
    yield f"<h1>{_text(openapi['info']['title'])}: HTTP interface</h1>"
    yield f"<p>{_text(openapi['info']['description'])}</p>"
    yield (
        '<p>The same for programs: <a href="/openapi.json">openapi.json</a>. '
        'In the browser: <a href="/">the page</a>.</p>'
    )
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield f"<section>\n<h2><code>{method.upper()} {_text(path)}</code></h2>"
            yield f"<p>{_text(operation.get('description', operation.get('summary', '')))}</p>"
            yield from (f"<pre><code>{_text(line)}</code></pre>" for line in _EXAMPLES.get(path, ()))
            if operation.get("requestBody"):
                types = ", ".join(f"<code>{_text(name)}</code>" for name in operation["requestBody"]["content"])
                yield f"<p>Body: {types}</p>"
            yield from _parameters(operation.get("parameters", []))
            answers = [
                (f"<code>{_text(status)}</code>", _text(answer["description"]))
                for status, answer in operation["responses"].items()
            ]
            yield from _table(("status", "response"), answers)
            yield "</section>"
    yield "<section>\n<h2>Objects</h2>"
    for name, schema in openapi.get("components", {}).get("schemas", {}).items():
        yield f"<h3><code>{_text(name)}</code></h3>\n<p>{_text(schema.get('description', ''))}</p>"
        rows = [
            (f"<code>{_text(field)}</code>", _text(_type(value)), _text(value.get("description", "")))
            for field, value in schema.get("properties", {}).items()
        ]
        yield from _table(("field", "type", "meaning"), rows)
    yield "</section>"


def _parameters(parameters: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        (
            f"<code>{_text(parameter['name'])}</code>",
            _text(_type(parameter["schema"])),
            _text(parameter.get("description", parameter["schema"].get("description", ""))),
        )
        for parameter in parameters
    ]
    yield from _table(("option", "type", "meaning"), rows)


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield "<table>\n<thead><tr>" + "".join(f'<th scope="col">{name}</th>' for name in columns) + "</tr></thead>"
        yield "<tbody>" + "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        yield "</tbody>\n</table>"


def _type(schema: dict[str, Any]) -> str:
    """Return the type of a schema in a few words."""
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(member) for member in schema[key])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = [f"{word} {schema[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([str(schema.get("type", "any")), *limits])


def _text(value: object) -> str:
    return html.escape(str(value))
