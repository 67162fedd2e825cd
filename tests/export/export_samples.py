"""Small random models with many detections, for the tests of exports."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from sais.config import Experiment, InputConfig, ModelConfig, PostprocessConfig
from sais.inference.trained_model import TrainedModel
from sais.modeling.sais import build_model

NAMES = ("a", "b", "c")


def random_model(
    mode: Literal["fixed", "keep_ratio"] = "fixed",
    size: tuple[int, int] = (96, 160),
    masks: bool = True,
    quality: str = "centerness",
    backbone: str = "resnet18.a1_in1k",
    options: bool = False,
) -> TrainedModel:
    """Return a model of three classes with random weights and many detections.

    With `options` it has what the paper's model has not: a norm in the ProtoNet, relative coordinates, maskness.
    """
    torch.manual_seed(1)
    config = ModelConfig(
        backbone=backbone,
        channels=32,
        tower_depth=1,
        prototype_channels=8,
        masks=masks,
        quality=quality,
        prototype_norm="group" if options else "none",
        relative_coordinates=options,
    )
    network = build_model(config, len(NAMES))
    network.head.class_logits.bias.data.fill_(-1.5)
    for module in (network.head.class_logits, network.head.quality_logits, network.head.distances):
        if module is not None:
            module.weight.data.normal_(0, 0.15)
    network.head.distances.bias.data.fill_(2.5)
    if options:
        network.head.coefficients.weight.data.normal_(0, 0.15)
    experiment = Experiment(
        name="random",
        input=InputConfig(mode=mode, size=size),
        model=config,
        postprocess=PostprocessConfig(maskness=options),
    )
    return TrainedModel(network.eval(), experiment, NAMES, (1, 5, 9))


def with_maskness(path: Path, folder: Path) -> Path:
    """Return a copy of an exported file in a folder that asks for scores times maskness; its checksum is wrong."""
    import onnx

    model = onnx.load(str(path))
    (entry,) = (entry for entry in model.metadata_props if entry.key == "experiment")
    assert '"maskness": false' in entry.value
    entry.value = entry.value.replace('"maskness": false', '"maskness": true')
    onnx.save(model, str(folder / "maskness.onnx"))
    return folder / "maskness.onnx"
