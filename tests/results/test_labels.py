"""Detections as LabelMe, YOLO and GeoJSON: the same pixels by slow readers of each format, scores, and empty images."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sais.ops.rasterize import Bitmap, Polygons
from sais.results import not_written as kinds
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.labeled_object import LabeledObject
from sais.results.yolo import to_yolo

SIZE = (40, 50)


def random_detections(seed: int, count: int = 4) -> Detections:
    """Return detections with masks of several parts and holes."""
    random = np.random.default_rng(seed)
    masks, boxes = [], []
    for _ in range(count):
        x, y = int(random.integers(0, 20)), int(random.integers(0, 20))
        bits = random.random((random.integers(2, 20), random.integers(2, 30))) < random.uniform(0.4, 1)
        bits[0, 0] = True
        masks.append(CroppedMask(x, y, bits))
        boxes.append([x, y, x + bits.shape[1], y + bits.shape[0]])
    scores = np.sort(random.random(count))[::-1]
    return Detections(SIZE, np.array(boxes), scores, np.arange(count) % 2, ("cat", "dog"), masks)


def centers_inside(polygon: Any) -> np.ndarray:
    """Return the pixels of SIZE whose centers are inside a polygon, point by point with the even-odd rule."""
    points = [(float(x), float(y)) for x, y in np.asarray(polygon).reshape(-1, 2)]
    mask = np.zeros(SIZE, bool)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            px, py = column + 0.5, row + 0.5
            for (x1, y1), (x2, y2) in zip(points, [*points[1:], points[0]], strict=True):
                if (y1 <= py) != (y2 <= py) and px < x1 + (py - y1) * (x2 - x1) / (y2 - y1):
                    mask[row, column] ^= True
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_to_yolo_has_the_pixels_of_each_object(seed: int) -> None:
    detections = random_detections(seed)
    lines = detections.to_yolo(tolerance=0).splitlines()
    for line, label, mask in zip(lines, detections.labels, detections.masks(), strict=True):
        number, *values = line.split()
        assert int(number) == label
        points = np.array(values, float).reshape(-1, 2)
        assert points.min() >= 0
        assert points.max() <= 1
        np.testing.assert_array_equal(centers_inside(points * [SIZE[1], SIZE[0]]), mask)


@pytest.mark.parametrize("seed", range(3))
def test_to_labelme_has_the_pixels_and_scores_of_each_object(seed: int) -> None:
    detections = random_detections(seed)
    document = json.loads(json.dumps(detections.to_labelme("a.jpg", tolerance=0)))
    assert (document["imagePath"], document["imageHeight"], document["imageWidth"]) == ("a.jpg", *SIZE)
    masks: dict[str, np.ndarray] = {}
    for shape in document["shapes"]:
        pixels = masks.setdefault(shape["description"], np.zeros(SIZE, bool))
        if shape["shape_type"] == "polygon":
            pixels |= centers_inside(shape["points"])
            continue
        (x1, y1), (x2, y2) = np.array(shape["points"]).astype(int)
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as image:
            pixels[y1 : y2 + 1, x1 : x2 + 1] |= np.asarray(image).astype(bool)  # as LabelMe reads it
    for score, mask in zip(detections.scores, detections.masks(), strict=True):
        np.testing.assert_array_equal(masks[f"score {score:.4f}"], mask)
    groups = Counter(shape["group_id"] for shape in document["shapes"] if shape["group_id"] is not None)
    assert all(count > 1 for count in groups.values())


@pytest.mark.parametrize("seed", range(3))
def test_to_geojson_has_the_pixels_of_each_object(seed: int) -> None:
    detections = random_detections(seed)
    document = json.loads(json.dumps(detections.to_geojson("a.jpg", tolerance=0)))
    assert "y down" in document["properties"]["coordinates"]
    for feature, detection in zip(document["features"], detections, strict=True):
        geometry = feature["geometry"]
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        pixels = np.zeros(SIZE, bool)
        for outer, *holes in polygons:
            part = centers_inside(outer)
            assert outer[0] == outer[-1]
            for hole in holes:
                assert not (centers_inside(hole) & ~part).any()
                part &= ~centers_inside(hole)
            pixels |= part
        np.testing.assert_array_equal(pixels, detection.masks()[0])
        assert feature["properties"]["class"] == detection.class_names[detection.labels[0]]
        assert feature["properties"]["score"] == pytest.approx(detection.scores[0])


def test_labels_of_detections_are_simplified() -> None:
    with Image.new("1", (400, 300)) as canvas:
        ImageDraw.Draw(canvas).ellipse((20, 30, 380, 270), fill=1)
        mask = np.asarray(canvas).astype(bool)
    detections = Detections(mask.shape, [[20, 30, 381, 271]], [0.9], [0], ("cat",), [CroppedMask(0, 0, mask)])
    (exact,), (simple,) = (detections.to_labelme("a.jpg", tolerance)["shapes"] for tolerance in (0, 1))
    assert len(simple["points"]) * 10 < len(exact["points"])


def test_labels_without_masks_are_boxes() -> None:
    detections = Detections(SIZE, [[5, 10, 25, 30]], [0.5], [1], ("cat", "dog"))
    assert detections.to_yolo() == "1 0.3 0.5 0.4 0.5\n"
    (shape,) = detections.to_labelme("a.jpg")["shapes"]
    assert (shape["shape_type"], shape["points"]) == ("rectangle", [[5, 10], [25, 30]])
    (feature,) = detections.to_geojson()["features"]
    assert feature["geometry"]["coordinates"] == [[[5, 10], [25, 10], [25, 30], [5, 30], [5, 10]]]
    nothing = Detections(SIZE, [], [], [], ("cat", "dog"))
    assert nothing.to_yolo() == ""
    assert nothing.to_labelme("a.jpg")["shapes"] == nothing.to_geojson()["features"] == []


def test_to_yolo_counts_what_it_cannot_hold_and_clips_to_the_image() -> None:
    box = np.array([5, 10, 25, 30], np.float32)
    square = Polygons((np.array([[-5.0, 5], [60, 5], [60, 45], [-5, 45]]),))
    far = Polygons((np.array([[100.0, 5], [160, 5], [160, 45]]),))
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    objects = [
        LabeledObject("cat", 0, box),
        LabeledObject("cat", 0, box, square, crowd=True),
        LabeledObject("cat", 0, box, square, score=0.5),
        LabeledObject("cat", 0, box, far),
        LabeledObject("cat", 0, box, Bitmap(ring, (3, 3, 8, 8))),
    ]
    notes: Counter[str] = Counter()
    lines = to_yolo(objects, SIZE, notes=notes).splitlines()
    assert lines[0] == "0 0.1 0.25 0.5 0.25 0.5 0.75 0.1 0.75"
    assert sorted(map(float, lines[1].split()[1:])) == [0, 0, 0.125, 0.125, 1, 1, 1, 1]
    assert len(lines) == 3
    assert notes == dict.fromkeys((kinds.BOX_AS_OUTLINE, kinds.CROWD, kinds.SCORE, kinds.OUTSIDE, kinds.JOINED), 1)
