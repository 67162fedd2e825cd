"""Table I's padding slip, on purpose: what we think cost the paper 7 mask AP (docs/paper.md).

With the ratio kept a canvas is padded right and below. Later code of the same family divides boxes by the size of the
image *without* its padding and multiplies by the size of the map *with* it:

- in training, the mask loss looks at the box grown from the top left by padded / unpadded, not at the box itself;
- in test, the padded map is cut there and then stretched over the un-padded image.

The second undoes the first for the cut, which ends up at the right box, but not for what is inside: each mask is
shifted to the top left, the more, the farther right and below it lies. Nothing but this experiment uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sais.config import PostprocessConfig
from sais.inference.assemble import assemble
from sais.modeling.architecture import ARCHITECTURES
from sais.modeling.criterion import Assignment, SaisCriterion, build_criterion
from sais.ops.letterbox import CanvasMap
from sais.results.detections import Detections
from sais.structures import MASK_STRIDE, Batch, DenseOutputs, GroundTruth

SizeRatio = tuple[float, float]
"""(vertical, horizontal) padded by unpadded size, at least 1."""


def padding_ratio(canvas_map: CanvasMap, canvas: tuple[int, int]) -> SizeRatio:
    """How far the slip stretches: the canvas's (height, width) by the image's on it."""
    height, width = canvas_map.content_size
    return canvas[0] / height, canvas[1] / width


def misaligned_ground_truth(objects: GroundTruth, ratio: SizeRatio, grid: tuple[int, int]) -> GroundTruth:
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
    return GroundTruth(boxes, objects.labels, windows, torch.cat(values))


def _moved(patch: Tensor, old: list[int], new: list[int]) -> Tensor:
    """A patch of window `old` as window `new` sees it: nothing outside of what it covers."""
    seen = patch.new_zeros(new[3] - new[1], new[2] - new[0])
    x1, y1, x2, y2 = max(old[0], new[0]), max(old[1], new[1]), min(old[2], new[2]), min(old[3], new[3])
    if x2 > x1 and y2 > y1:
        whole = patch.view(old[3] - old[1], old[2] - old[0])
        part = whole[y1 - old[1] : y2 - old[1], x1 - old[0] : x2 - old[0]]
        seen[y1 - new[1] : y2 - new[1], x1 - new[0] : x2 - new[0]] = part
    return seen.reshape(-1)


@dataclass(frozen=True)
class MisalignedCriterion:
    """The criterion of SAIS with the training half of the bug: the mask loss gets misaligned ground truth."""

    criterion: SaisCriterion
    needs_predictions = False

    def assign(self, batch: Batch, outputs: DenseOutputs | None, epoch: int) -> Assignment:
        """Assign targets (B, L, .) as SAIS does."""
        return self.criterion.assign(batch, outputs, epoch)

    def losses(self, outputs: DenseOutputs, batch: Batch, assignment: Assignment) -> dict[str, Tensor]:
        """Compute the terms of outputs (B, L, .). Only the mask loss reads the ground truth of the batch."""
        canvas = (batch.images.shape[2], batch.images.shape[3])
        grid = (canvas[0] // MASK_STRIDE, canvas[1] // MASK_STRIDE)
        pairs = zip(batch.ground_truths, batch.canvas_maps, strict=True)
        misaligned = [misaligned_ground_truth(objects, padding_ratio(place, canvas), grid) for objects, place in pairs]
        return self.criterion.losses(outputs, replace(batch, ground_truths=misaligned), assignment)


def detect_misaligned(
    network: nn.Module,
    canvases: Tensor,
    canvas_maps: list[CanvasMap],
    class_names: tuple[str, ...],
    settings: PostprocessConfig,
) -> list[Detections]:
    """Detect objects with the test half of the bug.

    Args:
        network: network of SAIS.
        canvases: (B, 3, height, width) uint8 on its device.
        canvas_maps: B maps from the images to their canvases.
        class_names: C names.
        settings: post-processing settings.
    """
    assert SAIS.postprocess is not None
    instances = SAIS.postprocess(network(canvases), [canvas_map.content_size for canvas_map in canvas_maps], settings)
    stretched = []
    for image, canvas_map in enumerate(canvas_maps):
        vertical, horizontal = padding_ratio(canvas_map, canvas_map.canvas_size)
        # The box in the image does not change; the map is stretched over the image together with its padding.
        instances.boxes[image] *= instances.boxes.new_tensor([horizontal, vertical, horizontal, vertical])
        scale = (canvas_map.scale[0] * vertical, canvas_map.scale[1] * horizontal)
        stretched.append(replace(canvas_map, scale=scale))
    return assemble(instances, stretched, class_names, settings.mask_margin)


SAIS = ARCHITECTURES["sais"]
PADDING_BUG = "sais.paper.padding_bug:PADDING_BUG_ARCHITECTURE"
"""Value of `model.architecture` for a model with the bug."""
PADDING_BUG_ARCHITECTURE = replace(
    SAIS,
    name="sais with the padding slip",
    build_criterion=lambda experiment: MisalignedCriterion(build_criterion(experiment)),
    postprocess=None,
    detect=detect_misaligned,
)
