"""Evaluation of a model: what is written is what pycocotools would score, whatever is missing."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sais import cli
from sais.data.annotations import DatasetSplit, object_mask
from sais.data.formats import read_dataset
from sais.errors import SaisError
from sais.evaluation.coco_metrics import COLUMNS
from sais.evaluation.evaluate import evaluate
from sais.inference.predictor import Predictor
from sais.ops.letterbox import CanvasMap
from sais.ops.rasterize import inside
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections


def judged_by_pycocotools(annotations: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if kind == "segm":  # with a bbox, pycocotools would take the box's area for the mask's
        results = [{k: v for k, v in one.items() if k != "bbox"} for one in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def agrees(scores: dict[str, Any], stats: list[float]) -> None:
    found = [-1.0 if scores[name] is None else scores[name] for name in COLUMNS]
    np.testing.assert_allclose(found, stats, atol=1e-6)


class Oracle:
    """Stands where a model would, and says the ground truth, moved a little: AP neither 0 nor 1."""

    def __init__(self, predictor: Predictor, index: DatasetSplit, shift: int) -> None:
        self.experiment, self.class_names, self.index = predictor.experiment, predictor.class_names, index
        self.shift, self.seen = shift, 0

    def detect(self, canvases: torch.Tensor, canvas_maps: list[CanvasMap]) -> list[Detections]:
        assert canvases.shape[0] == len(canvas_maps)
        found = []
        for canvas_map in canvas_maps:
            record = self.index.images[self.seen]
            self.seen += 1
            assert canvas_map.image_size == record.size
            height, width = record.size
            boxes, patches = [], []
            for i, one in enumerate(record.annotations):
                mask = object_mask(one, record.size)
                assert mask is not None
                moved = np.roll(inside(mask, (0, 0, width, height)), self.shift * (i % 3), axis=1)
                patches.append(CroppedMask(0, 0, moved))
                boxes.append(one.box + np.array([1, 0, 1, 0]) * self.shift * (i % 3))
            labels = np.array([one.label for one in record.annotations], np.int64)
            scores = np.linspace(0.9, 0.1, len(labels)).astype(np.float32)
            found.append(
                Detections(record.size, np.array(boxes).reshape(-1, 4), scores, labels, self.class_names, patches)
            )
        return found


@pytest.mark.parametrize("shift", [0, 3])
def test_the_truth_scores_what_it_should(trained: Path, shapes: Path, shift: int) -> None:
    """Batches, order, ids and classes are right: the truth has AP 1, moved it has what pycocotools says."""
    index = read_dataset(shapes, "train")
    done: list[int] = []
    oracle: Any = Oracle(Predictor(trained), index, shift)
    found = evaluate(oracle, index, batch_size=5, workers=0, progress=done.append)
    assert sum(done) == 12
    assert found.metrics is not None
    metrics = found.metrics.to_dict()
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        agrees(metrics[name], judged_by_pycocotools(shapes / "annotations/train.json", found.results, kind))
        assert metrics[name]["AP"] == (pytest.approx(1.0) if shift == 0 else pytest.approx(0.6, abs=0.35))


def test_a_models_metrics_are_those_of_the_results_it_writes(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, results = tmp_path / "out" / "figures.json", tmp_path / "results.json"
    words = ["eval", str(trained), "--data", str(shapes), "--split", "train", "--score", "0.02", "--workers", "0"]
    assert cli.main([*words, "--json", str(figures), "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert "12 images, " in out
    assert f"wrote {results}, {figures}" in out
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["figures.json", "results.json"]
    said, written = json.loads(figures.read_text()), json.loads(results.read_text())
    assert said["detections"] == len(written) > 0
    assert said["images"] == 12
    assert said["left_out"] == 0
    assert {one["image_id"] for one in written} <= set(range(1, 13))
    assert {one["category_id"] for one in written} <= {1, 2, 3, 4, 5}
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        agrees(said["metrics"][name], judged_by_pycocotools(shapes / "annotations/train.json", written, kind))
    assert said["metrics"]["box"]["AR100"] > 0
    assert list(said["metrics"]["box"]["per_class"]) == ["ring", "star", "triangle", "crescent", "cross"]

    assert cli.main([*words, "--json", "-", "--batch-size", "5"]) == 0  # JSON and nothing else on stdout
    printed = json.loads(capsys.readouterr().out)
    for name in COLUMNS:
        assert printed["metrics"]["box"][name] == pytest.approx(said["metrics"]["box"][name], abs=1e-3)


def test_whole_images_give_what_canvases_give(trained: Path, shapes: Path) -> None:
    """The two ways of an evaluation: the loader's canvases, or the images themselves for a finder that fits them."""
    predictor, index = Predictor(trained, device="cpu"), read_dataset(shapes, "train")
    done: list[int] = []
    by_canvas = evaluate(predictor, index, batch_size=5, workers=0)
    by_image = evaluate(predictor, index, batch_size=5, workers=0, progress=done.append, detect_images=predictor.batch)
    assert done == [5, 5, 2]
    assert len(by_canvas.results) == len(by_image.results) > 20
    for one, other in zip(by_canvas.results, by_image.results, strict=True):
        assert one["image_id"] == other["image_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    assert by_canvas.metrics is not None
    assert by_image.metrics is not None
    assert by_canvas.metrics.box is not None
    assert by_image.metrics.box is not None
    for name in COLUMNS:
        first, second = by_canvas.metrics.to_dict()["mask"][name], by_image.metrics.to_dict()["mask"][name]
        assert first == pytest.approx(second, abs=1e-3)


def test_flip_and_scales_are_measured(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    words = ["eval", str(trained), "--data", str(shapes), "--split", "train", "--workers", "0", "--json", "-"]
    ways = ["--flip", "--scales", "1.0", "1.5", "--results", str(results)]
    assert cli.main([*words, *ways]) == 0
    said, written = json.loads(capsys.readouterr().out), json.loads(results.read_text())
    assert (said["flip"], said["scales"]) == (True, [1.0, 1.5])
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        agrees(said["metrics"][name], judged_by_pycocotools(shapes / "annotations/train.json", written, kind))
    predictor = Predictor(trained, device="cpu", flip=True, scales=(1.0, 1.5))
    record = read_dataset(shapes, "train").images[3]
    mine = sorted((one["score"] for one in written if one["image_id"] == record.id), reverse=True)
    np.testing.assert_allclose(mine, predictor(record.path).scores, atol=1e-5)
    assert cli.main(words) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["flip"], plain["scales"]) == (False, [1.0])
    assert plain["metrics"] != said["metrics"]
    assert cli.main([*words, "--scales", "1.0", "1.1"]) == 2
    assert "scales 1 and 1.1 both make the input 64 x 64" in capsys.readouterr().err


def changed(shapes: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    (folder / "annotations").mkdir(parents=True)
    shutil.copytree(shapes / "images" / "valid", folder / "images" / "valid")
    document = json.loads((shapes / "annotations" / "valid.json").read_text())
    change(document)
    (folder / "annotations" / "valid.json").write_text(json.dumps(document))
    return folder


def test_images_without_annotations_give_results_and_no_metrics(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = changed(shapes, tmp_path / "dev", lambda d: d.pop("annotations"))
    results = tmp_path / "results.json"
    words = ["--data", str(data), "--results", str(results), "--score", "0.02", "--workers", "0"]
    assert cli.main(["eval", str(trained), *words]) == 0
    assert "no annotations: nothing was measured" in capsys.readouterr().out
    written = json.loads(results.read_text())
    assert written
    for one in written:
        assert set(one) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert one["segmentation"]["size"] == [96, 128]
        assert isinstance(one["segmentation"]["counts"], str)
    assert cli.main(["eval", str(trained), "--data", str(data), "--json", "-", "--workers", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] is None


def test_bare_boxes_are_judged_as_boxes(trained: Path, shapes: Path, tmp_path: Path) -> None:
    def without_masks(document: dict[str, Any]) -> None:
        for annotation in document["annotations"]:
            del annotation["segmentation"]

    index = read_dataset(changed(shapes, tmp_path / "boxes", without_masks), "valid")
    metrics = evaluate(Predictor(trained), index, workers=0).metrics
    assert metrics is not None
    assert metrics.box is not None
    assert metrics.mask is None


def test_broken_images_are_counted_and_their_objects_not(trained: Path, shapes: Path, tmp_path: Path) -> None:
    data = changed(shapes, tmp_path / "broken", lambda d: None)
    (data / "images/valid/valid_00001.jpg").write_bytes(b"no image")
    index = read_dataset(data, "valid")
    with pytest.raises(SaisError, match=r"valid_00001\.jpg.*--skip-broken"):
        evaluate(Predictor(trained), index, workers=0)
    predictor = Predictor(trained)
    for way in (None, predictor.batch):
        found = evaluate(predictor, index, workers=0, skip_broken=True, detect_images=way)
        assert len(found.unreadable_images) == 1
        assert found.metrics is not None
        assert found.metrics.images == 3
        assert found.metrics.objects == sum(len(r.annotations) for r in index.images if r.id != 2)
        assert 2 not in {one["image_id"] for one in found.results}
    for image in (data / "images/valid").iterdir():
        image.write_bytes(b"no image")
    for way in (None, predictor.batch):
        found = evaluate(predictor, index, workers=0, skip_broken=True, detect_images=way)
        assert (len(found.unreadable_images), found.results) == (4, [])


def test_other_classes_are_refused(trained: Path, shapes: Path, tmp_path: Path) -> None:
    data = changed(shapes, tmp_path / "other", lambda d: d["categories"][0].update(name="hoop"))
    with pytest.raises(SaisError, match="are not the model's"):
        evaluate(Predictor(trained), read_dataset(data, "valid"), workers=0)


def test_tiles_are_measured(trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `sais predict --tiles` finds is what is scored."""
    results = tmp_path / "results.json"
    words = ["eval", str(trained), "--data", str(shapes), "--workers", "0", "--json", "-"]
    assert cli.main([*words, "--tiles", "48", "--tile-overlap", "0.4", "--results", str(results)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tiles"] == "48"
    index, predictor = read_dataset(shapes, "valid"), Predictor(trained, device="cpu")
    wanted = [d for r in index.images for d in predictor.tiled(r.path, 48, 0.4).to_coco(r.id, index.category_ids)]
    found = json.loads(results.read_text())
    assert len(found) == len(wanted) > 0
    assert [one["segmentation"] for one in found] == [one["segmentation"] for one in wanted]
    assert cli.main(words) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["tiles"] is None
    assert plain["metrics"] != said["metrics"]
    assert cli.main([*words, "--tiles", "12x"]) == 2
    assert "--tiles 12x: give the side of a tile in pixels" in capsys.readouterr().err
