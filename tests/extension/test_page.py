"""The code of docs/extending.md runs: joined to my_parts.py, as the page says, every part trains or exports a model."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from sais.cli import main
from sais.data.formats import read_dataset
from sais.resolve import NAMED_MODULES
from tests.extension.test_extension import EXTENSIONS

MODULE = "my_parts"
NETWORK = ("--model.head", "TinyHead", "--model.quality", "none")
PARTS = (
    *("--criterion.assigner", "assign_nearest_center", "--criterion.box-loss", "smooth_l1"),
    *("--criterion.classification-loss", "cross_entropy", "--criterion.extra-losses", "sparse_coefficients"),
    *("--augment.extra", "add_noise", "--optim.name", "rmsprop", "--schedule.kind", "inverse_square_root"),
    *("--run.loggers", "PrintLogger"),
)
OTHER_PARTS = ("--criterion.assigner", "assign_by_cost", "--model.quality", "squared_centerness")
EXPORT = ("--format", "write_operators", "--graph", "raw", "--out", "model.txt")
NOT_SHOWN = {"tiny", "read_split"}
"""Names that the page uses as names of the reader's own."""


def page(root: Path) -> str:
    """Return the text of the page."""
    return (root / "docs/extending.md").read_text(encoding="utf-8")


def snippets(root: Path) -> str:
    """Return the Python code of the page."""
    return "\n\n".join(re.findall(r"```python\n(.*?)```", page(root), re.DOTALL))


def definitions(root: Path) -> set[str]:
    """Return the functions and classes that the page defines."""
    nodes = ast.parse(snippets(root)).body
    return {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def named(words: tuple[str, ...], known: set[str]) -> list[str]:
    """Return words of a command line in which the names of the page are those of the module."""
    return [f"{MODULE}:{word}" if word in known else word for word in words]


@pytest.fixture
def folder(root: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the current folder: my_parts.py, and labels in the format that the page's data set reads."""
    source = "from tests.extension.own_extension import tiny  # noqa: F401\n" + snippets(root)
    (tmp_path / f"{MODULE}.py").write_text(source, encoding="utf-8")
    for name in ("train", "valid"):
        entries = []
        for record in read_dataset(shapes, name).images:
            objects = []
            for annotation in record.annotations:
                x1, y1, x2, y2 = map(float, annotation.box)
                objects.append({"class": annotation.label % 2, "polygon": [x1, y1, x2, y1, x2, y2, x1, y2]})
            height, width = record.size
            entries.append({"file": str(record.path), "height": height, "width": width, "objects": objects})
        (tmp_path / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAIS_TRUST", MODULE)
    yield tmp_path
    sys.modules.pop(MODULE, None)
    NAMED_MODULES.discard(MODULE)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def test_every_part_of_the_page_is_run(root: Path) -> None:
    defined = definitions(root)
    assert defined == {*NETWORK, *PARTS, *OTHER_PARTS, *EXPORT, "my_splits"} & defined
    assert set(re.findall(rf"{MODULE}:(\w+)", page(root))) - defined == NOT_SHOWN
    assert len(defined) > len(EXTENSIONS)


@pytest.mark.slow
def test_parts_of_the_page_train_evaluate_predict_and_export(root: Path, folder: Path, shapes: Path) -> None:
    known = definitions(root)
    data = f"{MODULE}:my_splits"
    for out, words in {"run": (*NETWORK, *PARTS), "other": OTHER_PARTS}.items():
        options = ["--max-iterations", "2", "--no-report", *named(words, known)]
        assert main(["train", f"{MODULE}:tiny", "--data", data, "--out", out, *options]) == 0
        NAMED_MODULES.clear()
        assert main(["eval", out, "--data", data, "--workers", "0", "--device", "cpu"]) == 0
    log = [json.loads(line) for line in (folder / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    terms = [entry for entry in log if entry["kind"] == "iteration"]
    assert len(terms) == 2
    assert {"classification", "box", "mask", "sparse_coefficients"} <= set(terms[0])
    assert main(["predict", "run", str(shapes / "images/valid"), "--out", "predictions", "--device", "cpu"]) == 0
    assert main(["export", "run", *named(EXPORT, known)]) == 0
    assert "conv2d" in (folder / "model.txt").read_text(encoding="utf-8")
