"""Outputs of every command: nothing that is read and nothing of others is overwritten, and commands can be repeated."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais import cli
from sais.config import Experiment, to_dict
from sais.errors import ResourceError
from sais.io import image_writer
from sais.io.outputs import EXPORT, check_outputs, written_by

Export = Callable[[str], Path]

CPU = "--device cpu"
MANY = f"--engine local --format coco {CPU}"
EVAL = f"eval RUN --data data --workers 0 {CPU}"
AUGMENTED = "draw-augmented paper-lite0 --data data --size 64 --images 1"
TARGETS = "draw-targets --data data --recipe paper-lite0"
SHAPES = "--train 2 --valid 1 --size 64"
DEMO = "demo --train 2 --valid 1 --epochs 1 --max-iterations 1"
SCALING = "bench scaling --object-counts 1 --megapixels 0.3 --repeats 1 --no-memory"
FIGURE = "reproduce figure2 --data data --base paper-lite0 --size 64"
TRAIN = "train paper-lite0 --data data --size 64 --batch-size 4 --epochs 1 --workers 0 --max-iterations 1"

REFUSED = {
    "predict a folder": f"predict RUN photos --out photos {CPU}",
    "predict a folder, overwrite": f"predict RUN photos --out photos --overwrite {CPU}",
    "predict the working directory": f"predict RUN . --out . {CPU}",
    "predict a glob": f"predict RUN photos/*.jpg --out photos {CPU}",
    "predict one file": f"predict RUN photos/a.jpg --out photos/../photos {CPU}",
    "predict into a link to the sources": f"predict RUN photos --out link {CPU}",
    "predict into the folder above": f"predict RUN photos/sub --out photos {CPU}",
    "predict onto a hard link": f"predict RUN photos --out hard --overwrite {CPU}",
    "predict onto a symbolic link": f"predict RUN photos --out soft --overwrite {CPU}",
    "predict onto a link to a file of others": f"predict RUN photos --out linked {CPU}",
    "predict through a linked folder": f"predict RUN photos/**/*.jpg --out tree --overwrite {CPU}",
    "predict onto a file of others": f"predict RUN photos --out mine {CPU}",
    "predict onto --like": f"predict RUN photos --like mine/predictions.json --out mine --overwrite {CPU}",
    "eval: results onto the annotations": f"{EVAL} --results data/annotations/valid.json",
    "eval: results onto the annotations, overwrite": f"{EVAL} --results data/annotations/valid.json --overwrite",
    "eval: json onto the annotations": f"{EVAL} --json data/annotations/valid.json",
    "eval: json onto other annotations": f"{EVAL} --json data/annotations/train.json",
    "eval: json onto an image": f"{EVAL} --json data/images/valid/valid_00001.jpg --overwrite",
    "eval: results onto the model": f"{EVAL} --results RUN/model.safetensors --overwrite",
    "eval: results onto a file of others": f"{EVAL} --results mine/metrics.json",
    "eval: two outputs": f"{EVAL} --results r.json --json ./r.json",
    "eval: into a pipe": f"{EVAL} --json pipe --overwrite",
    "eval: into a link to a device": f"{EVAL} --json null --overwrite",
    "eval: page of errors onto a page of others": f"{EVAL} --errors mine",
    "eval: into a folder": f"{EVAL} --json photos --overwrite",
    "compare: page onto a page of others": f"compare RUN RUN --data data --out mine {CPU}",
    "compare: json onto annotations": f"compare RUN RUN --data data --json data/annotations/valid.json {CPU}",
    "report onto the log": "report RUN --out RUN/log.jsonl --overwrite",
    "report onto a file of others": "report RUN --out mine/index.html",
    "export onto a file of others": "export RUN --out mine/model.onnx",
    "export onto weights of others": "export RUN --out mine/other.xml",
    "package into the run": "package RUN RUN --overwrite",
    "package onto a file of others": "package RUN mine",
    "average onto a model": "average RUN RUN/last.safetensors --out RUN/model.safetensors --overwrite",
    "average onto a file of others": "average RUN RUN/last.safetensors --out mine/metrics.json",
    "export onto an image": "export RUN --out photos/a.onnx --check photos/*.onnx",
    "draw-augmented onto a training image": f"{AUGMENTED} --out data/images/train/train_00000.jpg",
    "draw-augmented onto any image, overwrite": f"{AUGMENTED} --out data/images/train/train_00007.jpg --overwrite",
    "draw-augmented onto a file of others": f"{AUGMENTED} --out mine/a.jpg",
    "draw-augmented without a known suffix": f"{AUGMENTED} --out drawing.xyz",
    "draw-targets onto an image": f"{TARGETS} --out data/images/train/train_00000.jpg --overwrite",
    "draw-targets onto a file of others": f"{TARGETS} --out mine/a.jpg",
    "draw-targets without a suffix": "draw-targets --scene figure2 --out drawing",
    "make-shapes onto annotations": f"make-shapes set {SHAPES}",
    "make-shapes onto images": f"make-shapes set2 {SHAPES}",
    "make-shapes through a link": f"make-shapes set3 {SHAPES} --overwrite",
    "convert onto its source": "convert data data --to yolo",
    "convert onto its source, overwrite": "convert data data --to coco --overwrite",
    "convert onto annotations of others": "convert data set --to coco",
    "convert onto images of others": "convert data set2 --to yolo --images link",
    "convert through a linked folder": "convert data set3 --to coco --overwrite",
    "doctor: page onto a file of others": "doctor data --html mine/index.html",
    "doctor: page onto annotations": "doctor data --html data/annotations/valid.json --overwrite",
    "doctor: copy onto its source": "doctor data --fix data --overwrite",
    "doctor: copy onto annotations of others": "doctor data --fix set",
    "doctor: copy through a linked folder": "doctor data --fix set3 --overwrite",
    "show into the folder of the images": "show data --out data/images/train",
    "show onto a page of others": "show data --out mine",
    "show into the data set": "show data --out data",
    "show through a linked folder": "show data --out shown",
    "predict labels onto those of others": f"predict RUN photos --out labels --to yolo {CPU}",
    "predict-many onto a manifest of others": f"predict-many RUN photos mine {MANY}",
    "predict-many into its input": f"predict-many RUN photos photos {MANY}",
    "predict-many through a linked folder": f"predict-many RUN photos shards {MANY} --overwrite",
    "split onto its file": "split data/annotations/train.json --out data --overwrite",
    "split onto annotations of others": "split data/annotations/train.json --out set",
    "bench onto a file of others": f"{SCALING} --out mine",
    "demo onto a file of others": f"{DEMO} --out mine",
    "reproduce onto a page of others": f"{FIGURE} --out mine",
    "reproduce onto an image of others": f"{FIGURE} --out figures",
    "train among files of others": f"{TRAIN} --out log",
    "train in a folder with a lock of others": f"{TRAIN} --out locked",
    "train onto its settings": f"{TRAIN} --config unstarted/experiment.json --out unstarted",
}


@pytest.fixture
def place(trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory: a run, data, photographs, and files of other programs with names of outputs."""
    shutil.copytree(shapes, tmp_path / "data")
    shutil.copytree(trained, tmp_path / "RUN")
    for name in ("photos/a.jpg", "photos/b.jpg", "photos/sub/a.jpg", "a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(name)).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    names = ["a.jpg", "predictions.json", "metrics.json", "scaling.json", "index.html", "model.onnx", "other.bin"]
    names += ["manifest.json"]
    files = [*(f"mine/{name}" for name in names), "figures/figure2.png", "log/log.jsonl", "locked/experiment.json"]
    files += ["set/annotations/valid.json", "set2/images/train/train_00000.jpg", "photos/a.onnx", "locked/notes.md"]
    files += ["labels/yolo/data.yaml"]
    labels = {"images": [], "categories": [{"id": 1, "name": name} for name in json_names(shapes)], "annotations": []}
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(labels) if name.endswith("s.json") else f"of others: {name}")
    for folder in ("hard", "soft", "linked", "tree", "set3", "unstarted"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to("photos")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/detections").symlink_to("../photos")
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/drawings").symlink_to("../photos")
    os.link(tmp_path / "photos/a.jpg", tmp_path / "hard/a.jpg")
    (tmp_path / "soft/a.jpg").symlink_to("../photos/a.jpg")
    (tmp_path / "linked/b.jpg").symlink_to("../mine/a.jpg")
    (tmp_path / "tree/sub").symlink_to("../photos/sub")
    (tmp_path / "set3/images").symlink_to("../data/images")
    (tmp_path / "locked/run.lock").touch()
    (tmp_path / "locked/notes.md").unlink()
    (tmp_path / "unstarted/run.lock").touch()
    (tmp_path / "unstarted/experiment.json").write_text(json.dumps(to_dict(Experiment())))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def json_names(shapes: Path) -> list[str]:
    categories = json.loads((shapes / "annotations/train.json").read_text())["categories"]
    return [category["name"] for category in categories]


def snapshot(folder: Path) -> dict[str, str]:
    """Return a digest of every file below a folder; links are not followed."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            contents[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            contents[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return contents


@pytest.mark.skipif(os.name == "nt", reason="symbolic links and pipes")
@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED.keys())
def test_no_command_overwrites_what_it_reads_or_files_of_others(
    line: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(place)
    assert cli.main(line.split()) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("sais: error: ")
    assert "overwrite=True" not in error  # the option is called --overwrite
    assert snapshot(place) == before


REPEATED = {
    f"{EVAL} --json eval.json": ["eval.json"],
    "report RUN --out page.html": ["page.html"],
    f"{AUGMENTED} --out sheet.jpg": ["sheet.jpg"],
    f"{AUGMENTED} --out sheet.png": ["sheet.png"],
    "draw-targets --scene figure2 --out targets.png": ["targets.png"],
    f"make-shapes made {SHAPES}": ["made/annotations/train.json", "made/images/valid/valid_00000.jpg"],
    "convert data converted --to yolo": ["converted/data.yaml", "converted/images/train/train_00000.jpg"],
    f"predict RUN photos --out labeled --to labelme {CPU}": ["labeled/labelme/train/a.json"],
    "package RUN packaged": ["packaged/README.md", "packaged/model.safetensors", "packaged/training_curve.png"],
    "show data --out labels": ["labels/index.html", "labels/drawings/train_00000.jpg"],
    "split data/annotations/train.json --out parts": ["parts/annotations/train.json"],
    f"{SCALING} --out speed": ["speed/scaling.json", "speed/scaling.png"],
    f"{FIGURE} --out paper": ["paper/figure2.png", "paper/index.html", "paper/figure2.json"],
    f"predict-many RUN photos many {MANY}": ["many/manifest.json"],
    f"predict RUN photos --out drawn {CPU}": ["drawn/a.jpg"],
    f"predict RUN photos --out table --csv {CPU}": ["table/objects.csv"],
    f"predict RUN photos --out tracked --track --no-draw {CPU}": ["tracked/tracks.json", "tracked/tracks.csv"],
}
"""Command -> outputs that it recognizes."""


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=[pytest.mark.slow] * line.startswith(("report", "bench"))) for line in REPEATED],
    ids=[line.split()[0] for line in REPEATED],
)
def test_commands_can_be_repeated_and_replace_files_of_others_on_request(line: str, place: Path) -> None:
    outputs = [place / name for name in REPEATED[line]]
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of others")
        assert cli.main(line.split()) == 2
        assert path.read_text() == "of others"
    assert cli.main([*line.split(), "--overwrite"]) == 0
    assert all(path.read_bytes() != b"of others" for path in outputs)
    assert cli.main(line.split()) == 0


def test_eval_results_have_no_mark_and_need_overwrite(place: Path) -> None:
    line = f"{EVAL} --results results.json".split()
    assert cli.main(line) == 0
    assert cli.main(line) == 2
    assert cli.main([*line, "--overwrite"]) == 0


def test_prediction_without_drawings_keeps_earlier_drawings_that_it_reads(place: Path) -> None:
    assert cli.main(f"predict RUN photos --out drawn {CPU}".split()) == 0
    drawings = {path: path.read_bytes() for path in (place / "drawn").glob("*.jpg")}
    assert len(drawings) == 2
    assert cli.main(f"predict RUN drawn --out drawn --no-draw {CPU}".split()) == 0
    assert {path: path.read_bytes() for path in (place / "drawn").glob("*.jpg")} == drawings


def test_overwrite_replaces_a_symbolic_link_and_not_its_target(place: Path) -> None:
    assert cli.main(f"predict RUN photos --out linked --overwrite {CPU}".split()) == 0
    assert not (place / "linked/b.jpg").is_symlink()
    assert (place / "mine/a.jpg").read_text() == "of others: mine/a.jpg"


@pytest.mark.parametrize("name", ["masks.onnx", "int8.onnx", "detections.xml", "raw.pt2"])
@pytest.mark.slow
def test_exports_are_recognized_in_each_format(name: str, exported: Export, tmp_path: Path) -> None:
    path = exported(name)
    assert written_by(EXPORT)(path)
    if path.suffix == ".xml":
        assert written_by(EXPORT)(path.with_suffix(".bin"))
    other = tmp_path / path.name
    other.write_text("of others")
    assert not written_by(EXPORT)(other)


def test_files_of_one_command_are_not_those_of_another(place: Path) -> None:
    assert cli.main(f"make-shapes made {SHAPES}".split()) == 0
    for path in (place / "made").rglob("*.*"):
        assert written_by("sais make-shapes")(path)
        assert not written_by("sais eval")(path)
        assert not written_by("sais draw-augmented")(path)
    assert cli.main(f"{EVAL} --json made/annotations/train.json".split()) == 2


def test_check_outputs_reads_the_inputs_only_if_an_output_exists(tmp_path: Path) -> None:
    check_outputs([tmp_path / "new.json"], (pytest.fail("an input was consumed") for _ in range(1)))


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_interrupted_make_shapes_leaves_nothing_and_killed_is_completed(moment: int, tmp_path: Path) -> None:
    from sais.data.synthetic import write_shapes

    def interrupt(done: int, total: int) -> None:
        if done == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "new", 2, 1, (64, 64), progress=interrupt)
    assert not (tmp_path / "new").exists()
    own = tmp_path / "own"
    own.mkdir()
    (own / "notes.md").write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        write_shapes(own, 2, 1, (64, 64), progress=interrupt)
    assert [path.name for path in own.rglob("*")] == ["notes.md"]
    write_shapes(own, 2, 1, (64, 64))
    (own / "annotations/valid.json").unlink()  # as if a process had been killed
    write_shapes(own, 2, 1, (64, 64), seed=1)
    assert len(list(own.rglob("*.json"))) == 2


def test_interrupted_split_leaves_no_half_and_a_half_is_completed(
    place: Path,
) -> None:
    from sais.commands import split

    contents = {place / "new" / "train.json": "{}", place / "pipe" / "valid.json": "{}"}
    with pytest.raises(ResourceError, match=r"valid\.json: cannot be written"):
        split._write(contents)
    assert not (place / "new/train.json").exists()
    line = ["split", "data/annotations/train.json", "--out", "parts"]
    assert cli.main(line) == 0
    whole = snapshot(place / "parts")
    (place / "parts/annotations/valid.json").unlink()
    assert cli.main(line) == 0
    assert snapshot(place / "parts") == whole
    assert cli.main([*line, "--valid", "0.5"]) == 2
    assert snapshot(place / "parts") == whole


def test_saved_detections_replace_saved_detections_only(tmp_path: Path) -> None:
    from sais import Detections, InputError

    path = tmp_path / "d.json"
    detections = Detections((4, 4), np.zeros((0, 4)), np.zeros(0), np.zeros(0), ("cat",))
    detections.save(path)
    detections.save(path)
    path.write_text('{"images": []}')
    with pytest.raises(InputError, match=r"d\.json: exists"):
        detections.save(path)
    detections.save(path, overwrite=True)
    assert Detections.load(path).class_names == ("cat",)


def test_a_sheet_too_large_for_jpeg_replaces_no_png_of_others(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sheet becomes a PNG file, whose name is not that of --out."""
    monkeypatch.setitem(image_writer.MAX_SIDES, ".jpg", 8)
    (place / "sheet.png").write_text("of others")
    line = f"{AUGMENTED} --out sheet.jpg".split()
    assert cli.main(line) == 2
    assert (place / "sheet.png").read_text() == "of others"
    (place / "sheet.png").unlink()
    assert cli.main(line) == 0
    assert cli.main(line) == 0
    assert not (place / "sheet.jpg").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("line", ["--help", "recipes", "predict --help"])
def test_a_full_disk_behind_the_output_is_one_line(line: str) -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "sais", *line.split()], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "No space left on device" in process.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows deletes no working directory")
def test_a_deleted_working_directory_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli.main(["make-shapes", "here"]) == 2
    assert capsys.readouterr().err == (
        "sais: error: the working directory has been deleted. Change to a folder that exists.\n"
    )
    assert cli.main(["--help"]) == 0
