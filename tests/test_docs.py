"""The documentation: links, navigation, commands and messages of the pages; the walkthrough runs; the site builds."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import sais
from sais import errors
from sais.cli import COMMANDS, arguments_of, main
from sais.commands.options import option_names
from sais.commands.runs import CompareArguments
from sais.data.synthetic import write_shapes
from tests.test_readme import QUICK, blocks
from website.markdown_links import anchors, link_targets, prose_lines
from website.notebooks import notebook_as_markdown
from website.reference_pages import API_SECTIONS, ERRORS, commands_page, error_messages

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [*PAGES, ROOT / "docs/images/README.md", ROOT / "peers/README.md", *ROOT.glob("*.md")]
GENERATED = {"api.md", "commands.md", "messages.md"}
MAX_IMAGE_BYTES = 150_000
EVERYWHERE = {"--debug", "--help", "--no-cache", "--quiet"}
"""Options of every command."""


def navigation() -> list[str]:
    """Return the pages of the navigation in mkdocs.yml, in order."""

    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [page for value in values for page in pages(value)]  # type: ignore[attr-defined]

    return pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def commands(text: str) -> list[list[str]]:
    """Return the words after `sais` of each command on a page, in code blocks and in the text."""
    parts = {True: "", False: ""}
    for line, is_prose in prose_lines(text):
        parts[is_prose] += line
    lines = parts[False].replace("\\\n", " ").splitlines()
    lines += re.findall(r"`([^`]+)`", re.sub(r"\s*\n\s*", " ", parts[True]))
    matches = [re.match(r"\s*(?:sais|torchrun .*-m sais) ([a-z-]+ [^|<>#\\]*)", line) for line in lines]
    return [shlex.split(match[1]) for match in matches if match]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_the_documents_lead_to_files_and_headings(path: Path) -> None:
    broken = []
    for target in link_targets(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        if not linked.exists() or not linked.is_relative_to(ROOT):
            broken.append(target)
        elif anchor and anchor not in anchors(linked.read_text(encoding="utf-8")):
            broken.append(f"{target} (no such heading)")
    assert not broken


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_part_of_a_page_is_there_twice(path: Path) -> None:
    lines = [line for line, is_prose in prose_lines(path.read_text(encoding="utf-8")) if is_prose]
    headings = [line.strip() for line in lines if line.startswith("#")]
    assert headings
    assert sorted(headings) == sorted(set(headings))


def test_every_page_is_in_the_navigation_once() -> None:
    pages = navigation()
    assert len(pages) == len(set(pages))
    assert {page for page in pages if "/" not in page} == {path.name for path in PAGES} | GENERATED
    assert all((ROOT / page.removeprefix("repository/")).is_file() for page in pages if "/" in page)
    assert pages[0] == "index.md"
    assert pages[-1] == "log.md"


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "log.md"], ids=lambda path: path.stem)
def test_options_of_the_commands_on_the_pages_exist(path: Path) -> None:
    for command, *words in commands(path.read_text(encoding="utf-8")):
        assert command in COMMANDS, command
        known = {*EVERYWHERE, *option_names(arguments_of(command))}
        if words[:1] == ["compare"]:
            known |= set(option_names(CompareArguments))
        named = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert named <= known, f"sais {command}: {sorted(named - known)}"


def test_quick_start_has_the_commands_of_the_readme(root: Path) -> None:
    tested = {line for block in blocks(root, "bash") for line in block.splitlines()}
    text = (root / "docs/index.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert len(lines) >= 6
    assert set(lines) <= tested


@pytest.mark.slow
def test_commands_of_the_walkthrough_run(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shapes(Path("shapes"), train=10, valid=4, size=(96, 96))
    assert main(["convert", "shapes", "labeled", "--to", "labelme"]) == 0
    for split in ("train", "valid"):
        shutil.copytree(Path("labeled") / split, "my_photos", dirs_exist_ok=True)
    shutil.copytree("shapes/images/valid", "more_photos")
    text = (root / "docs/walkthrough.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    for line in lines:
        _, command, *words = shlex.split(line)
        assert main([command, *words, *QUICK.get(command, [])]) == 0, (line, capsys.readouterr().err)
    for written in (
        *("labels/index.html", "doctor.html", "my_photos/annotations/test.json", "runs/first/report.html"),
        *("predictions/predictions.json", "first_pass/labelme/labels.txt", "shapes.onnx"),
    ):
        assert Path(written).is_file(), written


def test_messages_on_the_page_are_those_of_the_code(root: Path) -> None:
    text = (root / "docs/errors.md").read_text(encoding="utf-8")
    documented = [match[1] for match in re.finditer(r"^\| `([^`]+ [^`]+)` \|", text, re.MULTILINE)]
    assert len(documented) > 50
    known = [message.text.replace("`", "") for message in error_messages()]
    for message in documented:
        pattern = ".*".join(re.escape(part) for part in re.split(r"<[^>]+>", message))
        assert any(re.fullmatch(pattern, text, re.DOTALL) for text in known), message


def test_errors_page_has_every_exception_and_exit_status(root: Path) -> None:
    text = (root / "docs/errors.md").read_text(encoding="utf-8")
    rows = {match[1] for match in re.finditer(r"^\| `?(\w+|\d+, \d+)`? \|", text, re.MULTILINE)}
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert "ResourceError" in classes
    assert classes <= rows
    assert {"0", "1", "2", "130", f"{128 + signal.SIGTERM}, {128 + signal.SIGHUP}"} <= rows


def test_page_of_all_messages_has_a_section_for_every_exception_of_the_code() -> None:
    names, grew = {"SaisError"}, True
    files = sorted((ROOT / "src/sais").rglob("*.py"))
    classes = re.findall(r"^class (\w+)\((\w+)\):", "\n".join(path.read_text() for path in files), re.MULTILINE)
    while grew:  # a subclass may come before its base class
        found = names | {name for name, base in classes if base in names}
        grew, names = found != names, found
    assert names - {"SaisError"} <= ERRORS.keys()


def test_commands_page_has_every_option() -> None:
    sections = commands_page().split("\n## sais ")[1:]
    assert [section.partition("\n")[0] for section in sections] == list(COMMANDS)
    for command, section in zip(COMMANDS, sections, strict=True):
        missing = [name for name in option_names(arguments_of(command)) if name not in section]
        assert not missing, command


def test_page_of_a_notebook_has_its_title_text_and_code(root: Path) -> None:
    page = notebook_as_markdown(root / "examples/measure.ipynb")
    assert page.startswith("# Count and measure objects\n")
    assert "The notebook is `examples/measure.ipynb`." in page
    code = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert "whole.measure(pixel_size=0.25" in code
    assert "## Measure" in page.replace(code, "")
    assert "execution_count" not in page


def test_api_page_has_every_public_name() -> None:
    names = [name for section in API_SECTIONS.values() for name in section]
    assert len(names) == len(set(names))
    assert set(names) == set(sais.__all__) - {"__version__"}


def test_docstrings_of_the_api_page_have_no_links_by_accident() -> None:
    """`name[@revision][/file]` is a link in Markdown, to a heading that does not exist: the site would not build."""
    values = [getattr(sais, name) for section in API_SECTIONS.values() for name in section]
    values += [getattr(value, name) for value in values if isinstance(value, type) for name in vars(value)]
    texts = [value.__doc__ for value in values if isinstance(value.__doc__, str)]
    assert len(texts) > 60
    links = [text for text in texts if re.search(r"\]\s?[\[(]", re.sub(r"`[^`]*`", "", text))]
    assert not links


def test_every_case_of_the_extension_tests_has_a_section(root: Path) -> None:
    pytest.importorskip("torch")
    from tests.extension.test_extension import EXTENSIONS

    text = (root / "docs/extending.md").read_text(encoding="utf-8")
    sections = {
        "assigner from boxes": "From boxes:",
        "assigner from predictions": "From predictions",
        "box loss": "## A box loss",
        "extra loss": "## An extra loss term",
        "head without quality branch": "## A head",
        "augmentation": "## An augmentation",
        "data set": "## A data set",
        "quality of boxes": "## The quality branch",
        "no quality branch": "## The quality branch",
    }
    assert sections.keys() == EXTENSIONS.keys()
    for section in sections.values():
        assert section in text, section


@pytest.mark.parametrize("path", sorted((ROOT / "docs/images").glob("*-*.*")), ids=lambda path: path.name)
def test_images_of_the_pages_are_small_and_have_a_source(path: Path) -> None:
    assert path.stat().st_size < MAX_IMAGE_BYTES
    sources = (ROOT / "docs/images/README.md").read_text(encoding="utf-8")
    assert path.name in sources or f"`{path.name.partition('-')[0]}-*{path.suffix}`" in sources


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None or find_spec("material") is None, reason="no mkdocs-material")
def test_site_builds_without_warnings_and_loads_nothing_from_other_sites(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"']?(?:https?:)?//[^\s\"'>]+", text)
        loaded += re.findall(r"<link(?![^>]*rel=[\"']?canonical)[^>]*\shref=[\"']?(?:https?:)?//[^\s\"'>]+", text)
        assert not loaded, (page.name, loaded)
