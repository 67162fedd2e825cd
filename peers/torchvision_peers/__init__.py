"""Mask R-CNN and FCOS of torchvision, with any of our backbones, behind our loader, trainer and evaluator: SAIS' peers.

    train(experiment, data, out, system=MASK_RCNN)        train(experiment, data, out, system=FCOS)

Heads, anchors, matching, sampling and box losses are torchvision's own modules; what is ours is the road to and from
them. The route of a training batch stands in `losses`, of a prediction in `finders`; the networks are `mask_rcnn` and
`fcos`, mask targets and the two ways of pasting masks are `masks`.

The words are those of `sais.structures`; one is added: a *region* is a box that a network looks at or answers with,
R of one image.
"""

from peers.torchvision_peers.architectures import FCOS, MASK_RCNN, fcos_torchvision_r50, mask_rcnn_r50, mask_rcnn_r101
from peers.torchvision_peers.fcos import TorchvisionFcos, build_fcos
from peers.torchvision_peers.mask_rcnn import MaskRcnn, build_mask_rcnn
from peers.torchvision_peers.masks import full_masks, paste_masks

__all__ = [
    "FCOS",
    "MASK_RCNN",
    "MaskRcnn",
    "TorchvisionFcos",
    "build_fcos",
    "build_mask_rcnn",
    "fcos_torchvision_r50",
    "full_masks",
    "mask_rcnn_r50",
    "mask_rcnn_r101",
    "paste_masks",
]
