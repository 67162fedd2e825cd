"""Adversarial input that once caused a traceback, a crash, a wrong result or a misleading message."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais import cli
from sais.config import AugmentConfig, Experiment, ModelConfig, OptimConfig, RunConfig
from sais.config_ranges import check_ranges
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.dataset import read_sample
from sais.data.formats.coco import read_coco
from sais.device import choose_device
from sais.engine.run_folder import claim_run_folder
from sais.errors import SaisError
from sais.evaluation.coco_metrics import coco_metrics
from sais.ops.rle import decode, decode_cropped

Document = dict[str, Any]


def changed_file(shapes: Path, folder: Path, change: Callable[[Document], object]) -> Path:
    """Write the training annotations of `shapes` after `change` to a new file and return its path."""
    document = json.loads((shapes / "annotations/train.json").read_text())
    change(document)
    path = folder / "changed.json"
    path.write_text(json.dumps(document))
    return path


def read(shapes: Path, folder: Path, change: Callable[[Document], object]) -> DatasetSplit:
    """Read the training annotations of `shapes` after `change`."""
    return read_coco(changed_file(shapes, folder, change), shapes / "images/train")


def test_decode_refuses_run_lengths_whose_sum_overflows() -> None:
    """Such run lengths once made numpy write outside its memory: a segmentation fault."""
    rle = {"size": [8, 8], "counts": [2**63 - 1, 2**63 - 1, 2 + 64]}
    for function in (decode, decode_cropped):
        with pytest.raises(ValueError, match="18446744073709551680"):
            function(rle)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["categories"].clear(), "categories"),
        (lambda d: d["categories"][0].update(name=None), "'name'"),
        (lambda d: d["categories"][0].update(name=" "), "'name'"),
        (lambda d: d["categories"][0].update(name=["ring"]), "'name'"),
        (lambda d: d["annotations"][1].update(bbox=[0, 0, 10**400, 5]), "annotation 2.*bbox"),
        (lambda d: d["annotations"][1].update(iscrowd="no crowd"), "annotation 2.*iscrowd"),
        (lambda d: d["annotations"][1].update(iscrowd=[0]), "annotation 2.*iscrowd"),
        (lambda d: [i.update(file_name="a" * 5000) for i in d["images"]], "folder"),
    ],
    ids=["no categories", "null", "blank", "list", "huge", "crowd as text", "crowd as list", "long"],
)
def test_read_coco_refuses_malformed_annotations(shapes: Path, tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(SaisError, match=words) as caught:
        read(shapes, tmp_path, change)
    assert str(tmp_path / "changed.json") in str(caught.value)


def test_read_coco_finds_the_folder_despite_one_long_name(shapes: Path, tmp_path: Path) -> None:
    split = read(shapes, tmp_path, lambda d: d["images"][0].update(file_name="a" * 5000))
    assert split.images[1].path.is_file()


def test_read_coco_reads_a_missing_size_from_the_file(shapes: Path, tmp_path: Path) -> None:
    split = read(shapes, tmp_path, lambda d: d["images"][0].update(width=None, height=None))
    assert split.images[0].size == (96, 128)
    assert list(split.notes.values()) == [1]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": [' + "9" * 5000 + "]}", '{"a": "\udcff"}'])
def test_read_coco_refuses_json_that_python_cannot_hold(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SaisError, match="train.json"):
        read_coco(path, None)


def test_malformed_rle_is_reported_with_its_image(shapes: Path, tmp_path: Path) -> None:
    split = read(
        shapes, tmp_path, lambda d: d["annotations"][0].update(segmentation={"size": [96, 128], "counts": [5, 5]})
    )
    record = next(r for r in split.images if any(a.id == 1 for a in r.annotations))
    with pytest.raises(SaisError, match="annotation 1.*RLE") as caught:
        read_sample(record)
    assert str(record.path) in str(caught.value)
    with pytest.raises(SaisError, match="annotation 1.*RLE") as caught:
        coco_metrics(split, [], ["segm"])
    assert str(record.path) in str(caught.value)


def unusual_split(ids: list[int], category: int) -> DatasetSplit:
    """Return a split of two images with one object each."""
    polygon = [[10.0, 10.0, 40.0, 10.0, 40.0, 40.0, 10.0, 40.0]]
    box = np.array([10, 10, 40, 40], np.float32)
    images = tuple(
        ImageRecord(i, Path(f"{n}.jpg"), (64, 64), (Annotation(n, box, 0, polygon, False, 900.0),))
        for n, i in enumerate(ids)
    )
    return DatasetSplit("unusual", ("thing",), (category,), images)


@pytest.mark.parametrize("ids", [[-5, 7], [2**70, 0], [2**63, -(2**63)]])
@pytest.mark.parametrize("category", [0, -3, 2**70])
def test_coco_metrics_with_ids_beyond_64_bits(ids: list[int], category: int) -> None:
    split = unusual_split(ids, category)
    results = [
        {"image_id": i, "category_id": category, "score": 0.9, "bbox": [10, 10, 30, 30], "segmentation": full_rle()}
        for i in ids
    ]
    metrics = coco_metrics(split, results)
    assert metrics.box is not None
    assert metrics.mask is not None
    assert metrics.box.AP > 0.999
    assert metrics.mask.AP > 0.999
    assert results[0]["image_id"] == ids[0]


def full_rle() -> dict[str, Any]:
    """Return the RLE of a square of 30 x 30 pixels at (10, 10) on an image of 64 x 64."""
    from sais.ops.rle import encode_cropped

    return encode_cropped(np.ones((30, 30), bool), 10, 10, (64, 64))


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"augment": AugmentConfig(scale_jitter=(0, 0))}, "augment.scale_jitter"),
        ({"augment": AugmentConfig(scale_jitter=(2, 1))}, "augment.scale_jitter"),
        ({"augment": AugmentConfig(flip=float("nan"))}, "augment.flip"),
        ({"model": ModelConfig(channels=-64)}, "model.channels"),
        ({"model": ModelConfig(prototypes=0)}, "model.prototypes"),
        ({"optim": OptimConfig(lr=float("inf"))}, "optim.lr"),
        ({"optim": OptimConfig(weight_decay=-1)}, "optim.weight_decay"),
        ({"run": RunConfig(ema=2)}, "run.ema"),
        ({"run": RunConfig(seed=-1)}, "run.seed"),
        ({"run": RunConfig(workers=-1)}, "run.workers"),
        ({"model": ModelConfig(coefficients_from="sum")}, "model.coefficients_from"),
        ({"run": RunConfig(on_nonfinite_loss="ignore")}, "run.on_nonfinite_loss"),
    ],
)
def test_check_ranges_names_the_setting(change: dict[str, Any], setting: str) -> None:
    with pytest.raises(SaisError) as caught:
        check_ranges(replace(Experiment(), **change))
    assert setting in str(caught.value)


def test_check_ranges_accepts_every_recipe() -> None:
    from sais.recipes import RECIPES

    for build in RECIPES.values():
        check_ranges(build())


@pytest.mark.parametrize(
    "options",
    [
        ["--postprocess.nms-iou", "2"],
        ["--postprocess.max-detections", "-1"],
        ["--augment.scale-jitter", "0", "0"],
        ["--seed", "99999999999999999999"],
    ],
)
def test_train_refuses_options_out_of_range(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    argv = ["train", "paper-lite0", "--data", str(shapes), "--out", str(tmp_path / "run"), *options]
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "must be " in err
    assert not (tmp_path / "run").exists()


def test_choose_device_refuses_meta() -> None:
    with pytest.raises(SaisError, match="meta"):
        choose_device("meta")


def test_train_without_objects_reports_it(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training without a single object is allowed (tests/engine/test_trainer.py) and must be reported."""
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    path = data / "annotations/train.json"
    document = json.loads(path.read_text())
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(document))
    argv = ["train", "paper-lite0", "--data", str(data), "--out", str(tmp_path / "run"), "--size", "64"]
    assert cli.main([*argv, "--batch-size", "2", "--workers", "0", "--max-iterations", "1", "--device", "cpu"]) == 0
    assert "train: no object to train on" in capsys.readouterr().out


def test_interrupted_start_removes_its_folder(tmp_path: Path) -> None:
    """Ctrl-C before the first checkpoint once left a folder that could be neither resumed nor reused."""
    out = tmp_path / "run"
    with contextlib.suppress(KeyboardInterrupt), claim_run_folder(out):
        (out / "experiment.json").write_text("{}")
        raise KeyboardInterrupt
    assert not out.exists()


def test_check_of_a_name_that_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "a" * 5000]) == 2
    err = capsys.readouterr().err
    assert err.startswith("sais: error: ")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_ascii_terminal_prints_escapes(shapes: Path, tmp_path: Path) -> None:
    """ASCII output, a class in Japanese and an image with broken EXIF: no traceback, nothing on stderr."""
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    path = data / "annotations/train.json"
    path.write_text(path.read_text().replace('"ring"', '"\u732b"'), encoding="utf-8")
    image = data / "images/train/train_00000.jpg"
    content = image.read_bytes()
    broken = b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\x7f"
    image.write_bytes(content[:2] + broken + content[2:])
    source = str(Path(__file__).resolve().parents[1] / "src")
    environment = os.environ | {"PYTHONPATH": source, "PYTHONIOENCODING": "ascii:strict"}
    argv = [sys.executable, "-m", "sais", "doctor", str(data), "--split", "train"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\\u732b" in done.stdout
