"""Compare a wheel and a source distribution with the repository: every file of the package, and nothing else.

    python -m release.contents dist

setuptools packs what `pyproject.toml` lists and what an earlier build left in build/, so that a template can be
missing from a wheel, and a deleted module in it, while every test of the checkout passes.
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

from sais._version import __version__

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    *("CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "SECURITY.md", "pyproject.toml"),
    "setup.py",
)
"""Files of the repository's root in the source distribution."""
MADE_BY_SETUPTOOLS = ("PKG-INFO", "setup.cfg")
MAX_BYTES = 3_000_000
"""Size of a wheel or a source distribution; a model or a data set among the files is larger."""


def package_files(root: Path = ROOT) -> set[str]:
    """Return the files of the package in a checkout, as paths below src."""
    source = root / "src"
    files = (path.relative_to(source) for path in (source / "sais").rglob("*") if path.is_file())
    return {path.as_posix() for path in files if "__pycache__" not in path.parts and path.suffix != ".pyc"}


def wheel_problems(path: Path, expected: set[str], version: str = __version__) -> list[str]:
    """Return what is wrong with a wheel, one line each.

    Args:
        path: the .whl file.
        expected: the files of the package, as `package_files` returns them.
        version: the version that it must have.
    """
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        information = f"sais_seg-{version}.dist-info/"
        inside = {name for name in names if name.startswith(information)}
        problems = _difference(names - inside, expected)
        for name in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
            if information + name not in inside:
                problems.append(f"missing: {information}{name}")
        if information + "METADATA" in inside:
            metadata = message_from_string(wheel.read(information + "METADATA").decode())
            problems += _metadata_problems(metadata, version)
    return [f"{path.name}: {problem}" for problem in problems + _size_problems(path)]


def sdist_problems(path: Path, expected: set[str], version: str = __version__) -> list[str]:
    """Return what is wrong with a source distribution, one line each; the arguments are those of `wheel_problems`."""
    top = f"sais_seg-{version}/"
    with tarfile.open(path) as archive:
        names = {member.name for member in archive.getmembers() if not member.isdir()}
    problems = [f"outside of {top}: {name}" for name in sorted(names) if not name.startswith(top)]
    inside = {name.removeprefix(top) for name in names if name.startswith(top)}
    inside = {name for name in inside if not name.startswith("src/sais_seg.egg-info/")}
    wanted = {f"src/{name}" for name in expected} | {*DOCUMENTS, *MADE_BY_SETUPTOOLS}
    problems += _difference(inside, wanted)
    return [f"{path.name}: {problem}" for problem in problems + _size_problems(path)]


def _difference(found: set[str], expected: set[str]) -> list[str]:
    """Return a line for each file that is missing or should not be there."""
    missing = [f"missing: {name}" for name in sorted(expected - found)]
    return missing + [f"not of the package: {name}" for name in sorted(found - expected)]


def _metadata_problems(metadata: Message, version: str) -> list[str]:
    """Return what an index or pip would show wrongly."""
    expected = {"Name": "sais-seg", "Version": version, "License-Expression": "Apache-2.0"}
    problems = [f"{name}: {metadata[name]}, not {value}" for name, value in expected.items() if metadata[name] != value]
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    heavy = [line for line in base if line.startswith(("torch", "timm", "onnx", "opencv"))]
    links = re.findall(r"\]\((?!https?:|#)[^)]*\)", str(metadata.get_payload()))
    problems += [f"link in the description that leads nowhere on an index: {link[2:-1]}" for link in links]
    return problems + [f"the base install needs {line}" for line in heavy]


def _size_problems(path: Path) -> list[str]:
    size = path.stat().st_size
    return [f"{size} bytes, more than {MAX_BYTES}"] if size > MAX_BYTES else []


def main(folder: Path) -> int:
    """Check the one wheel and the one source distribution in a folder; print the problems and return the exit code."""
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sources) != 1:
        print(f"{folder}: {len(wheels)} wheels and {len(sources)} source distributions. Empty it and build again.")
        return 2
    expected = package_files()
    problems = wheel_problems(wheels[0], expected) + sdist_problems(sources[0], expected)
    print("\n".join(problems) or f"{wheels[0].name}, {sources[0].name}: the {len(expected)} files of the package")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
