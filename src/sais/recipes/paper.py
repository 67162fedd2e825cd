"""The models of the paper's Section IV, for COCO.

The defaults of `sais.config` reproduce the paper, so that each recipe states its differences only. From the paper's
text, for all recipes: SGD, momentum 0.9, learning rate 0.01 for 16 images, 12 epochs with a factor of 0.1 after epochs
8 and 11, an ImageNet backbone. From the detector it extends (FCOS in mmdetection): weight decay 1e-4, warm-up,
horizontal flips, frozen stem, C2 and batch-norm, GroupNorm, losses, thresholds; `docs/paper.md` has the whole list.
"Expected" is the paper's result on COCO; none has been measured by us yet.
"""

from __future__ import annotations

from sais.config import CriterionConfig, Experiment, InputConfig, ModelConfig

RESNET50 = "resnet50.tv_in1k"
RESNET101 = "resnet101.tv_in1k"
RESNEXT101 = "resnext101_64x4d.gluon_in1k"
KEEP_RATIO = InputConfig(mode="keep_ratio", size=(800, 1333))


def sais_r50_768() -> Experiment:
    """SAIS-768, ResNet-50: Table IV; "sum of both" in Table III.

    Command:  sais train sais-r50-768 --data coco
    Cost:     not yet measured (the paper: 2.5 GB of GPU memory)
    Expected: mask AP 28.7, AP50 49.2, AP75 29.4 (paper); not yet measured by us
    """
    return Experiment(
        name="sais-r50-768", input=InputConfig(mode="fixed", size=(768, 768)), model=ModelConfig(backbone=RESNET50)
    )


def sais_r50_640() -> Experiment:
    """SAIS-640, ResNet-50: Table IV.

    Command:  sais train sais-r50-640 --data coco
    Cost:     not yet measured (the paper: 1.8 GB of GPU memory)
    Expected: mask AP 27.6, AP50 47.2, AP75 28.3 (paper); not yet measured by us
    """
    return Experiment(
        name="sais-r50-640", input=InputConfig(mode="fixed", size=(640, 640)), model=ModelConfig(backbone=RESNET50)
    )


def sais_r101_768() -> Experiment:
    """SAIS-768, ResNet-101: Table IV.

    Command:  sais train sais-r101-768 --data coco
    Cost:     not yet measured (the paper: 3.6 GB of GPU memory)
    Expected: mask AP 30.7, AP50 51.6, AP75 31.7 (paper); not yet measured by us
    """
    return Experiment(
        name="sais-r101-768", input=InputConfig(mode="fixed", size=(768, 768)), model=ModelConfig(backbone=RESNET101)
    )


def sais_x101_768() -> Experiment:
    """SAIS-768, ResNeXt-101 64x4d: Table IV.

    Command:  sais train sais-x101-768 --data coco
    Cost:     not yet measured (the paper: 6.6 GB of GPU memory)
    Expected: mask AP 32.5, AP50 55.8, AP75 33.6 (paper); not yet measured by us
    """
    return Experiment(
        name="sais-x101-768", input=InputConfig(mode="fixed", size=(768, 768)), model=ModelConfig(backbone=RESNEXT101)
    )


def fcos_r50() -> Experiment:
    """FCOS, ResNet-50, center-aware assignment: second row of Table II. Boxes only, 1333x800 with kept ratio.

    Command:  sais train fcos-r50 --data coco
    Cost:     not yet measured
    Expected: box AP 36.9, AP50 55.7, AP75 39.5 (paper); not yet measured by us
    """
    return Experiment(name="fcos-r50", input=KEEP_RATIO, model=ModelConfig(backbone=RESNET50, masks=False))


def fcos_r50_area() -> Experiment:
    """FCOS, ResNet-50, area-aware assignment (plain FCOS): first row of Table II. Boxes only, 1333x800 with kept ratio.

    Command:  sais train fcos-r50-area --data coco
    Cost:     not yet measured
    Expected: box AP 36.7, AP50 55.5, AP75 39.3 (paper); not yet measured by us
    """
    return Experiment(
        name="fcos-r50-area",
        input=KEEP_RATIO,
        model=ModelConfig(backbone=RESNET50, masks=False),
        criterion=CriterionConfig(assigner="area"),
    )


def sais_r50_768_no_fusion() -> Experiment:
    """SAIS-768, coefficients from the classification tower only: first row of Table III, "SAIS, center" in Table II.

    Command:  sais train sais-r50-768-no-fusion --data coco
    Cost:     not yet measured
    Expected: mask AP 28.5, AP50 48.4, AP75 29.3 (paper); not yet measured by us
    """
    return Experiment(
        name="sais-r50-768-no-fusion",
        input=InputConfig(mode="fixed", size=(768, 768)),
        model=ModelConfig(backbone=RESNET50, coefficients_from="classification"),
    )


def sais_r50_768_area() -> Experiment:
    """SAIS-768, area-aware assignment, without fusion: "SAIS, area" in Table II, fixed input in Table I.

    Command:  sais train sais-r50-768-area --data coco
    Cost:     not yet measured
    Expected: mask AP 28.2, AP50 47.8, AP75 29.0; box AP 35.9 (paper); not yet measured by us
    """
    return Experiment(
        name="sais-r50-768-area",
        input=InputConfig(mode="fixed", size=(768, 768)),
        model=ModelConfig(backbone=RESNET50, coefficients_from="classification"),
        criterion=CriterionConfig(assigner="area"),
    )


def sais_r50_keep_ratio_area() -> Experiment:
    """SAIS at 1333x800 with kept ratio, area-aware assignment, without fusion: first row of Table I.

    Command:  sais train sais-r50-keep-ratio-area --data coco
    Cost:     not yet measured
    Expected: box AP 36.7, mask AP 21.2 (paper; docs/paper.md on a possible error in its mask crop)
    """
    return Experiment(
        name="sais-r50-keep-ratio-area",
        input=KEEP_RATIO,
        model=ModelConfig(backbone=RESNET50, coefficients_from="classification"),
        criterion=CriterionConfig(assigner="area"),
    )
