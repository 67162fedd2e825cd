"""FCOS of torchvision (head, locations, matching, losses, post-processing) behind one of our backbones; boxes only.

From the FCOS of the paper (Tian, Shen, Chen, He, ICCV 2019), and from ours (SAIS without masks), it differs in

- center sampling: only locations within 1.5 strides of an object's center belong to it (an improvement of 2020);
- GIoU loss, not weighted by centerness, divided by the number of positives;
- centerness from the regression tower;
- distances relu(x) strides, without learnt scales, where the paper has exp(scale x) pixels;
- locations at i * stride, not (i + 0.5) * stride, and the open ranges (0, 64), (64, 128), ... of its levels;
- scores sqrt(class x centerness), and the least score and the 1000 candidates of a level count these pairs of location
  and class, where ours are class probabilities and locations;
- at canvases that are no multiple of 128, its locations on P6 and P7 are stretched over the canvas (torchvision takes
  canvas // cells for the stride).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOS as Detector  # noqa: N811
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from peers.torchvision_peers.common import Regions, answering_in_float32, normalized
from sais.errors import SaisError
from sais.modeling.backbones import Backbone

GROUPS = 32
"""Of the head's GroupNorm: channels are a multiple of it."""


class TorchvisionFcos(nn.Module):
    """Backbone, FPN P3 .. P7 and torchvision's FCOS on top.

    Args:
        backbone: gives C3 .. C5.
        num_classes: C.
        channels: of the FPN and of the head's towers, a multiple of 32.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, num_classes: int, channels: int = 256) -> None:
        super().__init__()
        self.backbone = backbone
        last_levels = LastLevelP6P7(channels, channels)  # equal widths: from P5, as torchvision's own FCOS
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), channels, extra_blocks=last_levels)
        # torchvision's class owns a backbone; it gets an empty one, so that ours is registered once, under its name.
        self.detector = Detector(_NoBackbone(channels), num_classes)
        answering_in_float32(self.detector.head)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))

    def forward(self, images: Tensor, contents: list[tuple[float, float]]) -> list[Regions]:
        """In evaluation: uint8 canvases (B, 3, H, W) -> what is in each image.

        Args:
            images: sides multiples of 32.
            contents: B times (height, width) of the image on its canvas; boxes are clipped to it after the choice of
                candidates and before NMS; those that lie wholly in the padding go.
        """
        outputs, anchors, level_sizes = self.outputs(images)
        by_level = {name: list(values.split(level_sizes, dim=1)) for name, values in outputs.items()}
        anchors_by_level = [list(one.split(level_sizes)) for one in anchors]
        found = self.detector.postprocess_detections(by_level, anchors_by_level, contents)
        results = []
        for one in found:
            inside = (one["boxes"][:, 2:] > one["boxes"][:, :2]).all(1)
            results.append(Regions(one["boxes"][inside], one["scores"][inside], one["labels"][inside]))
        return results

    def outputs(self, images: Tensor) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """Canvases (B, 3, H, W) -> what every location says: float32 (B, L, .) under torchvision's names; B times the
        squares of one stride around the locations, (L, 4) canvas pixels; the number of locations of each level."""
        maps = self.backbone(normalized(images, self.mean, self.std))
        levels = list(self.fpn(OrderedDict(zip("345", maps, strict=True))).values())
        sizes = [(images.shape[2], images.shape[3])] * len(images)
        anchors = self.detector.anchor_generator(ImageList(images, sizes), [level.float() for level in levels])
        return self.detector.head(levels), anchors, [level.shape[2] * level.shape[3] for level in levels]

    def set_limits(self, score: float, nms: float, detections: int, candidates: int) -> None:
        """What a detection must come to in evaluation: least score, IoU at which NMS drops a box, number an image,
        candidates a level."""
        detector = self.detector
        detector.score_thresh, detector.nms_thresh = score, nms
        detector.detections_per_img, detector.topk_candidates = detections, candidates


def build_fcos(backbone: Backbone, num_classes: int, channels: int = 256) -> TorchvisionFcos:
    """FCOS of a width, randomly initialized.

    Raises:
        SaisError: channels that the norm cannot group.
    """
    if channels % GROUPS:
        raise SaisError(f"--model.channels {channels}: must be a multiple of {GROUPS} for torchvision's FCOS")
    return TorchvisionFcos(backbone, num_classes, channels).to(memory_format=torch.channels_last)


class _NoBackbone(nn.Module):
    """Stands where torchvision's class wants a backbone; it is never called."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
