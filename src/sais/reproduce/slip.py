"""Table I's padding slip, on purpose: what we think cost the paper 7 mask AP (docs/paper.md).

With the ratio kept a canvas is padded right and below. Later code of the same family divides boxes by the size of the
picture *without* its padding and multiplies by the size of the map *with* it:

- in training, the mask loss looks at the box grown from the top left by padded / unpadded, not at the box itself;
- in test, the padded map is cut there and then stretched over the un-padded picture.

The second undoes the first for the cut, which ends up at the right box, but not for what is inside: each mask is
shifted to the top left, the more, the farther right and below it lies. Nothing but this experiment uses it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sais.config import Experiment
from sais.detections import Detections
from sais.engine.system import SAIS_SYSTEM, System, sais_losses
from sais.model.sais import SAIS
from sais.postprocess import assemble
from sais.predict import Predictor
from sais.structures import MASK_STRIDE, Batch, Objects, Placement

Ratio = tuple[float, float]
"""(vertical, horizontal) padded by unpadded size, at least 1."""


def padded_by_unpadded(placement: Placement, canvas: tuple[int, int]) -> Ratio:
    """How far the slip stretches: the canvas's (height, width) by the picture's on it."""
    height, width = placement.content_size
    return canvas[0] / height, canvas[1] / width


def slipped_objects(objects: Objects, ratio: Ratio, grid: tuple[int, int]) -> Objects:
    """The objects with boxes and mask windows grown from the top left; the outlines stay where they are.

    Args:
        objects: of one image.
        ratio: padded by unpadded size.
        grid: (h, w) of the prototypes, which no window leaves.
    """
    boxes = objects.boxes * objects.boxes.new_tensor([ratio[1], ratio[0], ratio[1], ratio[0]])
    low = (boxes[:, :2] / MASK_STRIDE).floor().long()
    high = (boxes[:, 2:] / MASK_STRIDE).ceil().long()
    most = low.new_tensor([grid[1], grid[0]])
    low = low.minimum(most - 1).clamp(min=0)
    windows = torch.cat([low, high.minimum(most).maximum(low + 1)], 1)
    old = objects.mask_windows
    windows = torch.where((old[:, 2:3] > old[:, 0:1]), windows, old)  # a box without outline has none now either
    sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in old.tolist()]
    patches = objects.mask_values.split(sizes)
    values = [_moved(patch, a, b) for patch, a, b in zip(patches, old.tolist(), windows.tolist(), strict=True)] or [
        objects.mask_values
    ]
    return Objects(boxes, objects.labels, windows, torch.cat(values))


def _moved(patch: Tensor, old: list[int], new: list[int]) -> Tensor:
    """A patch of window `old` as window `new` sees it: nothing outside of what it covers."""
    seen = patch.new_zeros(new[3] - new[1], new[2] - new[0])
    x1, y1, x2, y2 = max(old[0], new[0]), max(old[1], new[1]), min(old[2], new[2]), min(old[3], new[3])
    if x2 > x1 and y2 > y1:
        whole = patch.view(old[3] - old[1], old[2] - old[0])
        part = whole[y1 - old[1] : y2 - old[1], x1 - old[0] : x2 - old[0]]
        seen[y1 - new[1] : y2 - new[1], x1 - new[0] : x2 - new[0]] = part
    return seen.reshape(-1)


def slipped_losses(model: Any, batch: Batch, experiment: Experiment, epoch: int) -> dict[str, Tensor]:
    """`sais_losses` with the training half of the slip."""
    canvas = (batch.pictures.shape[2], batch.pictures.shape[3])
    grid = (canvas[0] // MASK_STRIDE, canvas[1] // MASK_STRIDE)
    pairs = zip(batch.objects, batch.placements, strict=True)
    slipped = [slipped_objects(objects, padded_by_unpadded(place, canvas), grid) for objects, place in pairs]
    return sais_losses(model, batch, experiment, epoch, mask_objects=slipped)


class SlippedFinder:
    """A predictor with the test half of the slip.

    Args:
        predictor: of the same weights.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.experiment = predictor.experiment
        self.class_names = predictor.class_names

    @torch.inference_mode()
    def detect(self, canvases: Tensor, placements: list[Placement]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the pictures lie on them to B detections."""
        instances = self.predictor.instances(canvases, placements)
        stretched = []
        for image, placement in enumerate(placements):
            vertical, horizontal = padded_by_unpadded(placement, placement.canvas_size)
            # The box stays what it is in the picture; the map's padding is stretched over the picture with the rest.
            instances.boxes[image] *= instances.boxes.new_tensor([horizontal, vertical, horizontal, vertical])
            scale = (placement.scale[0] * vertical, placement.scale[1] * horizontal)
            stretched.append(replace(placement, scale=scale))
        return assemble(instances, stretched, self.class_names, self.experiment.test.mask_margin)


def _finder(
    model: SAIS, experiment: Experiment, class_names: tuple[str, ...], category_ids: tuple[int, ...], device: str
) -> SlippedFinder:
    return SlippedFinder(Predictor.of(model, experiment, class_names, category_ids, device))


SLIPPED_SYSTEM = System("sais with the padding slip", SAIS_SYSTEM.build, slipped_losses, _finder)
