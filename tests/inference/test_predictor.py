"""Prediction: one image or many, of any kind, from Python and from the command line, comes out the same and right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais import cli
from sais.checkpoint import find_checkpoint
from sais.config import Experiment
from sais.device import choose_device
from sais.errors import SaisError
from sais.inference.predictor import Predictor
from sais.io.images import read_image
from sais.results.detections import Detections


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor(trained, device="cpu", score=0.03)


@pytest.fixture(scope="module")
def image(shapes: Path) -> np.ndarray:
    return read_image(shapes / "images/valid/valid_00002.jpg")


def same(a: Detections, b: Detections, exact: bool = True) -> None:
    assert a.image_size == b.image_size
    if exact:
        np.testing.assert_array_equal(a.scores, b.scores)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.boxes, b.boxes)
        np.testing.assert_array_equal(a.masks(), b.masks())
        return
    # In a batch, sums run in another order: what stands clear of the threshold and of its neighbors is the same.
    assert abs(len(a) - len(b)) <= 1
    n = min(len(a), len(b), 5)
    np.testing.assert_allclose(a.scores[:n], b.scores[:n], atol=1e-4)
    np.testing.assert_array_equal(a.labels[:n], b.labels[:n])
    np.testing.assert_allclose(a.boxes[:n], b.boxes[:n], atol=0.05)
    assert (a.masks()[:n] != b.masks()[:n]).mean() < 0.001


def test_every_way_to_give_a_image(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    wanted = predictor(image)
    assert len(wanted) > 0
    assert wanted.class_names == ("ring", "star", "triangle", "crescent", "cross")
    assert (np.diff(wanted.scores) <= 0).all()
    assert (wanted.scores > 0).all()
    height, width = image.shape[:2]
    assert (wanted.boxes >= 0).all()
    assert (wanted.boxes <= [width, height, width, height]).all()
    same(predictor(str(path)), wanted)
    same(predictor(path), wanted)
    same(predictor(Image.open(path)), wanted)


def test_every_kind_of_image_comes_out_right(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    """Each file must give what the array a person sees in it gives."""
    gray = np.asarray(Image.fromarray(image).convert("L"))
    wanted_grey = predictor(np.repeat(gray[:, :, None], 3, axis=2))
    Image.fromarray(gray).save(tmp_path / "gray.png")
    same(predictor(tmp_path / "gray.png"), wanted_grey)
    same(predictor(gray), wanted_grey)
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "16.png")
    same(predictor(tmp_path / "16.png"), wanted_grey)

    palette = Image.fromarray(image).quantize(64)
    palette.save(tmp_path / "palette.png")
    same(predictor(tmp_path / "palette.png"), predictor(np.asarray(palette.convert("RGB"))))

    alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
    alpha[:20] = 0
    Image.fromarray(np.concatenate([image, alpha], 2)).save(tmp_path / "alpha.png")
    over_white = image.copy()
    over_white[:20] = 255
    same(predictor(tmp_path / "alpha.png"), predictor(over_white))

    turned = Image.fromarray(np.ascontiguousarray(np.rot90(image)))  # as a camera held sideways stores it
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = predictor(tmp_path / "turned.png")
    assert upright.image_size == image.shape[:2]
    same(upright, predictor(image))


def test_a_batch_of_mixed_sizes_equals_one_by_one(predictor: Predictor, image: np.ndarray, shapes: Path) -> None:
    images = [image, image[10:80, :90], shapes / "images/valid/valid_00000.jpg", image[:, 20:], image[:40]]
    for one, together in zip(images, predictor.batch(images), strict=True):
        alone = predictor(one)
        same(together, alone, exact=False)
    assert predictor.batch([]) == []


def test_keep_ratio_groups_by_canvas(trained: Path, image: np.ndarray, tiny: Experiment) -> None:
    from dataclasses import replace

    base = Predictor(trained)
    settings = replace(base.experiment, input=replace(base.experiment.input, mode="keep_ratio", size=(64, 96)))
    predictor = Predictor.of(base.model, settings, base.class_names, base.category_ids, "cpu", 0.03)
    images = [image, image.transpose(1, 0, 2), image[:60], image]
    for one, together in zip(images, predictor.batch(images), strict=True):
        assert together.image_size == one.shape[:2]
        same(together, predictor(np.ascontiguousarray(one)), exact=False)


def test_the_score_decides_what_is_kept(trained: Path, image: np.ndarray) -> None:
    everything, few = Predictor(trained, score=0.0)(image), Predictor(trained, score=0.99)(image)
    assert len(everything) == 100
    assert len(few) == 0
    some = everything.scores[10] + 1e-4
    kept = Predictor(trained, score=float(some))(image)
    assert 0 < len(kept) <= 10
    assert (kept.scores >= some).all()  # class x centerness, not the class probability
    assert Predictor(trained).score is None
    assert Predictor(trained).settings.score_threshold == 0.02  # the training's own, of the class probability
    assert few.masks().shape == (0, 96, 128)


def test_models_and_devices(trained: Path, tmp_path: Path) -> None:
    assert find_checkpoint(trained).name == "model.safetensors"
    assert find_checkpoint(trained / "best.safetensors").name == "best.safetensors"
    assert choose_device("cpu").type == "cpu"
    assert choose_device().type in ("cuda", "mps", "cpu")
    for name in ("warp", "cuda:99"):
        with pytest.raises(SaisError, match=f"--device {name}: not on this machine") as error:
            Predictor(trained, device=name)
        assert "\n" not in str(error.value)


def predicted(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[str, dict[str, Any]]:
    """Run `sais predict`; its output and its predictions.json."""
    assert cli.main(["predict", *map(str, argv)]) == 0
    out = capsys.readouterr().out
    return out, json.loads((Path(argv[argv.index("--out") + 1]) / "predictions.json").read_text())  # type: ignore[arg-type]


def test_a_folder_a_glob_and_a_image(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], predictor: Predictor
) -> None:
    folder = shapes / "images" / "valid"
    out, found = predicted(capsys, trained, folder, "--out", tmp_path / "a", "--score", 0.03, "--batch-size", 3)
    names = [f"valid_{i:05d}" for i in range(4)]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["predictions.json", *(f"{n}.jpg" for n in names)]
    assert [Path(i["file_name"]).stem for i in found["images"]] == names
    assert [c["name"] for c in found["categories"]] == list(predictor.class_names)
    assert f"wrote {tmp_path / 'a'}" in out
    assert "4 images: " in out
    assert len({a["id"] for a in found["annotations"]}) == len(found["annotations"]) > 0
    assert sum(int(word) for word in out.split("4 images: ")[1].split() if word.isdigit()) == len(found["annotations"])
    drawn = np.asarray(Image.open(tmp_path / "a" / "valid_00002.jpg"))
    original = read_image(folder / "valid_00002.jpg")
    assert drawn.shape == original.shape
    assert np.abs(drawn.astype(int) - original).mean() > 1  # something is drawn on it

    # The JSON is COCO: pycocotools reads it and its masks.
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = found
    coco.createIndex()
    wanted = predictor(folder / "valid_00000.jpg")
    mine = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert abs(len(mine) - len(wanted)) <= 1
    best = mine[0]
    assert coco.annToMask(best).shape == (96, 128)
    assert (coco.annToMask(best).astype(bool) != wanted.masks()[0]).mean() < 0.001
    x, y, w, h = best["bbox"]
    np.testing.assert_allclose([x, y, x + w, y + h], wanted.boxes[0], atol=0.05)
    assert best["category_id"] == wanted.labels[0] + 1

    _, found = predicted(capsys, trained, folder / "*_0000[12].jpg", "--out", tmp_path / "b", "--no-draw")
    assert [Path(i["file_name"]).stem for i in found["images"]] == names[1:3]
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["predictions.json"]
    out, found = predicted(capsys, trained, folder / "valid_00003.jpg", "--out", tmp_path / "c", "--score", 0.999)
    assert found["annotations"] == []
    assert "1 images: nothing" in out


def test_tiles_and_ways_from_the_command_line(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 96 x 128 pixels are too many, but not with tiles
    folder = shapes / "images" / "valid"
    words = ("--score", 0.03, "--no-draw", "--batch-size", 2)
    assert cli.main(["predict", str(trained), str(folder), "--out", str(tmp_path / "a")]) == 2
    assert "too many pixels" in capsys.readouterr().err
    for name, options, ways, tiled in (
        ("a", ("--tiles", 64, "--tile-overlap", 0.4), {}, {"side": 64, "overlap": 0.4}),
        ("b", ("--tiles", "auto", "--flip", "--scales", 1.5), {"flip": True, "scales": (1.5,)}, {}),
    ):
        out, found = predicted(capsys, trained, folder, "--out", tmp_path / name, *words, *options)
        assert "4 images: " in out
        predictor = Predictor(trained, device="cpu", score=0.03, **ways)  # type: ignore[arg-type]
        for image in found["images"]:
            wanted = predictor.tiled(image["file_name"], batch=2, **tiled)  # type: ignore[arg-type]
            mine = [one for one in found["annotations"] if one["image_id"] == image["id"]]
            assert len(mine) == len(wanted)
            np.testing.assert_allclose([one["score"] for one in mine], wanted.scores, atol=1e-6)
            assert [one["segmentation"] for one in mine] == wanted.rle()
        assert len(found["annotations"]) > 0


def test_a_video(trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="videos need PyAV")
    from sais.io.video import VideoWriter, read_video

    image = read_image(shapes / "images/valid/valid_00000.jpg")
    with VideoWriter(tmp_path / "in.mp4", rate=10) as writer:
        for shift in range(6):
            writer.write(np.roll(image, 4 * shift, axis=1))
    words = ("--score", 0.03, "--every", 2, "--batch-size", 2)
    out, found = predicted(capsys, trained, tmp_path / "in.mp4", "--out", tmp_path / "a", *words)
    assert [(i["frame"], i["seconds"]) for i in found["images"]] == [(0, 0.0), (2, 0.2), (4, 0.4)]
    assert "3 frames: " in out
    assert {(i["height"], i["width"]) for i in found["images"]} == {(96, 128)}
    frames = list(read_video(tmp_path / "a" / "in.mp4"))
    assert len(frames) == 3
    assert frames[0][2].shape == image.shape
