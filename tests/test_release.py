"""What is released: contents of wheel and source distribution, version, changelog, citation, the workflow."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from release import clean_install
from release.contents import DOCUMENTS, main, sdist_problems, wheel_problems
from sais._version import __version__

yaml = pytest.importorskip("yaml")

DEVELOPMENT = {"browser", "dev", "docs", "release", "track-eval"}
"""Extras of those who develop sais."""


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a wheel and a source distribution, built without a network from a copy of the sources."""
    if find_spec("build") is None:
        pytest.skip("build is not installed (extra dev)")
    folder = tmp_path_factory.mktemp("release")
    source = folder / "source"
    shutil.copytree(root / "src/sais", source / "src/sais", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "tests/style", source / "tests")
    (source / "tests/test_example.py").write_text("")  # setuptools packs tests/test_*.py unless it is told not to
    for name in DOCUMENTS:
        shutil.copy(root / name, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.mark.slow
def test_wheel_and_source_distribution_have_the_files_of_the_package(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(built) == 0, capsys.readouterr().out
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("sais/py.typed", "sais/serving/static/index.html", "sais/reports/templates/base.html.jinja"):
        assert name in names
    assert not [name for name in names if name.startswith(("tests", "peers", "docs", "website", "release"))]


@pytest.mark.slow
def test_description_of_the_built_package_is_valid(built: Path) -> None:
    if find_spec("twine") is None:
        pytest.skip("twine is not installed (extra release)")
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_description_for_an_index_keeps_text_and_commands(root: Path) -> None:
    readme = (root / "README.md").read_text(encoding="utf-8")
    description = runpy.run_path(str(root / "setup.py"))["index_description"](readme)
    assert "](" not in re.sub(r"\]\((https?:|#)", "", description)
    assert "docs/images" not in description
    blocks = re.findall(r"```.*?```", readme, re.DOTALL)
    assert len(blocks) > 6
    assert re.findall(r"```.*?```", description, re.DOTALL) == blocks
    assert "coco" in description.lower()
    assert "[" not in re.sub(r"```.*?```|`[^`]*`", "", description, flags=re.DOTALL)


def write_wheel(path: Path, files: set[str], metadata: str) -> Path:
    """Write a wheel with empty files."""
    with zipfile.ZipFile(path, "w") as wheel:
        for name in files:
            wheel.writestr(name, "")
        for name, text in {"METADATA": metadata, "entry_points.txt": "", "licenses/LICENSE": ""}.items():
            wheel.writestr(f"sais_seg-9.0.dist-info/{name}", text)
    return path


def test_problems_of_a_wheel_are_named(tmp_path: Path) -> None:
    metadata = "Name: sais-seg\nVersion: 9.0\nLicense-Expression: Apache-2.0\nRequires-Dist: numpy>=1.26\n"
    metadata += 'Requires-Dist: torch>=2.6; extra == "train"\n'
    files = {"sais/__init__.py", "sais/py.typed"}
    assert wheel_problems(write_wheel(tmp_path / "a.whl", files, metadata), files, "9.0") == []
    wrong = metadata.replace("Version: 9.0", "Version: 8.0") + "Requires-Dist: torch>=2.6\n"
    wrong += "\nSee [data](docs/data.md) and [PyPI](https://pypi.org).\n"
    path = write_wheel(tmp_path / "b.whl", {"sais/__init__.py", "tests/test_a.py"}, wrong)
    assert wheel_problems(path, files, "9.0") == [
        "b.whl: missing: sais/py.typed",
        "b.whl: not of the package: tests/test_a.py",
        "b.whl: Version: 8.0, not 9.0",
        "b.whl: link in the description that leads nowhere on an index: docs/data.md",
        "b.whl: the base install needs torch>=2.6",
    ]


def test_problems_of_a_source_distribution_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in (*DOCUMENTS[1:], "PKG-INFO", "setup.cfg", "src/sais/a.py", "data/image.jpg"):
            archive.add(tmp_path / "file", f"sais_seg-9.0/{name}")
    assert sdist_problems(tmp_path / "a.tar.gz", {"sais/a.py", "sais/b.py"}, "9.0") == [
        "a.tar.gz: missing: CHANGELOG.md",
        "a.tar.gz: missing: src/sais/b.py",
        "a.tar.gz: not of the package: data/image.jpg",
    ]


def test_changelog_and_citation_have_the_version(root: Path) -> None:
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[^\]]*)\] - (\d{4}-\d{2}-\d{2})$", changelog, re.MULTILINE)
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert versions[0] == (__version__, str(citation["date-released"]))
    assert str(citation["version"]) == __version__
    assert citation["license"] == "Apache-2.0"
    assert f"sais_seg-{__version__}-py3-none-any.whl" in (root / "docs/install.md").read_text(encoding="utf-8")


def test_extras_of_users_are_on_the_page_about_installation(root: Path) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = (root / "docs/install.md").read_text(encoding="utf-8")
    documented = {
        name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
    }
    assert extras.keys() - DEVELOPMENT <= documented
    assert "train" in documented


def test_workflow_runs_what_continuous_integration_runs(root: Path) -> None:
    content = yaml.safe_load((root / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in content["jobs"].items()}
    assert commands == {"test": [".ci/run"], "release": ["make release-check"]}
    targets = re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"test", "release", "release-check"} <= set(targets)
    assert "exec make test" in (root / ".ci/run").read_text(encoding="utf-8")
    assert content["permissions"] == {"contents": "read"}


def test_oldest_python_is_the_same_everywhere(root: Path) -> None:
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    oldest = re.search(r'requires-python = ">=(3\.\d+)"', text)
    assert oldest is not None
    assert f"Python :: {oldest[1]}" in text
    assert f'python_version = "{oldest[1]}"' in text
    assert f'target-version = "py{oldest[1].replace(".", "")}"' in text
    assert f"Python {oldest[1]} or newer" in (root / "docs/install.md").read_text(encoding="utf-8")
    assert f"--lowest --python {oldest[1]}\n" in (root / "Makefile").read_text(encoding="utf-8")


def test_clean_environments_have_all_extras_that_tests_use(root: Path) -> None:
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    used = [*clean_install.EXTRAS.split(","), *clean_install.NEWEST_EXTRAS.split(",")]
    assert sorted(used) == sorted(extras.keys() - {"wandb", "mlflow"})


def test_clean_environments_run_what_make_test_runs(root: Path) -> None:
    (line,) = re.findall(r"-m pytest (-m .*)", (root / "Makefile").read_text(encoding="utf-8"))
    options = shlex.split(line)
    assert options[: len(clean_install.ALL_TESTS)] == list(clean_install.ALL_TESTS)
    assert clean_install.QUICK_TESTS[:2] == ("-m", "not slow")


def test_tests_of_a_clean_environment_run_in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy has the files that git tracks, as they are, and a failed test ends the program."""
    repository = tmp_path / "repository"
    (repository / "tests").mkdir(parents=True)
    (repository / "tests/test_a.py").write_text("def test_passes():\n    pass\n")
    (repository / "deleted.py").write_text("")
    subprocess.run(["git", "init", "--quiet"], cwd=repository, check=True)
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    (repository / "deleted.py").unlink()
    (repository / "untracked.py").write_text("")
    monkeypatch.setattr(clean_install, "ROOT", repository)
    clean_install.run_tests(Path(sys.executable).parent, tmp_path / "copy", [])
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["tests"]
    (repository / "tests/test_a.py").write_text("def test_fails():\n    assert False\n")
    with pytest.raises(SystemExit, match="pytest: status 1"):
        clean_install.run_tests(Path(sys.executable).parent, tmp_path / "second", ["tests/test_a.py"])
