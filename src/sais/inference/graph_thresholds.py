"""Score thresholds of an exported file, replaced in its metadata; the graph stays as it is. Needs no torch."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from xml.sax.saxutils import quoteattr

from sais.errors import CheckpointError, MissingDependencyError
from sais.inference.graph_checksum import ENTRY, PREFIXES, check_seal, placeholder, seal
from sais.inference.score_thresholds import ScoreThresholds
from sais.io.atomic import atomic_write

_NAME = "thresholds"


def store_graph_thresholds(path: Path, thresholds: ScoreThresholds) -> None:
    """Replace the score thresholds in an `.onnx` or `.xml` file that sais has exported, atomically.

    Args:
        path: path of the file.
        thresholds: thresholds to store.

    Raises:
        CheckpointError: the file is damaged, or another program has changed it.
        MissingDependencyError: the package onnx is not installed, which writes `.onnx` files.
        ResourceError: the file cannot be read or written.
    """
    check_seal(path)
    text = json.dumps(thresholds.to_dict())
    if path.suffix == ".xml":
        _store_in_xml(path, text)
    else:
        _store_in_onnx(path, text)


def _store_in_onnx(path: Path, text: str) -> None:
    try:
        import onnx
    except ImportError:
        raise MissingDependencyError(
            f'{path}: thresholds are written by the package onnx. Run: pip install "sais-seg[export]"', "onnx", "export"
        ) from None
    model = onnx.load(str(path))
    values = {_NAME: text, ENTRY: placeholder(".onnx")}
    entries = [entry for entry in model.metadata_props if entry.key in values]
    if len(entries) != len(values):
        raise CheckpointError(f"{path}: damaged metadata. Export it again.")
    for entry in entries:
        entry.value = values[entry.key]
    with atomic_write(path) as temporary:
        onnx.save(model, str(temporary))
        seal(temporary)


def _store_in_xml(path: Path, text: str) -> None:
    content = path.read_text(encoding="utf-8")
    entry = f"<{_NAME} value={quoteattr(text, {chr(34): '&quot;'})}"
    # OpenVINO keeps a second copy of the entries, those of the .onnx file that it has converted.
    content, count = re.subn(rf'<{_NAME} value="[^"]*"', lambda match: entry, content)
    prefix = PREFIXES[".xml"]
    content = re.sub(rf"{prefix}[0-9a-f]{{64}}", placeholder(".xml"), content)
    if not count:
        raise CheckpointError(f"{path}: damaged metadata. Export it again.")
    with atomic_write(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="")
        os.symlink(path.with_suffix(".bin").absolute(), temporary.with_suffix(".bin"))  # the checksum is of both files
        seal(temporary)
