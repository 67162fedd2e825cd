"""`sais.Predictor` and `sais predict`: one image or many, of any kind, from Python and from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sais
from sais import cli
from sais.checkpoint import find_checkpoint
from sais.config import Experiment
from sais.device import choose_device
from sais.errors import CheckpointError, ConfigError, ResourceError
from sais.inference.options import InferenceOptions, merge_options
from sais.inference.predictor import Predictor
from sais.inference.trained_model import TrainedModel, load_model
from sais.io.images import read_image
from sais.results.detections import Detections
from sais.structures import Instances


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor(trained, device="cpu", score=0.03)


@pytest.fixture(scope="module")
def image(shapes: Path) -> np.ndarray:
    return read_image(shapes / "images/valid/valid_00002.jpg")


def assert_equal(actual: Detections, expected: Detections) -> None:
    assert actual.image_size == expected.image_size
    np.testing.assert_array_equal(actual.scores, expected.scores)
    np.testing.assert_array_equal(actual.labels, expected.labels)
    np.testing.assert_array_equal(actual.boxes, expected.boxes)
    np.testing.assert_array_equal(actual.masks(), expected.masks())


def assert_close(actual: Detections, expected: Detections) -> None:
    """Compare the detections well above the threshold: in a batch, sums are computed in another order."""
    assert actual.image_size == expected.image_size
    assert abs(len(actual) - len(expected)) <= 1
    n = min(len(actual), len(expected), 5)
    np.testing.assert_allclose(actual.scores[:n], expected.scores[:n], atol=1e-4)
    np.testing.assert_array_equal(actual.labels[:n], expected.labels[:n])
    np.testing.assert_allclose(actual.boxes[:n], expected.boxes[:n], atol=0.05)
    assert (actual.masks()[:n] != expected.masks()[:n]).mean() < 0.001


def test_predictor_accepts_paths_arrays_and_pil_images(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    expected = predictor(image)
    assert len(expected) > 0
    assert expected.class_names == ("ring", "star", "triangle", "crescent", "cross")
    assert (np.diff(expected.scores) <= 0).all()
    assert (expected.scores > 0).all()
    height, width = image.shape[:2]
    assert (expected.boxes >= 0).all()
    assert (expected.boxes <= [width, height, width, height]).all()
    assert_equal(predictor(str(path)), expected)
    assert_equal(predictor(path), expected)
    assert_equal(predictor(Image.open(path)), expected)


def test_detections_refer_to_the_image_on_request(trained: Path, image: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    for predictor in (Predictor(trained, device="cpu", score=0.03), Predictor(trained, device="cpu", tiles=64)):
        assert predictor(image).image is None
        detections = predictor(image, keep_image=True)
        assert detections.image is image
        assert detections.above(0.5).image is image
        assert_equal(detections, predictor(image))
        from_file = predictor(tmp_path / "a.png", keep_image=True)
        np.testing.assert_array_equal(from_file.image, image)
        assert_equal(from_file, detections)
        assert detections.draw().shape == image.shape


def test_predictor_converts_every_kind_of_image(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    """Each file must give the detections of the array that a person sees in it."""
    gray = np.asarray(Image.fromarray(image).convert("L"))
    expected_gray = predictor(np.repeat(gray[:, :, None], 3, axis=2))
    Image.fromarray(gray).save(tmp_path / "gray.png")
    assert_equal(predictor(tmp_path / "gray.png"), expected_gray)
    assert_equal(predictor(gray), expected_gray)
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "16.png")
    assert_equal(predictor(tmp_path / "16.png"), expected_gray)

    palette = Image.fromarray(image).quantize(64)
    palette.save(tmp_path / "palette.png")
    assert_equal(predictor(tmp_path / "palette.png"), predictor(np.asarray(palette.convert("RGB"))))

    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    alpha[:20] = 0
    Image.fromarray(np.concatenate([image, alpha], 2)).save(tmp_path / "alpha.png")
    over_white = image.copy()
    over_white[:20] = 255
    assert_equal(predictor(tmp_path / "alpha.png"), predictor(over_white))

    turned = Image.fromarray(np.ascontiguousarray(np.rot90(image)))  # as a camera held sideways stores it
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = predictor(tmp_path / "turned.png")
    assert upright.image_size == image.shape[:2]
    assert_equal(upright, predictor(image))


def test_batch_of_mixed_sizes_equals_single_images(predictor: Predictor, image: np.ndarray, shapes: Path) -> None:
    images = [image, image[10:80, :90], shapes / "images/valid/valid_00000.jpg", image[:, 20:], image[:40]]
    for source, in_batch in zip(images, predictor.batch(images), strict=True):
        assert_close(in_batch, predictor(source))
    assert predictor.batch([]) == []


def test_batch_groups_images_by_canvas_where_the_ratio_is_kept(trained: Path, image: np.ndarray) -> None:
    model = load_model(trained)
    rules = replace(model.experiment.input, mode="keep_ratio", size=(64, 96))
    model = replace(model, experiment=replace(model.experiment, input=rules))
    predictor = Predictor(model, device="cpu", score=0.03)
    images = [image, image.transpose(1, 0, 2), image[:60], image]
    for array, in_batch in zip(images, predictor.batch(images), strict=True):
        assert in_batch.image_size == array.shape[:2]
        assert_close(in_batch, predictor(np.ascontiguousarray(array)))


class RecordingBackend:
    """A backend without detections that records the number of canvases of each forward pass."""

    fixed_canvas: tuple[int, int] | None = None
    mask_stride = 4

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.class_names, self.category_ids = experiment, ("cat",), (1,)
        self.batches: list[int] = []

    def run(
        self, canvases: Any, content_sizes: Sequence[tuple[float, float]], settings: Any = None, labels: Any = None
    ) -> Instances:
        self.batches.append(len(canvases))
        shape = (len(canvases), 3)
        return Instances(np.zeros((*shape, 4)), np.zeros(shape), np.zeros(shape, np.int64), None, None)


def test_batch_size_limits_a_forward_pass(tiny: Experiment) -> None:
    backend = RecordingBackend(tiny)
    predictor = Predictor(backend, batch_size=2)
    done: list[int] = []
    assert [len(d) for d in predictor.batch([np.zeros((40, 50, 3), np.uint8)] * 5, done.append)] == [0] * 5
    assert backend.batches == [2, 2, 1]
    assert done == [5]


def test_score_limits_the_detections(trained: Path, image: np.ndarray) -> None:
    everything, none = Predictor(trained, score=0.0)(image), Predictor(trained, score=0.99)(image)
    assert len(everything) == 100
    assert len(none) == 0
    threshold = float(everything.scores[10] + 1e-4)
    limited = Predictor(trained, score=threshold)(image)
    assert 0 < len(limited) <= 10
    assert (limited.scores >= threshold).all()  # class probability times quality, not the class probability
    assert Predictor(trained).options.score == "auto"
    assert Predictor(trained).experiment.postprocess.score_threshold == 0.02  # the training's own, of the probability
    assert none.masks().shape == (0, 96, 128)


def test_load_model_gives_a_network_and_its_metadata(trained: Path, image: np.ndarray, predictor: Predictor) -> None:
    model = sais.load_model(trained)
    assert model.class_names == predictor.class_names
    assert model.category_ids == (1, 2, 3, 4, 5)
    assert model.network.training
    assert_equal(Predictor(model, device="cpu", score=0.03)(image), predictor(image))
    with pytest.raises(CheckpointError, match="no such"):
        sais.load_model(trained / "nothing.safetensors")


def test_devices_are_chosen_by_name(trained: Path) -> None:
    assert find_checkpoint(trained).name == "model.safetensors"
    assert find_checkpoint(trained / "best.safetensors").name == "best.safetensors"
    assert choose_device("cpu").type == "cpu"
    assert choose_device().type in ("cuda", "mps", "cpu")
    for name in ("warp", "cuda:99"):
        with pytest.raises(ResourceError, match=f"device {name}: not available") as error:
            Predictor(trained, device=name)
        assert "\n" not in str(error.value)


def test_options_are_checked_and_merged() -> None:
    options = InferenceOptions(score=0.5, tta_flip=True)
    assert merge_options(options, {"score": 0.1}) == InferenceOptions(score=0.1, tta_flip=True)
    assert merge_options(None, {}) == InferenceOptions()
    assert InferenceOptions().single_pass
    assert not options.single_pass
    assert not InferenceOptions(tiles="auto").single_pass
    with pytest.raises(TypeError, match="did you mean 'tta_flip'"):
        merge_options(None, {"tta_flp": True})
    for changes in (
        {"score": 1.5},
        {"batch_size": 0},
        {"batch_size": 10**9},
        {"threads": -1},
        {"threads": 10**9},
        {"max_detections": 10**9},
        {"runtime": "tensorrt"},
        {"tiles": 8},
        {"tiles": "automatic"},
        {"tiles": 64, "tile_overlap": 0.9},
        {"tile_overlap": 0.4},
    ):
        with pytest.raises(ConfigError, match=list(changes)[-1]):
            InferenceOptions(**changes)  # type: ignore[arg-type]


def predict_command(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[str, dict[str, Any]]:
    """Run `sais predict`; return its output and its predictions.json."""
    assert cli.main(["predict", *map(str, argv)]) == 0
    out = capsys.readouterr().out
    return out, json.loads((Path(argv[argv.index("--out") + 1]) / "predictions.json").read_text())  # type: ignore[arg-type]


def test_predict_command_accepts_a_folder_a_glob_and_an_image(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], predictor: Predictor
) -> None:
    folder = shapes / "images" / "valid"
    out, content = predict_command(capsys, trained, folder, "--out", tmp_path / "a", "--score", 0.03, "--batch-size", 3)
    names = [f"valid_{i:05d}" for i in range(4)]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["predictions.json", *(f"{n}.jpg" for n in names)]
    assert [Path(i["file_name"]).stem for i in content["images"]] == names
    assert [c["name"] for c in content["categories"]] == list(predictor.class_names)
    assert f"wrote {tmp_path / 'a'}" in out
    assert "4 images: " in out
    annotations, totals = content["annotations"], out.split("4 images: ")[1].splitlines()[0]
    assert len({a["id"] for a in annotations}) == len(annotations) > 0
    assert sum(int(word) for word in totals.split() if word.isdigit()) == len(annotations)
    drawing = np.asarray(Image.open(tmp_path / "a" / "valid_00002.jpg"))
    original = read_image(folder / "valid_00002.jpg")
    assert drawing.shape == original.shape
    assert np.abs(drawing.astype(int) - original).mean() > 1  # detections are drawn on it
    _, content = predict_command(capsys, trained, folder / "*_0000[12].jpg", "--out", tmp_path / "b", "--no-draw")
    assert [Path(i["file_name"]).stem for i in content["images"]] == names[1:3]
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["predictions.json"]
    image = folder / "valid_00003.jpg"
    out, content = predict_command(capsys, trained, image, "--out", tmp_path / "c", "--score", 0.999)
    assert content["annotations"] == []
    assert "1 image: no objects" in out


def test_predict_command_writes_json_that_pycocotools_reads(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], predictor: Predictor
) -> None:
    from pycocotools.coco import COCO

    folder = shapes / "images" / "valid"
    _, content = predict_command(capsys, trained, folder, "--out", tmp_path / "a", "--score", 0.03)
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    expected = predictor(folder / "valid_00000.jpg")
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert abs(len(annotations) - len(expected)) <= 1
    best = annotations[0]
    assert coco.annToMask(best).shape == (96, 128)
    assert (coco.annToMask(best).astype(bool) != expected.masks()[0]).mean() < 0.001
    x, y, w, h = best["bbox"]
    np.testing.assert_allclose([x, y, x + w, y + h], expected.boxes[0], atol=0.05)
    assert best["category_id"] == expected.labels[0] + 1


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("--tiles", 64, "--tile-overlap", 0.4), {"tiles": 64, "tile_overlap": 0.4}),
        (
            ("--tiles", "auto", "--tta-flip", "--tta-scales", 1.5),
            {"tiles": "auto", "tta_flip": True, "tta_scales": (1.5,)},
        ),
    ],
)
def test_predict_command_with_tiles_equals_the_predictor(
    words: tuple[object, ...],
    options: dict[str, Any],
    trained: Path,
    shapes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shapes / "images" / "valid"
    common = ("--out", tmp_path / "a", "--score", 0.03, "--no-draw", "--batch-size", 2)
    out, content = predict_command(capsys, trained, folder, *common, *words)
    assert "4 images: " in out
    predictor = Predictor(trained, device="cpu", score=0.03, batch_size=2, **options)
    for entry in content["images"]:
        expected = predictor(folder / entry["file_name"])
        annotations = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
        assert len(annotations) == len(expected)
        np.testing.assert_allclose([a["score"] for a in annotations], expected.scores, atol=1e-6)
        assert [a["segmentation"] for a in annotations] == expected.rle()
    assert len(content["annotations"]) > 0


def test_tiles_read_large_images_without_changing_pillows_limit(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # images of 96 x 128 pixels exceed it
    folder, out = shapes / "images" / "valid", tmp_path / "a"
    assert cli.main(["predict", str(trained), str(folder), "--out", str(out)]) == 2
    assert "too many pixels" in capsys.readouterr().err
    predict_command(capsys, trained, folder, "--out", out, "--tiles", 64)
    assert len(Predictor(trained, tiles=64, score=0.0)(folder / "valid_00000.jpg")) > 0
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_predict_command_processes_every_nth_frame_of_a_video(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av", reason="videos need PyAV")
    from sais.io.video import VideoWriter, read_video

    image = read_image(shapes / "images/valid/valid_00000.jpg")
    with VideoWriter(tmp_path / "in.mp4", rate=10) as writer:
        for shift in range(6):
            writer.write(np.roll(image, 4 * shift, axis=1))
    words = ("--score", 0.03, "--frame-stride", 2, "--batch-size", 2)
    out, content = predict_command(capsys, trained, tmp_path / "in.mp4", "--out", tmp_path / "a", *words)
    assert [(i["frame"], i["seconds"]) for i in content["images"]] == [(0, 0.0), (2, 0.2), (4, 0.4)]
    assert "3 frames: " in out
    assert {(i["height"], i["width"]) for i in content["images"]} == {(96, 128)}
    frames = list(read_video(tmp_path / "a" / "in.mp4"))
    assert len(frames) == 3
    assert frames[0][2].shape == image.shape


@pytest.fixture(scope="module")
def with_maskness(trained: Path) -> TrainedModel:
    """Return the trained model, rescored by maskness."""
    model = load_model(trained)
    settings = replace(model.experiment.postprocess, maskness=True)
    return replace(model, experiment=replace(model.experiment, postprocess=settings))


def test_maskness_lowers_scores_and_changes_nothing_else(
    trained: Path, with_maskness: TrainedModel, image: np.ndarray
) -> None:
    plain = Predictor(trained, device="cpu", score=None)(image)
    rescored = Predictor(with_maskness, device="cpu", score=None)(image)
    assert len(rescored) == len(plain) > 10
    assert (np.diff(rescored.scores) <= 0).all()
    order = [
        int(np.flatnonzero((plain.boxes == box).all(1) & (plain.labels == label))[0])
        for box, label in zip(rescored.boxes, rescored.labels, strict=True)
    ]
    assert sorted(order) == list(range(len(plain)))
    assert order != sorted(order)  # another ranking
    factors = rescored.scores / plain.scores[order]
    assert factors.min() >= 0.5 - 1e-6
    assert factors.max() <= 1
    assert np.ptp(factors) > 0.01
    np.testing.assert_array_equal(rescored.masks(), plain.masks()[order])


@pytest.mark.parametrize("changes", [{}, {"tiles": 64}, {"tta_flip": True}])
def test_minimum_score_selects_by_the_score_with_maskness(
    with_maskness: TrainedModel, image: np.ndarray, changes: dict[str, Any]
) -> None:
    """Early drops by class probability and quality must not lose a detection, nor keep one below the minimum."""
    if changes:  # merging needs the same detections
        low, high = (Predictor(with_maskness, device="cpu", score=score, **changes)(image) for score in (0.03, 0.06))
        assert 0 < len(high) < len(low)
        assert high.scores.min() >= 0.06
        return
    everything = Predictor(with_maskness, device="cpu", score=None)(image)
    minimum = float(np.median(everything.scores))
    selected = Predictor(with_maskness, device="cpu", score=minimum)(image)
    expected = everything.above(minimum)
    assert_equal(selected, expected)
    assert selected.omitted is not None
    below = (everything.scores < minimum) & (everything.scores >= minimum / 2)
    assert selected.omitted.below == below.sum()
