"""A synthetic video of moving, rotating shapes that cross and hide each other, with exact masks and identities.

Object k of a frame is object k of every other frame. Each has its own outline, texture, velocity and place in depth;
at the borders of the image it bounces. The shapes are those of `sais.data.synthetic`, so that a model trained on
`sais make-shapes` detects them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sais.data.synthetic import SyntheticScene, distinct_color, draw_background, draw_texture, simulate_camera
from sais.data.synthetic_outlines import CLASS_NAMES, random_outline
from sais.ops.rasterize import Polygons, coverage


@dataclass
class _MovingShape:
    """One object: its image and its motion."""

    label: int
    sprite: Image.Image
    """RGBA, square; the object's center is in the middle."""
    center: np.ndarray
    """(2,) x y in pixels."""
    velocity: np.ndarray
    """(2,) pixels per frame."""
    angle: float
    """Degrees."""
    spin: float
    """Degrees per frame."""

    def move(self, size: tuple[int, int], radius: float) -> None:
        """Move by a frame; at a distance of `radius` from the borders of an image (H, W) the velocity turns."""
        self.center += self.velocity
        for axis, side in enumerate((size[1], size[0])):
            if not radius <= self.center[axis] <= side - radius:
                self.center[axis] = np.clip(self.center[axis], radius, side - radius)
                self.velocity[axis] *= -1
        self.angle += self.spin

    def paint(self, canvas: Image.Image) -> np.ndarray:
        """Paint the object on a canvas, in place; return its pixels, (H, W) bool."""
        half = self.sprite.width // 2
        left, top = np.floor(self.center).astype(int).tolist()
        offset = float(self.center[0] - left), float(self.center[1] - top)
        turned = self.sprite.rotate(self.angle, Image.Resampling.BILINEAR, translate=offset)  # type: ignore[arg-type]
        canvas.paste(turned, (left - half, top - half), turned)
        mask = Image.new("L", canvas.size)
        mask.paste(turned.getchannel("A"), (left - half, top - half))
        return np.asarray(mask) >= 128


def moving_shapes(
    seed: int,
    frames: int = 300,
    objects: int = 10,
    size: tuple[int, int] = (256, 384),
    speed: float = 3.0,
    diameters: tuple[float, float] = (56, 88),
) -> Iterator[SyntheticScene]:
    """Yield the frames of a video; it depends on the arguments only.

    Args:
        seed: Seed of the video.
        frames: Number of frames.
        objects: Number N of objects, which are in every frame; some may be hidden.
        size: (H, W) of the frames in pixels.
        speed: Maximum speed in pixels per frame; the minimum is a third of it.
        diameters: Minimum and maximum diameter of the objects in pixels.

    Yields:
        The scene of each frame, with N objects in the same order in all frames; the last is in front.
    """
    random = np.random.default_rng([seed, 20])
    background, colors = draw_background(random, size)
    shapes = [_random_shape(random, size, speed, diameters, colors) for _ in range(objects)]
    labels = np.array([shape.label for shape in shapes], np.int64)
    for _ in range(frames):
        canvas = Image.fromarray(background.astype(np.uint8))
        unoccluded, owner = np.zeros((objects, *size), bool), np.full(size, -1)
        for k, shape in enumerate(shapes):
            unoccluded[k] = shape.paint(canvas)
            owner[unoccluded[k]] = k
            shape.move(size, diameters[0] / 3)
        # The same camera for all frames: light, blur and noise of one generator.
        image = simulate_camera(np.random.default_rng([seed, 21]), np.asarray(canvas).astype(np.float32))
        yield SyntheticScene(image, labels, owner == np.arange(objects)[:, None, None], unoccluded)


def _random_shape(
    random: np.random.Generator,
    size: tuple[int, int],
    speed: float,
    diameters: tuple[float, float],
    colors: np.ndarray,
) -> _MovingShape:
    """Draw an object for an image (H, W) whose background has the colors (2, 3)."""
    label = int(random.integers(len(CLASS_NAMES)))
    radius = random.uniform(*diameters) / 2
    side = 2 * (int(np.ceil(radius)) + 2)
    outline = random_outline(random, CLASS_NAMES[label]) * radius + side / 2
    alpha = coverage(Polygons((outline,)), (0, 0, side, side), cell=1.0, samples=3)
    texture = np.clip(draw_texture(random, (side, side), distinct_color(random, colors)), 0, 255).astype(np.uint8)
    sprite = Image.fromarray(np.dstack([texture, alpha.astype(np.uint8)]))
    heading = random.uniform(0, 2 * np.pi)
    velocity = random.uniform(speed / 3, speed) * np.array([np.cos(heading), np.sin(heading)])
    center = random.uniform(radius, np.array([size[1], size[0]]) - radius)
    return _MovingShape(label, sprite, center, velocity, random.uniform(0, 360), random.uniform(-2, 2))
