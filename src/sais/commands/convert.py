"""`sais convert SRC DST --to FORMAT`: write a data set in the format of another program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sais.commands.arguments import FLAT, Seed, parse, progress_bar
from sais.commands.options import Minimum
from sais.data.options import DataOptions
from sais.text import print_text, printable, short_name

if TYPE_CHECKING:
    from sais.data.convert import ConvertedSplit

Format = Literal["coco", "yolo", "labelme", "voc", "masks", "geojson", "cityscapes"]


@dataclass(frozen=True)
class ConvertArguments:
    """Write a data set in the format of another program, with its images.

    Reports for each split what was written, and what the format cannot hold. A second conversion into the same folder
    replaces the files of the first, and removes those of other splits and formats. It stops if they were edited since.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """Folder of the data set, its name in the folder $SAIS_DATA, or a COCO JSON."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """Folder to write to."""
    to: Format
    """Format to write."""
    split: tuple[str, ...] = ()
    """Splits to convert. Default: every split of the data set."""
    images: Literal["copy", "link", "none"] = "copy"
    """Images: copy them, make hard links, or write labels only."""
    image_folder: Path | None = None
    """Folder of the images, where SRC is a COCO JSON. Default: the folder of SRC."""
    reading: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    """Options of reading the data set."""
    classes: tuple[str, ...] = ()
    """Classes to write, such as cat dog; vehicle=car+truck merges and animal=cat renames classes. Default: all."""
    max_images: Annotated[int | None, Minimum(1)] = None
    """Maximum number of images of each split, drawn at random so that classes keep their shares. Default: all."""
    seed: Seed = 0
    """Random seed of --max-images."""
    tolerance: Annotated[float, Minimum(0)] = 0.0
    """Pixels by which polygons may deviate from the labels, to have fewer points; 0 for exact polygons."""
    overwrite: bool = False
    """Replace existing files, not only those of an earlier conversion; never those that are read."""


def run(argv: Sequence[str]) -> int:
    """Run `sais convert`."""
    arguments = parse(ConvertArguments, argv, "sais convert SRC DST")
    from sais.data.convert import convert
    from sais.data.paths import locate

    data = arguments.data if arguments.data.is_file() else locate(arguments.data)
    with ExitStack() as stack:

        def start(total: int) -> Callable[[int], None]:
            return stack.enter_context(progress_bar("converting", total))

        splits = convert(
            data,
            arguments.out,
            arguments.to,
            splits=arguments.split,
            images=arguments.images,
            image_folder=arguments.image_folder,
            options=arguments.reading,
            classes=arguments.classes,
            max_images=arguments.max_images,
            seed=arguments.seed,
            tolerance=arguments.tolerance,
            overwrite=arguments.overwrite,
            start=start,
        )
    for split in splits:
        print_text(describe(split))
    print_text(f"wrote {arguments.out}")
    return 0


def describe(split: ConvertedSplit) -> str:
    """Return a line about what was written of a split, and what the format cannot hold."""
    images = _count(split.images, "image", split.images_left_out)
    objects = _count(split.objects - split.objects_left_out, "object", split.objects_left_out)
    notes = [
        f"{printable(note)}: {count}" for note, count in [*split.read_notes.items(), *split.notes.items()] if count
    ]
    return f"{short_name(split.name)}: {', '.join([images, objects])}" + (f"; {'; '.join(notes)}" if notes else "")


def _count(written: int, noun: str, left_out: int) -> str:
    """Return a number of images or objects, with that of those left out."""
    text = f"{written} {noun}{'' if written == 1 else 's'}"
    return f"{text} ({left_out} left out)" if left_out else text
