"""Random objects through each writer and its reader: what the format can hold is the same, and the others are counted.

The examples are the same in every run (`derandomize`).
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sais
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, object_mask
from sais.data.formats import read_dataset
from sais.ops.rasterize import Polygons, inside
from sais.ops.rle import encode
from sais.results import not_written as kinds

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

WIDTH, HEIGHT = 36, 28
CLASSES = ("cat", "dog", "car")
MAPS = ("voc", "masks", "cityscapes")
"""Formats whose pixels have one object each."""
EXAMPLES = settings(
    max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@st.composite
def polygons(draw: st.DrawFn) -> list[list[float]]:
    """Draw one or two polygons, which may cross themselves, each other and the border of the image."""
    parts = []
    for _ in range(draw(st.integers(1, 2))):
        x = st.floats(-6, WIDTH + 6, allow_subnormal=False).map(lambda value: round(value, 3))
        y = st.floats(-6, HEIGHT + 6, allow_subnormal=False).map(lambda value: round(value, 3))
        points = draw(st.lists(st.tuples(x, y), min_size=3, max_size=6))
        parts.append([value for point in points for value in point])
    return parts


@st.composite
def masks(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a mask of rectangles that are added and removed, with holes and several parts, as RLE."""
    bits = np.zeros((HEIGHT, WIDTH), bool)
    for _ in range(draw(st.integers(1, 5))):
        x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
        width, height = draw(st.integers(1, 14)), draw(st.integers(1, 14))
        bits[y : y + height, x : x + width] = draw(st.booleans()) or not bits.any()
    return encode(bits)


@st.composite
def boxes(draw: st.DrawFn) -> list[float]:
    """Draw a box x y width height in eighths of a pixel."""
    x, y = draw(st.integers(0, 8 * WIDTH - 9)), draw(st.integers(0, 8 * HEIGHT - 9))
    width, height = draw(st.integers(8, 8 * WIDTH - x)), draw(st.integers(8, 8 * HEIGHT - y))
    return [x / 8, y / 8, width / 8, height / 8]


OBJECTS = st.lists(
    st.fixed_dictionaries({"category_id": st.integers(1, 3), "iscrowd": st.sampled_from((0, 0, 0, 1))}).flatmap(
        lambda entry: st.one_of(
            polygons().map(lambda parts: entry | {"segmentation": parts}),
            masks().map(lambda rle: entry | {"segmentation": rle}),
            boxes().map(lambda box: entry | {"bbox": box}),
        )
    ),
    max_size=4,
)


def write_source(folder: Path, entries: list[dict[str, Any]]) -> Path:
    """Write a data set of one training image."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images" / "train").mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / "train" / "a.png")
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
        "annotations": [{"id": i, "image_id": 1} | entry for i, entry in enumerate(entries, 1)],
    }
    (folder / "annotations" / "train.json").write_text(json.dumps(document))
    return folder


def pixels(annotation: Annotation, record: ImageRecord) -> np.ndarray | None:
    """Return the mask of an annotation (H, W) bool; None if it has only a box."""
    mask = object_mask(annotation, record.size)
    return None if mask is None else inside(mask, (0, 0, WIDTH, HEIGHT))


def rows(split: DatasetSplit, crowds: bool = True) -> Counter[Any]:
    """Return class, crowd and pixels of the objects of a split that have a mask with pixels, with their counts."""
    (record,) = split.images
    found: Counter[Any] = Counter()
    for annotation in record.annotations:
        mask = pixels(annotation, record)
        if mask is not None and mask.any() and (crowds or not annotation.crowd):
            found[split.class_names[annotation.label], annotation.crowd, mask.tobytes()] += 1
    return found


def boxes_of(split: DatasetSplit) -> list[Any]:
    """Return class and box of the objects of a split that have only a box, sorted."""
    (record,) = split.images
    return sorted((split.class_names[a.label], a.box.tolist()) for a in record.annotations if a.segmentation is None)


def count(split: DatasetSplit) -> int:
    """Return the number of objects of a split."""
    return sum(len(record.annotations) for record in split.images)


@pytest.mark.parametrize("format", ["coco", "yolo", "labelme", *MAPS])
@EXAMPLES
@given(entries=OBJECTS)
def test_objects_are_the_same_after_a_round_trip_or_counted(format: str, entries: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = write_source(Path(name) / "source", entries)
        (result,) = sais.convert(source, Path(name) / "out", format)
        before, after = read_dataset(source, "train"), read_dataset(Path(name) / "out", "train")
        record = before.images[0]
        flat = sum(a.segmentation is not None and not pixels(a, record).any() for a in record.annotations)  # type: ignore[union-attr]
    assert (result.images, result.images_left_out, result.objects) == (1, 0, count(before))
    if format in ("coco", "labelme"):
        assert result.objects_left_out == 0
        assert boxes_of(after) == boxes_of(before)
        assert rows(after) == rows(before)
        assert count(after) == count(before)
    elif format == "yolo":
        assert count(before) - result.objects_left_out - flat <= count(after) <= count(before) - result.objects_left_out
        assert result.notes[kinds.CROWD] == sum(annotation.crowd for annotation in record.annotations)
        missing = rows(before, crowds=False) - rows(after)
        assert not missing
    else:
        assert count(after) == count(before) - result.objects_left_out
        check_map(before, after, result.notes)


def covered(objects: Counter[Any]) -> np.ndarray:
    """Return the pixels (H * W,) bool of all objects of `rows`."""
    return np.any([np.zeros(HEIGHT * WIDTH, bool), *(np.frombuffer(row[2], bool) for row in objects)], axis=0)


def check_map(before: DatasetSplit, after: DatasetSplit, notes: Counter[str]) -> None:
    """Check the objects of a map: the same where nothing is hidden, else parts of them that cover the same pixels."""
    expected, found = rows(before, crowds=False), rows(after, crowds=False)
    assert np.array_equal(covered(found), covered(expected))
    for row in found:
        part = np.frombuffer(row[2], bool)
        assert any(other[0] == row[0] and not (part & ~np.frombuffer(other[2], bool)).any() for other in expected)
    if not notes[kinds.HIDDEN] + notes[kinds.ALL_HIDDEN]:
        assert found == expected


def read_geojson(path: Path) -> Counter[Any]:
    """Return class, crowd and pixels of the features of a file that have a mask with pixels, with their counts."""
    found: Counter[Any] = Counter()
    for feature in json.loads(path.read_text())["features"]:
        geometry, properties = feature["geometry"], feature["properties"]
        parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        mask = np.zeros((HEIGHT, WIDTH), bool)
        for outer, *holes in parts:
            bits = filled(outer)
            for hole in holes:
                bits &= ~filled(hole)
            mask |= bits
        if mask.any() and not properties.get("box_only"):
            found[properties["class"], properties.get("crowd", False), mask.tobytes()] += 1
    return found


def filled(ring: list[list[float]]) -> np.ndarray:
    """Return the pixels (H, W) bool inside a closed ring."""
    return inside(Polygons((np.array(ring[:-1]),)), (0, 0, WIDTH, HEIGHT))


@EXAMPLES
@given(entries=OBJECTS)
def test_geojson_has_every_object(entries: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        source = write_source(Path(name) / "source", entries)
        (result,) = sais.convert(source, Path(name) / "out", "geojson")
        before = read_dataset(source, "train")
        path = Path(name) / "out" / "train" / "a.geojson"
        assert len(json.loads(path.read_text())["features"]) == result.objects == count(before)
        assert read_geojson(path) == rows(before)
    assert result.objects_left_out == 0
