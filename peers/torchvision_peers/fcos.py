"""torchvision's FCOS (head, locations, matching, losses, post-processing) with a backbone of SAIS; boxes only.

Differences from the FCOS of the paper (Tian, Shen, Chen, He, ICCV 2019) and from SAIS without masks:

- center sampling: only locations within 1.5 strides of an object's center are assigned to it (an improvement of 2020);
- GIoU loss, not weighted by centerness, divided by the number of positives;
- centerness from the regression tower;
- distances of relu(x) strides without learned scales, instead of exp(scale x) pixels;
- locations at i * stride instead of (i + 0.5) * stride, and open level ranges (0, 64), (64, 128), ...;
- scores sqrt(class x centerness); the score threshold and the 1000 candidates per level apply to pairs of location and
  class, instead of to class probabilities and locations;
- on canvases that are not multiples of 128, its locations on P6 and P7 are spread over the canvas (torchvision uses
  canvas // cells as stride).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS as Detector  # noqa: N811
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from peers.torchvision_peers.common import PendingOutputs, Regions, normalized, with_float32_outputs
from sais.config import PostprocessConfig
from sais.errors import ConfigError
from sais.modeling.backbones import Backbone

GROUPS = 32
"""Groups of the head's GroupNorm; channels must be a multiple."""


class TorchvisionFcos(nn.Module):
    """Backbone, FPN P3 to P7 and torchvision's FCOS.

    Args:
        backbone: the backbone that returns C3 to C5.
        num_classes: the number of classes C.
        channels: the channels of the FPN and of the head's towers, a multiple of 32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, num_classes: int, channels: int = 256) -> None:
        super().__init__()
        self.backbone = backbone
        last_levels = LastLevelP6P7(channels, channels)  # equal widths: computed from P5, as in torchvision's own FCOS
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), channels, extra_blocks=last_levels)
        # torchvision's class owns a backbone; it gets an empty one, so that the real one is registered once.
        self.detector = Detector(_NoBackbone(channels), num_classes)
        with_float32_outputs(self.detector.head)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))

    def forward(self, images: Tensor, content_sizes: list[tuple[float, float]] | None = None) -> Any:
        """Detect the objects of B images, in evaluation mode; in training, return `PendingOutputs`.

        Args:
            images: canvases (B, 3, H, W) in [0, 255], sides multiples of 32.
            content_sizes: the height and width of each image on its canvas; boxes are clipped to it after candidate
                selection and before NMS; boxes entirely in the padding are removed.
        """
        if content_sizes is None:
            return PendingOutputs(self)
        outputs, anchors, level_sizes = self.outputs(images)
        outputs_by_level = {name: list(values.split(level_sizes, dim=1)) for name, values in outputs.items()}
        anchors_by_level = [list(boxes.split(level_sizes)) for boxes in anchors]
        detections = self.detector.postprocess_detections(outputs_by_level, anchors_by_level, content_sizes)
        results = []
        for detection in detections:
            inside = (detection["boxes"][:, 2:] > detection["boxes"][:, :2]).all(1)
            results.append(Regions(*(detection[name][inside] for name in ("boxes", "scores", "labels"))))
        return results

    def outputs(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """Compute the dense outputs of canvases (B, 3, H, W).

        Returns:
            Outputs (B, L, .) float32 by torchvision's names; for each image the squares of one stride around the
            locations, (L, 4) in canvas pixels; and the number of locations of each level.
        """
        maps = self.backbone(normalized(images, self.mean, self.std))
        levels = list(self.fpn(OrderedDict(zip("345", maps, strict=True))).values())
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        anchors = self.detector.anchor_generator(ImageList(images, sizes), [level.float() for level in levels])
        return self.detector.head(levels), anchors, [level.shape[2] * level.shape[3] for level in levels]

    def set_postprocess(self, settings: PostprocessConfig) -> None:
        """Set score threshold, NMS IoU, detections per image and candidates per level of the post-processing."""
        detector = self.detector
        detector.score_thresh, detector.nms_thresh = settings.score_threshold, settings.nms_iou
        detector.detections_per_img, detector.topk_candidates = settings.max_detections, settings.pre_nms_topk


def build_fcos(backbone: Backbone, num_classes: int, channels: int = 256) -> TorchvisionFcos:
    """Build a randomly initialized FCOS with the given number of channels.

    Raises:
        ConfigError: channels are not a multiple of the groups of GroupNorm.
    """
    if channels % GROUPS:
        raise ConfigError(f"model.channels {channels}: torchvision's FCOS needs a multiple of {GROUPS}. Give one.")
    return TorchvisionFcos(backbone, num_classes, channels).to(memory_format=torch.channels_last)


class _NoBackbone(nn.Module):
    """A placeholder for the backbone that torchvision's class expects; never called."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
