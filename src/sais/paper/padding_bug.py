"""The padding bug, reproduced on purpose: a candidate for what cost the paper's Table I mask AP (docs/paper.md).

With the ratio kept a canvas is padded on the right and below. Later code of the same family divides boxes by the size
of the image *without* padding and multiplies them by the size of the prototype grid *with* padding:

- in training, the mask loss uses the box enlarged from the top left by padded / unpadded size;
- in inference, the padded mask is cropped to that box and then stretched over the image without its padding.

The second step undoes the first for the crop, which ends up at the correct box, but not for its content: each mask is
shifted to the top left, in proportion to its distance from the top left. Only this experiment uses the bug. It is shown
to reproduce the direction of Table I on small data; whether the paper's code had it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sais.config import PostprocessConfig
from sais.inference.assemble import assemble
from sais.modeling.criterion import Assignment, SaisCriterion, build_criterion
from sais.modeling.sais_architecture import SAIS_ARCHITECTURE
from sais.ops.letterbox import CanvasMap
from sais.results.detections import Detections
from sais.structures import MASK_STRIDE, Batch, DenseOutputs, GroundTruth

SizeRatio = tuple[float, float]
"""(vertical, horizontal) padded size divided by unpadded size, at least 1."""


def padding_ratio(canvas_map: CanvasMap, canvas: tuple[int, int]) -> SizeRatio:
    """Divide the size of the canvas, (height, width) in pixels, by that of the image on it."""
    height, width = canvas_map.content_size
    return canvas[0] / height, canvas[1] / width


def misaligned_ground_truth(objects: GroundTruth, ratio: SizeRatio, grid: tuple[int, int]) -> GroundTruth:
    """Enlarge boxes and mask windows from the top left; the masks themselves stay in place.

    Args:
        objects: N objects of one image, boxes (N, 4) in canvas pixels, mask windows (N, 4) in cells of the grid.
        ratio: padded size divided by unpadded size.
        grid: (h, w) of the prototype grid, which windows do not exceed.

    Returns:
        N objects with enlarged boxes and windows.
    """
    boxes = objects.boxes * objects.boxes.new_tensor([ratio[1], ratio[0], ratio[1], ratio[0]])
    low = (boxes[:, :2] / MASK_STRIDE).floor().long()
    high = (boxes[:, 2:] / MASK_STRIDE).ceil().long()
    limit = low.new_tensor([grid[1], grid[0]])
    low = low.minimum(limit - 1).clamp(min=0)
    windows = torch.cat([low, high.minimum(limit).maximum(low + 1)], 1)
    old = objects.mask_windows
    windows = torch.where((old[:, 2:3] > old[:, 0:1]), windows, old)  # an object without a mask stays without
    sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in old.tolist()]
    pairs = zip(old.tolist(), windows.tolist(), strict=True)
    values = [
        _move_to_window(values, before, after)
        for values, (before, after) in zip(objects.mask_values.split(sizes), pairs, strict=True)
    ]
    return GroundTruth(boxes, objects.labels, windows, torch.cat(values or [objects.mask_values]))


def _move_to_window(values: Tensor, old: list[int], new: list[int]) -> Tensor:
    """The mask values of window `old` in window `new`, flat; 0 where `old` does not cover it."""
    moved = values.new_zeros(new[3] - new[1], new[2] - new[0])
    x1, y1, x2, y2 = max(old[0], new[0]), max(old[1], new[1]), min(old[2], new[2]), min(old[3], new[3])
    if x2 > x1 and y2 > y1:
        mask = values.view(old[3] - old[1], old[2] - old[0])
        overlap = mask[y1 - old[1] : y2 - old[1], x1 - old[0] : x2 - old[0]]
        moved[y1 - new[1] : y2 - new[1], x1 - new[0] : x2 - new[0]] = overlap
    return moved.reshape(-1)


@dataclass(frozen=True)
class MisalignedCriterion:
    """The criterion of SAIS with the training half of the bug: the mask loss gets misaligned ground truth."""

    criterion: SaisCriterion
    """The criterion without the bug."""
    needs_predictions = False

    def assign(self, batch: Batch, outputs: DenseOutputs | None, epoch: int) -> Assignment:
        """Assign targets (B, L, .) as SAIS does."""
        return self.criterion.assign(batch, outputs, epoch)

    def losses(self, outputs: DenseOutputs, batch: Batch, assignment: Assignment) -> dict[str, Tensor]:
        """Compute the terms of outputs (B, L, .). Only the mask loss reads the ground truth of the batch."""
        canvas = (batch.images.shape[2], batch.images.shape[3])
        grid = (canvas[0] // MASK_STRIDE, canvas[1] // MASK_STRIDE)
        pairs = zip(batch.ground_truths, batch.canvas_maps, strict=True)
        misaligned = [
            misaligned_ground_truth(objects, padding_ratio(canvas_map, canvas), grid) for objects, canvas_map in pairs
        ]
        return self.criterion.losses(outputs, replace(batch, ground_truths=misaligned), assignment)


def detect_misaligned(
    network: nn.Module,
    canvases: Tensor,
    canvas_maps: list[CanvasMap],
    class_names: tuple[str, ...],
    settings: PostprocessConfig,
) -> list[Detections]:
    """Detect objects with the inference half of the bug.

    Args:
        network: network of SAIS.
        canvases: (B, 3, height, width) uint8 on the network's device.
        canvas_maps: B maps from the images to their canvases.
        class_names: C names.
        settings: post-processing settings.

    Returns:
        B detections in image pixels.
    """
    assert SAIS_ARCHITECTURE.postprocess is not None
    instances = SAIS_ARCHITECTURE.postprocess(
        network(canvases), [canvas_map.content_size for canvas_map in canvas_maps], settings
    )
    stretched = []
    for image, canvas_map in enumerate(canvas_maps):
        vertical, horizontal = padding_ratio(canvas_map, canvas_map.canvas_size)
        # The box in the image stays the same; the mask is stretched over the image together with its padding.
        instances.boxes[image] *= instances.boxes.new_tensor([horizontal, vertical, horizontal, vertical])
        scale = (canvas_map.scale[0] * vertical, canvas_map.scale[1] * horizontal)
        stretched.append(replace(canvas_map, scale=scale))
    return assemble(instances, stretched, class_names, settings)


PADDING_BUG = "sais.paper.padding_bug:PADDING_BUG_ARCHITECTURE"
"""Value of `model.architecture` for a model with the bug."""
PADDING_BUG_ARCHITECTURE = replace(
    SAIS_ARCHITECTURE,
    name="sais with the padding bug",
    build_criterion=lambda experiment: MisalignedCriterion(build_criterion(experiment)),
    postprocess=None,
    detect=detect_misaligned,
)
"""SAIS with the padding bug in training and in inference."""
