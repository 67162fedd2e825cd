"""The method is open: own assigners, losses, heads, data sets and augmentations, from one file outside the package.

Each is trained from the command line, evaluated and predicted with. Those that change the network are also exported to
ONNX one by one, the others all together.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from sais.checkpoint import load_checkpoint
from sais.cli import main
from sais.resolve import NAMED_MODULES

MODULE = "own_extension"
EXTENSIONS: dict[str, tuple[str, ...]] = {
    "assigner from boxes": ("--criterion.assigner", f"{MODULE}:assign_nearest"),
    "assigner from predictions": ("--criterion.assigner", f"{MODULE}:assign_by_cost"),
    "box loss": ("--criterion.box-loss", f"{MODULE}:l1_of_logarithms"),
    "extra loss": ("--criterion.extra-losses", f"{MODULE}:prototype_size"),
    "head without quality branch": ("--model.head", f"{MODULE}:PlainHead"),
    "augmentation": ("--augment.extra", f"{MODULE}:darken"),
    "data set": (),
    "quality of boxes": ("--model.quality", "iou"),
    "no quality branch": ("--model.quality", "none"),
}
NETWORK_PARTS = ("head without quality branch", "quality of boxes", "no quality branch")
"""Extensions with which another network is exported."""
EVERYTHING = tuple(word for name in EXTENSIONS if "quality of" not in name and name != "no quality branch"
                   and name != "assigner from boxes" for word in EXTENSIONS[name])  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the file of the extension, which is the current directory."""
    path = tmp_path_factory.mktemp("research")
    shutil.copy(Path(__file__).with_name(f"{MODULE}.py"), path)
    before = Path.cwd()
    os.chdir(path)
    yield path
    os.chdir(before)
    sys.modules.pop(MODULE, None)
    NAMED_MODULES.discard(MODULE)
    if str(path) in sys.path:
        sys.path.remove(str(path))


@pytest.fixture(autouse=True)
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the module of the extension, as its author does."""
    monkeypatch.setenv("SAIS_TRUST", MODULE)


def run(*words: str | Path) -> None:
    """Run a command of sais as a new process would: no module has been named before."""
    NAMED_MODULES.clear()
    assert main([str(word) for word in words]) == 0, words


def train(data: str | Path, out: Path, *options: str) -> list[dict[str, Any]]:
    """Train two steps from the command line; returns the logged terms of each step."""
    steps = ("--max-iterations", "2", "--no-report")
    run("train", f"{MODULE}:tiny", "--data", data, "--out", out, *steps, *options)
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["kind"] == "iteration"]


def use(model: Path, data: str | Path, images: Path, folder: Path, exports: bool) -> None:
    """Evaluate a trained model and predict with it; if `exports`, also export it and do both with the file."""
    sources = [model]
    if exports:
        sources.append(folder / "model.onnx")
        run("export", model, "--out", sources[1], "--max-images", "2")
    for number, source in enumerate(sources):
        metrics = folder / f"metrics-{number}.json"
        run("eval", source, "--data", data, "--workers", "0", "--device", "cpu", "--json", metrics)
        assert json.loads(metrics.read_text())["images"] == 4
        out = folder / f"predictions-{number}"
        run("predict", source, images, "--out", out, "--score", "0.001", "--device", "cpu", "--no-draw")
    predictions = [
        json.loads((folder / f"predictions-{number}/predictions.json").read_text())["annotations"]
        for number in range(len(sources))
    ]
    assert len(predictions[0]) > 0
    scores = [[round(annotation["score"], 3) for annotation in annotations[:10]] for annotations in predictions]
    assert scores[0] == pytest.approx(scores[-1], abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTENSIONS)
def test_own_part_trains_evaluates_predicts_and_exports(name: str, shapes: Path, folder: Path, tmp_path: Path) -> None:
    data = f"{MODULE}:squares" if name == "data set" else shapes
    terms = train(data, tmp_path / "run", *EXTENSIONS[name])
    assert len(terms) == 2
    assert ("prototype_size" in terms[0]) == (name == "extra loss")
    assert ("centerness" in terms[0]) == (
        name not in ("head without quality branch", "quality of boxes", "no quality branch")
    )
    assert ("iou" in terms[0]) == (name == "quality of boxes")
    use(tmp_path / "run", data, shapes / "images/valid", tmp_path, name in NETWORK_PARTS)


def test_all_own_parts_together_train_in_micro_batches_and_resume(
    shapes: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SAIS_TRUST")
    data = f"{MODULE}:squares"
    terms = train(data, tmp_path / "run", *EVERYTHING, "--optim.micro-batch", "3")
    assert {"classification", "box", "mask", "prototype_size"} <= set(terms[0])
    assert "centerness" not in terms[0]
    run("train", f"{MODULE}:tiny", "--data", data, "--out", tmp_path / "run", "--resume", "--max-iterations", "3")
    checkpoint = load_checkpoint(tmp_path / "run/last.safetensors")
    assert checkpoint.state["iteration"] == 3
    assert checkpoint.experiment.criterion.assigner == f"{MODULE}:assign_by_cost"
    NAMED_MODULES.clear()
    capsys.readouterr()
    evaluate = ["eval", str(tmp_path / "run"), "--data", str(shapes), "--device", "cpu"]
    resume = ["train", "sais-lite", "--out", str(tmp_path / "run"), "--resume"]
    for words in (evaluate, [*resume, "--data", str(shapes)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"is '{MODULE}:PlainHead', code outside of sais that would be imported and run" in error
        assert f"Set --trust if you trust the file, or set the environment variable SAIS_TRUST={MODULE}." in error
    run(*resume, "--data", data, "--max-iterations", "4", "--trust", "--no-report")


@pytest.mark.slow
def test_all_own_parts_together_predict_and_export(shapes: Path, folder: Path, tmp_path: Path) -> None:
    data = f"{MODULE}:squares"
    terms = train(data, tmp_path / "run", *EVERYTHING)
    assert len(terms) == 2
    assert "prototype_size" in terms[0]
    use(tmp_path / "run", data, shapes / "images/valid", tmp_path, exports=True)
    assert (
        load_checkpoint(tmp_path / "run/last.safetensors").experiment.criterion.assigner == f"{MODULE}:assign_by_cost"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["assigner from boxes", "assigner from predictions"])
def test_two_ranks_equal_one_process_with_an_own_assigner(
    name: str, shapes: Path, folder: Path, tmp_path: Path
) -> None:
    options = (*EXTENSIONS[name], "--model.backbone", "tf_efficientnet_lite0.in1k", "--model.pretrained")
    expected = train(shapes, tmp_path / "one", *options)  # frozen batch-norm: that of a random start sees one rank only
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "sais")
    words = ("train", f"{MODULE}:tiny", "--data", str(shapes), "--out", str(tmp_path / "two"), "--max-iterations", "2")
    source = str(Path(__file__).resolve().parents[2] / "src")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    command = (sys.executable, *launcher, *words, "--no-report", *options)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (tmp_path / "two/log.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if entry["kind"] == "iteration"]
    assert len(steps) == len(expected) == 2
    for step, reference in zip(steps, expected, strict=True):
        for term in ("total", "classification", "box", "centerness", "mask", "gradient"):
            assert step[term] == pytest.approx(reference[term], rel=2e-3), term
