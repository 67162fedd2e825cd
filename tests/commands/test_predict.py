"""`sais predict`: predictions.json."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sais import cli
from sais.commands.predict import _notes
from sais.commands.prediction_file import PredictionFile
from sais.config import Experiment, PostprocessConfig
from sais.inference.options import InferenceOptions
from sais.io import image_writer
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections


def test_predictions_file_is_coco(tmp_path: Path) -> None:
    predictions = PredictionFile(("cat", "dog"), (3, 8))
    bits = np.ones((2, 3), bool)
    predictions.add(
        Detections((10, 20), np.zeros((0, 4)), np.zeros(0), np.zeros(0), ("cat", "dog")), file_name="empty.jpg"
    )
    detections = Detections(
        (10, 20), np.array([[1, 2, 4, 4]]), np.array([0.5]), np.array([1]), ("cat", "dog"), [CroppedMask(1, 2, bits)]
    )
    predictions.add(detections, file_name="one.jpg")
    predictions.write(tmp_path / "out")
    read = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [image["file_name"] for image in read["images"]] == ["empty.jpg", "one.jpg"]
    assert read["images"][1] == {"id": 2, "width": 20, "height": 10, "file_name": "one.jpg"}
    (entry,) = read["annotations"]
    assert (entry["id"], entry["image_id"], entry["category_id"]) == (1, 2, 8)
    assert entry["bbox"] == [1, 2, 3, 2]
    assert entry["segmentation"]["size"] == [10, 20]
    assert read["categories"][1] == {"id": 8, "name": "dog"}
    assert predictions.counts == {"dog": 1}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]


@pytest.mark.parametrize(
    ("graph", "limit", "remedy"),
    [
        ("raw", 4, "raise --max-detections"),
        ("masks", 3, "raise --max-detections"),
        ("masks", 4, "export the model with a higher --max-detections"),
    ],
)
def test_note_on_the_limit_of_detections_names_what_can_raise_it(graph: str, limit: int, remedy: str) -> None:
    experiment = Experiment(postprocess=PostprocessConfig(max_detections=4))
    predictor: Any = SimpleNamespace(
        experiment=experiment,
        options=InferenceOptions(),
        filter=SimpleNamespace(max_detections=limit),
        backend=SimpleNamespace(graph=graph, experiment=experiment),
    )
    assert _notes(predictor, PredictionFile((), (), limited=2)) == [
        f"{limit} detections: the limit of 2 images; {remedy}"
    ]


def test_predict_replaces_no_png_file_where_a_drawing_is_too_large_for_jpeg(
    trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drawing becomes a PNG file, whose name can be that of a file which sais has not written."""
    monkeypatch.setitem(image_writer.MAX_SIDES, ".jpg", 8)
    source = sorted((shapes / "images/valid").iterdir())[0]
    out = tmp_path / "out"
    out.mkdir()
    own = out / f"{source.stem}.png"
    own.write_bytes(b"mine")
    words = ["predict", str(trained), str(source), "--out", str(out), "--device", "cpu"]
    assert cli.main(words) == 2
    assert own.read_bytes() == b"mine"
    own.unlink()
    assert cli.main(words) == 0
    assert own.is_file()
    assert cli.main(words) == 0  # its own drawing is replaced


def test_predict_draws_with_the_palette_for_color_blind_readers(
    trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    palettes = []

    def draw(image: np.ndarray, *arguments: object, palette: str, **options: object) -> np.ndarray:
        palettes.append(palette)
        return image

    monkeypatch.setattr("sais.results.draw.draw", draw)
    words = ["predict", str(trained), str(sorted((shapes / "images/valid").iterdir())[0]), "--device", "cpu"]
    for options in ([], ["--palette", "color-blind"]):
        assert cli.main([*words, "--out", str(tmp_path / "out"), *options]) == 0
    assert palettes == ["default", "color-blind"]
