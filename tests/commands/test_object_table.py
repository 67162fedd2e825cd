"""objects.csv of `sais predict --csv`: rows of images and frames, units, files of others, and an interruption."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from sais import cli
from sais.commands.object_table import ObjectTable
from sais.errors import ConfigError, InputError
from sais.results.measurements import Measurements
from tests.results.detection_samples import random_detections, squares


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table_has_a_row_for_each_object_of_each_image(tmp_path: Path) -> None:
    table = ObjectTable(tmp_path, True, 0.5, "mm")
    first, second = random_detections(5), squares((3, 4), (20, 30))
    table.add(first, "a, b.jpg")
    table.add(first[:0], "empty.jpg")
    table.add(second, "sub/c.jpg")
    assert table.write() == [f"measurements in {tmp_path / 'objects.csv'}: lengths in mm, areas in mm^2"]
    rows = rows_of(tmp_path / "objects.csv")
    assert list(rows[0]) == ["image", *Measurements.columns(), "unit"]
    assert [row["image"] for row in rows] == ["a, b.jpg"] * 5 + ["sub/c.jpg"] * 2
    np.testing.assert_allclose([float(row["area"]) for row in rows], np.concatenate([first.area, second.area]) / 4)
    assert {row["unit"] for row in rows} == {"mm"}


def test_table_without_objects_has_a_header_and_is_not_written_unless_wanted(tmp_path: Path) -> None:
    table = ObjectTable(tmp_path, True, 1.0, "px")
    table.add(random_detections(masks=False)[:0], "a.jpg")
    table.write()
    assert rows_of(tmp_path / "objects.csv") == []
    unwanted = ObjectTable(tmp_path / "other", False, 1.0, "px")
    unwanted.add(squares((3, 4)), "a.jpg")
    assert unwanted.write() == []
    assert not (tmp_path / "other").exists()


def test_check_recognizes_its_own_table_only(tmp_path: Path) -> None:
    table = ObjectTable(tmp_path, True, 1.0, "px")
    (tmp_path / "objects.csv").write_text("image,weight\n")
    with pytest.raises(InputError, match=r"objects\.csv"):
        table.check([], False)
    table.check([], True)
    ObjectTable(tmp_path, False, 1.0, "px").check([], False)
    table.write()
    table.check([], False)


def test_predict_writes_the_measurements_of_its_predictions(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(trained), str(shapes / "images/valid"), "--out", str(tmp_path), "--device", "cpu"]
    assert cli.main([*words, "--no-draw", "--score", "0.05", "--csv", "--pixel-size", "2", "--unit", "um"]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "predictions.json").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    classes = {category["id"]: category["name"] for category in content["categories"]}
    rows = rows_of(tmp_path / "objects.csv")
    assert len(rows) == len(content["annotations"]) > 0
    for row, annotation in zip(rows, content["annotations"], strict=True):
        assert row["image"] == names[annotation["image_id"]]
        assert row["class_name"] == classes[annotation["category_id"]]
        assert float(row["score"]) == pytest.approx(annotation["score"], rel=1e-6)
        assert float(row["area"]) == pytest.approx(4 * annotation["area"])
    counts = {name: sum(row["class_name"] == name for row in rows) for name in classes.values()}
    (total,) = [line for line in printed.splitlines() if line.startswith("4 images: ")]
    assert dict(reversed(part.split(" ", 1)) for part in total.removeprefix("4 images: ").split(", ")) == {
        name: str(count) for name, count in counts.items() if count
    }
    assert "lengths in um, areas in um^2" in printed


def test_next_prediction_without_a_table_removes_that_of_the_last(trained: Path, shapes: Path, tmp_path: Path) -> None:
    (image, *_) = sorted((shapes / "images/valid").iterdir())
    table = tmp_path / "objects.csv"
    words = ["predict", str(trained), str(image), "--out", str(tmp_path), "--device", "cpu", "--no-draw"]
    assert cli.main([*words, "--csv"]) == 0
    assert cli.main([*words, "--csv"]) == 0
    assert table.is_file()
    assert cli.main(words) == 0
    assert not table.exists()  # it would be taken for that of these predictions
    assert cli.main([*words, "--csv"]) == 0
    table.write_text(table.read_text() + "a row of mine\n")
    assert cli.main(words) == 0
    assert table.read_text().endswith("mine\n")


def test_interrupted_prediction_writes_and_lists_its_table(
    trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sais.commands.predict_videos.VideoPredictor.run", fail)
    words = ["predict", str(trained), str(shapes / "images/valid"), "--out", str(tmp_path), "--device", "cpu"]
    assert cli.main([*words, "--no-draw", "--score", "0.05", "--csv"]) == 130
    content = json.loads((tmp_path / "predictions.json").read_text())
    table = tmp_path / "objects.csv"
    assert len(rows_of(table)) == len(content["annotations"]) > 0
    assert content["info"]["drawings"] == {"objects.csv": table.stat().st_size}


def test_table_that_cannot_be_written_loses_no_predictions(
    trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: ObjectTable) -> list[str]:
        raise InputError("objects.csv: no space.")

    monkeypatch.setattr(ObjectTable, "write", fail)
    words = ["predict", str(trained), str(shapes / "images/valid"), "--out", str(tmp_path), "--device", "cpu"]
    assert cli.main([*words, "--no-draw", "--csv"]) == 2
    assert len(json.loads((tmp_path / "predictions.json").read_text())["images"]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((False, 0.5, "px"), "no effect without --csv"),
        ((False, 1.0, "mm"), "no effect without --csv"),
        ((True, 0.5, "px"), "not in px"),
    ],
)
def test_units_without_a_table_and_pixel_sizes_without_a_unit_are_refused(
    options: tuple[bool, float, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        ObjectTable(tmp_path, *options).check([], False)


def test_names_are_no_formulas_and_keep_each_object_on_a_line(tmp_path: Path) -> None:
    table = ObjectTable(tmp_path, True, 1.0, "px")
    detections = squares((3, 4))
    detections.class_names = ("=1+1", "deer", "fox")
    table.add(detections, "@a\n\x1b[31m.jpg")
    table.write()
    assert len((tmp_path / "objects.csv").read_text().splitlines()) == 2
    (row,) = rows_of(tmp_path / "objects.csv")
    assert (row["class_name"], row["image"]) == ("'=1+1", "'@a\\n\\x1b[31m.jpg")
