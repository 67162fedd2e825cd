"""`sais version`: print the versions of sais and its dependencies, for a bug report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sais._version import __version__
from sais.commands.arguments import parse
from sais.text import print_text

PACKAGES = (
    *("numpy", "pillow", "torch", "torchvision", "timm", "safetensors", "faster-coco-eval"),
    *("onnx", "onnxruntime", "openvino"),
)


@dataclass(frozen=True)
class VersionArguments:
    """Print the versions of sais and its dependencies."""


def run(argv: Sequence[str]) -> int:
    """Run `sais version`."""
    parse(VersionArguments, argv, "sais version")
    print_text(f"sais {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in PACKAGES:
        try:
            print_text(f"{package} {version(package)}")
        except PackageNotFoundError:
            print_text(f"{package} not installed")
    return 0
