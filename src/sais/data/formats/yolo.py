"""YOLO segmentation: ``data.yaml``, and a text file for each image with a line ``class x1 y1 x2 y2 ...`` per object.

Coordinates are fractions of the upright image's sides. A line of four numbers is a box: center x, center y, width,
height. Lines of predictions have a score at their end; it is left out where the first label file has only such lines.
An image without a label file, or with an empty one, has no objects. Layouts, with the labels of an image in the
same place below `labels` as the image below `images`, or next to it:

    DIR/images/train, DIR/labels/train (ultralytics);  DIR/train/images, DIR/train/labels (Roboflow)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from sais.data.annotation_limits import quoted
from sais.data.annotations import DatasetSplit
from sais.data.formats import notes as kinds
from sais.data.formats.coco_ids import as_integer
from sais.data.formats.folder_splits import DRAWN_SPLITS, draw_split
from sais.data.formats.image_files import ImageFiles
from sais.data.formats.paths_inside import find_inside, images_by_stem, list_images, name_key
from sais.data.formats.split_builder import Problems, SplitBuilder
from sais.data.formats.yolo_config import YoloConfig, find_yolo_config, read_yolo_config
from sais.errors import InputError
from sais.io.regular_file import read_regular_file

_FAR = 2.0
"""Fraction of the image beyond which a coordinate is in pixels, or wrong."""


def list_splits(folder: Path) -> list[str]:
    """Return the names of the splits of a YOLO data set; none if the folder is of another format."""
    file = find_yolo_config(folder)
    if file is None:
        return []
    config = read_yolo_config(file)
    if not config.splits:
        return list(DRAWN_SPLITS)
    return [name for name, entries in config.splits.items() if any(_locate(folder, config, e) for e in entries)]


def read_split(
    folder: Path, split: str, classes: tuple[str, ...] | None, searched: list[str], problems: Problems | None
) -> DatasetSplit | None:
    """Read a split of a YOLO data set.

    Args:
        folder: Folder of the data set.
        split: Name of the split.
        classes: A model's class names, which the labels then follow; None for those of the data set.
        searched: Takes the places searched.
        problems: Takes the error messages of what is refused; None raises for the first.

    Returns:
        The split; None if the folder has none of this name in this format.

    Raises:
        InputError: `data.yaml`, a label or an image is malformed.
    """
    file = find_yolo_config(folder)
    if file is None:
        searched.append("data.yaml")
        return None
    config = read_yolo_config(file)
    if not config.splits:
        whole = _read(folder, split, list_images(folder / "images"), config, classes, problems)
        return draw_split(whole, split)
    names = ["val", "valid"] if split in ("val", "valid") else [split]
    entries = [entry for name in names for entry in config.splits.get(name, [])]
    places = {entry: _locate(folder, config, entry) for entry in entries}
    if not any(places.values()):
        searched += [f"{file.name}: {entry}" for entry in entries] or [f"{file.name}: {split}"]
        return None
    missing = [entry for entry, place in places.items() if place is None]
    if missing:
        raise InputError(f"{file}: {quoted(missing[0])} of split '{split}' is not in {folder}. Correct the path.")
    return _read(folder, split, _images(folder, places, config, problems), config, classes, problems)


def _locate(folder: Path, config: YoloConfig, entry: str) -> Path | None:
    """Return the folder or list of files that an entry of `data.yaml` means."""
    bases = [folder / config.path.replace("\\", "/"), folder] if config.path else [folder]
    exists = os.path.isfile if entry.endswith(".txt") else os.path.isdir
    place = find_inside(folder, bases, entry, exists, ("images", "labels"))
    if place is None and config.path:
        place = find_inside(folder, [folder], f"{config.path}/{entry}", exists, ("images", "labels"))
    return place


def _images(folder: Path, places: dict[str, Path | None], config: YoloConfig, problems: Problems | None) -> list[Path]:
    """Return the images of a split's folders and lists, each once."""
    images: list[Path] = []
    others = ImageFiles([folder], [], folder)
    for place in places.values():
        if place is None or place.is_dir():
            images += list_images(place) if place else []
            continue
        try:
            lines = read_regular_file(place).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: not UTF-8 ({error.reason}). Save the file as UTF-8.") from error
        for number, line in enumerate(lines, 1):
            name = line.strip()
            if not name:
                continue
            image = find_inside(folder, [place.parent, folder], name, os.path.isfile) or _in_another_form(others, name)
            if image is not None:
                images.append(image)
                continue
            problem = f"{place}: line {number}: image {quoted(name)} is not in {folder}. Add it, or remove the line."
            if problems is None:
                raise InputError(problem)
            problems.setdefault(kinds.BAD_IMAGE, []).append(problem)
    return list(dict.fromkeys(images))


def _in_another_form(files: ImageFiles, name: str) -> Path | None:
    """Return the only file whose name is `name` in another Unicode form, letter case or escape."""
    found = files.find(name) if "\0" not in name else None
    return None if found is None or not found[0].is_file() else found[0]


def _read(
    folder: Path,
    split: str,
    images: list[Path],
    config: YoloConfig,
    classes: tuple[str, ...] | None,
    problems: Problems | None,
) -> DatasetSplit:
    builder = SplitBuilder(folder, list(config.classes.values()), classes, list(config.classes))
    labels = {number: label for label, number in enumerate(config.classes)}
    if config.count not in (None, len(labels)):
        builder.notes.add(kinds.CLASS_COUNT, f"{config.file.name}: nc {config.count}, {len(labels)} names")
    has_scores: bool | None = None
    listing = cache(_label_names)
    used: set[Path] = set()
    for image in images:
        if not builder.start_image(image):
            continue
        file = _label_file(folder, image, listing)
        if file is None:
            builder.notes.add(kinds.NO_LABEL_FILE, builder.relative(image))
        else:
            used.add(file)
            lines = _read_lines(file, builder)
            if has_scores is None and lines:
                has_scores = all(_ends_with_score(words) for _, words in lines)
            _add_lines(builder.relative(file), lines, has_scores, labels, config, builder)
        builder.end_image()
    stems = {stem for place in {image.parent for image in images} for stem in images_by_stem(place)}
    for place in sorted({file.parent for file in used}):
        for other in sorted(set(place.glob("*.txt")) - used):
            if name_key(other.stem) not in stems and other.parent != folder and other.name != "classes.txt":
                builder.notes.add(kinds.NO_IMAGE, builder.relative(other))
    return builder.build(split, problems)


def _label_names(folder: Path) -> dict[str, Path]:
    """Return the text files directly in a folder by `name_key` of their names."""
    return {name_key(path.name): path for path in folder.glob("*.txt")}


def _label_file(folder: Path, image: Path, listing: Callable[[Path], dict[str, Path]]) -> Path | None:
    parts = list(image.relative_to(folder).with_suffix(".txt").parts)
    candidates = [folder.joinpath(*parts)]
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
        candidates.insert(0, folder.joinpath(*parts))
    exact = next((path for path in candidates if path.is_file()), None)
    # The name may be in another Unicode form, as archives from macOS have it.
    similar = () if exact else (listing(path.parent).get(name_key(path.name)) for path in candidates)
    return exact or next((path for path in similar if path is not None), None)


def _read_lines(file: Path, builder: SplitBuilder) -> list[tuple[int, list[str]]]:
    """Return number and words of each line of a label file; none, with a problem recorded, if it is damaged."""
    try:
        lines = read_regular_file(file).decode("utf-8-sig").splitlines()
    except (InputError, UnicodeDecodeError) as error:
        builder.notes.problem(kinds.BAD_ANNOTATION, f"{file}: cannot be read ({error}). Export it again.")
        return []
    return [(number, words) for number, line in enumerate(lines, 1) if (words := line.split())]


def _ends_with_score(words: list[str]) -> bool:
    """Return whether a line has a box or a polygon and one more number, from 0 to 1."""
    try:
        return len(words) >= 6 and len(words) % 2 == 0 and 0 <= float(words[-1]) <= 1
    except ValueError:
        return False


def _add_lines(
    name: str,
    lines: list[tuple[int, list[str]]],
    has_scores: bool | None,
    labels: dict[int, int],
    config: YoloConfig,
    builder: SplitBuilder,
) -> None:
    """Add the objects of a label file to the image of the builder."""
    for number, words in lines:
        place = f"{name} line {number}"
        if has_scores and _ends_with_score(words):
            words = words[:-1]
            builder.notes.add(kinds.SCORES_LEFT_OUT, place)
        problem = _line_problem(words)
        label = None if problem else labels.get(as_integer(float(words[0])) or 0)
        if not problem and label is None:
            text = f"{builder.folder}: {place}: class {quoted(words[0])} is not in {config.file.name}. Add it."
            builder.notes.problem(kinds.BAD_REFERENCE, text)
        elif label is None:
            text = f"{builder.folder}: {place}: {problem}. Correct or remove it."
            builder.notes.problem(kinds.BAD_ANNOTATION, text)
        else:
            _add_line(place, label, [float(word) for word in words[1:]], builder)


def _add_line(place: str, label: int, values: list[float], builder: SplitBuilder) -> None:
    height, width = builder.size
    if len(values) == 4:
        x, y, w, h = values
        corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        builder.add_box(place, label, corners)
        return
    part = [value * (height if position % 2 else width) for position, value in enumerate(values)]
    builder.add_polygons(place, label, [part])


def _line_problem(words: list[str]) -> str:
    """Return what is wrong with a line; empty if nothing is."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return f"a value that is not a number in {quoted(' '.join(words))}"
    if not all(math.isfinite(value) for value in values):
        return f"NaN or an infinite value in {quoted(' '.join(words))}"
    if as_integer(values[0]) is None or values[0] < 0:
        return f"class {quoted(words[0])}, which is not a whole number"
    if len(values) < 5 or len(values) % 2 == 0:
        return f"{len(values) - 1} numbers after the class, neither a box (4) nor a polygon (6, 8, 10, ...)"
    if max(map(abs, values[1:])) > _FAR:
        return f"coordinate {max(values[1:], key=abs):g}, which is not a fraction of the image"
    return ""
