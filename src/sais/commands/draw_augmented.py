"""`sais draw-augmented RECIPE --data DIR`: draw training images as the network receives them, with boxes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sais.commands.arguments import parse
from sais.commands.input_files import annotation_files, image_files
from sais.commands.options import FLAT, Count, Minimum, check_command_line
from sais.commands.recipe_options import (
    RecipeOptions,
    apply_short_options,
    changed_settings,
    open_recipe,
    require_recipe,
)
from sais.errors import InputError
from sais.io.outputs import check_outputs, written_by
from sais.recipes.adjust import check_experiment
from sais.recipes.from_data import adapt, settings_to_choose
from sais.text import print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.data.dataset import SampleKey

PROG = "sais draw-augmented RECIPE"

WRITER = "sais draw-augmented"


@dataclass(frozen=True)
class DrawAugmentedArguments:
    """Draw training images as the network receives them. RECIPE comes first, as in `sais train`.

    Options such as --augment.mosaic change one setting; their defaults are the recipe's.
    """

    recipe: Annotated[RecipeOptions, FLAT] = field(default_factory=RecipeOptions)
    """Data set and recipe."""
    batch_size: int | None = None
    """Images per step, which share an input size with --augment.multi-scale; short for --optim.batch-size."""
    images: Count = 8
    """Number of images on the sheet, from the start of the split."""
    image_id: int | None = None
    """Id of one image, drawn as in successive epochs."""
    epoch: Annotated[int, Minimum(0)] = 0
    """Epoch of training, from 0."""
    columns: Count = 4
    """Number of images in a row."""
    out: Path = Path("augmented.jpg")
    """Image file to write: .jpg, .png, .webp, .tif or .bmp."""
    overwrite: bool = False
    """Replace any existing file, not only an earlier drawing; never one that is read."""


def run(argv: Sequence[str]) -> int:
    """Run `sais draw-augmented`."""
    start, words = open_recipe(argv)
    default = DrawAugmentedArguments(recipe=RecipeOptions(experiment=start.experiment))
    arguments = parse(DrawAugmentedArguments, words, PROG, default=default)
    require_recipe(start.name, "sais draw-augmented")
    options = arguments.recipe
    given = [*changed_settings(check_command_line(DrawAugmentedArguments, words, "sais draw-augmented")), *start.given]
    requested = ["input.size"] if options.size == "auto" else []
    choose = settings_to_choose(start.recipe_name, [name for name in given if name not in requested], requested)
    short = {"batch_size": arguments.batch_size, "seed": options.seed, "size": options.size}
    settings = apply_short_options(options.experiment, short)
    check_experiment(settings)
    from sais.io.image_writer import check_image_suffix, image_path, write_image

    check_image_suffix(arguments.out)
    inputs = [*annotation_files(options.data, options.train_annotations), *([options.config] if options.config else [])]
    check_outputs([arguments.out], inputs, arguments.overwrite, own=written_by(WRITER))
    from sais.data.dataset import AugmentedSamples
    from sais.data.flip_pairs import choose_flip_pairs
    from sais.data.paths import DataPaths
    from sais.data.visualize import draw_samples
    from sais.data.white_level import choose_white_level

    paths = DataPaths(
        options.data,
        options.train_split,
        train_annotations=options.train_annotations,
        train_images=options.train_images,
        classes=options.classes,
        **vars(options.reading),
    )
    split = paths.read_train()
    check_outputs([arguments.out], image_files(split), arguments.overwrite, own=written_by(WRITER))
    settings, notes = adapt(start.recipe, settings, split, choose, keep_lr=True)  # as in training
    settings, flip_notes = choose_flip_pairs(settings, split.class_names)
    notes = [*notes, *flip_notes]
    print_text(*notes, sep="\n", end="\n" if notes else "")
    settings, _ = choose_white_level(settings, split)
    samples = AugmentedSamples(split, settings.input, settings.augment, settings.run.seed)
    keys = _keys(arguments, split, settings.optim.batch_size)
    sheet, unreadable = draw_samples(samples, keys, split.class_names, arguments.columns)
    path = image_path(arguments.out, sheet)
    if path != arguments.out:  # too large for the format, so that this name was not checked
        check_outputs([path], image_files(split), arguments.overwrite, own=written_by(WRITER))
    write_image(path, sheet, 85, WRITER)
    for line in unreadable:
        print_text(f"skipped: {line}")
    print_text(f"wrote {path}")
    return 0


def _keys(arguments: DrawAugmentedArguments, split: DatasetSplit, batch: int) -> list[SampleKey]:
    from sais.data.dataset import SampleKey

    count = arguments.images
    if arguments.image_id is None:
        return [SampleKey(arguments.epoch, i, i // batch) for i in range(min(count, len(split.images)))]
    for position, record in enumerate(split.images):
        if record.id == arguments.image_id:
            return [SampleKey(epoch, position) for epoch in range(arguments.epoch, arguments.epoch + count)]
    raise InputError(f"{split.name}: no image with id {arguments.image_id}. Give an id from the annotation file.")
