"""`sais draw-targets`: which object each location learns, drawn; the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sais.commands.arguments import check_writable, need_torch, parse
from sais.errors import SaisError

if TYPE_CHECKING:
    from sais.data.annotations import ImageRecord


@dataclass(frozen=True)
class DrawTargetsArguments:
    """Draw which object each location learns: one color an object, black is background."""

    scene: Literal["figure2"] | None = None
    """A built-in scene instead of a data set: the paper's Figure 2, a small object over a large one's center."""
    data: Path | None = None
    """Folder of the data set."""
    split: str = "train"
    """Split of the data set."""
    image: int | None = None
    """Image id; the split's first image when not given."""
    rule: Literal["center", "area", "both"] = "both"
    """Assignment rule: center-aware (Eqs. 2-4), area-aware (FCOS), or both side by side."""
    recipe: str = "sais-r50-768"
    """Recipe whose input size and mode are used."""
    out: Path = Path("targets.png")
    """Image to write."""


def run(argv: Sequence[str]) -> int:
    """Run `sais draw-targets`."""
    arguments = parse(DrawTargetsArguments, argv, "sais draw-targets")
    if (arguments.scene is None) == (arguments.data is None):
        raise SaisError("sais draw-targets needs --scene figure2, or --data DIR (one of the two)")
    need_torch("draw-targets")
    check_writable(arguments.out.parent)
    from sais.paper.target_maps import draw_scene, draw_target_maps
    from sais.recipes import recipe

    settings = recipe(arguments.recipe).input
    rules = ("center", "area") if arguments.rule == "both" else (arguments.rule,)
    if arguments.scene is not None:
        image = draw_scene(arguments.scene, rules)
    else:
        image = draw_target_maps(_record(arguments), settings, rules)
    from PIL import Image

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(arguments.out)
    print(f"wrote {arguments.out}")
    return 0


def _record(arguments: DrawTargetsArguments) -> ImageRecord:
    from sais.data.formats import read_dataset
    from sais.data.paths import locate

    assert arguments.data is not None
    index = read_dataset(locate(arguments.data), arguments.split)
    if arguments.image is None:
        return index.images[0]
    for record in index.images:
        if record.id == arguments.image:
            return record
    raise SaisError(f"{arguments.data}: no image {arguments.image} in split {arguments.split}; --image takes its id")
