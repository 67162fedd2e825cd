"""The description of a YOLO data set: ``data.yaml``, or ``classes.txt`` where there is none (Label Studio).

A YAML file of a stranger is checked before it is loaded: a few aliases or a deep nesting can take all memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sais.data.annotation_limits import classes_problem, quoted
from sais.data.formats.coco_ids import as_integer
from sais.errors import InputError
from sais.input_limits import MAX_CATEGORIES
from sais.io.regular_file import is_regular_file, read_regular_file
from sais.io.yaml_document import parse_yaml

SPLIT_KEYS = ("train", "val", "valid", "test")
_MAX_BYTES = 2**20
_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_CLASSES = "classes.txt"


@dataclass(frozen=True)
class YoloConfig:
    """The description of a YOLO data set."""

    file: Path
    """The file it was read from."""
    classes: dict[int, str]
    """Class number -> name, ascending."""
    path: str
    """Folder to which the splits are relative, as the file writes it; perhaps of another machine."""
    splits: dict[str, list[str]]
    """Name of a split -> its folders or lists of files; empty for `classes.txt`."""
    count: int | None = None
    """Number of classes as the file states it (nc); None if it does not."""


def find_yolo_config(folder: Path) -> Path | None:
    """Return the file that describes the YOLO data set of a folder; None if there is none."""
    yaml_files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")], key=lambda path: _rank(path.name))
    for path in yaml_files:
        if is_regular_file(path) and path.stat().st_size <= _MAX_BYTES:
            lines = path.read_bytes().splitlines()
            keys = {line.partition(b":")[0].strip(b" \"'\t") for line in lines if b":" in line}
            if keys & {b"names", b"nc"} and keys & {key.encode() for key in SPLIT_KEYS}:
                return path
    has_labels = (folder / "labels").is_dir() and (folder / "images").is_dir()
    return folder / _CLASSES if has_labels and is_regular_file(folder / _CLASSES) else None


def read_yolo_config(path: Path) -> YoloConfig:
    """Read `data.yaml` or `classes.txt`.

    Raises:
        InputError: The file is malformed, or describes labels of keypoints.
        MissingDependencyError: PyYAML is not installed.
    """
    text = _decode(path)
    if path.name == _CLASSES:
        names = [line.strip() for line in text.rstrip().splitlines()]
        if "" in names:  # programs differ in whether it has a number
            raise InputError(f"{path}: line {names.index('') + 1} is empty. Name its class, or remove the line.")
        return YoloConfig(path, _check(path, dict(enumerate(names))), "", {})
    document = _load(path, text)
    if document.get("kpt_shape"):
        raise InputError(f"{path}: labels of keypoints. Export the data set for segmentation.")
    root = document.get("path")
    splits = {key: entries for key in SPLIT_KEYS if (entries := _entries(path, key, document.get(key)))}
    root = root if isinstance(root, str) else ""
    return YoloConfig(path, _read_names(path, document), root, splits, as_integer(document.get("nc")))


def _rank(name: str) -> tuple[int, str]:
    return (_NAMES.index(name) if name in _NAMES else len(_NAMES)), name


def _decode(path: Path) -> str:
    try:
        return read_regular_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error


def _load(path: Path, text: str) -> dict[str, Any]:
    document = parse_yaml(path, text)
    if not isinstance(document, dict):
        raise InputError(f"{path}: no keys such as 'names' and 'train'. Correct the file.")
    return document


def _read_names(path: Path, document: dict[str, Any]) -> dict[int, str]:
    names = document.get("names")
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(names, dict):
        pairs = names.items()
    elif isinstance(names, list):
        pairs = enumerate(names)
    else:
        count = as_integer(document.get("nc"))
        if names is not None or count is None or not 0 < count <= MAX_CATEGORIES:
            raise InputError(f"{path}: 'names' is {quoted(names)}. Write a list of class names.")
        pairs = ((number, f"class {number}") for number in range(count))
    classes: dict[int, str] = {}
    for key, name in pairs:
        number = as_integer(key)
        is_name = isinstance(name, (str, int, float)) and not isinstance(name, bool) and bool(str(name).strip())
        if number is None or number < 0 or not is_name:
            problem = f"{path}: 'names' has the class {quoted(key)}: {quoted(name)}"
            raise InputError(f"{problem}. Write a number from 0 and a name, in quotes if it is a word such as yes.")
        classes[number] = str(name)
    return _check(path, dict(sorted(classes.items())))


def _check(path: Path, classes: dict[int, str]) -> dict[int, str]:
    problem = classes_problem(list(classes.values())) if classes else "no class names. Add them"
    if problem:
        raise InputError(f"{path}: {problem}.")
    return classes


def _entries(path: Path, key: str, value: Any) -> list[str]:
    if value is None or value == "":
        return []
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in entries):
        raise InputError(f"{path}: '{key}' is {quoted(value)}. Write a folder, a list of folders, or a .txt file.")
    return entries
