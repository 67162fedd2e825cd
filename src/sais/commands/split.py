"""`sais split DIR`: split labels into a training, a validation and perhaps a test split, as COCO files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sais.commands.arguments import Seed, parse, progress_bar
from sais.errors import ConfigError, InputError, SaisError
from sais.io.outputs import check_outputs
from sais.text import print_json, print_lines, print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit


@dataclass(frozen=True)
class SplitArguments:
    """Split labels into a training and a validation split, stratified by class. Images are not moved.

    Labels may be a COCO file or have any other format without splits, such as a folder of LabelMe files; the splits are
    written as COCO files. A data set that is split already is split again with --out DIR, where its images become hard
    links.

    With --test, a third split is for the evaluation of the final model.

    Near-duplicates, such as copies in another size or successive frames of a video, are kept in one split. Other images
    that belong together, such as those of one patient, are not recognized: split those yourself.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of labels of all images, its name in the folder $SAIS_DATA, or a COCO JSON."""
    valid: float = 0.2
    """Fraction of the images in the validation split, between 0 and 1."""
    test: float = 0.0
    """Fraction of the images in the test split; 0 for none."""
    out: Path | None = None
    """Folder to write annotations/train.json, valid.json and test.json to. Default: the folder of DIR, or its
    parent if that folder is called annotations."""
    format: str = "auto"
    """Format of the labels in DIR, such as labelme; auto: as it is found, COCO first."""
    keep_similar: bool = True
    """Keep near-duplicates in one split; --no-keep-similar does not read the images."""
    seed: Seed = 0
    """Random seed; the same seed gives the same split."""
    overwrite: bool = False
    """Replace existing files; never DIR. An unchanged earlier split needs no --overwrite."""
    json: bool = False
    """Print the splits as JSON on the standard output, and all other lines on stderr."""


def run(argv: Sequence[str]) -> int:
    """Run `sais split`."""
    arguments = parse(SplitArguments, argv, "sais split DIR")
    if not 0 < arguments.valid < 1:
        raise ConfigError(f"--valid {arguments.valid:g}: not between 0 and 1. Give 0.2 for a fifth of the images.")
    if not 0 <= arguments.test < 1 - arguments.valid:
        message = f"--test {arguments.test:g}: with --valid {arguments.valid:g}, no images are left for training."
        raise ConfigError(f"{message} Give 0.2 for a fifth of the images.")
    from sais.data.formats import read_dataset
    from sais.data.paths import locate
    from sais.data.split import split_document
    from sais.data.split_summary import summarize

    if not arguments.data.exists() and not arguments.data.suffix:  # not a file
        arguments = replace(arguments, data=locate(arguments.data))
    if arguments.out is not None and _is_split(arguments.data, arguments.format):
        return _split_again(arguments, arguments.out)
    labels = _read_labels(arguments.data, arguments.format)
    document, folder, inputs = labels.document, labels.folder, labels.inputs
    out = arguments.out or folder
    names = ("train", "valid", "test") if arguments.test else ("train", "valid")
    paths = [out / "annotations" / f"{name}.json" for name in names]
    groups = _group_similar(_find_images(labels)) if arguments.keep_similar else {}
    documents = split_document(document, arguments.valid, arguments.seed, arguments.test, groups)
    parts = dict(zip(paths, documents, strict=True))
    contents = {path: json.dumps(part) for path, part in parts.items()}
    # Files that would not change are those of an earlier, perhaps interrupted split.
    check_outputs(paths, inputs, arguments.overwrite, out, lambda path: path.read_bytes() == contents[path].encode())
    _write(contents)
    for path, part in parts.items():
        print_text(f"wrote {path}: {len(part['images'])} images")
    try:
        for path in paths:
            print_lines(summarize(read_dataset(out, path.stem)))
    except SaisError as error:
        print_text(f"copy or link the images into {out / 'images'} ({error})")
    print_text(f"next: sais doctor {out}")
    if arguments.json:
        counts = [(path.stem, len(part["images"]), len(part["annotations"])) for path, part in parts.items()]
        _print_json(out, counts)
    return 0


def _print_json(out: Path, counts: Sequence[tuple[str, int, int]]) -> None:
    """Print the splits: name, number of images, number of objects."""
    splits = [
        {"name": name, "file": str(out / "annotations" / f"{name}.json"), "images": images, "objects": objects}
        for name, images, objects in counts
    ]
    print_json({"out": str(out), "splits": splits})


def _write(contents: dict[Path, str]) -> None:
    """Write files; if that is interrupted, those that are new are removed, so that there is no half of a split."""
    from sais.io.atomic import write_text

    new = [path for path in contents if not path.exists()]
    try:
        for path, content in contents.items():
            write_text(path, content)
    except BaseException:  # also Ctrl-C
        for path in new:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


@dataclass(frozen=True)
class _Labels:
    """All labels of a data set."""

    document: dict[str, Any]
    """COCO document of all images."""
    folder: Path
    """Folder of the data set."""
    inputs: list[Path]
    """Files that must not be replaced."""
    split: DatasetSplit | None
    """The same labels; None for a COCO file, which is read without its images."""


def _read_labels(path: Path, format: str) -> _Labels:
    """Return the labels of a file or a folder."""
    from sais.data.formats.coco import read_coco
    from sais.data.formats.coco_document import read_document

    file = _find_file(path) if format in ("auto", "coco") or not path.is_dir() else None
    if file is None:
        from sais.data.formats import list_splits, read_dataset
        from sais.data.formats.coco_from_split import to_document
        from sais.data.formats.folder_splits import WHOLE

        if _is_split(path, format):
            names = ", ".join(list_splits(path, format))
            raise InputError(f"{path}: already split into {names}. Give --out DIR to split all images again.")
        split = read_dataset(path, WHOLE, format=format)
        print_text(f"found {split.origin}")
        return _Labels(to_document(split, path), path, [], split)
    read_coco(file, None)  # raises an error for a malformed file
    document = read_document(file)
    if isinstance(document.get("info"), dict):
        document["info"].pop("written_by", None)  # the mark of another command
    folder = file.parent if file.parent.name else file.parent.resolve()
    return _Labels(document, folder.parent if folder.name == "annotations" else file.parent, [file], None)


def _find_images(labels: _Labels) -> DatasetSplit | None:
    """Return the labels with the files of their images; None if these are not found."""
    from sais.data.formats.coco import read_coco
    from sais.data.formats.coco_layouts import image_folders

    if labels.split is not None:
        return labels.split
    file = labels.inputs[0]
    try:
        return read_coco(file, image_folders(labels.folder, file, []), None, {}, labels.folder)
    except SaisError:
        return None


def _group_similar(split: DatasetSplit | None) -> dict[int, int]:
    """Return image id -> group for the images that have near-duplicates; images that are not found have none."""
    from sais.data.doctor.groups import group_images

    records = () if split is None else split.images
    if split is None or not any(isinstance(record.source, Path) and record.source.is_file() for record in records):
        print_text("the images are not found: near-duplicates are not kept in one split")
        return {}
    with progress_bar("comparing", len(split.images)) as progress:
        groups = group_images(split, lambda done, _: progress(1))
    if groups:
        print_text(f"{len(groups)} images are near-duplicates of another one; they are kept in one split")
    return groups


def _is_split(path: Path, format: str) -> bool:
    """Return whether a folder has labels of several splits, and not those that are drawn from labels without splits."""
    if not path.is_dir():
        return False
    from sais.data.formats import list_splits, read_dataset
    from sais.data.formats.folder_splits import WHOLE

    if len(list_splits(path, format)) < 2:
        return False
    try:
        read_dataset(path, WHOLE, format=format)
    except SaisError:
        return True
    return False


def _split_again(arguments: SplitArguments, out: Path) -> int:
    """Split all images of a data set that is split already, and write them with their labels to another folder."""
    from sais.commands.input_files import annotation_files
    from sais.data.convert import write_splits
    from sais.data.resplit import draw_parts, read_all_splits
    from sais.data.split_summary import summarize

    if out.exists() and out.samefile(arguments.data):
        raise InputError(f"{out}: the folder of the data set that is read. Choose another output folder.")
    whole = read_all_splits(arguments.data, arguments.format)
    groups = _group_similar(whole) if arguments.keep_similar else {}
    parts = draw_parts(whole, arguments.valid, arguments.seed, arguments.test, groups)
    write_splits(
        parts, out, "coco", inputs=annotation_files(arguments.data), images="link", overwrite=arguments.overwrite
    )
    for part in parts:
        print_lines(summarize(part))
    print_text(f"wrote {out}; next: sais doctor {out}")
    if arguments.json:
        objects = [sum(len(record.annotations) for record in part.images) for part in parts]
        _print_json(out, [(part.name, len(part.images), count) for part, count in zip(parts, objects, strict=True)])
    return 0


def _find_file(path: Path) -> Path | None:
    """Return the COCO file of a path: the file itself, or the only one of a folder; None for another format."""
    if not path.is_dir():
        return path
    from sais.data.formats import list_splits
    from sais.data.formats.unsplit import describe_contents, find_coco_files

    files = find_coco_files(path)
    if len(files) == 1:
        return files[0]
    names = ", ".join(str(file) for file in files[:5])
    if files:
        raise InputError(f"{path}: several COCO files: {names}. Give one of them, or --out DIR to split all again.")
    if not list_splits(path):
        raise InputError(f"{path}: {describe_contents(path)}. Give a file.")
    return None
