"""The network prepared for inference computes what the original computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sais.config import Experiment, ModelConfig, RunConfig
from sais.converters.for_training import for_training
from sais.converters.fuse import for_inference
from sais.converters.replacement import original_of
from sais.modeling.sais import SAIS, build_model
from sais.structures import DenseOutputs

LITE, RESNET = "tf_efficientnet_lite0.in1k", "resnet18.a1_in1k"
VARIANTS = {
    "frozen, size-dependent padding": ModelConfig(backbone=LITE),
    "trained batch-norm everywhere": ModelConfig(backbone=LITE, pretrained=False, norm="batch"),
    "residual blocks": ModelConfig(backbone=RESNET, pretrained=False),
    "depthwise towers": ModelConfig(backbone=RESNET, tower_kind="depthwise", norm="batch", distance_unit="stride"),
    "without fusion": ModelConfig(backbone=RESNET, coefficients_from="classification"),
    "boxes only, no towers": ModelConfig(backbone=RESNET, masks=False, tower_depth=0),
    "without quality branch": ModelConfig(backbone=RESNET, quality="none"),
    "torchvision's head": ModelConfig(
        backbone=RESNET,
        distance_activation="relu",
        distance_unit="stride",
        distance_origin="corner",
        quality_from="regression",
        tower_bias=True,
    ),
}


def lively(config: ModelConfig) -> SAIS:
    """A random network whose norms do something."""
    from dataclasses import replace

    torch.manual_seed(0)
    model = build_model(replace(config, channels=32, prototype_channels=16), num_classes=3)
    for module in model.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if hasattr(module, "running_mean") or isinstance(module, nn.GroupNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    model.head.scales.data.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("trained", [False, True], ids=["built", "rewritten for training"])
@pytest.mark.parametrize("name", VARIANTS)
def test_for_inference_equals_the_original(name: str, trained: bool) -> None:
    model = lively(VARIANTS[name])
    if trained:
        run = RunConfig(activation_checkpointing="all", cpu_convolutions="winograd", device="cpu")
        for_training(model, Experiment(model=VARIANTS[name], run=run), torch.device("cpu"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():  # may be called within
        prepared = for_inference(model)
    for size in ((64, 96), (160, 32)):
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        with torch.inference_mode():
            original, fused = model(images), prepared(images)
        assert fused.level_sizes == original.level_sizes
        for field in DenseOutputs.__dataclass_fields__:
            first, second = getattr(original, field), getattr(fused, field)
            if not isinstance(first, torch.Tensor):
                assert first == second
                continue
            assert first.shape == second.shape
            assert (first - second).abs().max() <= 1e-4 * first.abs().max(), field
            assert first.std() > 0, field
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())
    assert not any(original_of(module) is not None for module in prepared.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert for_inference(prepared) is prepared


def test_for_inference_rejects_canvases_that_are_not_multiples_of_32() -> None:
    prepared = for_inference(lively(VARIANTS["residual blocks"]))
    with pytest.raises(RuntimeError, match="size"):
        prepared(torch.zeros(1, 3, 72, 64, dtype=torch.uint8))
