"""What an adversary found: odd input that once gave a traceback, a crash, a wrong reading or a misleading line."""

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
from sais.config import AugmentConfig, Experiment, ModelConfig, OptimConfig, RunConfig, check_ranges
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.dataset import read_sample
from sais.data.formats.coco import read_coco
from sais.device import choose_device
from sais.engine.run_folder import claim_run_folder
from sais.errors import SaisError
from sais.evaluation.coco_metrics import coco_metrics
from sais.ops.rle import decode, decode_cropped

Document = dict[str, Any]


def spoilt(shapes: Path, folder: Path, change: Callable[[Document], object]) -> Path:
    """The training annotations of `shapes` after `change`, in a file of their own."""
    document = json.loads((shapes / "annotations/train.json").read_text())
    change(document)
    path = folder / "spoilt.json"
    path.write_text(json.dumps(document))
    return path


def read(shapes: Path, folder: Path, change: Callable[[Document], object]) -> DatasetSplit:
    return read_coco(spoilt(shapes, folder, change), shapes / "images/train")


def test_run_lengths_whose_sum_overflows_to_the_right_number() -> None:
    """They once made numpy write beyond its memory: a segmentation fault."""
    rle = {"size": [8, 8], "counts": [2**63 - 1, 2**63 - 1, 2 + 64]}
    for function in (decode, decode_cropped):
        with pytest.raises(ValueError, match="add up to 18446744073709551680"):
            function(rle)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["categories"].clear(), "'categories' is empty"),
        (lambda d: d["categories"][0].update(name=None), "'name'"),
        (lambda d: d["categories"][0].update(name=" "), "'name'"),
        (lambda d: d["categories"][0].update(name=["ring"]), "'name'"),
        (lambda d: d["annotations"][1].update(bbox=[0, 0, 10**400, 5]), "annotation 2.*bbox holds inf"),
        (lambda d: d["annotations"][1].update(iscrowd="0"), "annotation 2.*iscrowd is '0', not 0 or 1"),
        (lambda d: d["annotations"][1].update(iscrowd=[0]), "annotation 2.*iscrowd"),
        (lambda d: [i.update(file_name="a" * 5000) for i in d["images"]], "name their folder"),
    ],
    ids=["no categories", "null", "blank", "list", "huge", "crowd as text", "crowd as list", "long"],
)
def test_annotations_that_were_misread(shapes: Path, tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(SaisError, match=words) as caught:
        read(shapes, tmp_path, change)
    assert str(tmp_path / "spoilt.json") in str(caught.value)


def test_one_long_name_does_not_hide_the_folder(shapes: Path, tmp_path: Path) -> None:
    index = read(shapes, tmp_path, lambda d: d["images"][0].update(file_name="a" * 5000))
    assert index.images[1].path.is_file()


def test_a_size_of_null_is_read_from_the_file(shapes: Path, tmp_path: Path) -> None:
    index = read(shapes, tmp_path, lambda d: d["images"][0].update(width=None, height=None))
    assert index.images[0].size == (96, 128)
    assert index.notes["image sizes read from the files"] == 1


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": [' + "9" * 5000 + "]}", '{"a": "\udcff"}'])
def test_json_that_python_cannot_hold(tmp_path: Path, text: str) -> None:
    path = tmp_path / "train.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SaisError, match="export it again"):
        read_coco(path, None)


def test_a_malformed_mask_is_named_with_its_image(shapes: Path, tmp_path: Path) -> None:
    index = read(
        shapes, tmp_path, lambda d: d["annotations"][0].update(segmentation={"size": [96, 128], "counts": [5, 5]})
    )
    record = next(r for r in index.images if any(a.id == 1 for a in r.annotations))
    with pytest.raises(SaisError, match="annotation 1: its RLE is malformed") as caught:
        read_sample(record)
    assert str(record.path) in str(caught.value)
    with pytest.raises(SaisError, match="annotation 1: its RLE is malformed") as caught:
        coco_metrics(index, [], ["segm"])
    assert str(record.path) in str(caught.value)


def odd_index(ids: list[int], category: int) -> DatasetSplit:
    """Two images of one object each."""
    polygon = [[10.0, 10.0, 40.0, 10.0, 40.0, 40.0, 10.0, 40.0]]
    box = np.array([10, 10, 40, 40], np.float32)
    images = tuple(
        ImageRecord(i, Path(f"{n}.jpg"), (64, 64), (Annotation(n, box, 0, polygon, False, 900.0),))
        for n, i in enumerate(ids)
    )
    return DatasetSplit("odd", ("thing",), (category,), images)


@pytest.mark.parametrize("ids", [[-5, 7], [2**70, 0], [2**63, -(2**63)]])
@pytest.mark.parametrize("category", [0, -3, 2**70])
def test_ids_that_the_evaluator_cannot_take(ids: list[int], category: int) -> None:
    index = odd_index(ids, category)
    results = [
        {"image_id": i, "category_id": category, "score": 0.9, "bbox": [10, 10, 30, 30], "segmentation": whole()}
        for i in ids
    ]
    found = coco_metrics(index, results)
    assert found.box is not None
    assert found.mask is not None
    assert found.box.AP > 0.999
    assert found.mask.AP > 0.999
    assert results[0]["image_id"] == ids[0]


def whole() -> dict[str, Any]:
    from sais.ops.rle import encode_cropped

    return encode_cropped(np.ones((30, 30), bool), 10, 10, (64, 64))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"augment": AugmentConfig(scale_jitter=(0, 0))}, "--augment.scale-jitter 0 0: must be between 0.01 and 100"),
        ({"augment": AugmentConfig(scale_jitter=(2, 1))}, "--augment.scale-jitter 2 1: the smaller factor"),
        ({"augment": AugmentConfig(flip=float("nan"))}, "--augment.flip nan"),
        ({"model": ModelConfig(channels=-64)}, "--model.channels -64: must be 2 or more"),
        ({"model": ModelConfig(prototypes=0)}, "--model.prototypes 0"),
        ({"optim": OptimConfig(lr=float("inf"))}, "--optim.lr inf"),
        ({"optim": OptimConfig(weight_decay=-1)}, "--optim.weight-decay -1"),
        ({"run": RunConfig(ema=2)}, "--run.ema 2: must be between 0 and 1"),
        ({"run": RunConfig(seed=-1)}, "--run.seed -1"),
        ({"run": RunConfig(workers=-1)}, "--run.workers -1"),
    ],
)
def test_numbers_out_of_range(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SaisError) as caught:
        check_ranges(replace(Experiment(), **change))
    assert words in str(caught.value)


def test_every_recipe_is_in_range() -> None:
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
def test_options_out_of_range(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    argv = ["train", "paper-lite0", "--data", str(shapes), "--out", str(tmp_path / "run"), *options]
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "must be " in err
    assert not (tmp_path / "run").exists()


def test_a_device_without_numbers() -> None:
    with pytest.raises(SaisError, match="--device meta: not on this machine"):
        choose_device("meta")


def test_nothing_to_learn(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training without a single object may run (tests/test_train.py), but once said nothing of it."""
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    path = data / "annotations/train.json"
    document = json.loads(path.read_text())
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(document))
    argv = ["train", "paper-lite0", "--data", str(data), "--out", str(tmp_path / "run"), "--size", "64"]
    assert cli.main([*argv, "--batch-size", "2", "--workers", "0", "--steps", "1", "--device", "cpu"]) == 0
    assert "train: not one object to train on (crowds aside)" in capsys.readouterr().out


def test_an_interrupted_start_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C before the first checkpoint once left a folder that could be neither resumed nor used again."""
    out = tmp_path / "run"
    with contextlib.suppress(KeyboardInterrupt), claim_run_folder(out):
        (out / "experiment.json").write_text("{}")
        raise KeyboardInterrupt
    assert not out.exists()


def test_a_name_that_is_too_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "a" * 5000]) == 2
    err = capsys.readouterr().err
    assert err.startswith("sais: error: ")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_terminal_that_cannot_spell_a_name(shapes: Path, tmp_path: Path) -> None:
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
    argv = [sys.executable, "-m", "sais", "check", str(data), "--split", "train"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\\u732b" in done.stdout
