"""Crops and cutouts: pixels of the image, transparency, margins, and images of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.errors import ConfigError, InputError
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from tests.results.detection_samples import random_detections, random_image, squares


def test_crop_is_the_part_of_the_image_with_box_and_mask() -> None:
    d, image = random_detections(), random_image()
    for crop, mask, box in zip(d.crop(image), d.masks(), d.boxes, strict=True):
        inside = mask.copy()
        inside[int(box[1]) : int(np.ceil(box[3])), int(box[0]) : int(np.ceil(box[2]))] = True
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        expected = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        np.testing.assert_array_equal(crop, expected)
        assert not np.shares_memory(crop, image)


def test_crop_has_a_margin_where_the_image_has_pixels() -> None:
    image = random_image()
    first, second = squares((0, 0), (30, 20)).crop(image, margin=3)
    np.testing.assert_array_equal(first, image[:13, :13])
    np.testing.assert_array_equal(second, image[17:33, 27:43])
    for margin in (-1, 1.5):
        with pytest.raises(ConfigError, match="margin"):
            squares((0, 0)).crop(image, margin=margin)  # type: ignore[arg-type]


def test_cutouts_are_transparent_outside_the_mask() -> None:
    d, image = random_detections(seed=4), random_image()
    for cutout, crop, mask in zip(d.cutouts(image, 2), d.crop(image, 2), d.cropped_masks, strict=True):
        np.testing.assert_array_equal(cutout[:, :, :3], crop)
        assert set(np.unique(cutout[:, :, 3])) <= {0, 255}
        assert (cutout[:, :, 3] == 255).sum() == mask.area
    (cutout,) = squares((30, 20)).cutouts(image, 2)
    assert (cutout[2:-2, 2:-2, 3] == 255).all()
    assert cutout.shape == (14, 14, 4)


def test_crops_of_boxes_outside_of_the_image_and_of_empty_masks_have_pixels() -> None:
    boxes = [[-30, -30, -20, -20], [100, 100, 120, 120], [5.2, 5.2, 5.2, 5.2]]
    masks = [CroppedMask(0, 0, np.zeros((0, 5), bool))] * 3
    d = Detections((60, 80), boxes, [0.9, 0.8, 0.7], [0, 0, 0], ("a",), masks)
    assert all(min(crop.shape) > 0 for crop in d.crop(random_image()))
    assert all(not cutout[:, :, 3].any() for cutout in d.cutouts(random_image()))


def test_image_is_the_given_one_or_the_one_that_detections_refer_to(tmp_path: Path) -> None:
    d, image = squares((30, 20)), random_image()
    with pytest.raises(InputError, match="no image. Give it as an argument, or predict with keep_image=True"):
        d.crop()
    Image.fromarray(image).save(tmp_path / "a.png")
    for kept in (image, tmp_path / "a.png", Image.fromarray(image)):
        d.image = kept
        np.testing.assert_array_equal(d.crop()[0], image[20:30, 30:40])
    np.testing.assert_array_equal(d.crop(255 - image)[0], 255 - image[20:30, 30:40])
    with pytest.raises(InputError, match=r"image of \(50, 80\) for detections in an image of \(60, 80\)"):
        d.crop(image[:50])


def test_crops_of_no_objects_and_cutouts_without_masks() -> None:
    image = random_image()
    for masks in (True, False):
        empty = random_detections(masks=masks)[:0]
        assert empty.crop(image) == empty.cutouts(image) == []
    with pytest.raises(InputError, match="no masks"):
        squares((0, 0), masks=False).cutouts(image)
