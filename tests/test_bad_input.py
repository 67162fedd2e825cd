"""Bad input on the command line: exit code 2, one line that names the file, nothing partly written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sais import cli

Document = dict[str, Any]
TINY = [
    *("--size", "64", "--batch-size", "4", "--epochs", "1", "--workers", "0", "--device", "cpu"),
    *("--model.channels", "64", "--model.tower-depth", "1", "--model.prototype-channels", "16"),
]


@pytest.fixture
def data(shapes: Path, tmp_path: Path) -> Path:
    """Return a copy of the shapes that a test may change."""
    return Path(shutil.copytree(shapes, tmp_path / "data"))


def change_annotations(data: Path, change: Callable[[Document], object], split: str = "train") -> Path:
    """Apply `change` to the annotations of a split and return their file."""
    path = data / "annotations" / f"{split}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def train(data: Path, out: Path, *more: str) -> list[str]:
    """Return the command line of a tiny run."""
    return ["train", "paper-lite0", "--data", str(data), "--out", str(out), *TINY, *more]


def fails(capsys: pytest.CaptureFixture[str], argv: list[str], *words: object) -> str:
    """Assert exit code 2 and one line on stderr that contains all `words`; return it."""
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert err.startswith("sais: error: ")
    assert "Traceback" not in err
    for word in words:
        assert str(word) in err, f"{word!r} is not in: {err}"
    return err


def test_train_names_a_missing_image(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = data / "images/train/train_00004.jpg"
    image.unlink()
    fails(capsys, train(data, tmp_path / "run"), image, "--skip-broken")
    assert not (tmp_path / "run").exists()


def test_train_names_a_truncated_image(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = data / "images/train/train_00004.jpg"
    image.write_bytes(image.read_bytes()[:900])
    for more in ((), ("--workers", "2")):
        fails(capsys, train(data, tmp_path / "run", *more), image, "--skip-broken")
        assert not (tmp_path / "run").exists()


def test_unreadable_validation_image(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = data / "images/valid/valid_00001.jpg"
    image.write_bytes(b"")
    run = tmp_path / "run"
    fails(capsys, train(data, run), image, "--skip-broken")
    assert (run / "last.safetensors").is_file()  # the epoch before the evaluation is not lost
    assert cli.main(train(data, run, "--resume", "--skip-broken")) == 0
    assert "1 unreadable" in capsys.readouterr().out


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("images"), ("'images'",)),
        (lambda d: d.pop("categories"), ("'categories'",)),
        (lambda d: d["images"].clear(), ("no images",)),
        (lambda d: [a.update(image_id=999) for a in d["annotations"]], ("annotation 1", "999")),
        (lambda d: d["annotations"][2].update(category_id=77), ("annotation 3", "77")),
        (lambda d: d["annotations"][2].update(bbox=[NAN, 1, 5, 5]), ("annotation 3",)),
        (lambda d: d["annotations"][2].update(bbox=[1, 2]), ("annotation 3", "bbox")),
        (
            lambda d: d["annotations"][2].update(segmentation=[[1, 1, NAN, 4, 9, 9]]),
            ("annotation 3",),
        ),
        (lambda d: d["images"][1].update(id=1), ("id 1",)),
        (lambda d: d["images"][0].update(height=0), ("image 1",)),
    ],
    ids=["images", "categories", "empty", "image", "category", "nan", "bbox", "polygon", "twice", "size"],
)
def test_malformed_annotations(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, words: tuple[str, ...]
) -> None:
    path = change_annotations(data, change)
    fails(capsys, train(data, tmp_path / "run"), path, *words)
    assert not (tmp_path / "run").exists()
    assert cli.main(["doctor", str(data)]) == 2
    output = capsys.readouterr().out
    assert all(word in output for word in (str(path), *words))
    assert "== valid" in output  # the check continues after the first error


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("no JSON at all", "JSON"),
        ('{"images": [{"id": 1', "JSON"),
        ("[1, 2, 3]", "COCO"),
        ('{"a": 1}', "COCO"),
        ("", "JSON"),
    ],
)
def test_files_that_are_not_coco(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, word: str
) -> None:
    for split in ("train", "valid"):
        path = data / "annotations" / f"{split}.json"
        good = path.read_text()
        path.write_text(text)
        fails(capsys, train(data, tmp_path / "run"), path, word)
        assert not (tmp_path / "run").exists()
        path.write_text(good)


def test_train_names_missing_data_and_splits(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, train(tmp_path / "nowhere", tmp_path / "run"), tmp_path / "nowhere")
    fails(capsys, train(data, tmp_path / "run", "--train-split", "trian"), data, "trian", "train")
    assert not (tmp_path / "run").exists()


def test_unknown_recipe_and_setting(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(data), "--out", str(tmp_path / "run")]
    fails(capsys, ["train", "paper-lite", *words], "paper-lite", "did you mean 'paper-lite0'")
    fails(capsys, ["train", "paper-lite0", *words, "--model.chanels", "8"], "--model.chanels", "--model.channels")
    fails(capsys, ["train", "paper-lite0", *words, "--model.norm", "grup"], "--model.norm", "grup")
    fails(capsys, ["train", "paper-lite0", *words, "--size", "70"], "--input.size 70 70")
    backbone = ["--model.backbone", "resnet5O", "--random-init"]
    fails(capsys, train(data, tmp_path / "run", *backbone), "resnet5O", "did you mean")
    fails(capsys, train(data, tmp_path / "run", "--device", "warp"), "warp")
    assert not (tmp_path / "run").exists()


def write_invalid_models(folder: Path, trained: Path) -> list[Path]:
    """Write files that are not models and return their paths, with one path that does not exist."""
    content = (trained / "model.safetensors").read_bytes()
    (folder / "short.safetensors").write_bytes(content[: len(content) // 2])
    (folder / "stub.safetensors").write_bytes(content[:5])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_text("text instead of weights " * 20)
    save_file({"weight": torch.zeros(2)}, folder / "other.safetensors")
    torch.save({"weight": torch.zeros(2)}, folder / "pickle.pth")
    (folder / "no_run").mkdir()
    names = ["short", "stub", "empty", "text", "other", "missing"]
    return [*(folder / f"{name}.safetensors" for name in names), folder / "pickle.pth", folder / "no_run"]


def test_invalid_model_files(trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for path in write_invalid_models(tmp_path, trained):
        argv = [str(path), str(data / "images/valid"), "--out", str(out)]
        fails(capsys, ["predict", *argv], path)
        fails(capsys, ["eval", str(path), "--data", str(data), "--results", str(out / "r.json")], path)
        assert not out.exists()
    bad = tmp_path / "short.safetensors"
    fails(capsys, train(data, out, "--weights", str(bad)), bad)
    assert not out.exists()


def test_resume_with_a_truncated_checkpoint(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    last = run / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    fails(capsys, train(data, run, "--resume"), last)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    fails(capsys, train(data, run), run)
    last.unlink()
    fails(capsys, train(data, run, "--resume"), last)


def test_output_that_cannot_be_written(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("a file")
    for out in (file, file / "run"):
        fails(capsys, train(data, out), file)
        fails(capsys, ["predict", str(trained), str(data / "images/valid"), "--out", str(out)], file)
        fails(capsys, ["make-shapes", str(out), "--train", "1", "--valid", "1"], file)
    for option in ("--results", "--json"):
        argv = ["eval", str(trained), "--data", str(data), option, str(file / "a.json")]
        fails(capsys, argv, file)
    if Path("/proc/self").exists():  # not even root can create folders there
        fails(capsys, train(data, Path("/proc/run")), "/proc/run")
        argv = ["predict", str(trained), str(data / "images/valid"), "--out", "/proc/run"]
        fails(capsys, argv, "/proc")
    assert file.read_text() == "a file"


def test_predict_on_missing_images(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"

    def predict(source: Path | str) -> list[str]:
        return ["predict", str(trained), str(source), "--out", str(out)]

    fails(capsys, predict(tmp_path / "none.jpg"), tmp_path / "none.jpg")
    fails(capsys, predict(tmp_path / "*.jpg"), tmp_path / "*.jpg")
    (tmp_path / "bare").mkdir()
    fails(capsys, predict(tmp_path / "bare"), tmp_path / "bare", "no images")
    truncated = data / "images/valid/valid_00002.jpg"
    truncated.write_bytes(truncated.read_bytes()[:700])
    fails(capsys, predict(truncated), truncated, "corrupt")
    (tmp_path / "text.jpg").write_text("no image")
    fails(capsys, predict(tmp_path / "text.jpg"), tmp_path / "text.jpg")
    (tmp_path / "text.mp4").write_text("no video")
    fails(capsys, predict(tmp_path / "text.mp4"), tmp_path / "text.mp4")
    fails(capsys, predict(tmp_path / "none.mp4"), tmp_path / "none.mp4")
    fails(capsys, [*predict(data / "images/valid"), "--no-skip-broken"], truncated, "--no-skip-broken")
    assert json.loads((out / "predictions.json").read_text())["info"]["complete"] is False
    assert cli.main(predict(data / "images/valid")) == 0
    assert "skipped 1 unreadable images: 1 truncated" in capsys.readouterr().out
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 3


def test_evaluation_on_other_classes(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = change_annotations(data, lambda d: d["categories"][0].update(name="hoop"), "valid")
    argv = ["eval", str(trained), "--data", str(data), "--results", str(tmp_path / "r.json")]
    fails(capsys, argv, path, "ring")
    fails(capsys, train(data, tmp_path / "run"), path, "ring")
    assert cli.main(["doctor", str(data)]) == 2
    assert "ERROR: categories of train missing here: ring" in capsys.readouterr().out
    fails(capsys, train(data, tmp_path / "run", "--valid-split", "", "--weights", str(trained / "x")), trained / "x")
    assert not (tmp_path / "r.json").exists()
    assert not (tmp_path / "run").exists()


def test_objects_outside_the_image_are_clipped_or_dropped_and_counted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def beyond(document: Document) -> None:
        for i, box in enumerate([[-9, 5, 30, 30], [100, 60, 60, 60], [300, 5, 20, 20], [5, -50, 20, 20], [9, 9, 0, 4]]):
            document["annotations"][i]["bbox"] = box

    change_annotations(data, beyond)
    assert cli.main(train(data, tmp_path / "run", "--max-iterations", "1")) == 0
    out = capsys.readouterr().out
    assert "boxes clipped to the image: 2" in out
    assert "objects outside the image dropped: 2" in out
    assert "zero-area boxes dropped: 1" in out


def test_every_tenth_image_is_unreadable(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """20 training images, two of them truncated, and 4 validation images, one of them truncated."""
    data, size = tmp_path / "data", (96, 128)
    (data / "annotations").mkdir(parents=True)
    for split, count in (("train", 20), ("valid", 4)):
        source = sorted((shapes / "images" / split).iterdir())
        folder = data / "images" / split
        folder.mkdir(parents=True)
        document = json.loads((shapes / "annotations" / f"{split}.json").read_text())
        document["images"] = []
        for i in range(count):
            shutil.copy(source[i % len(source)], folder / f"{i}.jpg")
            document["images"].append({"id": i + 1, "file_name": f"{i}.jpg", "height": size[0], "width": size[1]})
        for i in range(1, count, 10):
            (folder / f"{i}.jpg").write_bytes((folder / f"{i}.jpg").read_bytes()[:600])
        (data / "annotations" / f"{split}.json").write_text(json.dumps(document))
    message = fails(capsys, train(data, tmp_path / "run"), "--skip-broken")
    assert str(data / "images/train/1.jpg") in message or str(data / "images/train/11.jpg") in message
    assert not (tmp_path / "run").exists()
    assert cli.main(train(data, tmp_path / "run", "--skip-broken")) == 0
    out = capsys.readouterr().out
    assert "2 unreadable" in out
    assert "1 unreadable" in out
    end = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert end["iteration"] == 5
    paths = [line.split(":")[0] for line in end["unreadable_images"]]
    assert paths == [str(data / f"images/train/{i}.jpg") for i in (1, 11)]
    assert (tmp_path / "run/model.safetensors").exists()


def test_train_stops_if_no_image_can_be_read(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for image in (data / "images/train").iterdir():
        image.write_bytes(b"no image")
    fails(capsys, train(data, tmp_path / "run", "--skip-broken"), "sais doctor")
    assert not (tmp_path / "run").exists()


def test_image_size_differs_from_its_annotation(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = data / "images/train/train_00000.jpg"
    Image.open(image).resize((50, 40)).save(image)
    fails(capsys, train(data, tmp_path / "run"), image, "50 x 40", "128 x 96", "--skip-broken")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_errors_of_a_process(trained: Path, data: Path, tmp_path: Path) -> None:
    """Without a terminal: one line, nothing else on stderr, exit code 2."""
    truncated = data / "images/valid/valid_00003.jpg"
    truncated.write_bytes(truncated.read_bytes()[:600])
    source = str(Path(__file__).resolve().parents[1] / "src")
    environment = os.environ | {"PYTHONPATH": source + os.pathsep + os.environ.get("PYTHONPATH", "")}
    argv = ["eval", str(trained), "--data", str(data), "--results", str(tmp_path / "r.json"), "--workers", "1"]
    done = subprocess.run([sys.executable, "-m", "sais", *argv], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout.strip() == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"sais: error: {truncated}: ")
    assert not (tmp_path / "r.json").exists()
