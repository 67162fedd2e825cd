"""One white level for the 16-bit images of a data set, in training, evaluation and prediction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.config import AugmentConfig, Experiment, InputConfig
from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.dataset import AugmentedSamples, SampleKey, read_resized_sample
from sais.data.doctor.check import check_dataset
from sais.data.white_level import choose_white_level
from sais.evaluation.image_batches import read_full_images
from sais.io.images import as_image

SIZE = (32, 32)


def make_split(folder: Path, maxima: list[int], dtype: type = np.uint16) -> DatasetSplit:
    """Write one image for each maximum, a ramp from 0 to it."""
    records = []
    for i, maximum in enumerate(maxima):
        ramp = np.linspace(0, maximum, SIZE[0] * SIZE[1]).reshape(SIZE).astype(dtype)
        path = folder / f"{i}.png"
        Image.fromarray(ramp).save(path)
        records.append(ImageRecord(i + 1, path, SIZE))
    return DatasetSplit("train", ("part",), images=tuple(records))


def test_choose_white_level_is_that_of_the_brightest_image(tmp_path: Path) -> None:
    split = make_split(tmp_path, [900, 200, 4000])
    (tmp_path / "1.png").write_bytes(b"no image")
    experiment, notes = choose_white_level(Experiment(), split)
    assert experiment.input.white_level == 4095
    assert "0 to 4095" in notes[0]
    assert choose_white_level(experiment, make_split(tmp_path, [60_000])) == (experiment, [])
    arrays = tuple(ImageRecord(i, np.full((4, 4), 900 * i, np.uint16), (4, 4)) for i in (1, 2))
    assert choose_white_level(Experiment(), replace(split, images=arrays))[0].input.white_level == 4095


def test_choose_white_level_changes_nothing_for_8_bits(tmp_path: Path) -> None:
    experiment = Experiment()
    assert choose_white_level(experiment, make_split(tmp_path, [255, 20], np.uint8)) == (experiment, [])
    assert choose_white_level(experiment, DatasetSplit("train", ("part",))) == (experiment, [])


def test_white_level_is_the_same_in_training_and_evaluation(tmp_path: Path) -> None:
    split = make_split(tmp_path, [900, 4000])
    settings = InputConfig(size=SIZE, white_level=4095)
    expected = np.floor(np.linspace(0, 900, 1024).reshape(SIZE).astype(np.uint16) / 4095 * 255 + 0.5)
    np.testing.assert_array_equal(read_resized_sample(split.images[0], settings).image[:, :, 0], expected)
    samples = AugmentedSamples(split, settings, AugmentConfig(flip=0.0), 0)
    np.testing.assert_array_equal(samples.read(SampleKey(0, 0))[0].image[:, :, 0], expected)
    (full,) = next(read_full_images(split, 1, 0, 4095))
    assert not isinstance(full, str)
    np.testing.assert_array_equal(full.image[:, :, 0], expected)
    np.testing.assert_array_equal(as_image(tmp_path / "0.png", white_level=4095)[:, :, 0], expected)


def test_predictor_scales_by_the_white_level_of_the_model(trained: Path) -> None:
    pytest.importorskip("torch")
    from sais.inference.predictor import Predictor
    from sais.inference.trained_model import load_model

    model = load_model(trained)
    settings = replace(model.experiment.input, white_level=1020)
    deep = replace(model, experiment=replace(model.experiment, input=settings))
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    expected = Predictor(model, score=0.02, device="cpu")(image)
    detections = Predictor(deep, score=0.02, device="cpu")(image.astype(np.uint16) * np.uint16(4))
    np.testing.assert_array_equal(detections.scores, expected.scores)


def test_check_dataset_reports_conversions_and_pages(tmp_path: Path) -> None:
    split = make_split(tmp_path, [900, 4000])
    pages = [Image.new("RGB", SIZE, (90 * i, 0, 0)) for i in range(2)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    record = ImageRecord(3, tmp_path / "pages.tif", SIZE)
    report = check_dataset(replace(split, images=(*split.images, record)))
    text = report.summary()
    assert "NOTE: images converted to RGB: 16-bit (0 to 1023 scaled to 0 to 255): 1" in text
    assert "WARNING: images with several pages or frames, of which the first is read: 1" in text
    assert report.ok
