"""The objects of an image from `sais export MODEL --graph masks`, by ONNX Runtime and numpy: neither sais nor torch.

    python examples/onnx_numpy.py model.onnx image.jpg 0.3

Prints a line for each object with at least that score and writes masks.png, 0 being the background. For models with a
fixed input.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def enlarge(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w) at every pixel center of an image (H, W), bilinearly: one axis, then the other."""
    for axis, pixels in enumerate(size):
        cells = logits.shape[axis]
        place = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
        low = np.minimum(place.astype(int), max(cells - 2, 0))
        weight = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
        high = np.minimum(low + 1, cells - 1)
        logits = logits.take(low, axis) * (1 - weight) + logits.take(high, axis) * weight
    return logits


session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
names, (height, width) = json.loads(about["class_names"]), json.loads(about["input_size"])
image = Image.open(sys.argv[2]).convert("RGB")
canvas = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]
outputs = session.run(None, {"images": canvas, "contents": np.array([[height, width]], np.float32)})
found = {value.name: output[0] for value, output in zip(session.get_outputs(), outputs, strict=True)}

mask = np.zeros((image.height, image.width), np.uint8)
for i in reversed(np.flatnonzero(found["scores"] >= float(sys.argv[3]))):  # the best last, on top
    box = found["boxes"][i] * np.array([image.width / width, image.height / height] * 2)
    x1, y1, x2, y2 = np.ceil(box - 0.5).astype(int)  # the pixels whose centers lie inside
    mask[y1:y2, x1:x2][enlarge(found["mask_logits"][i], mask.shape)[y1:y2, x1:x2] > 0] = i + 1
    print(f"{i + 1}: {names[found['labels'][i]]} {found['scores'][i]:.2f}, box {box.round(1).tolist()}")
Image.fromarray(mask).save("masks.png")
