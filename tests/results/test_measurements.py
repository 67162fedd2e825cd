"""The table of measurements: units, values of masks and boxes, CSV, pandas, empty tables."""

from __future__ import annotations

import csv
import io
import math
import sys
import types
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.errors import ConfigError, InputError, MissingDependencyError
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.measurements import Measurement, Measurements
from tests.results.detection_samples import random_detections, squares


def test_measure_has_a_row_for_each_object_with_its_class_score_and_box() -> None:
    d = random_detections()
    table = d.measure()
    assert len(table) == len(d) == 7
    assert table.column("class_name") == [d.class_names[label] for label in d.labels]
    np.testing.assert_array_equal(table.column("score"), d.scores)
    np.testing.assert_array_equal([[row.x1, row.y1, row.x2, row.y2] for row in table], d.boxes)
    np.testing.assert_array_equal(table.column("area"), d.masks().sum((1, 2)))
    for row, mask in zip(table, d.masks(), strict=True):
        y, x = np.nonzero(mask)
        assert (row.centroid_x, row.centroid_y) == pytest.approx((x.mean() + 0.5, y.mean() + 0.5))
    with pytest.raises(InputError, match="no column 'arae', did you mean 'area'"):
        table.column("arae")


def test_measure_scales_lengths_and_areas_but_not_positions() -> None:
    d = squares((5, 7), (30, 20))
    pixels, scaled = d.measure()[0], d.measure(pixel_size=0.5, unit="mm")
    row = scaled[0]
    assert scaled.unit == "mm"
    assert (pixels.area, pixels.length, pixels.width, pixels.perimeter) == (100, 10, 10, 36)
    assert (row.area, row.length, row.width, row.perimeter) == (25, 5, 5, 18)
    assert row.perimeter_crofton == pytest.approx(pixels.perimeter_crofton / 2)
    assert row.equivalent_diameter == pytest.approx(math.sqrt(4 * 25 / math.pi))
    assert (row.centroid_x, row.x1) == (pixels.centroid_x, pixels.x1) == (10, 5)
    assert row.circularity == pixels.circularity


def test_circularity_is_one_for_discs_and_small_for_bars() -> None:
    y, x = np.mgrid[:81, :81] - 40
    masks = [CroppedMask(0, 0, np.hypot(x, y) <= 40), CroppedMask(0, 0, np.ones((4, 80), bool))]
    d = Detections((90, 90), np.zeros((2, 4)), [0.9, 0.8], [0, 0], ("a",), masks)
    disc, bar = d.measure().column("circularity")
    assert 0.98 < disc <= 1
    assert bar < 0.25


def test_measure_of_boxes_is_exact() -> None:
    boxes = [[10.5, 5, 14.5, 15], [0, 0, 30, 2]]
    d = Detections((60, 80), boxes, [0.9, 0.8], [0, 1], ("a", "b"))
    tall, wide = d.measure()
    assert (tall.area, tall.perimeter, tall.perimeter_crofton, tall.length, tall.width) == (40, 28, 28, 10, 4)
    assert (tall.angle, tall.orientation, wide.angle) == (90, 0, 0)
    assert wide.orientation == pytest.approx(math.pi / 2)
    assert (tall.centroid_x, tall.centroid_y) == (12.5, 10)
    (inverted,) = Detections((60, 80), [[9, 9, 5, 7]], [0.9], [0], ("a",)).measure()
    assert (inverted.area, inverted.length, inverted.equivalent_diameter) == (0, 0, 0)


def test_measure_of_an_empty_mask_has_no_center_and_no_direction() -> None:
    d = Detections((9, 9), [[0, 0, 1, 1]], [0.5], [0], ("a",), [CroppedMask(2, 2, np.zeros((3, 3), bool))])
    (row,) = d.measure()
    assert (row.area, row.length, row.perimeter) == (0, 0, 0)
    assert all(map(math.isnan, (row.centroid_x, row.orientation, row.angle, row.circularity)))
    assert csv_rows(d.measure().to_csv())[1][Measurements.columns().index("centroid_x")] == ""


def csv_rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_csv_has_all_columns_the_unit_and_quoted_names(tmp_path: Path) -> None:
    d = squares((5, 7), (30, 20))
    d.class_names = ('a "b", c', "deer", "fox")
    table = d.measure(2, "um")
    header, *rows = csv_rows(table.to_csv(tmp_path / "objects.csv"))
    assert header == [*Measurements.columns(), "unit"]
    assert (tmp_path / "objects.csv").read_text() == table.to_csv()
    for fields, row in zip(rows, table, strict=True):
        assert fields[0] == row.class_name
        assert fields[-1] == "um"
        np.testing.assert_allclose([float(value) for value in fields[1:-1]], astuple(row)[1:], rtol=5e-7)
    table.to_csv(tmp_path / "objects.csv")  # its own file
    (tmp_path / "other.csv").write_text("mine")
    with pytest.raises(InputError, match="other.csv"):
        table.to_csv(tmp_path / "other.csv")
    table.to_csv(tmp_path / "other.csv", overwrite=True)


@pytest.mark.parametrize("masks", [True, False])
def test_empty_table(masks: bool) -> None:
    table = random_detections(masks=masks)[:0].measure(0.1, "m")
    assert (len(table), list(table), table.to_dicts(), table.column("area")) == (0, [], [], [])
    assert csv_rows(table.to_csv()) == [[*Measurements.columns(), "unit"]]
    assert repr(table).splitlines()[0] == "0 objects, unit m"


def test_table_is_a_sequence_of_rows_with_a_short_text() -> None:
    d = random_detections(30)
    table = d.measure()
    assert isinstance(table[3], Measurement)
    assert table[1:3].rows == table.rows[1:3]
    assert table.to_dicts()[4]["area"] == table[4].area
    lines = repr(table).splitlines()
    assert lines[0] == "30 objects, unit px"
    assert lines[-1] == "... 10 more rows"
    assert len(lines) == 23


def test_to_pandas_passes_columns_and_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    table = squares((5, 7), (30, 20)).measure(0.5, "mm")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError) as caught:
        table.to_pandas()
    assert caught.value.package == "pandas"

    def frame(rows: Any, columns: list[str]) -> Any:
        return types.SimpleNamespace(rows=rows, columns=columns, attrs={})

    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=frame))
    converted = table.to_pandas()
    assert converted.rows == [astuple(row) for row in table]
    assert converted.columns == list(Measurements.columns())
    assert converted.attrs == {"unit": "mm"}


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf])
def test_measure_refuses_impossible_pixel_sizes(size: float) -> None:
    with pytest.raises(ConfigError, match="pixel_size"):
        squares((5, 7)).measure(size)


def test_measure_refuses_a_pixel_size_in_pixels() -> None:
    with pytest.raises(ConfigError, match=r"unit: .* 0\.25 are not in px"):
        squares((5, 7)).measure(0.25)
    assert squares((5, 7)).measure(1, "mm").unit == "mm"


@pytest.mark.parametrize("name", ["=cmd()", "+1", "-1", "@a", " =a", "日本", "\t=a"])
def test_csv_has_no_formulas(name: str) -> None:
    d = squares((5, 7))
    d.class_names = (name, "deer", "fox")
    (row,) = csv_rows(d.measure(1, "=m").to_csv())[1:]
    assert row[0] == {"日本": "日本", "\t=a": r"\t=a"}.get(name, f"'{name}")
    assert row[-1] == "'=m"
    assert not any(value.startswith("'") for value in row[1:-1])  # also negative numbers


def test_text_of_a_table_escapes_names_and_aligns_wide_letters() -> None:
    d = squares((5, 7), (30, 20))
    d.class_names = ("\x1b[31m\n", "日本語", "fox")
    header, first, second = repr(d.measure(1, "\x1b")).splitlines()[1:]
    assert r"\x1b[31m\n" in first
    assert {len(header), len(first), len(second) + 3} == {len(header)}
