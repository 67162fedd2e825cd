"""Settings chosen from the data: pure rules, held by numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sais.config import Experiment
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, make_annotation
from sais.data.formats import read_dataset
from sais.errors import ConfigError
from sais.recipes import RECIPES, recipe
from sais.recipes.adjust import replace_settings, set_epochs
from sais.recipes.from_data import (
    ADAPTIVE,
    CHOSEN,
    LEARNING_STEPS,
    MAX_SIDE,
    MIN_EPOCHS,
    DataStatistics,
    adapt,
    choose_side,
    epochs_to_learn,
    measure,
    settings_to_choose,
    steps_per_epoch,
    suggest,
)

LITE = recipe("sais-lite")


def statistics(images: int, pixels: float, side: float, **class_pixels: float) -> DataStatistics:
    """Return statistics of images with `side` and objects with sizes in their pixels."""
    sizes = {name: value / side for name, value in class_pixels.items()}
    return DataStatistics(images, 5 * images, side, pixels / side, sizes)


def square(number: int, side: float, label: int = 0, crowd: bool = False) -> Annotation:
    """Return a square object."""
    return make_annotation(number, label, box=(0, 0, side, side), crowd=crowd)


def test_measure_takes_medians_without_crowds() -> None:
    annotations = [square(n, side) for n, side in enumerate((10, 20, 40, 20, 30))]
    annotations += [square(9, 64, 1), square(10, 100, 0, crowd=True)]
    image = ImageRecord(1, Path("a.jpg"), (50, 200), tuple(annotations))
    data = measure(DatasetSplit("train", ("nut", "bolt"), images=(image, ImageRecord(2, Path("b.jpg"), (100, 100)))))
    assert (data.images, data.objects, data.image_side) == (2, 6, 100)
    assert data.median_size == pytest.approx(0.25)
    assert data.class_sizes == {"nut": pytest.approx(0.2)}  # one bolt says nothing about bolts


def test_measure_of_a_split_without_objects() -> None:
    data = measure(DatasetSplit("train", ("nut",), images=(ImageRecord(1, Path("a.jpg"), (50, 200)),)))
    assert (data.images, data.objects) == (1, 0)
    suggestion = suggest(data, LITE)
    assert suggestion.experiment.input.size == LITE.input.size
    assert "no objects" in suggestion.notes[0]
    assert measure(DatasetSplit("train", ("nut",))) == DataStatistics(0, 0)


@pytest.mark.parametrize(
    ("data", "side"),
    [
        (statistics(700, 300, 640), 256),  # large objects: the recipe's size
        (statistics(80, 35, 512, capacitor=16.4, led=33), 512),  # the images' own size
        (statistics(80, 60, 512, capacitor=16.4, led=60), 512),  # for the sake of one class
        (statistics(30, 20, 256), 448),  # larger than the images
        (statistics(30, 5, 100), 256),  # never more than twice the images' side, nor below the recipe's size
        (statistics(30, 40, 4000), MAX_SIDE),
        (DataStatistics(30, 0), 256),
    ],
)
def test_choose_side_makes_objects_large_enough(data: DataStatistics, side: int) -> None:
    assert choose_side(data, 256) == side
    assert choose_side(data, 384) >= 384


def test_suggest_advises_where_no_input_is_large_enough() -> None:
    assert "6 px only" in suggest(statistics(30, 40, 4000), LITE).advice[0]
    assert not suggest(statistics(30, 40, 512), LITE).advice


@pytest.mark.parametrize(
    ("images", "pixels", "epochs", "batch_size"),
    [
        (700, 300, 14, 4),  # as the recipe
        (80, 35, 9, 2),
        (30, 300, 20, 2),
        (5, 300, 120, 2),
        (1, 300, 600, 1),
        (10_000, 300, 14, 4),
        (100_000, 300, 8, 4),
        (1_000_000, 35, MIN_EPOCHS, 4),
    ],
)
def test_suggest_chooses_epochs_and_batch_size(images: int, pixels: float, epochs: int, batch_size: int) -> None:
    chosen = suggest(statistics(images, pixels, 512), LITE).experiment
    assert (chosen.schedule.epochs, chosen.optim.batch_size) == (epochs, batch_size)


@pytest.mark.parametrize(
    ("images", "pixels", "epochs", "batch_size"),
    [(700, 300, 21, 4), (80, 35, 40, 4), (20, 35, 160, 4), (5, 300, 200, 2), (1, 300, 600, 1), (300, 35, 13, 4)],
)
def test_recipe_for_small_data_takes_more_epochs_of_few_images(
    images: int, pixels: float, epochs: int, batch_size: int
) -> None:
    chosen = suggest(statistics(images, pixels, 512), recipe("sais-lite-small-data")).experiment
    assert (chosen.schedule.epochs, chosen.optim.batch_size) == (epochs, batch_size)


@pytest.mark.parametrize("images", [4, 10, 30, 57, 80, 199, 1000])
@pytest.mark.parametrize("pixels", [20, 35, 300])
def test_suggest_reaches_enough_steps(images: int, pixels: float) -> None:
    chosen = suggest(statistics(images, pixels, 512), LITE).experiment
    steps = chosen.schedule.epochs * steps_per_epoch(images, chosen.optim.batch_size)
    assert steps >= 0.75 * LEARNING_STEPS  # an odd image is left out of each epoch
    assert epochs_to_learn(images, chosen) is None


@pytest.mark.parametrize("pixels", [5, 20, 35, 300])
def test_suggest_bounds_the_pixels_of_a_batch(pixels: float) -> None:
    chosen = suggest(statistics(50_000, pixels, 1024), LITE).experiment
    assert chosen.optim.batch_size * max(chosen.input.size) ** 2 <= 4 * 4 * 320**2


def test_suggest_scales_the_learning_rate_with_the_batch_size() -> None:
    data = statistics(80, 35, 512)
    assert suggest(data, LITE).experiment.optim.lr == pytest.approx(1e-3 / 2**0.5, rel=1e-3)
    for lr in (3e-3, LITE.optim.lr):  # given, also where it is the recipe's
        assert suggest(data, LITE, replace_settings(LITE, "optim", lr=lr), keep_lr=True).experiment.optim.lr == lr


def test_suggest_zooms_in_long_runs_only() -> None:
    assert suggest(statistics(80, 35, 512), LITE).settings["augment.scale_jitter"] == (1.0, 1.0)
    long = suggest(statistics(700, 300, 512), LITE)
    assert long.experiment.augment.scale_jitter == LITE.augment.scale_jitter
    assert "augment.scale_jitter" not in long.settings


def test_suggest_keeps_what_it_may_not_choose() -> None:
    data = statistics(80, 35, 512)
    own = replace_settings(LITE, "input", size=(384, 384))
    chosen = suggest(data, LITE, own, [name for name in CHOSEN if name != "input.size"])
    assert chosen.experiment.input.size == (384, 384)
    assert chosen.experiment.schedule.epochs == 12  # by the size that was given
    assert suggest(data, LITE, own, ["schedule.epochs"]).experiment == set_epochs(own, 12)[0]


def test_suggest_gives_multiples_of_the_world_size() -> None:
    assert suggest(statistics(80, 35, 512), LITE, world_size=3).experiment.optim.batch_size == 3


def test_suggest_refuses_to_size_a_kept_aspect_ratio() -> None:
    with pytest.raises(ConfigError, match=r"input\.size: cannot be chosen from the data where .* keep_ratio"):
        suggest(statistics(80, 35, 512), recipe("fcos-r50"))


def test_settings_to_choose_are_none_for_paper_and_own_recipes() -> None:
    assert set(ADAPTIVE) == {name for name in RECIPES if name.startswith("sais-lite")}
    for name in RECIPES:
        assert settings_to_choose(name) == (CHOSEN if name in ADAPTIVE else ())
    assert settings_to_choose("my_recipe:board") == ()
    assert settings_to_choose("paper-lite0", (), ["input.size"]) == ("input.size",)
    assert settings_to_choose("sais-lite", ["schedule.epochs", "input.size"]) == CHOSEN[2:]


def test_adapt_without_a_choice_changes_nothing() -> None:
    split = DatasetSplit("train", ("nut",), images=(ImageRecord(1, Path("a.jpg"), (50, 200), (square(1, 3),)),))
    assert adapt(LITE, LITE, split, ()) == (LITE, [])
    adapted, notes = adapt(LITE, LITE, split, CHOSEN)
    assert adapted != LITE
    assert notes[0].startswith("from the data: ")


@pytest.mark.parametrize(("name", "side", "epochs", "batch_size"), [("animals", 320, 14, 4), ("breadboard", 512, 9, 2)])
def test_adapt_to_real_data(
    real_data: Callable[[str], Path], name: str, side: int, epochs: int, batch_size: int
) -> None:
    """`animals` keeps the recipe that docs/recipes.md reports, `breadboard` has 512 pixels and few images."""
    adapted, _ = adapt(LITE, LITE, read_dataset(real_data(name), "train"), CHOSEN)
    assert adapted.input.size == (side, side)
    assert (adapted.schedule.epochs, adapted.optim.batch_size) == (epochs, batch_size)
    if name == "animals":
        assert adapted == LITE


@pytest.mark.parametrize(("epochs", "batch_size", "expected"), [(3, 8, 38), (15, 8, None), (1, 100, 300)])
def test_epochs_to_learn_counts_steps(epochs: int, batch_size: int, expected: int | None) -> None:
    short = replace(
        Experiment(),
        optim=replace(LITE.optim, batch_size=batch_size),
        schedule=replace(LITE.schedule, epochs=epochs),
    )
    assert epochs_to_learn(64, short) == expected


def test_suggest_replaces_a_given_size_where_it_was_asked_to() -> None:
    """A settings file with another size and a request to choose it: the size that the rule gives, not the given."""
    given = replace_settings(LITE, "input", size=(512, 512))
    chosen = suggest(statistics(700, 300, 512), LITE, given, ("input.size",))
    assert chosen.experiment.input.size == LITE.input.size
