"""YOLACT (Bolya, Zhou, Xiao, Lee: Real-time Instance Segmentation, ICCV 2019), written from its paper: SAIS' peer.

It goes through the same loader, trainer and evaluator as SAIS: ``train(experiment, data, out, system=YOLACT)``.
The route of a training batch: `model` -> `anchors` -> `targets` -> `losses`. Of a prediction: `model` -> `anchors` ->
`postprocess`. Both stand in `system`.

The words are those of `sais.structures`; one is added: A anchors, level by level, row by row, the three ratios of a
location one after the other.
"""

from peers.yolact.architecture import YOLACT, yolact_550_r50, yolact_700_r101
from peers.yolact.model import AnchorOutputs, Yolact, build_yolact

__all__ = [
    "YOLACT",
    "AnchorOutputs",
    "Yolact",
    "build_yolact",
    "yolact_550_r50",
    "yolact_700_r101",
]
