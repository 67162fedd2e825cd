"""Images inside of a page: JPEG data URLs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def jpeg_url(image: np.ndarray, quality: int) -> str:
    """Return the data URL of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        quality: JPEG quality, 1 to 100.
    """
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
