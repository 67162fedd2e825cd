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


def compute_maskness(logits: np.ndarray, window: np.ndarray, size: tuple[int, int]) -> float:
    """Return the mean probability of the cells (h, w) of a mask inside a window x1 y1 x2 y2 of an image (H, W)."""
    x1, y1, x2, y2 = window
    if x1 >= x2 or y1 >= y2:
        return 0.5
    first, last = (np.array([[y1, x1], [y2 - 1, x2 - 1]]) + 0.5) * np.divide(logits.shape, size) - 0.5
    (y, x), (y_end, x_end) = np.clip([first, last], 0, np.array(logits.shape) - 2).astype(int)
    positive = logits[y : y_end + 2, x : x_end + 2].clip(0)
    return float((1 / (1 + np.exp(-positive[positive > 0]))).mean()) if positive.any() else 0.5


session = onnxruntime.InferenceSession(sys.argv[1])
metadata = session.get_modelmeta().custom_metadata_map
class_names, (height, width) = json.loads(metadata["class_names"]), json.loads(metadata["input_size"])
image = Image.open(sys.argv[2]).convert("RGB")
canvas = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]
inputs = {"images": canvas, "image_sizes": np.array([[height, width]], np.float32)}
names = [value.name for value in session.get_outputs()]
outputs = {name: array[0] for name, array in zip(names, session.run(None, inputs), strict=True)}

mask = np.zeros((image.height, image.width), np.uint8)
scores, logits = outputs["scores"], outputs["mask_logits"]
boxes = outputs["boxes"] * np.array([image.width / width, image.height / height] * 2)
windows = np.ceil(boxes - 0.5).astype(int)  # the pixels whose centers are inside
if json.loads(metadata["experiment"])["postprocess"].get("maskness"):
    factors = [compute_maskness(*pair, mask.shape) for pair in zip(logits, windows, strict=True)]
    scores = scores * np.array(factors, np.float32)
order = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores >= float(sys.argv[3]))]
for number, i in reversed(list(enumerate(order, 1))):  # the highest score last, on top
    x1, y1, x2, y2 = windows[i]
    mask[y1:y2, x1:x2][enlarge(logits[i], mask.shape)[y1:y2, x1:x2] > 0] = number
    print(f"{number}: {class_names[outputs['labels'][i]]} {scores[i]:.2f}, box {boxes[i].round(1).tolist()}")
Image.fromarray(mask).save("masks.png")
