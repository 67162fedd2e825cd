"""The exportable graphs: modules around the network prepared for inference.

Legend: B images, C classes, K prototypes, L locations, N candidates, D detections of an image, h w the prototype grid.
The names of the outputs are the names in exported files.

- raw: class_logits (B, L, C), quality_logits (B, L), distances (B, L, 4), coefficients (B, L, K),
  prototypes (B, K, h, w).
- detections: boxes (B, D, 4) in canvas pixels, scores (B, D), labels (B, D) int64, coefficients (B, D, K),
  prototypes (B, K, h, w); an empty slot has score 0.
- masks: those of detections, and mask_logits (B, D, h, w), to be enlarged bilinearly; positive inside the object.

Scores are those before maskness: its cells depend on the size of the image, which a graph does not know.

A model without masks has neither coefficients nor prototypes, and no masks graph; a model without a quality branch has
no quality_logits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sais.config import PostprocessConfig
from sais.errors import ConfigError
from sais.export.nms import batched_nms
from sais.ops.boxes import boxes_from_distances
from sais.structures import DenseOutputs

DENSE_OUTPUTS = ("class_logits", "quality_logits", "distances", "coefficients", "prototypes")


class RawGraph(nn.Module):
    """The network's dense outputs, without post-processing.

    Args:
        network: network prepared for inference.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.outputs = dense_output_names(network)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 3, height, width) -> the tensors that `outputs` names."""
        dense = self.network(images)
        return tuple(getattr(dense, name) for name in self.outputs)


class DetectionsGraph(nn.Module):
    """Detections after NMS in fixed shapes; with `masks` also the mask logits on the prototype grid.

    The same rules as `sais.modeling.postprocess`, in operators that exporters translate and shapes that do not depend
    on the data.

    Args:
        network: network prepared for inference.
        settings: post-processing settings.
        score: minimum score of a detection.
        masks: whether `mask_logits` are among the outputs.
    """

    def __init__(self, network: Any, settings: PostprocessConfig, score: float = 0.0, masks: bool = False) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.score = score
        self.masks = masks
        self.outputs: tuple[str, ...] = ("boxes", "scores", "labels")
        if "prototypes" in dense_output_names(network):
            self.outputs += ("coefficients", "prototypes", *(("mask_logits",) if masks else ()))
        self.strides: tuple[int, ...] = network.strides

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 3, height, width) and content sizes (B, 2) float -> the tensors that `outputs` names."""
        dense: DenseOutputs = self.network(images)
        boxes, scores, coefficients = self._candidates(dense, image_sizes)
        limit = self.settings.max_detections
        suppressed = batched_nms(boxes, scores, self.settings.nms_iou, limit)  # (B, C, N), removed ones are 0
        num_candidates = suppressed.shape[2]
        ranked = suppressed.flatten(1)
        if isinstance(ranked.shape[1], int) and ranked.shape[1] < limit:  # one class on a small canvas
            ranked = functional.pad(ranked, (0, limit - ranked.shape[1]))
        best = ranked.topk(limit, dim=1)
        values = best.values * (best.values >= self.score)
        filled = values > 0
        labels, index = (best.indices // num_candidates) * filled, best.indices % num_candidates
        results: tuple[Tensor, ...] = (_gather(boxes, index) * filled[..., None], values, labels)
        if coefficients is None or dense.prototypes is None:
            return results
        weights = _gather(coefficients, index) * filled[..., None]
        results += (weights, dense.prototypes)
        if self.masks:
            grid = dense.prototypes.shape
            results += (torch.bmm(weights, dense.prototypes.flatten(2)).view(grid[0], -1, grid[2], grid[3]),)
        return results

    def _candidates(self, dense: DenseOutputs, image_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return boxes (B, N, 4), scores (B, C, N), 0 for those that are no candidates, and coefficients (B, N, K)."""
        threshold = min(max(self.settings.score_threshold, 1e-6), 1 - 1e-6)
        best_logits = dense.class_logits.amax(2)  # sigmoids of all classes are computed for the chosen locations only
        quality = torch.ones_like(best_logits) if dense.quality_logits is None else dense.quality_logits.sigmoid()
        ranks = best_logits.sigmoid() * quality * (best_logits > math.log(threshold / (1 - threshold)))
        boxes, scores, coefficients = [], [], []
        first = 0
        for stride, (height, width) in zip(self.strides, dense.level_sizes, strict=True):
            on_level = slice(first, first + height * width)
            first += height * width
            chosen, valid = self._best_locations(ranks[:, on_level])
            points = _level_points(height, width, stride, chosen.device)[chosen]
            boxes.append(boxes_from_distances(points, _gather(dense.distances[:, on_level], chosen)))
            probability = _gather(dense.class_logits[:, on_level], chosen).sigmoid()
            factor = _gather(quality[:, on_level, None], chosen).squeeze(2) * valid
            scores.append(probability * (probability > self.settings.score_threshold) * factor[..., None])
            if dense.coefficients is not None:
                coefficients.append(_gather(dense.coefficients[:, on_level], chosen))
        edges = image_sizes.flip(1).repeat(1, 2)[:, None]  # (B, 1, 4) width height width height
        clipped = torch.minimum(torch.cat(boxes, 1).clamp(min=0), edges)
        nonempty = (clipped[..., 2:] > clipped[..., :2]).all(2)
        masked = torch.cat(scores, 1) * nonempty[..., None]
        return clipped, masked.transpose(1, 2), torch.cat(coefficients, 1) if coefficients else None

    def _best_locations(self, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the k locations with the highest rank: (B, n) -> indices (B, k) and whether each exists (B, k).

        n may be unknown when a graph is traced, so that there may be fewer than k.
        """
        count, topk = ranks.shape[1], self.settings.pre_nms_topk
        if isinstance(count, int):
            topk = min(topk, count)
        else:
            ranks = functional.pad(ranks, (0, topk), value=-1.0)
        index = ranks.topk(topk, dim=1, sorted=False).indices
        return index.clamp(max=count - 1), index < count


def _level_points(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Return the centers of a level's locations, row by row: (height * width, 2) float32 x y in canvas pixels.

    Sums and products of ranges, because the exporters cannot divide by a dynamic width.
    """
    x = torch.arange(width, device=device).expand(height, width)
    y = torch.arange(height, device=device)[:, None].expand(height, width)
    return (torch.stack([x, y], 2).flatten(0, 1) + 0.5) * stride


@torch.no_grad()
def dense_output_names(network: Any) -> tuple[str, ...]:
    """Return the names of the dense outputs that a network has.

    Raises:
        ConfigError: the network does not return `DenseOutputs`.
    """
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    outputs = network(torch.zeros(1, 3, 128, 128, dtype=torch.uint8, device=device))
    if not isinstance(outputs, DenseOutputs):
        raise ConfigError(
            f"export: {type(network).__name__} does not return sais.structures.DenseOutputs. "
            "Export is available for architectures that do."
        )
    return tuple(name for name in DENSE_OUTPUTS if getattr(outputs, name) is not None)


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """Gather whole rows: (B, n, m) and (B, k) -> (B, k, m). `Tensor.gather` would gather single numbers."""
    first = torch.arange(rows.shape[0], device=rows.device)[:, None] * rows.shape[1]
    return rows.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)
