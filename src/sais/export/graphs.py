"""The three graphs that leave the house, as modules over the network prepared for inference.

Legend: B images, C classes, K prototypes, L locations, D detections kept of an image, h w the prototype grid
(stride 4). Names of the outputs are the names that exported files carry.

- raw: class_logits (B, L, C), quality_logits (B, L), distances (B, L, 4), coefficients (B, L, K),
  prototypes (B, K, h, w).
- detections: boxes (B, D, 4) in canvas pixels, scores (B, D), labels (B, D) int64, coefficients (B, D, K),
  prototypes (B, K, h, w); a slot that is empty has score 0.
- masks: those of detections, and mask_logits (B, D, h, w): enlarged bilinearly, positive is the object.

A model of boxes only has neither coefficients nor prototypes, nor a masks graph.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sais.config import PostprocessConfig
from sais.export.nms import batched_nms
from sais.modeling.fpn import STRIDES
from sais.modeling.sais import SAIS
from sais.structures import DenseOutputs


class RawGraph(nn.Module):
    """What the network says at every location, and nothing done about it.

    Args:
        model: prepared for inference.
    """

    def __init__(self, model: SAIS) -> None:
        super().__init__()
        self.model = model
        has_masks = model.protonet is not None
        self.outputs: tuple[str, ...] = ("class_logits", "quality_logits", "distances")
        self.outputs += ("coefficients", "prototypes") if has_masks else ()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 3, height, width) -> the tensors that `outputs` names."""
        found = self.model(images)
        return tuple(getattr(found, name) for name in self.outputs)


class DetectionsGraph(nn.Module):
    """Boxes after suppression, in fixed shapes; with `masks` also the masks' logits on the prototype grid.

    The same rules as `sais.modeling.postprocess.postprocess`: class probability above `score`; per level the `candidates` locations
    with the highest class x centerness; suppression per class; the best `detections`.

    Args:
        model: prepared for inference.
        settings: score, candidates, nms, detections.
        score: least class x centerness of what comes out.
        masks: whether `mask_logits` come out.
    """

    def __init__(self, model: SAIS, settings: PostprocessConfig, score: float = 0.0, masks: bool = False) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.score = score
        self.masks = masks
        self.outputs: tuple[str, ...] = ("boxes", "scores", "labels")
        if model.protonet is not None:
            self.outputs += ("coefficients", "prototypes", *(("mask_logits",) if masks else ()))

    def forward(self, images: Tensor, contents: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 3, height, width) and (B, 2) float height, width of each image on its canvas -> `outputs`."""
        found: DenseOutputs = self.model(images)
        boxes, scores, coefficients = self._candidates(found, contents)
        kept = batched_nms(
            boxes, scores, self.settings.nms_iou, self.settings.max_detections
        )  # (B, C, N), 0 where it went
        number = kept.shape[2]
        best = kept.flatten(1).topk(self.settings.max_detections, dim=1)
        values = best.values * (best.values >= self.score)
        filled = values > 0
        labels, places = (best.indices // number) * filled, best.indices % number
        chosen = _gather(boxes, places) * filled[..., None]
        results: tuple[Tensor, ...] = (chosen, values, labels)
        if coefficients is None or found.prototypes is None:
            return results
        weights = _gather(coefficients, places) * filled[..., None]
        results += (weights, found.prototypes)
        if self.masks:
            grid = found.prototypes.shape
            results += (torch.bmm(weights, found.prototypes.flatten(2)).view(grid[0], -1, grid[2], grid[3]),)
        return results

    def _candidates(self, found: DenseOutputs, contents: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Boxes (B, N, 4), scores (B, C, N), 0 of what does not take part, and coefficients (B, N, K)."""
        score = min(max(self.settings.score_threshold, 1e-6), 1 - 1e-6)
        greatest = found.class_logits.amax(2)  # sigmoids are taken of the few that are chosen
        centerness = found.quality_logits.sigmoid()
        ranks = greatest.sigmoid() * centerness * (greatest > math.log(score / (1 - score)))
        boxes, scores, coefficients = [], [], []
        first = 0
        for stride, (height, width) in zip(STRIDES, found.level_sizes, strict=True):
            on_level = slice(first, first + height * width)
            first += height * width
            chosen, real = self._best(ranks[:, on_level])
            y, x = chosen // width, chosen % width
            center = (torch.stack([x, y], 2) + 0.5) * stride
            sides = _gather(found.distances[:, on_level], chosen)
            boxes.append(torch.cat([center - sides[..., :2], center + sides[..., 2:]], 2))
            probability = _gather(found.class_logits[:, on_level], chosen).sigmoid()
            factor = _gather(centerness[:, on_level, None], chosen).squeeze(2) * real
            scores.append(probability * (probability > self.settings.score_threshold) * factor[..., None])
            if found.coefficients is not None:
                coefficients.append(_gather(found.coefficients[:, on_level], chosen))
        edges = contents.flip(1).repeat(1, 2)[:, None]  # (B, 1, 4) width height width height
        inside = torch.minimum(torch.cat(boxes, 1).clamp(min=0), edges)
        real = (inside[..., 2:] > inside[..., :2]).all(2)
        masked = torch.cat(scores, 1) * real[..., None]
        return inside, masked.transpose(1, 2), torch.cat(coefficients, 1) if coefficients else None

    def _best(self, ranks: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n) -> (B, k) the places of the greatest, and whether each is one: n may be unknown when a graph is made,
        so that there may be fewer than k."""
        number, candidates = ranks.shape[1], self.settings.pre_nms_topk
        if isinstance(number, int):
            candidates = min(candidates, number)
        else:
            ranks = functional.pad(ranks, (0, candidates), value=-1.0)
        places = ranks.topk(candidates, dim=1, sorted=False).indices
        return places.clamp(max=number - 1), places < number


def _gather(rows: Tensor, places: Tensor) -> Tensor:
    """(B, n, m) and (B, k) -> (B, k, m), whole rows at once: `gather` would go number by number."""
    first = torch.arange(rows.shape[0], device=rows.device)[:, None] * rows.shape[1]
    return rows.flatten(0, 1).index_select(0, (places + first).flatten()).unflatten(0, places.shape)
