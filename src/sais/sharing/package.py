"""Packages: a folder with a model, its settings and its model card, ready to be copied or pushed to the Hub.

A package has only what others need: the weights of the prediction, not the state of the optimizer, and no paths, host
names or images of this machine, unless examples are asked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.checkpoint import Checkpoint, add_prefix, find_checkpoint, load_checkpoint, save_checkpoint
from sais.config import to_dict
from sais.errors import CheckpointError, InputError, SaisError
from sais.hub import GRAPH, WEIGHTS, name_in_cache
from sais.inference.metadata import ORIGIN
from sais.inference.model_info import read_model_info
from sais.io.atomic import atomic_write, write_bytes, write_text
from sais.io.outputs import check_outputs, written_by
from sais.sharing.model_card import CardFacts, check_license, model_card

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.reports.run_record import RunRecord

WRITER = "sais package"
CARD, INFO, SETTINGS = "README.md", "model.json", "experiment.json"
CURVE, EXAMPLES = "training_curve.png", "examples"
MAX_EXAMPLES = 24
PACKAGE_FILES = re.compile(
    "|".join(map(re.escape, (CARD, INFO, SETTINGS, WEIGHTS, GRAPH, CURVE))) + rf"|{EXAMPLES}/\d\d\.jpg"
)
"""Paths of the files of a package: nothing else is pushed."""
_MARK = re.compile(r"\n<!-- Written by sais package; ([0-9a-f]{16}) -->\n\Z")


@dataclass(frozen=True)
class PackageOptions:
    """What a package contains in addition to the model."""

    license: str | None = None
    """License of the model, such as apache-2.0 or cc-by-4.0; stored in the model. Default: the one stored in it."""
    onnx: Path | None = None
    """Exported file (.onnx) of the same model to add, for machines without PyTorch."""
    examples: int = 0
    """Number of validation images to publish in the model card, with labels and detections. Default: none."""
    name: str = ""
    """Title of the model card. Default: the name of the run or of the repository."""
    overwrite: bool = False
    """Replace files that an earlier package did not write, or whose model card was edited."""
    trust: bool = False
    """Import and run code outside of sais that the model names, for the examples."""


def package_model(
    model: str | Path,
    out: str | Path,
    options: PackageOptions | None = None,
    repository: str = "",
    valid: DatasetSplit | None = None,
    **changes: Any,
) -> list[Path]:
    """Write the package of a trained model: weights, settings, model card.

    Args:
        model: run folder, checkpoint, or hf://owner/name.
        out: folder to write to.
        options: content of the package; the defaults if None.
        repository: owner/name, for the example in the model card.
        valid: images of the examples; those of the run's log if None.
        changes: single options by name, replacing those of `options`: license, onnx, examples, name, ...

    Returns:
        The files of the package.

    Raises:
        CheckpointError: there is no such model, or the exported file is of another one.
        ConfigError: the license is no name.
        InputError: a file would be replaced, or the images of the examples are not there.
    """
    options = replace(options or PackageOptions(), **changes)
    folder, path = Path(out), find_checkpoint(Path(model))
    license_name = _check(options, folder, path)
    checkpoint = load_checkpoint(path)
    is_average = bool(checkpoint.state.get("averaged"))  # whose folder may have the log of one of its models
    record = None if is_average else _record(path.parent)
    if options.onnx is not None:
        _check_graph(options.onnx, path, checkpoint)
    examples = _draw(path, checkpoint, record, valid, options) if options.examples else []
    curve = None if record is None else _curve(record)
    write_text(folder / INFO, json.dumps({"written_by": WRITER}))  # marks the files of a package that is killed
    (folder / CARD).unlink(missing_ok=True)  # without which it is no package
    save_checkpoint(folder / WEIGHTS, _without_training_state(checkpoint, license_name))
    _remove_earlier(folder)
    shown = _write_examples(folder, examples)
    if curve is not None:
        write_bytes(folder / CURVE, curve)
    if options.onnx is not None:
        with atomic_write(folder / GRAPH) as temporary:
            shutil.copyfile(options.onnx, temporary)
    info = read_model_info(folder / WEIGHTS)
    write_text(folder / SETTINGS, json.dumps(to_dict(checkpoint.experiment), indent=2))
    entries = {name: value for name, value in info.items() if name not in ("file", "modified")}
    write_text(folder / INFO, json.dumps({"written_by": WRITER} | entries, indent=2))
    title = options.name or repository.rpartition("/")[2] or _title(path, folder)
    facts = CardFacts(title, info, repository or folder.resolve().name, "" if record is None else record.data)
    card = model_card(replace(facts, curve=CURVE if curve else "", examples=shown, has_graph=options.onnx is not None))
    write_text(folder / CARD, f"{card}\n<!-- Written by {WRITER}; {_digest(card)} -->\n")
    return package_files(folder)


def package_files(folder: Path) -> list[Path]:
    """Return the files of a package, in the order of their names.

    Raises:
        InputError: the folder is no package, or one of its files is a symbolic link.
    """
    if not is_package(folder):
        raise InputError(f"{folder}: not a package, which has {CARD}, {INFO} and {WEIGHTS}. Write one with package.")
    candidates = [*folder.iterdir(), *(folder / EXAMPLES).glob("*")]
    files = sorted(file for file in candidates if PACKAGE_FILES.fullmatch(file.relative_to(folder).as_posix()))
    for file in (*files, folder / EXAMPLES):
        if file.is_symlink():
            raise InputError(f"{file}: is a symbolic link, which is not followed. Put a copy of the file there.")
    return files


def is_package(folder: Path) -> bool:
    """Return whether a folder was written by `package_model`."""
    complete = all((folder / name).is_file() for name in (CARD, INFO, WEIGHTS))
    return complete and written_by(WRITER)(folder / INFO)


def _check(options: PackageOptions, folder: Path, path: Path) -> str | None:
    """Check what is known before the model is read; return the license."""
    if not 0 <= options.examples <= MAX_EXAMPLES:
        raise InputError(f"examples: {options.examples} is not between 0 and {MAX_EXAMPLES}. Choose fewer.")
    files = [folder / name for name in (CARD, INFO, SETTINGS, WEIGHTS, GRAPH, CURVE)]
    inputs = [path, *([options.onnx] if options.onnx else [])]
    check_outputs([*files, *_examples(folder)], inputs, options.overwrite, folder, own=_is_unchanged)
    return None if options.license is None else check_license(options.license)


def _check_graph(graph: Path, path: Path, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless an exported file has the classes and the iteration of a checkpoint."""
    if graph.suffix != ".onnx":
        raise InputError(f"{graph}: not an .onnx file. Export the model to ONNX.")
    info = read_model_info(graph)
    same_classes = tuple(item["name"] for item in info["classes"]) == checkpoint.class_names
    if not same_classes or info["iteration"] != checkpoint.state.get("iteration"):
        raise CheckpointError(f"{graph}: not an export of {path}. Export the model of the package again.")


def _without_training_state(checkpoint: Checkpoint, license_name: str | None) -> Checkpoint:
    """Return a checkpoint with the weights of the prediction, and of the state only what others need."""
    state = {name: checkpoint.state[name] for name in (*ORIGIN, "thresholds") if checkpoint.state.get(name) is not None}
    state |= {} if license_name is None else {"license": license_name}
    weights = add_prefix("model", checkpoint.part("model"))
    return Checkpoint(checkpoint.experiment, checkpoint.class_names, checkpoint.category_ids, weights, state)


def _examples(folder: Path) -> list[Path]:
    return [folder / EXAMPLES / f"{number:02}.jpg" for number in range(MAX_EXAMPLES)]


def _remove_earlier(folder: Path) -> None:
    """Remove the optional files of an earlier package, which were checked to be its own."""
    for path in (folder / GRAPH, folder / CURVE, *_examples(folder)):
        path.unlink(missing_ok=True)


def _is_unchanged(path: Path) -> bool:
    """Return whether a file is of an earlier package; a model card that was edited is not."""
    folder = path.parent.parent if path.parent.name == EXAMPLES else path.parent
    if not written_by(WRITER)(folder / INFO):
        return False
    if path.name != CARD:
        return True
    text = path.read_text(encoding="utf-8", errors="replace")
    mark = _MARK.search(text)
    return mark is not None and mark[1] == _digest(text[: mark.start()])


def _digest(card: str) -> str:
    return hashlib.sha256(card.rstrip("\n").encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _record(folder: Path) -> RunRecord | None:
    """Return the record of a run, or None where the folder has no readable log."""
    from sais.reports.run_record import read_run

    try:
        return read_run(folder)
    except SaisError:
        return None


def _title(path: Path, folder: Path) -> str:
    """Return the name of a run's folder or of a repository, or that of a file with a name of its own."""
    if name := name_in_cache(path):
        return name
    stem = path.stem
    return (path.resolve().parent.name if stem in ("model", "best", "last") else stem) or folder.resolve().name


def _curve(record: RunRecord) -> bytes | None:
    from sais.sharing.card_images import training_curve

    return training_curve(record)


def _draw(
    path: Path,
    checkpoint: Checkpoint,
    record: RunRecord | None,
    valid: DatasetSplit | None,
    options: PackageOptions,
) -> list[Any]:
    """Return the example images (H, W, 3)."""
    from sais.inference.predictor import Predictor
    from sais.sharing.card_images import example_images, valid_split

    if valid is None and record is None:
        raise InputError(f"{path}: without the log of its run, its validation images are not known. Give the data set.")
    split = valid if valid is not None or record is None else valid_split(record, checkpoint.class_names)
    assert split is not None
    return example_images(Predictor(path, trust=options.trust), split, options.examples)


def _write_examples(folder: Path, examples: list[Any]) -> list[str]:
    """Write images (H, W, 3), and return their paths in the folder."""
    from sais.io.image_writer import write_image

    paths = _examples(folder)[: len(examples)]
    for path, example in zip(paths, examples, strict=True):
        write_image(path, example, quality=85, writer=WRITER)
    return [path.relative_to(folder).as_posix() for path in paths]
