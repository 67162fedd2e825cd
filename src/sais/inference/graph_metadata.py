"""What an exported graph says about itself: the text that travels inside the file, the same in every format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from sais._version import __version__
from sais.config import Experiment, from_dict, to_dict
from sais.errors import SaisError

FORMAT = "sais-graph-1"
EXPORTED_SUFFIXES = (".onnx", ".xml")
"""Suffixes of files that run without torch."""

GraphName = Literal["raw", "detections", "masks"]

INPUT_RULES = (
    "images: uint8 (B, 3, height, width), RGB, sides multiples of 32; normalization is inside. "
    "mode fixed: the image resized to size (height, width), bilinear with antialiasing. "
    "mode keep_ratio: scaled until the short side is size[0] or the long side size[1], at the top left of a canvas "
    "that is padded right and below with (124, 116, 104) to multiples of 32. "
    "contents (not of the raw graph): float32 (B, 2), height and width of each image on its canvas."
)


@dataclass(frozen=True)
class GraphMetadata:
    """Everything a program needs to use a graph without having seen the training."""

    graph: GraphName
    """raw: dense outputs. detections: suppression inside. masks: detections and their masks on the prototype grid."""
    experiment: Experiment
    """Input mode and size, thresholds, mask margin."""
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    """The data set's own id of each class."""
    precision: str = "fp32"
    """fp32, fp16 or int8."""

    def to_text(self) -> dict[str, str]:
        """Key -> text, for the metadata of a file."""
        return {
            "format": FORMAT,
            "sais_version": __version__,
            "graph": self.graph,
            "precision": self.precision,
            "class_names": json.dumps(self.class_names),
            "category_ids": json.dumps(self.category_ids),
            "input_rules": INPUT_RULES,
            "input_mode": self.experiment.input.mode,
            "input_size": json.dumps(self.experiment.input.size),
            "experiment": json.dumps(to_dict(self.experiment)),
        }


def from_text(text: dict[str, str], where: str) -> GraphMetadata:
    """The metadata that `GraphMetadata.to_text` wrote.

    Raises:
        SaisError: the file was not exported by sais, or by a later version with another format.
    """
    if text.get("format") != FORMAT:
        raise SaisError(
            f"{where}: not a graph that `sais export` wrote (format {text.get('format')!r}, not {FORMAT!r})"
        )
    graph = text.get("graph")
    if graph not in ("raw", "detections", "masks"):
        raise SaisError(f"{where}: an unknown graph {graph!r}; export it again")
    try:
        return GraphMetadata(
            graph=graph,  # type: ignore[arg-type]
            experiment=from_dict(Experiment, json.loads(text["experiment"]), where),
            class_names=tuple(json.loads(text["class_names"])),
            category_ids=tuple(json.loads(text["category_ids"])),
            precision=text.get("precision", "fp32"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SaisError(f"{where}: its metadata is damaged ({error}); export it again") from error
