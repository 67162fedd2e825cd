"""Draw the figure of docs/method.md: prototypes of an image, coefficients of an object, and the mask they give.

python -m website.prototype_figure runs/first image.jpg docs/images/method-prototypes.jpg
"""

from __future__ import annotations

import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

import sais
from sais.modeling.architecture import find_architecture

SHOWN = 7
"""Number of prototypes in the figure: those with the largest share in the object's mask."""


def main(model_path: str, image_path: str, out: str) -> None:
    """Draw the figure for the largest of the detections with a score of at least half of the best.

    Args:
        model_path: a run or checkpoint of a model with masks and a fixed input.
        image_path: an image file.
        out: path of the JPEG file.
    """
    model = sais.load_model(model_path)
    height, width = model.experiment.input.size
    with Image.open(image_path) as file:
        canvas = np.array(file.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    postprocess = find_architecture(model.experiment.model.architecture).postprocess
    assert postprocess is not None
    with torch.inference_mode():
        outputs = model.network.eval()(torch.as_tensor(canvas).permute(2, 0, 1)[None].float())
        found = postprocess(outputs, [(float(height), float(width))], model.experiment.postprocess)
    assert found.prototypes is not None
    assert found.coefficients is not None
    boxes, scores = found.boxes[0].numpy(), found.scores[0].numpy()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * (scores >= scores.max() / 2)
    best = int(areas.argmax())
    draw(canvas, found.prototypes[0].numpy(), found.coefficients[0, best].numpy(), boxes[best], out)


def draw(
    canvas: NDArray[np.uint8],
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    box: NDArray[np.float32],
    out: str,
) -> None:
    """Draw an image, its most important prototypes, the sum of all and the mask in the box.

    Args:
        canvas: (H, W, 3) RGB.
        prototypes: (K, h, w).
        coefficients: (K,) of the object.
        box: (4,) x1 y1 x2 y2 of the object, canvas pixels.
        out: path of the JPEG file.
    """
    logits = np.tensordot(coefficients, prototypes, 1)  # (h, w)
    shares = np.abs(coefficients) * prototypes.std((1, 2))
    order = np.argsort(-shares)[:SHOWN]
    stride = canvas.shape[0] / logits.shape[0]
    x1, y1, x2, y2 = box / stride
    rows, columns = np.indices(logits.shape) + 0.5
    mask = (logits > 0) & (columns > x1) & (columns < x2) & (rows > y1) & (rows < y2)
    figure, axes = plt.subplots(2, 5, figsize=(10, 4.5), layout="constrained")
    panels: list[tuple[str, Any, dict[str, Any]]] = [("image and box", canvas, {})]
    panels += [(f"prototype {k}: {coefficients[k]:+.2f}", prototypes[k], {"cmap": "viridis"}) for k in order]
    limit = float(np.abs(logits).max())
    panels += [
        ("sum of all, P C", logits, {"cmap": "coolwarm", "vmin": -limit, "vmax": limit}),
        ("P C > 0, in the box", mask, {"cmap": "gray"}),
    ]
    for axis, (title, content, options) in zip(axes.flat, panels, strict=False):
        axis.imshow(content, **options)
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    corners = [box, box / stride, box / stride]
    for axis, (left, top, right, bottom) in zip(
        (axes.flat[0], *axes.flat[SHOWN + 1 : SHOWN + 3]), corners, strict=True
    ):
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color="#ff9d00", lw=1.5))
    figure.savefig(out, dpi=90, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main(*sys.argv[1:])
