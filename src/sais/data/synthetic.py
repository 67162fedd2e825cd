"""A synthetic COCO data set of shapes with exact masks, for the demo and the tests (`sais make-shapes DIR`).

Scenes contain textured rings, stars, triangles, crescents and crosses on a cluttered background; upper objects hide
parts of lower ones. Color and texture are independent of the class, and no class fills its box, so that a model must
learn shape: boxes filled as masks score below 0.35 mask AP. Image i of a split depends on (seed, split, i) only.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sais.data.synthetic_outlines import CLASS_NAMES, random_outline
from sais.errors import ConfigError, ResourceError
from sais.io.atomic import write_text
from sais.io.image_writer import write_image
from sais.io.outputs import check_outputs, written_by
from sais.ops.numpy_boxes import window_slices
from sais.ops.rasterize import Polygons, coverage
from sais.ops.rle import encode_cropped

WRITER = "sais make-shapes"

_MIN_VISIBLE = 0.7
"""Minimum visible fraction of an object."""
_EMPTY_FRACTION = 0.03
"""Fraction of the images that have no objects."""
_POSITION_TRIES = 12
"""Number of positions tried for an object before it is omitted."""


@dataclass(frozen=True, eq=False)
class SyntheticScene:
    """A synthetic image and its N objects, lowest first."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    labels: np.ndarray
    """(N,) int64, index into the class names."""
    visible: np.ndarray
    """(N, H, W) bool, the visible pixels of each object; disjoint."""
    unoccluded: np.ndarray
    """(N, H, W) bool, the pixels of each object without the objects above it."""


def write_shapes(
    folder: Path | str,
    train: int = 400,
    valid: int = 80,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    overwrite: bool = False,
    class_names: tuple[str, ...] = CLASS_NAMES,
) -> None:
    """Write a data set: folder/images/{train,valid}/*.jpg and folder/annotations/{train,valid}.json.

    The annotations of a split are written after its images, and those of an earlier call are removed before, so that an
    interrupted call leaves no split that looks complete. If it is not killed, it removes the images as well.

    Args:
        folder: Folder of the data set, created if needed; a data set of an earlier call in it is replaced.
        train: Number of training images.
        valid: Number of validation images.
        size: (H, W) of every image in pixels, at least 64.
        seed: Seed of the images.
        progress: Function called after each image with the number of images done and the total number.
        overwrite: Whether existing files of the same names are replaced that this function has not written.
        class_names: `CLASS_NAMES`, or `LEFT_RIGHT_NAMES` of `sais.data.synthetic_outlines`.

    Raises:
        ConfigError: A size or number is too small.
        InputError: A file exists that this function has not written.
        ResourceError: The folder cannot be written.
    """
    if min(train, valid) < 1:
        raise ConfigError(f"shapes: {train} train and {valid} valid images. Ask for at least 1 of each.")
    if min(size) < 64:
        raise ConfigError(f"shapes: images of {size[0]} x {size[1]} pixels. Ask for at least 64 x 64.")
    folder = Path(folder)
    counts = {"train": train, "valid": valid}
    documents = {split: folder / "annotations" / f"{split}.json" for split in counts}
    images = {split: [_image_path(folder, split, i) for i in range(count)] for split, count in counts.items()}
    outputs = [*documents.values(), *(path for paths in images.values() for path in paths)]
    folders = [folder, *sorted({path.parent for path in outputs} | {folder / "images"})]
    new_folders = [path for path in folders if not path.exists()]
    check_outputs(outputs, overwrite=overwrite, folder=folder, own=written_by(WRITER))
    done: list[Path] = []
    try:
        for path in documents.values():
            path.unlink(missing_ok=True)
        for split in counts:
            document = _empty_document(seed, class_names)
            for i, path in enumerate(images[split]):
                scene = make_scene(seed, split, i, size, class_names)
                done.append(write_image(path, scene.image, writer=WRITER))
                document["images"].append({"id": i + 1, "file_name": path.name, "height": size[0], "width": size[1]})
                document["annotations"] += _to_coco(scene, i + 1, len(document["annotations"]) + 1)
                progress(len(done), train + valid)
            write_text(documents[split], json.dumps(document))
    except BaseException as error:  # also Ctrl-C
        _remove([*done, *documents.values()], new_folders)
        if isinstance(error, OSError):
            raise ResourceError(f"{folder}: cannot be written ({error}). Choose another folder.") from error
        raise


def _image_path(folder: Path, split: str, number: int) -> Path:
    return folder / "images" / split / f"{split}_{number:05d}.jpg"


def _empty_document(seed: int, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return a COCO file without images; its first entry is the mark of sais."""
    categories = [{"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(class_names)]
    info = {"written_by": WRITER, "description": f"sais shapes, seed {seed}"}
    return {"info": info, "images": [], "annotations": [], "categories": categories}


def _remove(files: list[Path], folders: list[Path]) -> None:
    """Remove files, and those of the folders, parents first, that are empty then."""
    with contextlib.suppress(OSError):
        for path in files:
            path.unlink(missing_ok=True)
        for path in reversed(folders):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _to_coco(scene: SyntheticScene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """Return the COCO annotations of a scene, with ids from `first_id` on."""
    annotations = []
    for k, bits in enumerate(scene.visible):
        rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
        y, x = int(rows[0]), int(columns[0])
        crop = bits[y : rows[-1] + 1, x : columns[-1] + 1]
        annotations.append(
            {
                "id": first_id + k,
                "image_id": image_id,
                "category_id": int(scene.labels[k]) + 1,
                "bbox": [x, y, crop.shape[1], crop.shape[0]],
                "area": int(crop.sum()),
                "iscrowd": 0,
                "segmentation": encode_cropped(crop, x, y, bits.shape),
            }
        )
    return annotations


def make_scene(
    seed: int,
    split: str,
    number: int,
    size: tuple[int, int] = (256, 256),
    class_names: tuple[str, ...] = CLASS_NAMES,
) -> SyntheticScene:
    """Create image `number` of a split; it depends on the arguments only.

    Args:
        seed: Seed of the data set.
        split: Name of the split.
        number: Index of the image.
        size: (H, W) of the image in pixels.
        class_names: As for `write_shapes`.
    """
    random = np.random.default_rng([seed, zlib.crc32(split.encode()), number])
    canvas, background_colors = draw_background(random, size)
    count = 0 if random.random() < _EMPTY_FRACTION else int(random.integers(6, 9))
    labels: list[int] = []
    areas: list[int] = []
    unoccluded = np.zeros((count, *size), bool)
    owner = np.full(size, -1)
    for _ in range(count):
        placed = _place_object(random, areas, owner, class_names)
        if placed is None:
            continue
        label, window, alpha = placed
        solid = alpha >= 0.5
        owner[window][solid] = len(labels)
        unoccluded[len(labels)][window] = solid
        labels.append(label)
        areas.append(int(solid.sum()))
        below = canvas[window]
        texture = draw_texture(random, solid.shape, distinct_color(random, background_colors))
        below += alpha[:, :, None] * (texture - below)
    image = simulate_camera(random, canvas)
    visible = owner == np.arange(len(labels))[:, None, None]
    return SyntheticScene(image, np.array(labels, np.int64), visible, unoccluded[: len(labels)])


def _place_object(
    random: np.random.Generator, areas: list[int], owner: np.ndarray, class_names: tuple[str, ...]
) -> tuple[int, tuple[slice, slice], np.ndarray] | None:
    """Draw an object that leaves enough of all earlier objects visible; None if no position is found.

    Args:
        random: Source of randomness.
        areas: Number of unoccluded pixels of each earlier object.
        owner: (H, W) index of the earlier object visible at each pixel, -1 for the background.
        class_names: C names.

    Returns:
        The label, the window of the object, and its coverage (h, w) of the window's pixels, 0 to 1.
    """
    height, width = owner.shape
    unit = min(height, width) / 256
    label = int(random.integers(len(class_names)))
    diameter = unit * (random.uniform(56, 104) if random.random() < 0.95 else random.uniform(36, 56))
    outline = random_outline(random, class_names[label]) * (diameter / 2)
    for _ in range(_POSITION_TRIES):
        x, y = random.uniform(0.3, 0.7) * diameter, random.uniform(0.3, 0.7) * diameter
        x, y = random.uniform(x, width - x), random.uniform(y, height - y)
        if areas and random.random() < 0.05:  # next to an earlier object, closer than by chance
            rows, columns = np.nonzero(owner == random.integers(len(areas)))
            pixel = random.integers(len(rows))
            angle = random.uniform(0, 2 * np.pi)
            x = float(np.clip(columns[pixel] + np.cos(angle) * 0.4 * diameter, 0, width))
            y = float(np.clip(rows[pixel] + np.sin(angle) * 0.4 * diameter, 0, height))
        points = outline + np.array([x, y])
        (left, top), (right, bottom) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
        window = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        alpha = coverage(Polygons((points,)), window, cell=1.0, samples=3).astype(np.float32) / 255
        solid = alpha >= 0.5
        slices = window_slices(window)
        hidden = np.bincount(owner[slices][solid] + 1, minlength=len(areas) + 1)[1:]
        visible = np.bincount(owner.ravel() + 1, minlength=len(areas) + 1)[1:] - hidden
        mostly_inside = solid.sum() >= 0.7 * abs(_signed_area(points))
        if mostly_inside and all(n >= _MIN_VISIBLE * area for n, area in zip(visible, areas, strict=True)):
            return label, slices, alpha
    return None


def _signed_area(points: np.ndarray) -> float:
    """Return the area of a polygon (P, 2) by the shoelace formula; clockwise on the screen is positive."""
    x, y = points.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def distinct_color(random: np.random.Generator, others: np.ndarray) -> np.ndarray:
    """Draw a color (3,) in 0 to 255 that differs from other colors (n, 3)."""
    color = random.uniform(20, 235, 3)
    for _ in range(20):
        if np.abs(others - color).max(1).min() > 60:
            break
        color = random.uniform(20, 235, 3)
    return color


def _waves(random: np.random.Generator, size: tuple[int, int], min_width: float, max_width: float) -> np.ndarray:
    """Draw stripes of a random direction and width in pixels: (H, W) float32, -1 to 1."""
    angle, period = random.uniform(0, np.pi), random.uniform(min_width, max_width) * 2
    y, x = np.ogrid[: size[0], : size[1]]
    phase = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period) + random.uniform(0, 2 * np.pi)
    return np.sin(phase).astype(np.float32)


def _clouds(random: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Draw smooth noise, interpolated from `cells` x `cells` values: (H, W) float32, -1 to 1."""
    coarse = Image.fromarray(random.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def draw_texture(random: np.random.Generator, size: tuple[int, int], color: np.ndarray) -> np.ndarray:
    """Draw a texture of stripes, checks, a gradient, noise or a plain color: (H, W, 3) float32."""
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
    amplitude = random.uniform(-45, 45, 3)
    return (color + pattern[:, :, None] * amplitude).astype(np.float32)


def draw_background(random: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw a background: two colors blended by noise and faint stripes, with lines and ellipses that are not objects.

    Returns:
        (H, W, 3) float32 and the two colors (2, 3).
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
        length, angle = random.uniform(20, 120) * unit, random.uniform(0, 2 * np.pi)
        color = tuple(int(v) for v in random.uniform(0, 255, 3))
        if random.random() < 0.6:
            end = (x + length * np.cos(angle), y + length * np.sin(angle))
            draw.line([(x, y), end], fill=color, width=max(1, round(random.uniform(1, 4) * unit)))
        else:
            a, b = random.uniform(3, 14, 2) * unit
            draw.ellipse([x - a, y - b, x + a, y + b], fill=color)
    return np.asarray(image).astype(np.float32), colors


def simulate_camera(random: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Apply uneven light, slight blur and noise to a canvas (H, W, 3) in 0 to 255: (H, W, 3) uint8."""
    light = 1 + 0.15 * _waves(random, canvas.shape[:2], 120, 300)
    lit = np.clip(canvas * light[:, :, None], 0, 255).astype(np.uint8)
    blurred = Image.fromarray(lit).filter(ImageFilter.GaussianBlur(random.uniform(0, 0.9)))
    grain = random.standard_normal(canvas.shape[:2], dtype=np.float32) * random.uniform(2, 9)
    return np.clip(np.asarray(blurred) + grain[:, :, None], 0, 255).astype(np.uint8)
