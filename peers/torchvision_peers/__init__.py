"""Mask R-CNN and FCOS of torchvision with the backbones, loader, trainer and evaluator of SAIS.

`model.architecture` is ``peers.torchvision_peers.architectures:MASK_RCNN`` or ``...:FCOS``. Heads, anchors, matching,
sampling and box losses are torchvision's modules. The networks are in `mask_rcnn` and `fcos`, mask targets and pasting
in `masks`, losses in `losses`, and the architectures and recipes in `architectures`.

The terms are those of `sais.structures`; in addition, a *region* is a box that a network evaluates or returns, R per
image.
"""

from peers.torchvision_peers.architectures import (
    FCOS,
    FCOS_NAME,
    MASK_RCNN,
    MASK_RCNN_NAME,
    fcos_torchvision_r50,
    mask_rcnn_r50,
    mask_rcnn_r101,
)
from peers.torchvision_peers.fcos import TorchvisionFcos, build_fcos
from peers.torchvision_peers.mask_rcnn import MaskRcnn, build_mask_rcnn
from peers.torchvision_peers.masks import full_masks, paste_masks

__all__ = [
    "FCOS",
    "FCOS_NAME",
    "MASK_RCNN",
    "MASK_RCNN_NAME",
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
