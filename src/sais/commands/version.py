"""`sais version`: print the versions of sais and its dependencies, for a bug report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sais._version import __version__
from sais.commands.arguments import parse
from sais.text import print_json, print_text

PACKAGES = (
    *("numpy", "pillow", "torch", "torchvision", "timm", "safetensors", "faster-coco-eval"),
    *("onnx", "onnxruntime", "openvino"),
)


@dataclass(frozen=True)
class VersionArguments:
    """Print the versions of sais and its dependencies."""

    json: bool = False
    """Print JSON."""


def run(argv: Sequence[str]) -> int:
    """Run `sais version`."""
    arguments = parse(VersionArguments, argv, "sais version")
    versions = {package: _version_of(package) for package in PACKAGES}
    system = {"python": platform.python_version(), "platform": platform.platform()}
    if arguments.json:
        print_json({"sais": __version__, **system, "packages": versions})
        return 0
    print_text(f"sais {__version__}, Python {system['python']}, {system['platform']}")
    for package, number in versions.items():
        print_text(f"{package} {number or 'not installed'}")
    return 0


def _version_of(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
