"""What all tests share: one thread per process, the real data sets, a tiny run on synthetic shapes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported; tests run side by side

if TYPE_CHECKING:
    from sais.config import Experiment

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """The folder of a real data set by name (animals, breadboard, coco_mini); skips the test where it is absent."""
    shelf = Path(os.environ.get("SAIS_DATA", ROOT.parent / "shared" / "data"))

    def folder(name: str) -> Path:
        if not (shelf / name).is_dir():
            pytest.skip(f"no real data at {shelf / name}; set SAIS_DATA to the folder that has {name}")
        return shelf / name

    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 training and 4 validation images, 96 x 128 pixels each. Copy it before changing it."""
    from sais.data.synthetic import write_shapes

    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(folder, train=12, valid=4, size=(96, 128), seed=3)
    return folder


@pytest.fixture(scope="session")
def tiny() -> Experiment:
    """The smallest experiment: 64 x 64, four images a step, the ImageNet weights that come with pip."""
    from sais import config

    return config.Experiment(
        name="tiny",
        input=config.InputConfig(size=(64, 64)),
        model=config.ModelConfig(
            backbone="tf_efficientnet_lite0.in1k", channels=64, tower_depth=1, prototype_channels=16
        ),
        criterion=config.CriterionConfig(box_loss="giou"),
        postprocess=config.PostprocessConfig(score_threshold=0.02),
        optim=config.OptimConfig(name="adamw", lr=2e-3, batch_size=4),
        schedule=config.ScheduleConfig(epochs=2, kind="cosine", warmup_kind="linear"),
        run=config.RunConfig(workers=0, device="cpu", evaluate_every=0),
    )


@pytest.fixture(scope="session")
def trained(shapes: Path, tiny: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `tiny` on `shapes`, long enough to find something."""
    from dataclasses import replace

    from sais.data.paths import DataPaths
    from sais.engine.trainer import train

    out = tmp_path_factory.mktemp("runs") / "tiny"
    experiment = replace(tiny, schedule=replace(tiny.schedule, epochs=8))
    train(experiment, DataPaths(shapes), out)
    return out
