"""Train on synthetic coins, predict on a photograph: `python examples/coins.py OUT` (minutes on two CPU cores).

The model never sees a photograph in training: every image is a dark table with light, embossed, irregular discs. The
photograph is `coins` of scikit-image (Greek coins from Pompeii, Brooklyn Museum, no known copyright restrictions), so
that this example needs `pip install scikit-image`. OUT/coins.jpg is the image of the README.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

import sais
from sais.results.draw import draw

HEIGHT, WIDTH = 303, 384
"""Size of the images in pixels, that of the photograph."""
SCALE_JITTER = (0.6, 1.5)
"""Range of the random zoom in training."""
OUTLINE = np.linspace(0, 2 * np.pi, 48, endpoint=False)
"""Angles of the points of an outline."""


def smooth_noise(random: np.random.Generator, size: tuple[int, int], radius: float) -> np.ndarray:
    """Return noise (height, width) with standard deviation 1, smooth over `radius` pixels."""
    noise = Image.fromarray(random.normal(128, 60, size).clip(0, 255).astype(np.uint8))
    values = np.asarray(noise.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    return (values - values.mean()) / max(values.std(), 1e-3)


def draw_coin(random: np.random.Generator, image: np.ndarray, x: float, y: float, radius: float) -> list[float]:
    """Draw one coin on an image (H, W) of float32; return the points of its outline: x, y, x, y, ..."""
    harmonics = [(k, random.normal(0, 0.035 / k), random.uniform(0, 6.28)) for k in (2, 3, 4, 5)]
    outline = radius * (1 + sum(a * np.cos(k * OUTLINE + phase) for k, a, phase in harmonics))
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32) + 0.5
    angle = np.arctan2(rows - y, columns - x)
    edge = radius * (1 + sum(a * np.cos(k * angle + phase) for k, a, phase in harmonics))
    distance = edge - np.hypot(rows - y, columns - x)  # positive inside, in pixels
    relief = smooth_noise(random, image.shape, random.uniform(1.5, 3.5)) + smooth_noise(random, image.shape, 6)
    relief += 2 * np.clip(1 - distance / random.uniform(3, 7), 0, 1) * random.uniform(-1, 1)  # a raised or worn rim
    light = random.uniform(0, 6.28)
    slope = np.gradient(relief)
    shade = slope[1] * np.cos(light) + slope[0] * np.sin(light) + (columns - x) / radius * np.cos(light) * 0.1
    contrast = random.uniform(25, 75)
    face = random.uniform(85, 175) + contrast * shade + random.uniform(4, 18) * relief
    cover = np.clip(distance + 0.5, 0, 1)
    shadow = np.clip(1 - np.abs(distance + 2) / 3, 0, 1) * random.uniform(0, 0.5)
    image *= 1 - shadow
    image[:] = image * (1 - cover) + face * cover
    points = np.stack([x + outline * np.cos(OUTLINE), y + outline * np.sin(OUTLINE)], 1)
    return (points.clip(0, [image.shape[1], image.shape[0]])).round(2).ravel().tolist()


def draw_scene(random: np.random.Generator) -> tuple[Image.Image, list[list[float]]]:
    """Draw an image of 4 to 30 coins; return it with the outlines of the coins."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    slope = random.uniform(-30, 30, 2)
    image = random.uniform(25, 90) + slope[0] * rows / HEIGHT + slope[1] * columns / WIDTH
    image += random.uniform(0, 6) * smooth_noise(random, image.shape, 12)
    centers: list[tuple[float, float, float]] = []
    outlines = []
    for _ in range(random.integers(6, 60)):
        radius = random.uniform(15, 36)
        x, y = random.uniform(0.6 * radius, WIDTH - 0.6 * radius), random.uniform(0.6 * radius, HEIGHT - 0.6 * radius)
        if all(np.hypot(x - a, y - b) > 1.1 * (radius + c) for a, b, c in centers):
            centers.append((x, y, radius))
            outlines.append(draw_coin(random, image, x, y, radius))
    image += random.uniform(1, 6) * random.normal(0, 1, image.shape)
    gray = Image.fromarray(image.clip(0, 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(random.uniform(0.3, 0.8))
    )
    return gray.convert("RGB"), outlines


def write_split(folder: Path, split: str, count: int, seed: int) -> None:
    """Write `count` synthetic images and their COCO annotations."""
    random = np.random.default_rng(seed)
    (folder / "images" / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for image_id in range(1, count + 1):
        image, outlines = draw_scene(random)
        image.save(folder / "images" / split / f"{image_id:03}.png")
        images.append({"id": image_id, "file_name": f"{image_id:03}.png", "width": WIDTH, "height": HEIGHT})
        for points in outlines:
            xs, ys = points[::2], points[1::2]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": box}
            annotations.append(entry | {"segmentation": [points], "area": box[2] * box[3] * np.pi / 4})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "coin"}]}
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def draw_result(model: Path, photograph: np.ndarray, path: Path) -> None:
    """Write the photograph (H, W) next to the detections in it, at twice its size."""
    image = Image.fromarray(photograph).convert("RGB")
    large = np.asarray(image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS))
    detections = sais.Predictor(model, score=0.3)(large)
    print(detections.summary())
    drawing = draw(large, detections, 0, boxes=False, color_by="instance")
    gap = np.full((large.shape[0], 12, 3), 255, np.uint8)
    Image.fromarray(np.concatenate([large, gap, drawing], axis=1)).save(path, quality=88)


def main(out: Path) -> None:
    """Write the data, train, predict on the photograph and draw."""
    from skimage import data as photographs

    write_split(out / "data", "train", count=160, seed=0)
    write_split(out / "data", "valid", count=16, seed=1)
    settings = {"size": 224, "epochs": 8, "batch_size": 4, "lr": 0.0007071, "workers": 0}
    augment = {"scale_jitter": SCALE_JITTER}
    result = sais.train("sais-lite", data=out / "data", out=out / "run", verbose=True, augment=augment, **settings)
    draw_result(result.model, photographs.coins(), out / "coins.jpg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
