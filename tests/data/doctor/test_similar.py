"""Near-duplicates: copies in another size and quality are found, different images are not, groups are complete."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from sais.data.doctor.similar import (
    MAX_CANDIDATES,
    Signatures,
    SimilarImage,
    group_similar,
    nearly_equal,
    similar_images,
)


def scene(seed: int, size: tuple[int, int] = (240, 320)) -> Image.Image:
    """Return an image with random smooth patches."""
    colors = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)
    return Image.fromarray(colors).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def recompressed(image: Image.Image, quality: int = 40) -> Image.Image:
    """Return an image as JPEG makes it."""
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file).convert("RGB")


def signatures(images: list[Image.Image]) -> Signatures:
    """Return the signatures of images."""
    thumbnails = [np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX)) for image in images]
    return Signatures(thumbnails, [(image.height, image.width) for image in images])


def indices(similar: list[list[SimilarImage]]) -> list[list[int]]:
    """Return the indices of similar images, sorted."""
    return [sorted(image.position for image in row) for row in similar]


@pytest.mark.parametrize(
    "change",
    [
        recompressed,
        lambda image: image.resize((200, 150)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.15),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
        lambda image: image.crop((2, 2, 318, 238)),
        ImageOps.mirror,
    ],
    ids=["recompressed", "smaller", "brighter", "less contrast", "cropped", "mirrored"],
)
def test_similar_images_finds_changed_copies(change: object) -> None:
    assert callable(change)
    images = [scene(seed) for seed in range(20)]
    copies = [change(image) for image in images]
    found = similar_images(signatures(copies), signatures(images))
    assert found == [[SimilarImage(index, change is ImageOps.mirror)] for index in range(20)]
    assert similar_images(signatures(images)) == [[] for _ in images]


def test_similar_images_compares_with_the_images_before(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [scene(1), scene(2), recompressed(scene(1)), scene(3), recompressed(scene(2), 60), recompressed(scene(1))]
    expected = [[], [], [0], [], [1], [0, 2]]
    assert indices(similar_images(signatures(images))) == expected
    monkeypatch.setattr("sais.data.doctor.similar._BLOCK", 12)  # two images in a block
    similar = similar_images(signatures(images))
    assert indices(similar) == expected
    assert group_similar(similar) == [0, 1, 0, 3, 1, 0]


def test_similar_images_does_not_compare_images_that_show_nothing() -> None:
    gray = [Image.new("RGB", (320, 240), (90, 90, 90 + i)) for i in range(3)]
    assert similar_images(signatures(gray)) == [[], [], []]
    missing = Signatures([None, None], [(0, 0), (0, 0)])
    assert similar_images(missing) == [[], []]
    assert similar_images(Signatures([], []), Signatures([], [])) == []


def test_similar_images_of_another_shape_are_different() -> None:
    image = scene(4)
    assert similar_images(signatures([image, image.resize((240, 320))])) == [[], []]


def test_nearly_equal_notices_an_object_that_moved() -> None:
    """Two images of a fixed camera differ by an object only."""
    images = [scene(5), scene(5)]
    images[1].paste((255, 255, 255), (100, 100, 160, 160))
    first, second = signatures(images).thumbnails
    assert nearly_equal(first, first)
    assert not nearly_equal(first, second)


def test_similar_images_of_a_long_series_stays_within_candidates() -> None:
    images = [scene(6)] * 30
    found = similar_images(signatures(images))
    assert [len(row) for row in found] == [min(i, MAX_CANDIDATES) for i in range(30)]
    assert set(group_similar(found)) == {0}


@pytest.mark.slow
def test_similar_images_of_thousands_take_seconds() -> None:
    random = np.random.default_rng(0)
    thumbnails = list(random.integers(0, 255, (10_000, 32, 32), np.uint8))
    start = time.process_time()
    found = similar_images(Signatures(thumbnails, [(32, 32)] * len(thumbnails)))
    assert not any(found)
    assert time.process_time() - start < 10  # 100 times as long for 100,000
