"""`sais draw-augmented RECIPE --data DIR`: images as training will see them, with boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sais.commands.arguments import check_writable, make_folder, parse
from sais.commands.train import split_recipe, with_short_options
from sais.config import Experiment
from sais.errors import SaisError
from sais.recipes import RECIPES, recipe
from sais.recipes.adjust import check

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.data.dataset import SampleKey

PROG = "sais draw-augmented RECIPE"


@dataclass(frozen=True)
class DrawAugmentedArguments:
    """Draw images as training with a recipe will see them. RECIPE comes first, as in `sais train`.

    Options such as --augment.mosaic change a single setting; their defaults are the recipe's.
    """

    data: Path | None = None
    """Folder of the data set (also a name in the folder $SAIS_DATA)."""
    train_split: Annotated[str, tyro.conf.arg(aliases=["--split"])] = "train"
    """Split of the data set."""
    train_annotations: Path | None = None
    """COCO JSON of the images, instead of --data."""
    train_images: Path | None = None
    """Folder of its images."""
    size: tuple[int, ...] = ()
    """Input size as --input.size: height and width, or one number for both."""
    batch: int | None = None
    """Images in one step, which have one input size with --augment.multi-scale; as --optim.batch-size."""
    seed: int | None = None
    """The same as --run.seed: what is drawn depends on it."""
    images: int = 8
    """Images on the sheet: the first of the split."""
    image: int | None = None
    """Only the image of this id, in as many epochs."""
    epoch: int = 0
    """Epoch of training, the first is 0."""
    columns: int = 4
    """Images in a row."""
    out: Path = Path("augmented.jpg")
    """Image to write."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)
    """The recipe's settings."""


def run(argv: Sequence[str]) -> int:
    """Run `sais draw-augmented`."""
    name, rest = split_recipe(argv)
    start = recipe(name) if name else Experiment()
    arguments = parse(DrawAugmentedArguments, rest, PROG, default=DrawAugmentedArguments(experiment=start))
    if not name:
        raise SaisError(f"sais draw-augmented needs a recipe first: {PROG} --data DIR; known are {', '.join(RECIPES)}")
    for option in ("images", "columns", "epoch"):
        least = 0 if option == "epoch" else 1
        if getattr(arguments, option) < least:
            raise SaisError(f"--{option} {getattr(arguments, option)}: must be {least} or more")
    settings = with_short_options(arguments.experiment, arguments, ("batch", "seed"))
    check(settings)
    check_writable(arguments.out.parent)
    from PIL import Image

    from sais.data.dataset import AugmentedSamples
    from sais.data.paths import DataPaths
    from sais.data.visualize import draw_samples

    paths = DataPaths(
        arguments.data,
        arguments.train_split,
        train_annotations=arguments.train_annotations,
        train_images=arguments.train_images,
    )
    index = paths.train_index()
    samples = AugmentedSamples(index, settings.input, settings.augment, settings.run.seed)
    keys = _keys(arguments, index, settings.optim.batch_size)
    sheet, broken = draw_samples(samples, keys, index.class_names, arguments.columns)
    make_folder(arguments.out.parent)
    Image.fromarray(sheet).save(arguments.out, quality=85)
    for line in broken:
        print(f"left out: {line}")
    print(f"wrote {arguments.out}")
    return 0


def _keys(arguments: DrawAugmentedArguments, index: DatasetSplit, batch: int) -> list[SampleKey]:
    from sais.data.dataset import SampleKey

    number = arguments.images
    if arguments.image is None:
        return [SampleKey(arguments.epoch, i, i // batch) for i in range(min(number, len(index.images)))]
    for position, record in enumerate(index.images):
        if record.id == arguments.image:
            return [SampleKey(epoch, position) for epoch in range(arguments.epoch, arguments.epoch + number)]
    raise SaisError(f"{index.name}: no image {arguments.image} there; --image takes its id")
