"""Detect objects with `sais export MODEL --graph masks`, ONNX Runtime and numpy: needs neither sais nor torch.

    python examples/onnx_numpy.py model.onnx image.jpg 0.3

Prints a line for each object with at least that score and writes masks.png, in which 0 is the background. For models
with a fixed input size.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def enlarge(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Interpolate a map (h, w) bilinearly at every pixel center of an image (H, W): one axis after the other."""
    for axis, pixels in enumerate(size):
        cells = logits.shape[axis]
        position = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
        low = np.minimum(position.astype(int), max(cells - 2, 0))
        weight = (position - low).reshape((-1, 1) if axis == 0 else (1, -1))
        high = np.minimum(low + 1, cells - 1)
        logits = logits.take(low, axis) * (1 - weight) + logits.take(high, axis) * weight
    return logits


session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
class_names, (height, width) = json.loads(metadata["class_names"]), json.loads(metadata["input_size"])
image = Image.open(sys.argv[2]).convert("RGB")
canvas = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]
inputs = {"images": canvas, "image_sizes": np.array([[height, width]], np.float32)}
names = [value.name for value in session.get_outputs()]
outputs = {name: array[0] for name, array in zip(names, session.run(None, inputs), strict=True)}

mask = np.zeros((image.height, image.width), np.uint8)
for i in reversed(np.flatnonzero(outputs["scores"] >= float(sys.argv[3]))):  # the highest score last, on top
    box = outputs["boxes"][i] * np.array([image.width / width, image.height / height] * 2)
    x1, y1, x2, y2 = np.ceil(box - 0.5).astype(int)  # the pixels whose centers are inside
    mask[y1:y2, x1:x2][enlarge(outputs["mask_logits"][i], mask.shape)[y1:y2, x1:x2] > 0] = i + 1
    print(f"{i + 1}: {class_names[outputs['labels'][i]]} {outputs['scores'][i]:.2f}, box {box.round(1).tolist()}")
Image.fromarray(mask).save("masks.png")
