"""Mask R-CNN (He, Gkioxari, Dollar, Girshick, ICCV 2017) of torchvision's modules behind one of our backbones.

All settings are the defaults of torchvision's `MaskRCNN`, except where an argument says otherwise. Differences:

- the canvas is made by our loader; torchvision's own resizing and padding is not used;
- the mask loss looks at coverage on the stride-4 grid instead of masks of full resolution (see `masks`);
- mask logits start near 0 (see `_mask_predictor`);
- frozen is what our settings freeze, the same as for SAIS.

From the paper torchvision itself differs in little: smooth L1 has beta 1/9 in the second stage too.
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

from peers.torchvision_peers.common import Regions, answering_in_float32, normalized
from sais.modeling.backbones import Backbone

STRIDES = (4, 8, 16, 32)
"""Of C2 .. C5, of P2 .. P5."""
ANCHOR_SIDES = (32, 64, 128, 256, 512)
"""Canvas pixels: the square root of an anchor's area on P2 .. P6."""
RATIOS = (0.5, 1.0, 2.0)
"""Height to width of the anchors."""
BOX_CELLS, MASK_CELLS = 7, 14
"""Sides of the feature maps that a region's box and mask are read from; the mask has twice the side, 28."""
LEVELS = ("0", "1", "2", "3")
"""torchvision's names of P2 .. P5 in a dict of features; P6 is "pool"."""

Features = dict[str, Tensor]


class MaskRcnn(nn.Module):
    """Backbone, FPN P2 .. P6, region proposal network, and the heads for class, box and mask of a region.

    Args:
        backbone: gives C2 .. C5.
        num_classes: C, without the background.
        channels: of the FPN and of the mask head.
        representation: units in the two layers of the box head.
        regions: of an image, chosen at random, that train the box head, at most a quarter of them with an object.
        mask_regions: of an image, chosen at random among those with an object, that train the mask head.
        proposals: (training, test) boxes of a level before NMS, and as many of an image after it.
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

    def forward(self, images: Tensor, contents: list[tuple[float, float]]) -> list[Regions]:
        """In evaluation: uint8 canvases (B, 3, H, W) -> what is in each image, with masks.

        Args:
            images: sides multiples of 32.
            contents: B times (height, width) of the image on its canvas; boxes are clipped to it.
        """
        features = self.features(images)
        found = self.find_boxes(images, features, contents)
        boxes, labels = [one.boxes for one in found], [one.labels for one in found]
        for one, probabilities in zip(found, self.mask_probabilities(features, boxes, labels), strict=True):
            one.probabilities = probabilities
        return found

    def features(self, images: Tensor) -> Features:
        """Canvases (B, 3, H, W) -> P2 .. P6 (B, channels, H / stride, W / stride) float32 under torchvision's names."""
        maps = self.backbone.network(normalized(images, self.mean, self.std))
        levels = self.fpn(OrderedDict(zip(LEVELS, (maps[i] for i in self._indices), strict=True)))
        return OrderedDict((name, level.float()) for name, level in levels.items())

    def find_boxes(self, images: Tensor, features: Features, contents: list[tuple[float, float]]) -> list[Regions]:
        """Both stages for boxes, in evaluation: B Regions without masks."""
        proposals, _ = self.rpn(ImageList(images, contents), features)
        class_logits, offsets = self.box_outputs(features, proposals)
        boxes, scores, labels = self.roi_heads.postprocess_detections(class_logits, offsets, proposals, contents)
        return [Regions(b, s, n - 1) for b, s, n in zip(boxes, scores, labels, strict=True)]

    def box_outputs(self, features: Features, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """B times boxes (R, 4) -> class logits (sum of R, 1 + C) and box offsets (sum of R, 4 (1 + C))."""
        heads = self.roi_heads
        pooled = heads.box_roi_pool(features, boxes, _canvas_sizes(features, len(boxes)))
        class_logits, offsets = heads.box_predictor(heads.box_head(pooled))
        return class_logits, offsets

    def mask_logits(self, features: Features, boxes: list[Tensor]) -> Tensor:
        """B times boxes (R, 4) -> a mask of every class, the background first: (sum of R, 1 + C, 28, 28)."""
        pooled = self.mask_roi_pool(features, boxes, _canvas_sizes(features, len(boxes)))
        logits: Tensor = self.mask_predictor(self.mask_head(pooled))
        return logits

    def mask_probabilities(self, features: Features, boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
        """B times boxes (R, 4) and labels (R,) -> B times the mask of that class, (R, 28, 28)."""
        of_class = maskrcnn_inference(self.mask_logits(features, boxes), [n + 1 for n in labels])
        return [probabilities[:, 0] for probabilities in of_class]

    def set_limits(self, score: float, nms: float, detections: int) -> None:
        """What a detection must come to in evaluation: least score, IoU at which NMS drops a box, number an image."""
        heads = self.roi_heads
        heads.score_thresh, heads.nms_thresh, heads.detections_per_img = score, nms, detections


def build_mask_rcnn(backbone: Backbone, num_classes: int, channels: int = 256) -> MaskRcnn:
    """Mask R-CNN of a width: torchvision's own at 256 channels, a cheaper one below, made for training on a CPU.

    Below 256 channels the box head has 4 x channels units (1024 at 256), and an image trains with less: 64 regions
    instead of 512 (as the paper's models without FPN), 8 masks instead of up to 128, and 500 proposals instead of 2000
    (in the test 300 instead of 1000). A step on 8 images of 192 x 192 with 96 channels takes 1.7 s of one core so,
    about 9 s with torchvision's numbers, 1.3 s with SAIS.
    """
    if channels >= 256:
        model = MaskRcnn(backbone, num_classes, channels, 4 * channels)
    else:
        model = MaskRcnn(backbone, num_classes, channels, 4 * channels, 64, 8, (500, 300))
    return model.to(memory_format=torch.channels_last)


def _proposal_network(channels: int, proposals: tuple[int, int]) -> RegionProposalNetwork:
    anchors = AnchorGenerator(tuple((side,) for side in ANCHOR_SIDES), (RATIOS,) * len(ANCHOR_SIDES))
    kept = {"training": proposals[0], "testing": proposals[1]}
    return RegionProposalNetwork(
        anchors,
        answering_in_float32(RPNHead(channels, len(RATIOS))),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=kept,
        post_nms_top_n=dict(kept),
        nms_thresh=0.7,
    )


def _box_heads(channels: int, representation: int, outputs: int, regions: int) -> RoIHeads:
    """torchvision's second stage for boxes of `outputs` classes, the background among them. It is not given the mask
    branch, for which it would want masks of full resolution."""
    return RoIHeads(
        MultiScaleRoIAlign(list(LEVELS), BOX_CELLS, sampling_ratio=2),
        TwoMLPHead(channels * BOX_CELLS**2, representation),
        answering_in_float32(FastRCNNPredictor(representation, outputs)),
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
    """torchvision's, except that its logits start near 0, as Detectron2's do: torchvision's own start presumes features
    of about unit size. Behind EfficientNet-Lite, whose P2 has a standard deviation of 12, its logits would have 31, and
    eight images learnt by heart reach a mask AP of 0.27 where they reach 0.44 from here."""
    predictor = MaskRCNNPredictor(channels, channels, outputs)
    nn.init.normal_(predictor.mask_fcn_logits.weight, std=0.001)
    nn.init.zeros_(predictor.mask_fcn_logits.bias)
    answering_in_float32(predictor)
    return predictor


def _canvas_sizes(features: Features, batch: int) -> list[tuple[int, int]]:
    """B times (H, W) of the canvas. Pooling infers the strides from them, so they may not be the images' sizes."""
    height, width = features[LEVELS[0]].shape[2:]
    return [(height * STRIDES[0], width * STRIDES[0])] * batch
