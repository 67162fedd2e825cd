"""`sais predict --to FORMAT`: labels for correction and training, which a second prediction does not overwrite."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais import cli
from sais.data.formats import read_dataset

pytest.importorskip("torch")


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """Return a folder with three images, one of which EXIF turns."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images = sorted((shapes / "images/valid").iterdir())[:3]
    for image in images[:2]:
        shutil.copy(image, folder / image.name)
    with Image.open(images[2]) as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / "turned.jpg", exif=exif)
    return folder


def predict(trained: Path, photos: Path, out: Path, *options: str) -> int:
    """Run `sais predict` and return its exit code."""
    words = ["predict", str(trained), str(photos), "--out", str(out), "--no-draw", "--device", "cpu", "--score", "0.05"]
    return cli.main([*words, *options])


@pytest.mark.parametrize("format", ["coco", "yolo", "labelme"])
def test_predicted_labels_are_a_data_set_of_the_images(
    format: str, trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(trained, photos, out, "--to", format) == 0
    predictions = json.loads((out / "predictions.json").read_text())
    split = read_dataset(out / format, "train")
    names = {entry["id"]: entry["name"] for entry in predictions["categories"]}
    assert set(split.class_names) <= set(names.values())
    assert len(predictions["annotations"]) > 3
    for entry, record in zip(predictions["images"], split.images, strict=True):
        assert record.path.stem == Path(entry["file_name"]).stem
        assert record.read().shape[:2] == record.size == (entry["height"], entry["width"])
        expected = [a for a in predictions["annotations"] if a["image_id"] == entry["id"]]
        labels = [names[annotation["category_id"]] for annotation in expected]
        assert sorted(labels) == sorted(split.class_names[annotation.label] for annotation in record.annotations)
    written = {record.path.name: record.path.read_bytes() for record in split.images}
    assert "turned.png" in written  # not all programs turn images
    assert all(content == (photos / name).read_bytes() for name, content in written.items() if name != "turned.png")
    left_out = f"scores left out: {len(predictions['annotations'])}"
    assert (left_out in capsys.readouterr().out) == (format == "yolo")


def test_predicted_labels_that_were_corrected_are_not_overwritten(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert predict(trained, photos, out, "--to", "labelme") == 0
    assert predict(trained, photos, out, "--to", "labelme") == 0  # a command can be repeated
    (label,) = (out / "labelme/train").glob("turned.json")
    document = json.loads(label.read_text())
    assert all(shape["description"].startswith("score 0.") for shape in document["shapes"])
    document["shapes"].pop()
    label.write_text(json.dumps(document))
    os.utime(label, ns=(1, 1))
    capsys.readouterr()
    assert predict(trained, photos, out, "--to", "labelme") == 2
    assert "turned.json: exists" in capsys.readouterr().err
    assert json.loads(label.read_text()) == document
    assert predict(trained, photos, out, "--to", "labelme", "--overwrite") == 0
    assert json.loads(label.read_text()) != document


def test_predicted_labels_are_not_added_to_labels_next_to_the_images(
    trained: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "turned.json").write_text('{"shapes": []}')
    assert predict(trained, photos, photos / "out", "--to", "labelme") == 2
    assert "whose labels it would add to. Choose another output folder." in capsys.readouterr().err
    assert not (photos / "out").exists()


def test_convert_keeps_the_scores_of_a_prediction_file(trained: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "turned.jpg").unlink()
    assert predict(trained, photos, tmp_path / "out", "--to", "labelme", "--tolerance", "0") == 0
    file = tmp_path / "out/predictions.json"
    words = ["convert", str(file), str(tmp_path / "converted"), "--to", "labelme", "--image-folder", str(photos)]
    assert cli.main(words) == 0
    for path in sorted((tmp_path / "out/labelme/train").glob("*.json")):
        converted = json.loads((tmp_path / "converted/predictions" / path.name).read_text())
        first, second = (
            Counter(shape["description"] for shape in document["shapes"])
            for document in (json.loads(path.read_text()), converted)
        )
        assert first.keys() == second.keys()


def test_predicted_labels_of_fewer_images_remove_those_of_others(trained: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(trained, photos, out, "--to", "yolo") == 0
    (photos / "turned.jpg").unlink()
    (out / "yolo/labels/train/mine.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n")
    assert predict(trained, photos, out, "--to", "yolo") == 0
    names = {path.name for path in (out / "yolo").rglob("*") if path.is_file()}
    assert not {"turned.txt", "turned.png"} & names
    assert {"mine.txt", "data.yaml"} <= names


def test_predicted_labels_of_a_video_have_its_frames(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from sais.io.video import VideoWriter

    with VideoWriter(tmp_path / "clip.mp4", rate=5) as writer:
        for value in range(3):
            writer.write(np.full((64, 64, 3), 60 * value, np.uint8))
    assert predict(trained, tmp_path / "clip.mp4", tmp_path / "out", "--to", "yolo") == 0
    images = sorted(path.name for path in (tmp_path / "out/yolo/images/train").iterdir())
    assert images == [f"clip_frame_{frame:06d}.png" for frame in range(3)]
