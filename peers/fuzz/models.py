"""Cases of model files: checkpoints and exported graphs."""

from __future__ import annotations

import functools
import json
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

from peers.fuzz.mutation import json_text, mutate_bytes, mutate_json, odd_text
from peers.fuzz.oracle import Case, run_command
from peers.fuzz.samples import Samples
from sais.inference.graph_checksum import ENTRY, placeholder, seal


def checkpoints(rng: Random, samples: Samples, folder: Path) -> Case:
    """Checkpoints: prediction with the file, and in some cases resuming and fine-tuning from it."""
    run = folder / "run"
    shutil.copytree(samples.run, run, ignore=shutil.ignore_patterns("*.safetensors"))
    path = run / "last.safetensors"
    content = (samples.run / "last.safetensors").read_bytes()
    chance = rng.random()
    if chance < 0.2:
        path.write_bytes(mutate_bytes(rng, content))
    elif chance < 0.35:
        path.write_bytes(_with_changed_header(rng, content))
    else:
        _write_changed(rng, samples.run / "last.safetensors", path)
    image = next(samples.images.iterdir())
    chance = rng.random()
    train = ["train", "--data", str(samples.data), "--max-iterations", "2", "--workers", "0"]
    if chance < 0.1:
        argv = [*train, "--resume", "--out", str(run)]
        return Case(lambda: run_command(argv), "sais " + " ".join(argv), may_change=(run,))
    if chance < 0.15:
        argv = [*train[:1], str(samples.settings), *train[1:], "--weights", str(path), "--out", "run"]
        return Case(lambda: run_command(argv), "sais " + " ".join(argv))
    if chance < 0.3:
        argv = ["predict", str(path), str(image), "--score", "0", "--device", "cpu"]
        return Case(lambda: run_command(argv), "sais " + " ".join(argv))
    return Case(lambda: _predict(path, image), "Predictor")


def graphs(rng: Random, samples: Samples, folder: Path) -> Case:
    """Exported graphs: prediction with each, in its runtimes."""
    source = rng.choice(samples.graphs)
    path = folder / source.name
    for name in {source.name, source.with_suffix(".bin").name if source.suffix == ".xml" else source.name}:
        shutil.copy(source.with_name(name), folder / name)
    if source.suffix == ".xml" and rng.random() < 0.5:
        _change_xml_metadata(rng, path)
    elif source.suffix == ".xml":
        target = rng.choice((path, path, path.with_suffix(".bin")))
        target.write_bytes(mutate_bytes(rng, target.read_bytes()))
    elif rng.random() < 0.4:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    else:
        _change_metadata(rng, path)
    image = next(samples.images.iterdir())
    if rng.random() < 0.15:
        argv = ["predict", str(path), str(image), "--score", "0"]
        return Case(lambda: run_command(argv), "sais " + " ".join(argv))
    runtime = rng.choice(("auto", "auto", "openvino")) if source.suffix == ".onnx" else "auto"
    return Case(lambda: _predict(path, image, runtime=runtime), f"Predictor {path.name} {runtime}")


def _predict(path: Path, image: Path, **options: Any) -> None:
    import sais

    sais.Predictor(path, score=0.0, threads=1, **options)(image).rle()


def _with_changed_header(rng: Random, content: bytes) -> bytes:
    """Return a safetensors file whose header of names, types and offsets is changed."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json_text(rng, mutate_json(rng, json.loads(content[8 : 8 + length])))
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


@functools.cache
def _parts(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


def _write_changed(rng: Random, source: Path, path: Path) -> None:
    """Write a checkpoint with changed metadata or tensors and a valid checksum."""
    from safetensors.torch import save_file

    from sais.checkpoint import _checksum

    metadata, tensors = (dict(part) for part in _parts(source))
    metadata.pop("checksum")
    if rng.random() < 0.75:
        key = rng.choice(("experiment", "experiment", "experiment", "state", "class_names", "category_ids"))
        metadata[key] = _change_text(rng, metadata[key])
    else:
        for name in rng.sample(sorted(tensors), rng.choice((1, 3))):
            tensors[name] = _change_tensor(rng, tensors[name])
    metadata["checksum"] = _checksum(tensors, metadata)
    save_file(tensors, path, metadata)


def _change_tensor(rng: Random, tensor: Any) -> Any:
    import torch

    value = rng.choice((float("nan"), float("inf"), -1e38, 0.0))
    changed = (
        torch.full_like(tensor, value) if tensor.is_floating_point() else torch.full_like(tensor, -1),
        tensor.to(torch.float16),
        tensor.reshape(-1),
        tensor[None].contiguous(),
        torch.zeros(0),
        torch.zeros(3, dtype=torch.int64),
    )
    return rng.choice(changed).clone()


def _change_metadata(rng: Random, path: Path) -> None:
    """Change the metadata of an ONNX file, which describes the model, or the shapes of its inputs and outputs.

    As a stranger could do, the checksum of changed metadata is right. Graphs with changed shapes have none: runtimes
    may end the process on them (SECURITY.md, native decoders).
    """
    import onnx

    graph = onnx.load(path)
    (checksum,) = (entry for entry in graph.metadata_props if entry.key == ENTRY)
    value = rng.choice([*graph.graph.input, *graph.graph.output])
    if rng.random() < 0.15 and (dimensions := value.type.tensor_type.shape.dim):
        rng.choice(list(dimensions)).dim_value = rng.choice((0, 1, 3, 7, 10**6))
        graph.metadata_props.remove(checksum)
        onnx.save(graph, path)
        return
    entry = rng.choice([entry for entry in graph.metadata_props if entry.key != ENTRY])
    entry.value = _change_text(rng, entry.value)
    if rng.random() < 0.1:
        graph.metadata_props.remove(entry)
    checksum.value = placeholder(".onnx")
    onnx.save(graph, path)
    seal(path)


def _change_xml_metadata(rng: Random, path: Path) -> None:
    """Change an entry of the metadata of an OpenVINO file, with the right checksum."""
    entries = ElementTree.parse(path)
    metadata = entries.find("rt_info/sais")
    assert metadata is not None, f"{path}: no metadata"
    entry = rng.choice([entry for entry in metadata if entry.tag != ENTRY])
    text = _change_text(rng, entry.get("value", ""))
    entry.set("value", "".join(letter for letter in text if letter.isprintable()))  # XML has no control characters
    for checksum in metadata.findall(ENTRY):
        checksum.set("value", placeholder(".xml"))
    entries.write(path, encoding="utf-8", xml_declaration=True)
    seal(path)


def _change_text(rng: Random, text: str) -> str:
    """Change a text that is JSON in most cases."""
    try:
        content = json.loads(text)
    except ValueError:
        return odd_text(rng, text).encode("utf-8", "replace").decode()
    return json_text(rng, mutate_json(rng, content)).decode("utf-8", "replace")
