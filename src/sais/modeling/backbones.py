"""Backbones: any timm network with feature maps at strides 8, 16 and 32, through one adapter.

They are built with random weights; `sais.modeling.imagenet_weights` loads pretrained ones.
"""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sais.errors import ConfigError, SaisError
from sais.resolve import suggest

FEATURE_STRIDES = (8, 16, 32)
"""Strides of C3, C4, C5."""


class Backbone(nn.Module):
    """A timm network reduced to its C3, C4 and C5, partly frozen.

    Args:
        name: timm model name, for example ``resnet50.tv_in1k``.
        frozen_stages: 0 trains everything, 1 freezes stem and C2, 2 also C3, 3 also C4.
        frozen_batch_norm: whether every batch-norm keeps its statistics and is not trained.

    Raises:
        ConfigError: timm has no such model (with the closest names), or the model lacks strides 8, 16 and 32.
    """

    def __init__(self, name: str, frozen_stages: int = 1, frozen_batch_norm: bool = True) -> None:
        super().__init__()
        self.name = name
        self.network = _create(name)
        info: Any = self.network.feature_info
        self._indices = [list(info.reduction()).index(stride) for stride in FEATURE_STRIDES]
        c3, c4, c5 = (int(info.channels()[i]) for i in self._indices)
        self.channels = c3, c4, c5
        """Channels of C3, C4, C5."""
        self.mean, self.std = _normalization(name)
        """Mean and standard deviation per channel on the scale [0, 255] that the pretrained weights expect."""
        self._check_feature_maps()
        self._freeze(frozen_stages, frozen_batch_norm)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalized images (B, 3, H, W) -> C3, C4, C5, each (B, channels, H / stride, W / stride)."""
        maps = self.network(images)
        return [maps[i] for i in self._indices]

    @property
    def dtype(self) -> torch.dtype:
        """Data type of its weights, and so of its inputs."""
        return next(self.network.parameters()).dtype

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode as usual, but keep frozen batch-norms, also those of frozen stages, in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    @torch.no_grad()
    def _check_feature_maps(self) -> None:
        """Raise ConfigError unless the network accepts images of any size and returns maps (B, channels, h, w)."""
        training = self.network.training
        try:
            shapes = [tuple(m.shape) for m in self.eval()(torch.zeros(1, 3, 64, 96))]
        except Exception as error:  # every kind of network raises its own exceptions
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"model.backbone {self.name!r}: does not accept images of any size ({reason}). Choose another."
            ) from error
        self.network.train(training)
        expected = [(1, channels, 64 // s, 96 // s) for channels, s in zip(self.channels, FEATURE_STRIDES, strict=True)]
        if shapes != expected:
            raise ConfigError(f"model.backbone {self.name!r}: maps of {shapes} instead of {expected}. Choose another.")

    def _freeze(self, stages: int, batch_norm: bool) -> None:
        if stages > 0:
            info: Any = self.network.feature_info
            stride = min(4 * 2 ** (stages - 1), 32)
            last = list(info.module_name())[list(info.reduction()).index(stride)]
            for parameter in parameters_through(self.network, last):
                parameter.requires_grad_(False)
        if batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    for parameter in module.parameters():
                        parameter.requires_grad_(False)


def parameters_through(network: nn.Module, last: str) -> list[nn.Parameter]:
    """Return all parameters of `network`, in order, through its sub-module `last` (timm's dotted feature name)."""
    names = [name for name, _ in network.named_parameters()]
    spelling = last if any(n.startswith(last + ".") for n in names) else last.replace(".", "_")
    inside = [i for i, name in enumerate(names) if name.startswith(spelling + ".")]
    if not inside:
        raise ConfigError(f"model.frozen_stages: the backbone has no part {last!r} to freeze up to. Set it to 0.")
    return list(network.parameters())[: inside[-1] + 1]


def _create(name: str) -> nn.Module:
    from sais.config_ranges import check_backbone

    check_backbone(name)
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, features_only=True)
    except SaisError:  # of `sais.inference.parameter_limit`
        raise
    except Exception as error:  # timm raises many kinds for an unknown name or a network without feature maps
        close = difflib.get_close_matches(name, [*timm.list_pretrained(), *timm.list_models()])
        hint = suggest(name, close) if close else ". Choose one of `timm.list_models()`."
        raise ConfigError(f"model.backbone {name!r}: timm has no such network with feature maps{hint}") from error
    info: Any = network.feature_info
    missing = [stride for stride in (4, *FEATURE_STRIDES) if stride not in info.reduction()]
    if missing:
        raise ConfigError(
            f"model.backbone {name!r}: no feature map of stride {missing[0]}. Choose one with strides 4, 8, 16 and 32."
        )
    return network


def _normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation on the scale [0, 255] that the pretrained weights expect."""
    if name.startswith("tf_efficientnet_lite"):
        return (127.0,) * 3, (128.0,) * 3  # the values of their training; timm rounds them to 127.5
    settings = timm.get_pretrained_cfg(name)
    mean = settings.mean if settings else (0.485, 0.456, 0.406)
    std = settings.std if settings else (0.229, 0.224, 0.225)
    return tuple(255 * m for m in mean), tuple(255 * s for s in std)
