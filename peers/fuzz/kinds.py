"""The kinds of input that are fuzzed, each with the function that makes a case of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from peers.fuzz import command_lines, documents, images, labels, models
from peers.fuzz.oracle import Case
from peers.fuzz.samples import Samples

KINDS: dict[str, Callable[[Random, Samples, Path], Case]] = {
    "annotations": documents.coco_annotations,
    "labels": labels.label_files,
    "images": images.image_files,
    "videos": images.video_files,
    "checkpoints": models.checkpoints,
    "graphs": models.graphs,
    "logs": documents.run_logs,
    "detections": documents.saved_detections,
    "settings": documents.settings_files,
    "commands": command_lines.command_lines,
}
"""Kind -> (generator, samples, folder of the inputs) -> a case."""
