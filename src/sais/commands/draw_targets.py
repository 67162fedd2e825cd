"""`sais draw-targets`: draw the assignment of locations to objects, as in the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from sais.commands.arguments import FLAT, need_torch, parse
from sais.commands.input_files import annotation_files, image_files
from sais.data.options import DataOptions
from sais.errors import InputError
from sais.io.outputs import check_outputs, written_by
from sais.text import print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit, ImageRecord

WRITER = "sais draw-targets"


@dataclass(frozen=True)
class DrawTargetsArguments:
    """Draw to which object each location is assigned: a color for each object, black is background."""

    scene: Literal["figure2"] | None = None
    """Built-in scene instead of a data set: the paper's Figure 2, a small object over the center of a large one."""
    data: Path | None = None
    """Folder of the data set."""
    split: str = "train"
    """Split of the data set."""
    reading: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    """Options of reading the data set."""
    image_id: int | None = None
    """Id of the image; default: the first image of the split."""
    assigner: Literal["center", "area", "both"] = "both"
    """Assigner: center-aware (Eqs. 2-4), area-aware (FCOS), or both side by side."""
    recipe: str = "sais-r50-768"
    """Recipe of the input size and mode."""
    out: Path = Path("targets.png")
    """Image file to write: .png, .jpg, .webp, .tif or .bmp."""
    overwrite: bool = False
    """Replace any existing file, not only an earlier drawing; never one that is read."""


def run(argv: Sequence[str]) -> int:
    """Run `sais draw-targets`."""
    arguments = parse(DrawTargetsArguments, argv, "sais draw-targets")
    if (arguments.scene is None) == (arguments.data is None):
        raise InputError("sais draw-targets: no input. Give either --scene figure2 or --data DIR.")
    need_torch("draw-targets")
    from sais.io.image_writer import check_image_suffix, write_image

    check_image_suffix(arguments.out)
    check_outputs([arguments.out], annotation_files(arguments.data), arguments.overwrite, own=written_by(WRITER))
    from sais.paper.target_maps import draw_scene, draw_target_maps
    from sais.recipes import recipe

    settings = recipe(arguments.recipe).input
    assigners = ("center", "area") if arguments.assigner == "both" else (arguments.assigner,)
    if arguments.scene is not None:
        image = draw_scene(arguments.scene, assigners)
    else:
        split = _split(arguments)
        check_outputs([arguments.out], image_files(split), arguments.overwrite, own=written_by(WRITER))
        image = draw_target_maps(_record(arguments, split), settings, assigners)
    print_text(f"wrote {write_image(arguments.out, image, writer=WRITER)}")
    return 0


def _split(arguments: DrawTargetsArguments) -> DatasetSplit:
    from sais.data.formats import read_dataset
    from sais.data.paths import locate

    assert arguments.data is not None
    return read_dataset(locate(arguments.data), arguments.split, options=arguments.reading)


def _record(arguments: DrawTargetsArguments, split: DatasetSplit) -> ImageRecord:
    if arguments.image_id is None:
        return split.images[0]
    for record in split.images:
        if record.id == arguments.image_id:
            return record
    raise InputError(
        f"{arguments.data}: no image with id {arguments.image_id} in split {arguments.split}. Give --image-id an id of "
        "the annotation file."
    )
