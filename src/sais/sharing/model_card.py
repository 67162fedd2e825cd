"""The model card: README.md of a package, with the metadata of the Hub, from what the model's file states."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sais.errors import ConfigError
from sais.hub import GRAPH
from sais.text import printable, short_name

LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0"),
    *("agpl-3.0", "mpl-2.0", "epl-2.0", "eupl-1.2", "openrail", "ms-pl", "wtfpl", "zlib"),
)
"""Licenses that the Hub knows; others are `other` there, with their name."""
MAX_LICENSE = 100
FEW_OBJECTS = 50
"""Number of training objects below which a class has few examples."""
MAX_NAMES = 10
"""Maximum number of classes that a sentence names."""
MAX_CLASSES = 200
"""Maximum number of rows of the table of classes; model.json has all."""
SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")


@dataclass(frozen=True)
class CardFacts:
    """What a model card states."""

    name: str
    """Title."""
    info: dict[str, Any]
    """Content of the model's file; see `sais.inference.model_info.read_model_info`."""
    source: str
    """What `Predictor.from_pretrained` is given: owner/name, or the name of the folder."""
    data_name: str = ""
    """Name of the data set; empty if it is unknown."""
    curve: str = ""
    """Path of the chart of the training curve in the package; empty for none."""
    examples: Sequence[str] = ()
    """Paths of the example images in the package."""
    has_graph: bool = False
    """Whether the package contains an exported graph."""


def check_license(text: str) -> str:
    """Return the identifier of a license in the spelling of the Hub, or the name of another license.

    Raises:
        ConfigError: the text is empty, too long, or has several lines.
    """
    text = text.strip()
    if not text or len(text) > MAX_LICENSE or printable(text) != text:
        raise ConfigError(
            f"license: {short_name(text)!r} is not a name in one line of at most {MAX_LICENSE} characters. Give an "
            "identifier such as apache-2.0 or cc-by-4.0, or the name of your license."
        )
    return text.lower() if text.lower() in LICENSES else text


def model_card(facts: CardFacts) -> str:
    """Return the model card as Markdown, with metadata for the Hub at its start."""
    import yaml

    metadata = yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True, width=1000)
    sections = (_introduction, _use, _data, _metrics, _limits, _training, _examples, _license)
    blocks = ["\n".join(section(facts)) for section in sections]
    return "---\n" + metadata + "---\n\n" + "\n\n".join(block for block in blocks if block) + "\n"


def with_repository(card: str, repository: str) -> str:
    """Return the model card of a package whose example opens owner/name instead of the local folder, if it is there."""
    opens_folder = r'(predictor = Predictor\.from_pretrained\()"(?:[^"\\/]|\\.)*"\)'
    changed, count = re.subn(opens_folder, rf'\g<1>"{repository}")', card, count=1)
    for extra in ("train", "onnx") if count else ():
        changed = changed.replace(f'pip install "sais-seg[{extra}]"', f'pip install "sais-seg[{extra},hub]"', 1)
    return changed


def _metadata(facts: CardFacts) -> dict[str, Any]:
    """Return the metadata of the Hub: license, library, task, tags, results."""
    info, license_name = facts.info, facts.info.get("license")
    metadata: dict[str, Any] = {}
    if license_name:
        known = license_name in LICENSES
        metadata |= {"license": license_name} if known else {"license": "other", "license_name": license_name}
    metadata |= {"library_name": "sais", "pipeline_tag": "image-segmentation"}
    tags = ["sais", "instance-segmentation" if info["masks"] else "object-detection", "computer-vision"]
    metadata["tags"] = [*tags, *(["onnx"] if facts.has_graph else [])]
    scores = [
        {"type": f"{kind}_{name.lower()}", "value": round(value, 4), "name": f"{kind} {name}"}
        for kind in ("mask", "box")
        for name in ("AP", "AP50")
        if isinstance(value := _scores(info, kind).get(name), float)
    ]
    if scores:
        data = f"{facts.data_name or 'data set of the author'} ({_split(info)})"
        task = {"type": "image-segmentation", "name": "instance segmentation"}
        dataset = {"type": facts.data_name or "custom", "name": data}
        results = [{"task": task, "dataset": dataset, "metrics": scores}]
        metadata["model-index"] = [{"name": facts.name, "results": results}]
    return metadata


def _introduction(facts: CardFacts) -> Iterator[str]:
    info = facts.info
    yield f"# {_escape(facts.name)}"
    yield ""
    what = "Instance segmentation" if info["masks"] else "Object detection (boxes only)"
    found = "a class, a score, a box and a mask" if info["masks"] else "a class, a score and a box"
    count = len(info["classes"])
    yield (
        f"{what} of {count} class{'es' if count != 1 else ''} with [sais](https://pypi.org/project/sais-seg/): every "
        f"object gets {found}. Backbone {_escape(info['backbone'])}, {info['parameters'] / 1e6:.1f} million parameters."
    )


def _use(facts: CardFacts) -> Iterator[str]:
    source = json.dumps(facts.source, ensure_ascii=not facts.source.isprintable())
    extra = "train,hub" if "/" in facts.source else "train"
    yield "## Use"
    yield ""
    yield f'`pip install "sais-seg[{extra}]"`, then:'
    yield ""
    yield "```python"
    yield "from sais import Predictor"
    yield f"predictor = Predictor.from_pretrained({source})"
    yield 'detections = predictor("image.jpg")'
    yield "```"
    thresholds = _group(facts.info["thresholds"])
    if thresholds:
        yield ""
        yield (
            f"The model uses its own score threshold of {thresholds['overall']:.3g}"
            f"{', for some classes another one' if thresholds['per_class'] else ''}; `score=0.5` sets another."
        )
    if facts.has_graph:
        yield ""
        yield f'`{GRAPH}` needs no PyTorch: `pip install "sais-seg[onnx{",hub" if "/" in facts.source else ""}]"`.'


def _data(facts: CardFacts) -> Iterator[str]:
    info, data = facts.info, _group(facts.info["data"])
    counts = _list(data.get("objects_per_class"))
    yield "## Training data"
    yield ""
    if data:
        named = f"{_escape(facts.data_name)}, " if facts.data_name else ""
        yield (
            f"{named}split {_escape(data.get('split'))}: {_count(data, 'images')} images, {_count(data, 'objects')} "
            f"objects. Digest of the labels: `{_escape(data.get('digest'))}`."
        )
    else:
        images = f": {info['images']} images" if info["images"] is not None else ""
        yield f"{_escape(facts.data_name) or 'Unnamed'}{images}. The file of the model has no digest of the labels."
    yield ""
    kinds = [kind for kind in ("mask", "box") if _per_class(info, kind)]
    yield "| class | objects |" + "".join(f" {kind} AP |" for kind in kinds)
    yield "|---|---|" + "---|" * len(kinds)
    for label, item in enumerate(info["classes"][:MAX_CLASSES]):
        count = counts[label] if label < len(counts) else "-"
        scores = "".join(f" {_number(_per_class(info, kind).get(item['name']))} |" for kind in kinds)
        yield f"| {_escape(item['name'])} | {count} |{scores}"
    if len(info["classes"]) > MAX_CLASSES:
        yield ""
        yield f"{len(info['classes']) - MAX_CLASSES} further classes are in `model.json`."


def _metrics(facts: CardFacts) -> Iterator[str]:
    info, metrics = facts.info, _group(facts.info["metrics"])
    yield "## Metrics"
    yield ""
    kinds = [kind for kind in ("mask", "box") if _scores(info, kind)]
    if not kinds:
        yield "The model was not evaluated."
        return
    yield (
        f"COCO metrics on the split {_escape(_split(info))} ({_count(metrics, 'images')} images, "
        f"{_count(metrics, 'objects')} objects), as fractions of 1. The split was also used to choose the score "
        "thresholds and may have been used to choose the weights, so that new images of the same kind can give "
        "slightly lower figures."
    )
    yield ""
    yield "| |" + "".join(f" {name} |" for name in SCORES)
    yield "|---|" + "---|" * len(SCORES)
    for kind in kinds:
        yield f"| {kind} |" + "".join(f" {_number(_scores(info, kind).get(name))} |" for name in SCORES)
    thresholds = _group(info["thresholds"])
    if thresholds:
        yield ""
        yield (
            f"With scores of at least {thresholds['overall']:.3g}, F1 of {thresholds['kind']} is "
            f"{thresholds['f1']:.3f} on {_escape(thresholds['split'])}."
        )


def _limits(facts: CardFacts) -> Iterator[str]:
    info, data = facts.info, _group(facts.info["data"])
    yield "## Limits"
    yield ""
    sizes = _list(data.get("object_sizes"))
    if len(sizes) == 3:
        yield (
            f"- Objects in training were {sizes[0]:g} to {sizes[2]:g} pixels large (square root of the box area; "
            f"median {sizes[1]:g}). Smaller ones were never seen."
        )
    else:
        yield "- The sizes of the objects in training are not known."
    mode, (height, width) = info["input"]["mode"], info["input"]["size"]
    resized = (
        f"resized to {height} x {width} pixels" if mode == "fixed" else f"scaled to a short side of {height} pixels"
    )
    yield f"- Images are {resized}: small objects in large images are lost, unless they are predicted in `tiles`."
    counts = dict(zip((item["name"] for item in info["classes"]), _list(data.get("objects_per_class")), strict=False))
    few = [f"{_escape(name)} ({count})" for name, count in counts.items() if count < FEW_OBJECTS]
    if few:
        yield f"- Classes with fewer than {FEW_OBJECTS} training objects: {_enumerate(few)}."
    kind = "mask" if _per_class(info, "mask") else "box"
    scored = sorted((score, name) for name, score in _per_class(info, kind).items() if isinstance(score, float))
    if len(scored) > 1:
        lowest = [f"{_escape(name)} ({score:.3f})" for score, name in scored[: min(3, len(scored) // 2)]]
        yield f"- Known errors: the classes with the lowest {kind} AP are {_enumerate(lowest)}."
    recall = _scores(info, kind).get("AR100")
    if isinstance(recall, float):
        what = "masks" if kind == "mask" else "boxes"
        yield f"- Average recall of {what} is {recall:.3f}: some objects are missed at any score."
    limit = _group(_group(info["settings"]).get("postprocess")).get("max_detections")
    yield f"- An image has at most {limit} detections, unless `max_detections` is raised."
    yield "- The model was not tested on images of another kind, such as another camera, light or region."


def _training(facts: CardFacts) -> Iterator[str]:
    info = facts.info
    versions = ", ".join(f"{_escape(name)} {_escape(value)}" for name, value in _group(info["versions"]).items())
    seconds = info["seconds"]
    yield "## Training"
    yield ""
    yield f"Recipe {_escape(info['recipe'])}; all settings are in `experiment.json`, which `sais train` accepts."
    yield ""
    if info["averaged"]:
        yield f"- Weights: average of {_enumerate([_escape(name) for name in _list(info['averaged'])])}"
    if info["iteration"] is not None:
        duration = f" in {seconds / 60:.0f} minutes" if isinstance(seconds, int | float) else ""
        yield f"- Iterations: {info['iteration']}{duration}"
    yield f"- Versions: {versions or 'unknown'}"
    if facts.curve:
        yield ""
        yield f"![Training loss and AP]({facts.curve})"


def _examples(facts: CardFacts) -> Iterator[str]:
    if not facts.examples:
        return
    yield "## Examples"
    yield ""
    yield f"Images of the split {_escape(_split(facts.info))}, evenly spaced. Left: labels. Right: detections."
    for example in facts.examples:
        yield ""
        yield f"![Labels and detections]({example})"


def _license(facts: CardFacts) -> Iterator[str]:
    name = facts.info.get("license")
    yield "## License"
    yield ""
    yield f"{_escape(name)}." if name else "No license is stated: ask the author before you use the model."


def _split(info: dict[str, Any]) -> str:
    """Return the name of the split that the metrics are of."""
    return str(_group(info["thresholds"]).get("split") or "valid")


def _scores(info: dict[str, Any], kind: str) -> dict[str, Any]:
    return _group(_group(info["metrics"]).get(kind))


def _per_class(info: dict[str, Any], kind: str) -> dict[str, Any]:
    return _group(_scores(info, kind).get("per_class"))


def _group(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"


def _count(group: dict[str, Any], name: str) -> str:
    return str(group.get(name) if group.get(name) is not None else "an unknown number of")


def _enumerate(names: list[str]) -> str:
    """Join names, at most `MAX_NAMES` of them."""
    more = f" and {len(names) - MAX_NAMES} others" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _escape(value: Any) -> str:
    """Return a value as text of Markdown in one line, also inside of a table."""
    return "" if value is None else re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", short_name(value))
