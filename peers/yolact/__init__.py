"""YOLACT (Bolya, Zhou, Xiao, Lee: Real-time Instance Segmentation, ICCV 2019), implemented from its paper.

It shares loader, trainer and evaluator with SAIS: `model.architecture` is ``peers.yolact.architecture:YOLACT``. A
training batch passes through `model`, `anchors`, `targets` and `losses`; a prediction through `model`, `anchors` and
`postprocess`. Both are defined in `architecture`.

The shape letters are those of `sais.structures`; in addition, A is the number of anchors, ordered by level, by row and
by location with its three aspect ratios.
"""

from peers.yolact.architecture import YOLACT, YOLACT_NAME, yolact_550_r50, yolact_700_r101
from peers.yolact.model import AnchorOutputs, Yolact, build_yolact

__all__ = [
    "YOLACT",
    "YOLACT_NAME",
    "AnchorOutputs",
    "Yolact",
    "build_yolact",
    "yolact_550_r50",
    "yolact_700_r101",
]
