"""The report of a data set: findings with images, statistics, one bounded file that needs no network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation
from sais.data.doctor import kinds
from sais.data.doctor.check import check_across, check_dataset
from sais.data.doctor.findings import Case, Finding, image_reference
from sais.data.doctor.report import CheckReport
from sais.data.formats import read_dataset
from sais.recipes.recommendation import recommend_training
from sais.reports import data_report, data_tables
from sais.reports.data_report import render_data_report, write_data_report
from sais.reports.finding_images import MIN_WINDOW, SIDE, choose_cases, draw_case, draw_cases
from sais.results.detections import Detections
from sais.results.palette import class_color
from tests.data.formats.coco_samples import make_document, square_outline, write_split
from tests.reports.page import Page, decode

NASTY = "<script>alert('x')</script> & \"quotes\""
OPACITY = 0.45


def reports_of(folder: Path, *names: str) -> list[CheckReport]:
    """Return the reports of splits, as the doctor makes them."""
    reports = []
    for name in names:
        problems: dict[str, list[str]] = {}
        reports.append(check_dataset(read_dataset(folder, name, problems=problems), problems=problems))
    check_across(reports)
    return reports


def paint(path: Path, box: tuple[int, int, int, int], color: tuple[int, int, int]) -> None:
    """Paint a rectangle into an image file."""
    image = Image.open(path).convert("RGB")
    image.paste(color, box)
    image.save(path)


def blended(color: tuple[int, int, int], label: int) -> np.ndarray:
    """Return the color (3,) of a pixel below the mask of a class."""
    return (1 - OPACITY) * np.array(color) + OPACITY * np.array(class_color(label))


def report_with(kind: str, split: DatasetSplit, *cases: Case) -> CheckReport:
    """Return a report with one finding."""
    report = CheckReport(split)
    report.add_finding(Finding("WARNING", kind, len(cases), cases))
    return report


def array_split(
    image: np.ndarray, *boxes: tuple[int, int, int, int], names: tuple[str, ...] = ("cat",)
) -> DatasetSplit:
    """Return a split of one image (H, W, 3) with rectangular objects of class 0."""
    objects = []
    for i, (x1, y1, x2, y2) in enumerate(boxes, 1):
        outline = square_outline(x1, y1, x2 - x1, y2 - y1)
        objects.append(make_annotation(i, 0, segmentation=outline))
    record = ImageRecord(1, image, (image.shape[0], image.shape[1]), tuple(objects))
    return DatasetSplit("train", names, images=(record,))


def test_page_of_a_healthy_data_set_has_its_statistics_and_recipe(shapes: Path, tmp_path: Path) -> None:
    reports = reports_of(shapes, "train", "valid")
    recommendation = recommend_training(reports[0].split, ["--data", "my data"])
    assert recommendation is not None
    path = write_data_report(reports, tmp_path / "page.html", "shapes", recommendation)
    page = Page(path.read_text(encoding="utf-8"))
    images = [len(report.split.images) for report in reports]
    objects = [sum(not a.crowd for r in report.split.images for a in r.annotations) for report in reports]
    assert f"images {sum(images)} 2 splits objects {sum(objects)}" in page.text
    for report, image_count, object_count in zip(reports, images, objects, strict=True):
        assert f"{report.split.name} {image_count} {object_count}" in page.text
    assert "sais train sais-lite --data 'my data'" in page.text
    assert f"input {recommendation.size[1]} x {recommendation.size[0]} px" in page.text
    for name in reports[0].split.class_names:
        assert name in page.text
    assert {"#findings", "#training", "#splits", "#classes", "#objects"} <= set(page.links)


def test_finding_shows_the_object_concerned_under_its_label(tmp_path: Path) -> None:
    """The area of one object is wrong: its thumbnail has the object's pixels below the color of its class."""
    document = make_document(3)
    document["annotations"][2]["area"] = 9000  # of 40 x 30
    write_split(tmp_path, "train", document)
    x, y, w, h = document["annotations"][2]["bbox"]
    Image.new("RGB", (128, 96), (20, 7, 30)).save(tmp_path / "images/1.png")
    paint(tmp_path / "images/1.png", (x, y, x + w, y + h), (20, 200, 40))
    page = Page(render_data_report(reports_of(tmp_path, "train"), "parts"))
    assert kinds.LARGE_AREA in page.text
    numbers = [i for i, alt in enumerate(page.alts) if alt.startswith("1.png")]
    assert numbers
    pixels = page.pixels(numbers[0]).astype(float)
    height, width = pixels.shape[:2]
    assert max(height, width) == SIDE
    center = pixels[height // 2 - 6 : height // 2 + 6, width // 2 - 6 : width // 2 + 6].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(center, blended((20, 200, 40), 0), atol=8)
    corner = pixels[-6:, -6:].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(corner, (20, 7, 30), atol=8)  # the image's own color


def test_copies_are_shown_side_by_side(tmp_path: Path) -> None:
    document = make_document(3)
    write_split(tmp_path, "train", document)
    for name, color in (("0.png", (200, 30, 30)), ("2.png", (30, 30, 200))):
        Image.new("RGB", (128, 96), color).save(tmp_path / "images" / name)
    (tmp_path / "images/1.png").write_bytes((tmp_path / "images/0.png").read_bytes())
    html = render_data_report(reports_of(tmp_path, "train"), "parts")
    page = Page(html)
    assert "1.png: the same as 0.png" in page.text
    assert 'class="pair"' in html
    first = [page.pixels(i) for i, alt in enumerate(page.alts) if alt.startswith(("0.png", "1.png"))]
    np.testing.assert_allclose(first[0][2, 2], first[1][2, 2], atol=4)
    assert first[0][2, 2, 0] > 180


def test_unreadable_images_are_listed_without_an_image(tmp_path: Path) -> None:
    write_split(tmp_path, "train", make_document(3))
    (tmp_path / "images/1.png").write_bytes(b"no image")
    page = Page(render_data_report(reports_of(tmp_path, "train"), "parts"))
    assert "ERROR unreadable images" in page.text
    assert "1.png" in page.text
    assert not any(alt.startswith("1.png") for alt in page.alts)


def test_names_and_titles_are_escaped(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    name = "<b>x&'\".png"
    Image.fromarray(image).save(tmp_path / name)
    split = array_split(image, (10, 10, 30, 30), names=(NASTY,))
    record = replace(split.images[0], source=tmp_path / name)
    split = replace(split, name=NASTY, images=(record,))
    case = Case(f"{name}: annotation 1 \x1b[31m", image_reference(split, record), (1,))
    html = render_data_report([report_with(NASTY, split, case)], NASTY, errors={NASTY: [NASTY]})
    page = Page(html)
    assert page.text.count("alert('x')") >= 5
    assert name in page.text
    assert any(name in alt for alt in page.alts)
    assert "\x1b" not in html
    assert "\\x1b[31m" in page.text


def test_size_of_the_page_is_bounded_and_omitted_images_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    split = array_split(image, (10, 10, 30, 30))
    reference = image_reference(split, split.images[0])
    cases = [Case(f"case {i}", reference, (1,)) for i in range(200)]
    whole = Page(render_data_report([report_with(kinds.TINY_OBJECT, split, *cases)], "noise"))
    assert len(whole.images) == data_report.MAX_IMAGES["WARNING"]
    assert f"case {data_report.MAX_LISTED - 1}" in whole.text
    assert f"case {data_report.MAX_LISTED}" not in whole.text
    assert f"and {200 - data_report.MAX_LISTED} more" in whole.text
    monkeypatch.setattr(data_report, "MAX_CHARACTERS", 2 * len(whole.images[0]) + 10)
    small = Page(render_data_report([report_with(kinds.TINY_OBJECT, split, *cases)], "noise"))
    assert len(small.images) == 2
    assert f"The images of {data_report.MAX_IMAGES['WARNING'] - 2} cases are omitted" in small.text


def test_thousands_of_classes_and_errors_leave_the_page_small() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    split = array_split(image, (10, 10, 30, 30), names=tuple(f"class {i}" + 400 * "x" for i in range(8000)))
    boxes = [make_annotation(i, i, box=(0, 0, 9, 9)) for i in range(4000)]
    split = replace(split, images=(replace(split.images[0], annotations=tuple(boxes)),))
    report = CheckReport(split)
    page = Page(render_data_report([report], "many", errors={"valid": [f"error {i}" + 999 * "y" for i in range(5000)]}))
    assert f"{8000 - data_tables.MAX_CLASSES - 2 * data_tables.MAX_FOLDED} more classes are omitted" in page.text
    assert f"and {5000 - data_report.MAX_LISTED} more errors" in page.text


def test_findings_of_splits_are_merged_errors_first(tmp_path: Path) -> None:
    split = array_split(np.zeros((50, 50, 3), np.uint8), (10, 10, 30, 30))
    first, second = CheckReport(split), CheckReport(replace(split, name="valid"))
    first.add(kinds.TINY_OBJECT, "a")
    second.add(kinds.TINY_OBJECT, "b")
    second.add(kinds.UNREADABLE_IMAGE, "c")
    sections = data_report.merge_findings([first, second])
    assert [section.kind for section in sections][:2] == [kinds.UNREADABLE_IMAGE, kinds.TINY_OBJECT]
    assert sections[1].splits == "1 in train, 1 in valid"
    assert sections[1].count == 2
    assert sections[0].is_repaired
    assert "cannot be read" in sections[0].reason


def test_a_tiny_object_is_enlarged_and_its_surroundings_are_shown() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    image[100:104, 290:294] = 255
    split = array_split(image, (290, 100, 294, 104))
    thumbnail = draw_case(image, split.images[0], split, Case("x", annotation_ids=(1,)))
    pixels = decode(thumbnail.source)
    assert pixels.shape == (SIDE, SIDE, 3)
    ratio = SIDE / MIN_WINDOW
    left = round((292 - (300 - MIN_WINDOW)) * ratio)  # the window is moved into the image
    middle = pixels[SIDE // 2 - 3 : SIDE // 2 + 3, left - 3 : left + 3].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(middle, blended((255, 255, 255), 0), atol=30)


def test_a_mask_beyond_its_box_is_shown_whole() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    split = array_split(image, (60, 20, 160, 180))
    record = split.images[0]
    small = replace(record.annotations[0], box=np.array([60, 20, 80, 40], np.float32))
    thumbnail = draw_case(image, replace(record, annotations=(small,)), split, Case("x", annotation_ids=(1,)))
    pixels = decode(thumbnail.source).astype(float)
    filled = np.abs(pixels - blended((0, 0, 0), 0)).max(2) < 12
    height, width = thumbnail.height, thumbnail.width
    assert width == SIDE  # the window is as high as the image, and wider than the mask
    expected = 100 * 160 / (200 * 200 * width / height)
    assert filled.mean() == pytest.approx(expected, rel=0.1)


def test_detections_of_a_model_are_drawn_next_to_the_label() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    split = array_split(image, (20, 20, 40, 40), names=("cat", "dog"))
    detections = Detections((100, 100), np.array([[60, 60, 80, 80]]), np.array([0.9]), np.array([1]), ("cat", "dog"))
    thumbnail = draw_case(image, split.images[0], split, Case("x", annotation_ids=(1,), detections=detections))
    assert "cat, dog" in thumbnail.alt
    pixels = decode(thumbnail.source).astype(int)
    for label in (0, 1):
        distance = np.abs(pixels - np.array(class_color(label))).max(2)
        assert (distance < 40).sum() > 20, label


@pytest.mark.parametrize("size", [(40, 60), (96, 50), (200, 300)])
def test_images_of_another_size_than_annotated_are_drawn(size: tuple[int, int], tmp_path: Path) -> None:
    document = make_document(2)
    document["annotations"][0]["segmentation"] = {"size": [96, 128], "counts": [0, 96 * 128]}
    write_split(tmp_path, "train", document)
    Image.new("RGB", size[::-1], (90, 90, 90)).save(tmp_path / "images/0.png")
    page = Page(render_data_report(reports_of(tmp_path, "train"), "parts"))
    assert kinds.SIZE_MISMATCH in page.text
    assert any(alt.startswith("0.png") for alt in page.alts)


def test_malformed_masks_are_shown_by_their_box(tmp_path: Path) -> None:
    document = make_document(2)
    document["annotations"][0]["segmentation"] = {"size": [96, 128], "counts": "zzzz"}
    write_split(tmp_path, "train", document)
    split = read_dataset(tmp_path, "train", problems={})
    record = split.images[0]
    cases = [Case("x", image_reference(split, record), tuple(a.id for a in record.annotations))]
    assert len(draw_cases(cases, {"train": split})[0]) == 1


def test_choose_cases_prefers_different_images() -> None:
    split = array_split(np.zeros((50, 50, 3), np.uint8))
    record = split.images[0]
    first, second = (image_reference(split, replace(record, id=number)) for number in (1, 2))
    cases = [Case("a", first), Case("b", first), Case("c"), Case("d", second), Case("e", first)]
    assert choose_cases(cases, 3) == [0, 3, 1]


def test_class_table_counts_objects_by_split_and_images() -> None:
    split = array_split(np.zeros((50, 50, 3), np.uint8), (1, 1, 9, 9), (11, 11, 19, 19), names=("cat", "dog"))
    other = replace(split, name="valid", class_names=("dog", "cat"))
    table = data_tables.class_table([split, other])
    assert table.columns == ("train", "valid", "total", "images")
    assert [(row.name, row.counts) for row in table.rows] == [("cat", (2, 0, 2, 1)), ("dog", (0, 2, 2, 1))]
    assert data_tables.class_table([split]).without_objects == ("dog",)


def test_histograms_count_every_value_once() -> None:
    sizes = np.array([7.9, 8.0, 31.0, 256.0, 1000.0])
    histogram = data_tables.size_histogram("sizes", sizes)
    counts = {bar.name: bar.count for bar in histogram.bars}
    assert counts["below 8"] == 1
    assert counts["8 to 16"] == 1
    assert counts["16 to 32"] == 1
    assert counts["256 and above"] == 2
    objects = data_tables.count_histogram(np.array([0, 1, 5, 4, 3]))
    assert [(bar.name, bar.count) for bar in objects.bars] == [("0", 1), ("1", 1), ("2", 0), ("3", 1), ("4 to 5", 2)]
    assert data_tables.count_histogram(np.zeros(0, np.int64)).bars == ()
    sides = data_tables.image_size_histogram(np.array([[20, 30], [20, 30], [5, 6]]))
    assert [(bar.name, bar.count) for bar in sides.bars] == [("30 x 20", 2), ("6 x 5", 1)]


def test_position_map_counts_centers_by_row_and_column() -> None:
    places = data_tables.position_map(np.array([[0.99, 0.01], [0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]))
    cells = {(cell.x, cell.y): cell for cell in places.cells}
    last, middle = data_tables.CELLS - 1, data_tables.CELLS // 2
    assert set(cells) == {(last, 0), (middle, middle), (last, last)}
    assert cells[middle, middle].opacity == 1
    assert cells[middle, middle].title == "2 objects"
    assert places.label.startswith("50 %")
    assert not data_tables.position_map(np.zeros((0, 2))).cells


def test_a_finding_of_all_splits_is_counted_once() -> None:
    split = array_split(np.zeros((50, 50, 3), np.uint8), (10, 10, 30, 30))
    reports = [CheckReport(replace(split, name=name)) for name in ("train", "valid")]
    for report in reports:
        report.add_finding(Finding("NOTE", kinds.ID_GAPS, 10, remark="1 to 90 without 12"))
    section = next(s for s in data_report.merge_findings(reports) if s.kind == kinds.ID_GAPS)
    assert section.count == 10
    assert section.splits == "train, valid"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["breadboard", "animals", "coco_mini"])
def test_pages_of_real_data_sets_are_small(name: str, real_data: Any) -> None:
    from sais.data.formats import list_splits

    folder = real_data(name)
    reports = reports_of(folder, *list_splits(folder))
    html = render_data_report(reports, name)
    page = Page(html, 5_000_000)
    assert len(page.images) > 4
    assert json.dumps(page.text)
