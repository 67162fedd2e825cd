"""Mask R-CNN (He, Gkioxari, Dollar, Girshick, ICCV 2017) of torchvision's modules with a backbone of SAIS.

All settings are the defaults of torchvision's `MaskRCNN`, except where an argument states otherwise. Differences:

- the canvas is created by the loader of SAIS; torchvision's resizing and padding are not used;
- the mask loss uses coverage on the stride-4 grid instead of full-resolution masks (see `masks`);
- mask logits are initialized near 0 (see `_mask_predictor`);
- the frozen parts are those of the settings, as for SAIS.

torchvision itself differs from the paper in one detail: smooth L1 has beta 1/9 in the second stage too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from peers.torchvision_peers.common import PendingOutputs, Regions, normalized, with_float32_outputs
from sais.config import PostprocessConfig
from sais.modeling.backbones import Backbone

STRIDES = (4, 8, 16, 32)
"""Strides of C2 to C5 and P2 to P5."""
ANCHOR_SIDES = (32, 64, 128, 256, 512)
"""Square root of an anchor's area on P2 to P6 in canvas pixels."""
RATIOS = (0.5, 1.0, 2.0)
"""Aspect ratios (height to width) of the anchors."""
BOX_CELLS, MASK_CELLS = 7, 14
"""Sides of the feature maps pooled for box and mask of a region; the mask has twice the side, 28."""
LEVELS = ("0", "1", "2", "3")
"""torchvision's names of P2 to P5 in a dict of features; P6 is "pool"."""

Features = dict[str, Tensor]


class MaskRcnn(nn.Module):
    """Backbone, FPN P2 to P6, region proposal network, and the heads for class, box and mask of a region.

    Args:
        backbone: the backbone that returns C2 to C5.
        num_classes: the number of classes C, without the background.
        channels: the channels of the FPN and of the mask head.
        representation: the units of the two layers of the box head.
        regions: the number of regions per image sampled for the box head, at most a quarter of them positive.
        mask_regions: the maximum number of positive regions per image sampled for the mask head.
        proposals: the number of proposals in training and testing, per level before NMS and per image after NMS.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        channels: int = 256,
        representation: int = 1024,
        regions: int = 512,
        mask_regions: int = 128,
        proposals: tuple[int, int] = (2000, 1000),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        info: Any = backbone.network.feature_info
        self._indices = [list(info.reduction()).index(stride) for stride in STRIDES]
        in_channels = [int(info.channels()[i]) for i in self._indices]
        self.fpn = FeaturePyramidNetwork(in_channels, channels, extra_blocks=LastLevelMaxPool())
        self.rpn = _proposal_network(channels, proposals)
        self.roi_heads = _box_heads(channels, representation, num_classes + 1, regions)
        self.mask_roi_pool = MultiScaleRoIAlign(list(LEVELS), MASK_CELLS, sampling_ratio=2)
        self.mask_head = MaskRCNNHeads(channels, (channels,) * 4, 1)
        self.mask_predictor = _mask_predictor(channels, num_classes + 1)
        self.mask_regions = mask_regions
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))

    def forward(self, images: Tensor, content_sizes: list[tuple[float, float]] | None = None) -> Any:
        """Detect the objects of B images with masks, in evaluation mode; in training, return `PendingOutputs`.

        Args:
            images: canvases (B, 3, H, W) in [0, 255], sides multiples of 32.
            content_sizes: the height and width of each image on its canvas; boxes are clipped to it.
        """
        if content_sizes is None:
            return PendingOutputs(self)
        features = self.features(images)
        results = self.detect_boxes(images, features, content_sizes)
        boxes, labels = [regions.boxes for regions in results], [regions.labels for regions in results]
        for regions, probabilities in zip(results, self.mask_probabilities(features, boxes, labels), strict=True):
            regions.probabilities = probabilities
        return results

    def features(self, images: Tensor) -> Features:
        """Compute P2 to P6 (B, channels, H / stride, W / stride) float32 by name from canvases (B, 3, H, W)."""
        maps = self.backbone.network(normalized(images, self.mean, self.std))
        levels = self.fpn(OrderedDict(zip(LEVELS, (maps[i] for i in self._indices), strict=True)))
        return OrderedDict((name, level.float()) for name, level in levels.items())

    def detect_boxes(
        self, images: Tensor, features: Features, content_sizes: list[tuple[float, float]]
    ) -> list[Regions]:
        """Run both stages for boxes on canvases (B, 3, H, W), in evaluation mode: B regions without masks."""
        proposals, _ = self.rpn(ImageList(images, content_sizes), features)
        class_logits, offsets = self.box_outputs(features, proposals)
        boxes, scores, labels = self.roi_heads.postprocess_detections(class_logits, offsets, proposals, content_sizes)
        return [Regions(box, score, label - 1) for box, score, label in zip(boxes, scores, labels, strict=True)]

    def box_outputs(self, features: Features, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute class logits (sum of R, 1 + C) and offsets (sum of R, 4 (1 + C)) of regions (R, 4) of B images."""
        heads = self.roi_heads
        pooled = heads.box_roi_pool(features, boxes, _canvas_sizes(features, len(boxes)))
        class_logits, offsets = heads.box_predictor(heads.box_head(pooled))
        return class_logits, offsets

    def mask_logits(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """Compute mask logits (sum of R, 1 + C, 28, 28), background first, of the regions (R, 4) of B images."""
        pooled = self.mask_roi_pool(features, boxes, _canvas_sizes(features, len(boxes)))
        logits: Tensor = self.mask_predictor(self.mask_head(pooled))
        return logits

    def mask_probabilities(self, features: Features, boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
        """Compute the masks (R, 28, 28) of the labels (R,) of the regions (R, 4) of B images."""
        of_class = maskrcnn_inference(self.mask_logits(features, boxes), [label + 1 for label in labels])
        return [probabilities[:, 0] for probabilities in of_class]

    def set_postprocess(self, settings: PostprocessConfig) -> None:
        """Set score threshold, NMS IoU and detections per image of the post-processing."""
        heads = self.roi_heads
        heads.score_thresh, heads.nms_thresh = settings.score_threshold, settings.nms_iou
        heads.detections_per_img = settings.max_detections


def build_mask_rcnn(backbone: Backbone, num_classes: int, channels: int = 256) -> MaskRcnn:
    """Build Mask R-CNN: as torchvision's at 256 channels, a cheaper one for training on a CPU below.

    The box head has 4 x channels units (1024 at 256). Below 256 channels an image trains on 64 regions instead of 512
    (as the paper's models without FPN), 8 masks instead of up to 128, and 500 proposals instead of 2000 (300 instead of
    1000 in testing). A step on 8 images of 192 x 192 with 96 channels then takes 1.7 s on one core, instead of about 9
    s with torchvision's settings; SAIS takes 1.3 s.
    """
    if channels >= 256:
        model = MaskRcnn(backbone, num_classes, channels, 4 * channels)
    else:
        model = MaskRcnn(backbone, num_classes, channels, 4 * channels, 64, 8, (500, 300))
    return model.to(memory_format=torch.channels_last)


def _proposal_network(channels: int, proposals: tuple[int, int]) -> RegionProposalNetwork:
    anchors = AnchorGenerator(tuple((side,) for side in ANCHOR_SIDES), (RATIOS,) * len(ANCHOR_SIDES))
    counts = {"training": proposals[0], "testing": proposals[1]}
    return RegionProposalNetwork(
        anchors,
        with_float32_outputs(RPNHead(channels, len(RATIOS))),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=counts,
        post_nms_top_n=dict(counts),
        nms_thresh=0.7,
    )


def _box_heads(channels: int, representation: int, outputs: int, regions: int) -> RoIHeads:
    """Build torchvision's second stage for boxes of `outputs` classes, including the background.

    The mask branch is separate, since torchvision's needs full-resolution masks.
    """
    return RoIHeads(
        MultiScaleRoIAlign(list(LEVELS), BOX_CELLS, sampling_ratio=2),
        TwoMLPHead(channels * BOX_CELLS**2, representation),
        with_float32_outputs(FastRCNNPredictor(representation, outputs)),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=regions,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    )


def _mask_predictor(channels: int, outputs: int) -> MaskRCNNPredictor:
    """Build torchvision's mask predictor with logits initialized near 0, as in Detectron2.

    torchvision's initialization assumes features of about unit variance. P2 of EfficientNet-Lite has a standard
    deviation of 12, logits would have 31, and overfitting eight images reaches a mask AP of 0.27 instead of 0.44.
    """
    predictor = MaskRCNNPredictor(channels, channels, outputs)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    nn.init.zeros_(predictor.mask_fcn_logits.bias)
    with_float32_outputs(predictor)
    return predictor


def _canvas_sizes(features: Features, batch: int) -> list[tuple[int, int]]:
    """Return B times the (H, W) of the canvas, from which pooling infers the strides; image sizes would be wrong."""
    height, width = features[LEVELS[0]].shape[2:]
    return [(height * STRIDES[0], width * STRIDES[0])] * batch
