"""`sais info MODEL`: what a model file states about itself: settings, classes, metrics, data, versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sais.commands.arguments import parse
from sais.commands.open_predictor import check_model
from sais.config import flatten
from sais.text import print_json, print_text, shorten

MAX_TEXT = 1000
"""Maximum number of characters of a value in the text; `--json` has all."""


@dataclass(frozen=True)
class InfoArguments:
    """Print what a model file states: classes, metrics, training data, versions, settings. AP as fractions of 1."""

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file, folder of a training run, or exported file (.onnx and .xml need no PyTorch)."""
    settings: bool = False
    """Also print every setting of the training run."""
    json: bool = False
    """Print JSON, with the settings and all metrics."""
    trust: bool = False
    """Open an exported file that another program has changed."""


def run(argv: Sequence[str]) -> int:
    """Run `sais info`."""
    arguments = parse(InfoArguments, argv, "sais info MODEL")
    check_model(arguments.model)
    from sais.inference.model_info import read_model_info

    info = read_model_info(arguments.model, arguments.trust)
    if arguments.json:
        print_json(info)
        return 0
    rows = [*_rows(info), *(flatten(info["settings"]).items() if arguments.settings else ())]
    width = max(len(name) for name, _ in rows)
    print_text(*(f"{name:<{width}}  {shorten(str(value), MAX_TEXT)}" for name, value in rows), sep="\n")
    return 0


def _rows(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines of the text: a name and a value; nothing for what the file does not state."""
    yield "file", f"{info['file']} ({info['size_bytes'] / 1e6:.1f} MB, modified {info['modified']})"
    detail = f"{info['parameters']:,} parameters" if "parameters" in info else info["graph"]
    shape = ", dynamic shape" if info.get("dynamic_shape") else ""
    precision = f", {info['precision']}" if "precision" in info else ""
    yield "kind", f"{info['kind']}, {detail}{precision}{shape}"
    yield "recipe", info["recipe"]
    yield "network", f"{info['architecture']}, {info['backbone']}, {'masks' if info['masks'] else 'boxes only'}"
    yield "input", f"{info['input']['mode']}, {' x '.join(map(str, info['input']['size']))}"
    yield f"classes ({len(info['classes'])})", ", ".join(item["name"] for item in info["classes"])
    yield from _training_rows(info)


def _training_rows(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the lines about training, whose values come from the file and may be of any type."""
    for kind in ("mask", "box"):
        scores = _group(_group(info["metrics"]).get(kind))
        values = [
            f"{name} {scores[name]:.3f}" for name in ("AP", "AP50", "AP75") if isinstance(scores.get(name), float)
        ]
        if values:
            yield f"{kind} metrics", ", ".join(values)
    thresholds = _group(info["thresholds"])
    if thresholds:
        chosen = f"{thresholds['criterion']} of {thresholds['kind']} on {thresholds['split']}"
        yield "threshold", f"score >= {thresholds['overall']:.3g}: {chosen}, F1 {thresholds['f1']:.3f}"
    data = _group(info["data"])
    if data:
        numbers = {name: value for name, value in data.items() if not isinstance(value, list)}
        yield "data", ", ".join(f"{name} {value}" for name, value in numbers.items())
        sizes = data.get("object_sizes")
        if isinstance(sizes, list) and len(sizes) == 3:
            yield (
                "object sizes",
                "minimum {}, median {}, maximum {} pixels (square root of the box area)".format(*sizes),
            )
    elif info["images"] is not None:
        yield "data", f"{info['images']} images"
    if info["iteration"] is not None:
        seconds = info["seconds"]
        duration = f" in {seconds / 60:.1f} minutes" if isinstance(seconds, int | float) else ""
        yield "training", f"{info['iteration']} iterations{duration}"
    if isinstance(info["averaged"], list):
        yield "averaged", ", ".join(map(str, info["averaged"]))
    if info["license"] is not None:
        yield "license", str(info["license"])
    versions = _group(info["versions"])
    if versions:
        yield "versions", ", ".join(f"{name} {value}" for name, value in versions.items())


def _group(value: Any) -> dict[str, Any]:
    """Return a group of values, or an empty one where the file has something else."""
    return value if isinstance(value, dict) else {}
