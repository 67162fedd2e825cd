"""Shapes: a synthetic COCO data set with exact masks, for the demo and the tests (`sais make-shapes DIR`).

Scenes of textured rings, stars, triangles, crescents and crosses on a cluttered background, upper objects cutting the
lower ones. Color and texture say nothing about the class, and every class fills its box poorly, so a model must learn
shape: boxes filled as masks score under 0.35 mask AP. Image number i of a split depends on (seed, split, i) only.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sais.errors import SaisError
from sais.ops.rasterize import Polygons, coverage
from sais.ops.rle import encode_cropped

CLASS_NAMES = ("ring", "star", "triangle", "crescent", "cross")
"""Label 0 first; the category id in the JSON is the label + 1. Only the ring has a hole."""

_LEAST_VISIBLE = 0.7
"""No object shows less than this share of itself."""
_EMPTY_SHARE = 0.03
"""Share of the images that have no objects."""
_TRIES = 12
"""Places tried for an object before the image goes without it."""


@dataclass(frozen=True, eq=False)
class SyntheticScene:
    """One synthetic image and its N objects, lowest first."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    labels: np.ndarray
    """(N,) int64, index into `CLASS_NAMES`."""
    visible: np.ndarray
    """(N, H, W) bool: the pixels that belong to each object, disjoint."""
    whole: np.ndarray
    """(N, H, W) bool: the pixels each would have alone."""


def write_shapes(
    folder: Path | str,
    train: int = 400,
    valid: int = 80,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the data set: folder/images/{train,valid}/*.jpg and folder/annotations/{train,valid}.json.

    Args:
        folder: made if needed; files of the same names are overwritten.
        train: images of the split train.
        valid: images of the split valid.
        size: (H, W) of every image in pixels, at least 64.
        seed: another seed gives other images.
        progress: called after each image with how many are done and how many there will be.

    Raises:
        SaisError: the folder cannot be written, or a size or number makes no sense.
    """
    if min(train, valid) < 1:
        raise SaisError(f"shapes: {train} train and {valid} valid images; ask for at least 1 of each")
    if min(size) < 64:
        raise SaisError(f"shapes: images of {size[0]} x {size[1]} are too small; ask for at least 64 x 64")
    folder, done = Path(folder), 0
    for split, number in (("train", train), ("valid", valid)):
        document: dict[str, Any] = {
            "info": {"description": f"sais make-shapes, seed {seed}"},
            "images": [],
            "annotations": [],
            "categories": [{"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASS_NAMES)],
        }
        try:
            images = folder / "images" / split
            images.mkdir(parents=True, exist_ok=True)
            (folder / "annotations").mkdir(exist_ok=True)
            for i in range(number):
                made = make_scene(seed, split, i, size)
                name = f"{split}_{i:05d}.jpg"
                Image.fromarray(made.image).save(images / name, quality=92)
                document["images"].append({"id": i + 1, "file_name": name, "height": size[0], "width": size[1]})
                document["annotations"] += _annotations(made, i + 1, len(document["annotations"]) + 1)
                done += 1
                if progress is not None:
                    progress(done, train + valid)
            # Last, so that an interrupted run leaves no split that looks whole.
            (folder / "annotations" / f"{split}.json").write_text(json.dumps(document))
        except OSError as error:
            raise SaisError(f"{folder}: cannot be written ({error}); choose another folder") from error


def _annotations(made: SyntheticScene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    found = []
    for k, bits in enumerate(made.visible):
        rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
        y, x = int(rows[0]), int(columns[0])
        patch = bits[y : rows[-1] + 1, x : columns[-1] + 1]
        found.append(
            {
                "id": first_id + k,
                "image_id": image_id,
                "category_id": int(made.labels[k]) + 1,
                "bbox": [x, y, patch.shape[1], patch.shape[0]],
                "area": int(patch.sum()),
                "iscrowd": 0,
                "segmentation": encode_cropped(patch, x, y, bits.shape),
            }
        )
    return found


def make_scene(seed: int, split: str, number: int, size: tuple[int, int] = (256, 256)) -> SyntheticScene:
    """Image `number` of a split: the same every time, whatever was drawn before."""
    random = np.random.default_rng([seed, zlib.crc32(split.encode()), number])
    canvas, ground = _background(random, size)
    wanted = 0 if random.random() < _EMPTY_SHARE else int(random.integers(6, 9))
    labels: list[int] = []
    areas: list[int] = []
    whole = np.zeros((wanted, *size), bool)
    owner = np.full(size, -1)
    for _ in range(wanted):
        placed = _placed(random, areas, owner)
        if placed is None:
            continue
        label, where, alpha = placed
        solid = alpha >= 0.5
        owner[where][solid] = len(labels)
        whole[len(labels)][where] = solid
        labels.append(label)
        areas.append(int(solid.sum()))
        below = canvas[where]
        below += alpha[:, :, None] * (_texture(random, solid.shape, _color(random, ground)) - below)
    image = _camera(random, canvas)
    visible = owner == np.arange(len(labels))[:, None, None]
    return SyntheticScene(image, np.array(labels, np.int64), visible, whole[: len(labels)])


def _placed(
    random: np.random.Generator, areas: list[int], owner: np.ndarray
) -> tuple[int, tuple[slice, slice], np.ndarray] | None:
    """A new object that leaves enough of all others in sight, or None if none fits.

    Args:
        random: decides all.
        areas: pixels that each earlier object would have alone.
        owner: (H, W) which earlier object each pixel shows, -1 the background.

    Returns:
        Its label, the window of the image it lies in, its coverage 0 .. 1 of the window's pixels.
    """
    height, width = owner.shape
    unit = min(height, width) / 256
    label = int(random.integers(len(CLASS_NAMES)))
    diameter = unit * (random.uniform(56, 104) if random.random() < 0.95 else random.uniform(36, 56))
    outline = _outline(random, label) * (diameter / 2)
    for _ in range(_TRIES):
        x, y = random.uniform(0.3, 0.7) * diameter, random.uniform(0.3, 0.7) * diameter
        x, y = random.uniform(x, width - x), random.uniform(y, height - y)
        if areas and random.random() < 0.05:  # beside an earlier object: closer than chance
            rows, columns = np.nonzero(owner == random.integers(len(areas)))
            pick = random.integers(len(rows))
            turn = random.uniform(0, 2 * np.pi)
            x = float(np.clip(columns[pick] + np.cos(turn) * 0.4 * diameter, 0, width))
            y = float(np.clip(rows[pick] + np.sin(turn) * 0.4 * diameter, 0, height))
        points = outline + np.array([x, y])
        (left, top), (right, bottom) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
        window = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        alpha = coverage(Polygons((points,)), window, cell=1.0, samples=3).astype(np.float32) / 255
        solid = alpha >= 0.5
        where = (slice(window[1], window[3]), slice(window[0], window[2]))
        taken = np.bincount(owner[where][solid] + 1, minlength=len(areas) + 1)[1:]
        shown = np.bincount(owner.ravel() + 1, minlength=len(areas) + 1)[1:] - taken
        in_sight = solid.sum() >= 0.7 * abs(_shoelace(points))
        if in_sight and all(n >= _LEAST_VISIBLE * a for n, a in zip(shown, areas, strict=True)):
            return label, where, alpha
    return None


def _shoelace(points: np.ndarray) -> float:
    x, y = points.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def _outline(random: np.random.Generator, label: int) -> np.ndarray:
    """A shape of the class within the unit circle, varied and turned: (P, 2), one part under the even-odd rule."""
    name = CLASS_NAMES[label]
    if name == "ring":
        hole = random.uniform(0.42, 0.58)
        # Two closed loops in one part; the bridge between them is walked there and back and so cancels. The inner
        # one runs the other way round, which makes the signed area right too.
        points = np.concatenate([_arc(0, 2 * np.pi, 64), hole * _arc(2 * np.pi, 0, 64)])
    elif name == "star":
        tips = 5 if random.random() < 0.5 else 6
        radius = np.where(np.arange(2 * tips) % 2, random.uniform(0.45, 0.55), 1.0)
        points = radius[:, None] * _arc(0, 2 * np.pi, 2 * tips + 1)[:-1]
    elif name == "triangle":
        points = _arc(0, 2 * np.pi, 4)[:-1] * (1.0, random.uniform(0.75, 1.0))
    elif name == "crescent":
        points = _crescent(random.uniform(0.66, 0.78), random.uniform(0.5, 0.62))
    else:
        arm = random.uniform(0.26, 0.34)
        corner = np.array([[1, -arm], [1, arm], [arm, arm]])
        points = np.concatenate([_turned(corner, k * np.pi / 2) for k in range(4)])
    return _turned(points, random.uniform(0, 2 * np.pi))


def _arc(start: float, end: float, number: int) -> np.ndarray:
    angles = np.linspace(start, end, number)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _crescent(radius: float, shift: float) -> np.ndarray:
    """The unit disc less a disc of `radius` moved right by `shift`."""
    x = (1 - radius**2 + shift**2) / (2 * shift)  # where the two circles meet
    y = np.sqrt(1 - x**2)
    outer, inner = np.arctan2(y, x), np.arctan2(y, x - shift)
    back = _arc(2 * np.pi - inner, inner, 32) * radius + (shift, 0.0)
    return np.concatenate([_arc(outer, 2 * np.pi - outer, 48), back[1:-1]])


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _color(random: np.random.Generator, away_from: np.ndarray) -> np.ndarray:
    """A color, (3,) 0 .. 255, that can be told from the background's two, (2, 3)."""
    color = random.uniform(20, 235, 3)
    for _ in range(20):
        if np.abs(away_from - color).max(1).min() > 60:
            break
        color = random.uniform(20, 235, 3)
    return color


def _waves(random: np.random.Generator, size: tuple[int, int], least: float, most: float) -> np.ndarray:
    """(H, W) float32 -1 .. 1: stripes of any direction, `least` .. `most` pixels wide."""
    angle, period = random.uniform(0, np.pi), random.uniform(least, most) * 2
    y, x = np.ogrid[: size[0], : size[1]]
    phase = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period) + random.uniform(0, 2 * np.pi)
    return np.sin(phase).astype(np.float32)


def _clouds(random: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """(H, W) float32 -1 .. 1: smooth noise of `cells` x `cells` gray values."""
    coarse = Image.fromarray(random.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _texture(random: np.random.Generator, size: tuple[int, int], color: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32: `color` varied by stripes, checks, a gradient, grain or nothing."""
    kind = int(random.integers(5))
    if kind == 0:
        pattern = np.sign(_waves(random, size, 3, 9))
    elif kind == 1:
        pattern = np.sign(_waves(random, size, 4, 10) * _waves(random, size, 4, 10))
    elif kind == 2:
        pattern = _waves(random, size, 50, 120)
    elif kind == 3:
        pattern = _clouds(random, size, 48)
    else:
        pattern = np.zeros(size, np.float32)
    second = random.uniform(-45, 45, 3)
    return (color + pattern[:, :, None] * second).astype(np.float32)


def _background(random: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two colors blended by clouds and faint waves, with lines and blobs that are no objects.

    Returns:
        (H, W, 3) float32 and the two colors, (2, 3).
    """
    first = random.uniform(30, 225, 3)
    colors = np.stack([first, np.clip(first + random.uniform(-60, 60, 3), 0, 255)])
    blend = 0.5 + 0.5 * np.clip(_clouds(random, size, int(random.integers(3, 9))), -1, 1)
    canvas = colors[0] + blend[:, :, None] * (colors[1] - colors[0])
    canvas += _waves(random, size, 4, 30)[:, :, None] * random.uniform(-12, 12, 3)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    unit = min(size) / 256
    for _ in range(int(random.integers(6, 14))):
        x, y = random.uniform(0, size[1]), random.uniform(0, size[0])
        reach, angle = random.uniform(20, 120) * unit, random.uniform(0, 2 * np.pi)
        color = tuple(int(v) for v in random.uniform(0, 255, 3))
        if random.random() < 0.6:
            end = (x + reach * np.cos(angle), y + reach * np.sin(angle))
            draw.line([(x, y), end], fill=color, width=max(1, round(random.uniform(1, 4) * unit)))
        else:
            a, b = random.uniform(3, 14, 2) * unit
            draw.ellipse([x - a, y - b, x + a, y + b], fill=color)
    return np.asarray(image).astype(np.float32), colors


def _camera(random: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Uneven light, a little blur and grain: (H, W, 3) uint8."""
    light = 1 + 0.15 * _waves(random, canvas.shape[:2], 120, 300)
    lit = np.clip(canvas * light[:, :, None], 0, 255).astype(np.uint8)
    blurred = Image.fromarray(lit).filter(ImageFilter.GaussianBlur(random.uniform(0, 0.9)))
    grain = random.standard_normal(canvas.shape[:2], dtype=np.float32) * random.uniform(2, 9)
    return np.clip(np.asarray(blurred) + grain[:, :, None], 0, 255).astype(np.uint8)
