"""Send images to `sais serve` and save the drawn masks. Needs httpx, numpy, Pillow and pycocotools, not sais.

sais serve runs/cats
python examples/serve_client.py cat.jpg dog.jpg --url http://127.0.0.1:8000 --score 0.5
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

ATTEMPTS = 5


def predict(client: httpx.Client, path: Path, **options: object) -> dict:
    """Return the answer to an image; try again if the service is at its capacity."""
    for attempt in range(ATTEMPTS):
        response = client.post("/v1/predict", files={"images": (path.name, path.read_bytes())}, params=options)
        if response.status_code != 503 or attempt == ATTEMPTS - 1:
            break
        time.sleep(float(response.headers.get("Retry-After", 1)))
    if response.status_code != 200:
        raise SystemExit(f"{path}: {response.json()['error']['message']}")
    return response.json()["images"][0]


def draw(path: Path, answer: dict) -> Image.Image:
    """Return the image with its masks in color; coordinates are those of the upright image."""
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).copy()
    colors = np.random.default_rng(0).integers(64, 256, (len(answer["objects"]), 3))
    for found, color in zip(answer["objects"], colors, strict=True):
        mask = coco_mask.decode(found["mask"]).astype(bool)
        pixels[mask] = (pixels[mask] * 0.5 + color * 0.5).astype(np.uint8)
    return Image.fromarray(pixels)


def main() -> None:
    """Predict on the images of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--score", type=float, default=0.3)
    arguments = parser.parse_args()
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        client.headers["X-API-Key"] = os.environ.get("SAIS_API_KEY", "")
        for path in arguments.images:
            answer = predict(client, path, score=arguments.score)
            draw(path, answer).save(f"{path.stem}_masks.png")
            print(f"{path}:", ", ".join(f"{found['class_name']} {found['score']:.2f}" for found in answer["objects"]))


if __name__ == "__main__":
    main()
