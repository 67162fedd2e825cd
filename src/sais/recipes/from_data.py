"""Settings from the data: input size, epochs, batch size and augmentation that suit a training split.

`measure` reduces a split to a few numbers, and `suggest` chooses settings from those; both are pure functions. The
recipes of `ADAPTIVE` are adapted in this way where the user gives no value, before training starts. So the
`experiment.json` of a run has concrete values, and resuming it chooses nothing. The rules, and what they were measured
on, are in `docs/recipes.md`.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sais.config import Experiment
from sais.errors import ConfigError
from sais.recipes.adjust import replace_settings, scale_lr, set_epochs

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit

ADAPTIVE = ("sais-lite", "sais-lite-small-data", "sais-lite1", "sais-lite2")
"""Recipes that are adapted to the data. All others, those of the paper first, mean the same for any data."""
CHOSEN = ("input.size", "schedule.epochs", "optim.batch_size", "augment.scale_jitter")
"""Settings that `suggest` can choose, in the order of the choice."""

MEDIAN_PIXELS = 32.0
"""Minimum size of the median object in the network's input: four cells of the finest level."""
CLASS_PIXELS = 16.0
"""Minimum size of the median object of the class with the smallest objects: four cells of the prototype grid."""
MIN_CLASS_OBJECTS = 5
MIN_CLASS_FRACTION = 0.05
"""Fraction of all objects below which a class does not influence the input size, as rare classes of long lists."""
MAX_SIDE = 640
"""Maximum side of a chosen input; larger ones cost more than a default should."""
MAX_ENLARGEMENT = 2.0
"""Maximum side of a chosen input, as a multiple of the images' own side."""
SIDE_STEP = 64
"""Sides are multiples of this number, or the images' own side if that is a multiple of 32."""

LEARNING_STEPS = 300
"""Number of steps that a chosen number of epochs and batch size reach, also with few images."""
MIN_STEPS = 100
"""Number of steps below which a model learns next to nothing."""
MIN_BATCH_SIZE = 2
SMALL_DATA = "sais-lite-small-data"
"""Recipe that takes more epochs of few images."""
SMALL_DATA_IMAGES = 3_200
"""Minimum number of images over all its epochs."""
SMALL_DATA_EPOCHS = 200
"""Maximum number of epochs for that minimum."""
LARGE_DATA = 10_000
"""Number of images above which the number of epochs falls."""
MIN_EPOCHS = 5
MIN_JITTERED_IMAGES = 5_000
"""Number of images over all epochs below which the random zoom costs accuracy."""


@dataclass(frozen=True)
class DataStatistics:
    """What the choice of settings depends on. The size of an object is sqrt(box area / image area)."""

    images: int
    objects: int
    """Number of objects, without crowd regions."""
    image_side: float = 0.0
    """Median of sqrt(height x width) over the images, in pixels."""
    median_size: float = 0.0
    """Median size of the objects, as a fraction of 1; 0 without objects."""
    class_sizes: dict[str, float] = field(default_factory=dict)
    """Median size of the objects of each class that has at least `MIN_CLASS_OBJECTS` and `MIN_CLASS_FRACTION`."""


@dataclass(frozen=True)
class Suggestion:
    """Settings that suit a training split."""

    experiment: Experiment
    settings: dict[str, Any]
    """Name -> value of each chosen setting; the learning rate follows from the batch size."""
    notes: tuple[str, ...]
    """Why, in one line, and what follows for the learning rate."""
    advice: tuple[str, ...] = ()
    """What the settings cannot correct, a sentence each."""


def measure(split: DatasetSplit) -> DataStatistics:
    """Compute the statistics of a split, from its annotations alone.

    Args:
        split: the training split.
    """
    sizes: list[float] = []
    of_class: dict[int, list[float]] = defaultdict(list)
    for record in split.images:
        height, width = record.size
        for annotation in record.annotations:
            x1, y1, x2, y2 = annotation.box.tolist()
            if not annotation.crowd and height > 0 and width > 0:
                size = math.sqrt(max(0.0, (x2 - x1) * (y2 - y1)) / (height * width))
                sizes.append(size)
                of_class[annotation.label].append(size)
    if not sizes:
        return DataStatistics(len(split.images), 0)
    return DataStatistics(
        images=len(split.images),
        objects=len(sizes),
        image_side=statistics.median(math.sqrt(record.size[0] * record.size[1]) for record in split.images),
        median_size=statistics.median(sizes),
        class_sizes={
            split.class_names[label]: statistics.median(values)
            for label, values in sorted(of_class.items())
            if len(values) >= max(MIN_CLASS_OBJECTS, MIN_CLASS_FRACTION * len(sizes))
        },
    )


def settings_to_choose(
    recipe_name: str, given: Collection[str] = (), requested: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the names of the settings that are chosen from the data.

    Args:
        recipe_name: name of a built-in recipe; any other text for a recipe of your own, which means what it says.
        given: names of the settings that the user gave.
        requested: names of the settings that the user asked to be chosen, with any recipe.
    """
    adaptive = recipe_name in ADAPTIVE
    return tuple(name for name in CHOSEN if name in requested or (adaptive and name not in given))


def adapt(
    recipe: Experiment,
    experiment: Experiment,
    split: DatasetSplit,
    choose: Collection[str],
    world_size: int = 1,
    keep_lr: bool = False,
) -> tuple[Experiment, list[str]]:
    """Adapt an experiment to a training split.

    Args:
        recipe: the recipe as it is.
        experiment: the recipe with the settings that the user gave.
        split: the training split.
        choose: names of the settings to choose, as `settings_to_choose` returns them.
        world_size: number of processes that train together.
        keep_lr: as for `suggest`.

    Returns:
        The experiment, and lines for the log.
    """
    if not choose:
        return experiment, []
    suggestion = suggest(measure(split), recipe, experiment, choose, world_size, keep_lr)
    return suggestion.experiment, [*suggestion.notes, *suggestion.advice]


def suggest(
    data: DataStatistics,
    recipe: Experiment,
    experiment: Experiment | None = None,
    choose: Collection[str] = CHOSEN,
    world_size: int = 1,
    keep_lr: bool = False,
) -> Suggestion:
    """Choose settings for a training split.

    Args:
        data: statistics of the split.
        recipe: the recipe as it is: its size, number of epochs and batch size are the starting point.
        experiment: the recipe with the settings that the user gave; None for the recipe.
        choose: names of the settings to choose, of `CHOSEN`; all others stay as they are.
        world_size: number of processes that train together; the batch size is a multiple of it.
        keep_lr: whether the user gave the learning rate, so that a chosen batch size does not scale it.

    Raises:
        ConfigError: the input size cannot be chosen, because the aspect ratio is kept.
    """
    start = recipe if experiment is None else experiment
    adapted, notes = start, list[str]()
    values: dict[str, Any] = dict.fromkeys(name for name in CHOSEN if name in choose)
    if "input.size" in values:
        if start.input.mode != "fixed":
            raise ConfigError(
                f"input.size: cannot be chosen from the data where input.mode is {start.input.mode}. Give two numbers."
            )
        side = choose_side(data, max(recipe.input.size))
        if side != max(adapted.input.size):
            adapted = replace_settings(adapted, "input", size=(side, side))
    if "schedule.epochs" in values:
        adapted, _ = set_epochs(adapted, choose_epochs(data.images, max(adapted.input.size), recipe))
    if "optim.batch_size" in values:
        batch_size = choose_batch_size(data.images, adapted, recipe, world_size)
        adapted = replace_settings(adapted, "optim", batch_size=batch_size)
    if "augment.scale_jitter" in values:
        if data.images * adapted.schedule.epochs < MIN_JITTERED_IMAGES:
            adapted = replace_settings(adapted, "augment", scale_jitter=(1.0, 1.0))
        else:
            del values["augment.scale_jitter"]
    if "optim.batch_size" in values and not keep_lr:
        adapted, notes = scale_lr(start, adapted)
    values = {name: _setting(adapted, name) for name in values}
    reason = _reason(data, adapted, values)
    return Suggestion(adapted, values, (reason, *notes), _advice(data, adapted))


def choose_side(data: DataStatistics, side: int) -> int:
    """Return the side in pixels of a square input in which the objects are large enough.

    Args:
        data: statistics of the training split.
        side: the recipe's side, which is the minimum.
    """
    if not data.objects or data.median_size <= 0:
        return side
    needed = MEDIAN_PIXELS / data.median_size
    smallest = min(data.class_sizes.values(), default=0.0)
    if smallest > 0:
        needed = max(needed, CLASS_PIXELS / smallest)
    if needed <= side:
        return side
    own_side = round(data.image_side)
    if own_side % 32 == 0 and 0.9 * needed <= own_side <= min(MAX_SIDE, 1.25 * needed):
        return max(side, own_side)  # the images are not resampled
    limit = min(MAX_SIDE, MAX_ENLARGEMENT * data.image_side)
    return max(side, min(math.ceil(needed / SIDE_STEP), math.ceil(limit / SIDE_STEP)) * SIDE_STEP)


def choose_epochs(images: int, side: int, recipe: Experiment) -> int:
    """Return the number of epochs for a number of images and a side of the input.

    A larger input has fewer epochs, so that the time of a run grows with its side and not with its area. More than
    `LARGE_DATA` images need fewer epochs, few images more, most of all with the recipe for small data.

    Args:
        images: number of training images.
        side: side of the input in pixels.
        recipe: the recipe.
    """
    epochs = recipe.schedule.epochs * max(recipe.input.size) / side
    if images > LARGE_DATA:
        epochs = max(MIN_EPOCHS, epochs * (LARGE_DATA / images) ** 0.25)
    needed = LEARNING_STEPS * MIN_BATCH_SIZE / max(1, images)
    if recipe.name == SMALL_DATA:
        needed = max(needed, min(SMALL_DATA_EPOCHS, SMALL_DATA_IMAGES / max(1, images)))
    return max(1, math.floor(epochs + 0.5), math.ceil(needed))


def choose_batch_size(images: int, experiment: Experiment, recipe: Experiment, world_size: int = 1) -> int:
    """Return the batch size: that of the recipe, halved for few images and for large inputs.

    Args:
        images: number of training images.
        experiment: settings with the size of the input and the number of epochs.
        recipe: the recipe. Four times the pixels of its batch are the maximum.
        world_size: number of processes that train together.
    """
    batch_size = recipe.optim.batch_size
    max_pixels = 4 * batch_size * math.prod(recipe.input.size)
    while batch_size > MIN_BATCH_SIZE and (
        steps_per_epoch(images, batch_size) * experiment.schedule.epochs < LEARNING_STEPS
        or batch_size * math.prod(experiment.input.size) > max_pixels
    ):
        batch_size //= 2
    return math.ceil(max(1, min(batch_size, images)) / world_size) * world_size


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of optimizer steps in an epoch, which leaves out its incomplete last batch."""
    return max(1, images // batch_size)


def epochs_to_learn(images: int, experiment: Experiment) -> int | None:
    """Return a number of epochs with enough steps where a run has too few to learn anything; None if it has enough.

    Args:
        images: number of training images.
        experiment: settings of the run.
    """
    per_epoch = steps_per_epoch(images, experiment.optim.batch_size)
    if per_epoch * experiment.schedule.epochs >= MIN_STEPS:
        return None
    return math.ceil(LEARNING_STEPS / per_epoch)


def too_few_steps(images: int, experiment: Experiment) -> list[str]:
    """Return a warning if a run has too few steps to learn anything; empty otherwise.

    Args:
        images: number of training images.
        experiment: settings of the run.
    """
    epochs = epochs_to_learn(images, experiment)
    if epochs is None:
        return []
    steps = experiment.schedule.epochs * steps_per_epoch(images, experiment.optim.batch_size)
    return [f"warning: {steps} steps are too few to learn anything; train {epochs} epochs or more (epochs)"]


def _setting(experiment: Experiment, name: str) -> Any:
    group, _, setting = name.partition(".")
    return getattr(getattr(experiment, group), setting)


def _reason(data: DataStatistics, experiment: Experiment, chosen: dict[str, Any]) -> str:
    """Say in one line what was chosen, and why."""
    parts = []
    height, width = experiment.input.size
    if "input.size" in chosen:
        parts.append(f"{_object_sizes(data, width)} at {height}x{width}")
    epochs, batch_size = experiment.schedule.epochs, experiment.optim.batch_size
    if "schedule.epochs" in chosen or "optim.batch_size" in chosen:
        steps = epochs * steps_per_epoch(data.images, batch_size)
        parts.append(f"{data.images} images: {epochs} epochs in batches of {batch_size}, {steps} steps")
    if "augment.scale_jitter" in chosen:
        parts.append("a short run: no random zoom")
    return "from the data: " + "; ".join(parts)


def _object_sizes(data: DataStatistics, side: int) -> str:
    if not data.objects:
        return "no objects"
    text = f"the median object has {data.median_size * side:.0f} px"
    if len(data.class_sizes) > 1:
        name, size = min(data.class_sizes.items(), key=lambda item: item[1])
        text += f", {name} {size * side:.0f} px"
    return text


def _advice(data: DataStatistics, experiment: Experiment) -> tuple[str, ...]:
    side = max(experiment.input.size)
    pixels = data.median_size * side
    if not data.objects or pixels >= CLASS_PIXELS or experiment.input.mode != "fixed":
        return ()
    text = (
        f"the median object has {pixels:.0f} px only in an input of {side} px, too small to learn well; cut the images "
        "into smaller ones for training and predict in tiles, or choose a larger input"
    )
    return (text,)
