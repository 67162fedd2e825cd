"""Labels that a horizontal flip exchanges: found by name, right in training samples, stored with the model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sais import cli
from sais.config import AugmentConfig, Experiment, InputConfig
from sais.data.annotations import DatasetSplit
from sais.data.dataset import AugmentedSamples, SampleKey
from sais.data.flip_pairs import choose_flip_pairs, find_flip_pairs, flip_labels
from sais.data.formats import read_dataset
from sais.data.synthetic import write_shapes
from sais.data.synthetic_outlines import LEFT_RIGHT_NAMES
from sais.data.transforms.geometric import flip
from sais.errors import ConfigError
from sais.ops.rasterize import inside
from sais.structures import Sample

PAIRS = ("left boot=right boot", "left flag=right flag")
SETTINGS = InputConfig(size=(96, 128))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("left-right")
    write_shapes(path, train=24, valid=2, size=(96, 128), class_names=LEFT_RIGHT_NAMES)
    return path


@pytest.fixture(scope="module")
def split(folder: Path) -> DatasetSplit:
    return read_dataset(folder, "train")


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (LEFT_RIGHT_NAMES, PAIRS),
        (("right", "left", "up"), ("left=right",)),
        (("Right Kidney", "liver", "Left Kidney"), ("Left Kidney=Right Kidney",)),
        (("RIGHT_LUNG", "LEFT_LUNG"), ("LEFT_LUNG=RIGHT_LUNG",)),
        (("righthand", "lefthand"), ("lefthand=righthand",)),
        (
            ("front left to rear right", "front right to rear left"),
            ("front left to rear right=front right to rear left",),
        ),
        (("hand_r", "hand_l", "Foot.L", "Foot.R"), ("hand_l=hand_r", "Foot.L=Foot.R")),
        (("R hand", "L hand", "ear (r)", "ear (l)"), ("L hand=R hand", "ear (l)=ear (r)")),
        (("handR", "handL", "lArm", "rArm"), ("handL=handR", "lArm=rArm")),
        (("rib_l_1", "rib_l_2", "rib_r_1", "rib_r_2"), ("rib_l_1=rib_r_1", "rib_l_2=rib_r_2")),
        (("l", "r"), ()),  # letters
        (("letter_l", "letter_q", "letter_r"), ()),
        (("shirt_s", "shirt_m", "shirt_l"), ()),
        (("port door", "starboard door"), ()),
        (("bright", "upright", "leftover", "left kidney"), ()),
        (("left", "right", "left"), ()),  # two classes of one name
        (("car", "Left door", "right door"), ()),
    ],
)
def test_find_flip_pairs_by_name(names: tuple[str, ...], pairs: tuple[str, ...]) -> None:
    assert find_flip_pairs(names) == pairs


def test_flip_labels_of_given_pairs() -> None:
    names = ("a", "b", "c=d", "e")
    assert flip_labels(("a=c=d",), names).tolist() == [2, 1, 0, 3]  # type: ignore[union-attr]
    assert flip_labels(("c=d = b", "a=e"), names).tolist() == [3, 2, 1, 0]  # type: ignore[union-attr]
    assert flip_labels(("auto",), LEFT_RIGHT_NAMES).tolist() == [1, 0, 3, 2, 4]  # type: ignore[union-attr]
    for none in ((), ("none",)):
        assert flip_labels(none, LEFT_RIGHT_NAMES) is None
    assert flip_labels(("auto",), names) is None
    for pairs, message in (
        (("a=f",), "'a=f': no class 'f'"),
        (("g=a",), "no class 'g'"),
        (("a",), "'a': not a pair"),
        (("auto", "a=b"), "'auto': not a pair"),
        (("a=b", "b=e"), "'b=e': a class is in two pairs"),
        (("a=a",), "'a=a': a class is in two pairs"),
    ):
        with pytest.raises(ConfigError, match=message):
            flip_labels(pairs, names)


def test_choose_flip_pairs_lists_them_in_the_settings() -> None:
    experiment, notes = choose_flip_pairs(Experiment(), LEFT_RIGHT_NAMES)
    assert experiment.augment.flip_pairs == PAIRS
    [note] = notes
    assert "the labels of 2 pairs of classes: left boot=right boot, left flag=right flag" in note
    for options, names in (
        (AugmentConfig(flip_pairs=("none",)), LEFT_RIGHT_NAMES),
        (AugmentConfig(), ("cat", "dog")),
    ):
        assert choose_flip_pairs(Experiment(augment=options), names) == (Experiment(augment=options), [])
    experiment, notes = choose_flip_pairs(Experiment(augment=AugmentConfig(flip=0.0)), LEFT_RIGHT_NAMES)
    assert (experiment.augment.flip_pairs, notes) == (PAIRS, [])  # for test-time augmentation
    with pytest.raises(ConfigError, match="no class"):
        choose_flip_pairs(Experiment(augment=AugmentConfig(flip_pairs=("x=y",))), LEFT_RIGHT_NAMES)


def side_agreement(samples: list[Sample]) -> float:
    """Return the fraction of the boots and flags whose pixels show the side of their label.

    The legs and poles are at the other end, so that the center of mass is there.
    """
    agree = []
    for sample in samples:
        height, width = sample.image.shape[:2]
        for label, mask in zip(sample.labels, sample.masks, strict=True):
            side = LEFT_RIGHT_NAMES[label].partition(" ")[0]
            assert mask is not None
            columns = inside(mask, (0, 0, width, height)).sum(0)
            used = np.flatnonzero(columns)
            if side != "star" and len(used) > 8:
                mass = (columns * np.arange(width)).sum() / columns.sum()
                agree.append((mass < (used[0] + used[-1]) / 2) == (side == "right"))
    assert len(agree) > 40
    return float(np.mean(agree))


@pytest.mark.parametrize("options", [{}, {"mosaic": 1.0}, {"copy_paste": 1.0}], ids=["flip", "mosaic", "copy-paste"])
def test_flipped_samples_have_the_labels_that_they_show(split: DatasetSplit, options: dict[str, float]) -> None:
    def agreement(**changes: object) -> float:
        samples = AugmentedSamples(split, SETTINGS, AugmentConfig(**{"flip": 1.0, **options, **changes}), 0)  # type: ignore[arg-type]
        return side_agreement([samples.read(SampleKey(0, i))[0] for i in range(len(split.images))])

    assert agreement(flip=0.0) > 0.75  # occlusion and tilt hide some
    assert agreement() > 0.75
    assert agreement(flip_pairs=PAIRS) > 0.75
    assert agreement(flip_pairs=("none",)) < 0.25


def test_flip_exchanges_labels_and_its_inverse_restores_them(split: DatasetSplit) -> None:
    labels = flip_labels(("auto",), split.class_names)
    sample = AugmentedSamples(split, SETTINGS, AugmentConfig(flip=0.0), 0).read(SampleKey(0, 1))[0]
    mirrored = flip(sample, labels)
    for before, after in zip(sample.labels, mirrored.labels, strict=True):
        name, other = LEFT_RIGHT_NAMES[before], LEFT_RIGHT_NAMES[after]
        assert other == name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
    assert (sample.labels != mirrored.labels).any()
    np.testing.assert_array_equal(flip(mirrored, labels).labels, sample.labels)
    assert flip(sample).labels is sample.labels  # as before, for classes without sides


def test_check_lists_the_pairs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(folder), "--split", "train"]) == 0
    output = capsys.readouterr().out
    assert "NOTE: pairs of classes whose labels a horizontal flip exchanges (augment.flip_pairs): 2\n" in output
    assert "    left boot=right boot\n    left flag=right flag\n" in output


def test_a_run_logs_and_stores_the_pairs(folder: Path, tiny: Experiment, tmp_path: Path) -> None:
    from sais.checkpoint import load_checkpoint
    from sais.engine.trainer import train

    experiment = replace(tiny, schedule=replace(tiny.schedule, epochs=1), optim=replace(tiny.optim, batch_size=2))
    result = train(experiment, folder, tmp_path / "run", max_iterations=1, verbose=False)
    assert load_checkpoint(result.out / "last.safetensors").experiment.augment.flip_pairs == PAIRS
    assert json.loads((result.out / "experiment.json").read_text())["augment"]["flip_pairs"] == list(PAIRS)
    assert "a flip exchanges the labels of 2 pairs of classes" in (result.out / "log.txt").read_text()
    wrong = replace(experiment, augment=AugmentConfig(flip_pairs=("left boot=right shoe",)))
    with pytest.raises(ConfigError, match="no class 'right shoe', did you mean 'right boot'"):
        train(wrong, folder, tmp_path / "wrong", max_iterations=1, verbose=False)
