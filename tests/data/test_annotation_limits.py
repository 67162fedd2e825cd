"""Small annotation files that once took gigabytes, minutes or ended in a traceback."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais import cli, input_limits
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, object_mask, object_masks
from sais.data.dataset import read_sample
from sais.data.doctor.check import check_dataset
from sais.data.doctor.kinds import DUPLICATE_OBJECT, MALFORMED_MASK
from sais.data.formats import list_splits, read_dataset
from sais.data.formats.coco import read_coco
from sais.data.formats.notes import BAD_IMAGE, BAD_MASK, CROWDED_IMAGE
from sais.data.formats.unsplit import find_coco_files
from sais.data.split_checks import check_split
from sais.errors import InputError, OutOfMemoryError, ResourceError, SaisError
from sais.io import images
from sais.ops import rle

Document = dict[str, Any]
SQUARE = [10.0, 10.0, 40.0, 10.0, 40.0, 40.0, 10.0, 40.0]


def entry(number: int, **changes: Any) -> Document:
    """Return an annotation with an outline, without an area."""
    values = {"id": number, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 30], "segmentation": [SQUARE]}
    return values | changes


def write(folder: Path, change: Callable[[Document], object] = lambda document: None) -> Path:
    """Write a data set of one image of 64 x 64 pixels with one object; return its annotation file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    Image.new("RGB", (64, 64), (90, 60, 30)).save(folder / "images/a.png")
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 64}],
        "annotations": [entry(1)],
        "categories": [{"id": 1, "name": "ring"}],
    }
    change(document)
    path = folder / "annotations/train.json"
    path.write_text(json.dumps(document))
    return path


def full(side: int) -> Document:
    """Return the RLE of a square image whose pixels are all set."""
    return {"size": [side, side], "counts": [0, side * side]}


def resize(document: Document, side: Any) -> None:
    """State another size of the image."""
    document["images"][0] |= {"height": side, "width": side}


def zigzag(points: int) -> list[float]:
    """Return a polygon whose points are at the upper and the lower border in turn."""
    x = np.linspace(1, 63, points)
    return np.stack([x, np.where(np.arange(points) % 2, 1.0, 63.0)], 1).round(2).reshape(-1).tolist()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda d: resize(d, 100_000), BAD_IMAGE, "image 1 has the size 100000 x 100000, above the limit"),
        (lambda d: resize(d, 10**6), BAD_IMAGE, "image 1 has the size 1000000 x 1000000, above the limit"),
        (lambda d: resize(d, 10**4000), BAD_IMAGE, r"image 1 has the size 1000.{1,60}\.\.\..* above the limit"),
        (lambda d: resize(d, math.nan), BAD_IMAGE, "image 1 has the size nan x nan. Give"),
        (lambda d: resize(d, -5), BAD_IMAGE, "image 1 has the size -5 x -5. Give"),
        (lambda d: resize(d, ["64"]), BAD_IMAGE, r"image 1 has the size \['64'\]"),
        (
            lambda d: d["annotations"][0].update(segmentation=[zigzag(100_001)]),
            BAD_MASK,
            "annotation 1: an outline of 10",
        ),
        (
            lambda d: d["annotations"][0].update(segmentation=[SQUARE] * 30_000),
            BAD_MASK,
            "annotation 1: an outline of 120000",
        ),
    ],
    ids=["1e5", "1e6", "huge", "nan", "negative", "list", "points", "parts"],
)
def test_entries_beyond_the_limits_are_refused_and_listed(
    tmp_path: Path, change: Callable[[Document], object], kind: str, words: str
) -> None:
    path = write(tmp_path, change)
    with pytest.raises(InputError, match=words) as caught:
        read_coco(path, tmp_path / "images")
    assert str(caught.value).startswith(str(path))
    problems: dict[str, list[str]] = {}
    read_coco(path, tmp_path / "images", problems=problems)
    assert [len(cases) for cases in problems.values()] == [1]
    assert kind in problems


def test_long_outline_is_refused_also_after_it_is_clipped_or_scaled(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(input_limits, "MAX_OUTLINE_LENGTH", 30_000)
    path = write(tmp_path, lambda d: d["annotations"][0].update(segmentation=[zigzag(400)]))
    assert read_coco(path, tmp_path / "images").images[0].annotations
    far = [value if i % 2 == 0 else 10 * (value - 32) + 32 for i, value in enumerate(zigzag(600))]
    fractions = [value / 64 for value in zigzag(600)]
    for polygon in (zigzag(600), far, fractions):
        write(tmp_path, lambda d, polygon=polygon: d["annotations"][0].update(segmentation=[polygon]))
        with pytest.raises(InputError, match=r"annotation 1: an outline of [34].*e\+04 px, above the limit of 3e\+04"):
            read_coco(path, tmp_path / "images")


def test_many_objects_of_one_image_are_refused(tmp_path: Path) -> None:
    """20,000 objects took hours to draw and gigabytes to train on and to compare."""
    path = write(tmp_path, lambda d: d.update(annotations=[entry(i) for i in range(10_001)]))
    with pytest.raises(InputError, match="image 1 has 10001 objects, above the limit of 10000"):
        read_coco(path, tmp_path / "images")
    problems: dict[str, list[str]] = {}
    split = read_coco(path, tmp_path / "images", problems=problems)
    assert len(problems[CROWDED_IMAGE]) == 1
    assert split.images[0].annotations == ()


def test_objects_that_cover_the_image_hundreds_of_times_are_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path, lambda d: d.update(annotations=[entry(i, bbox=[0, 0, 64, 64], segmentation=None) for i in range(251)])
    )
    with pytest.raises(InputError, match="image 1 has boxes that together cover it 251 times, above the limit of 250"):
        read_coco(path, tmp_path / "images")
    write(tmp_path, lambda d: d.update(annotations=[entry(i) for i in range(1000)]))
    assert len(read_coco(path, tmp_path / "images").images[0].annotations) == 1000


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ([{"id": i, "name": f"class {i}"} for i in range(1, 16_002)], "16001 categories, above the limit of 16000"),
        ([{"id": 1, "name": "x" * 3000}], r"a class name of 3000 letters, above the limit of 500 \('xxx.*\.\.\.x"),
        ([{"name": "z" * 10**6}], "category without an integer 'id'"),
    ],
    ids=["many", "long", "without id"],
)
def test_categories_beyond_the_limits_are_refused_in_one_short_line(
    tmp_path: Path, categories: list[Document], words: str
) -> None:
    path = write(tmp_path, lambda d: d.update(categories=categories))
    with pytest.raises(InputError, match=words) as caught:
        read_coco(path, tmp_path / "images")
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("depth", [900, 940, 960, 980, 20_000])
@pytest.mark.parametrize("key", ["segmentation", "bbox", "image_id", "category_id", "iscrowd"])
def test_deep_nesting_is_an_input_error(tmp_path: Path, depth: int, key: str) -> None:
    """Where the JSON could just be read, a copy of the value, and the message about it, were too deep for Python."""
    path = write(tmp_path, lambda d: d["annotations"][0].update({key: "DEEP"}))
    path.write_text(path.read_text().replace('"DEEP"', "[" * depth + "]" * depth))
    with pytest.raises(SaisError) as caught:
        read_coco(path, tmp_path / "images")
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("depth", range(840, 1000, 20))
def test_deep_nesting_inside_of_a_mask_is_an_input_error(tmp_path: Path, depth: int) -> None:
    """An RLE may have further keys, which are copied with it."""
    mask = {"size": [64, 64], "counts": [4096], "more": "DEEP"}
    path = write(tmp_path, lambda d: d["annotations"][0].update({"segmentation": mask}))
    path.write_text(path.read_text().replace('"DEEP"', "[" * depth + "]" * depth))
    with contextlib.suppress(SaisError):
        assert read_coco(path, tmp_path / "images").images


def test_annotation_file_that_is_not_a_regular_file_or_too_large(tmp_path: Path) -> None:
    """A pipe was opened, which waits for a writer for ever, and a device or sparse file read until memory was full."""
    path = write(tmp_path)
    path.unlink()
    for make, words in (
        (lambda: os.mkfifo(path), "a pipe or device"),
        (lambda: path.symlink_to("/dev/zero"), "a pipe or device"),
        (path.mkdir, "a folder, not a file"),
    ):
        make()
        for read in (lambda: read_dataset(tmp_path, "train"), lambda: read_coco(path, tmp_path / "images")):
            with pytest.raises(InputError, match=f"train.json: {words}"):
                read()
        assert find_coco_files(tmp_path) == []
        assert list_splits(tmp_path) == ["train"]
        path.rmdir() if path.is_dir() else path.unlink()
    with path.open("wb") as file:
        file.truncate(5 * 2**30)  # sparse
    with pytest.raises(ResourceError, match=r"train.json: annotation file of 5.0 GB, above the limit of 2 GB"):
        read_coco(path, tmp_path / "images")


@pytest.mark.parametrize("name", ["/dev/zero", "pipe.png"])
@pytest.mark.parametrize("has_size", [True, False])
def test_image_that_is_a_device_is_reported_not_read(tmp_path: Path, name: str, has_size: bool) -> None:
    size = {"height": 64, "width": 64} if has_size else {}
    path = write(tmp_path, lambda d: d["images"].append({"id": 2, "file_name": name} | size))
    os.mkfifo(tmp_path / "images/pipe.png")
    problems: dict[str, list[str]] = {}
    split = read_coco(path, tmp_path / "images", problems=problems)
    findings = check_dataset(split, problems=problems).all_findings()
    assert sum("a pipe or device" in case.text for finding in findings for case in finding.cases) == 1


def test_bounds_of_rle_equal_those_of_the_decoded_mask() -> None:
    random = np.random.default_rng(0)
    for trial in range(200):
        height, width = random.integers(1, 9, 2)
        mask = random.random((height, width)) < random.random()
        left, top, right, bottom = rle.bounds(rle.encode(mask))
        crop, x, y = rle.decode_cropped(rle.encode(mask))
        assert (left, top) == (x, y), trial
        assert crop.shape == (bottom - top, right - left)
        np.testing.assert_array_equal(crop, mask[top:bottom, left:right])
        assert crop.sum() == mask.sum()


def test_rle_is_decoded_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    masks = [np.kron(random.random((6, 7)) < 0.4, np.ones((5, 3))).astype(bool) for _ in range(20)]
    whole = [rle.decode_cropped(rle.encode(mask)) for mask in masks]
    for pixels in (1, 40, 100):
        monkeypatch.setattr(rle, "_CHUNK_PIXELS", pixels)
        for mask, (crop, x, y) in zip(masks, whole, strict=True):
            parts = rle.decode_cropped(rle.encode(mask))
            np.testing.assert_array_equal(parts[0], crop)
            assert parts[1:] == (x, y)


def test_large_rle_is_measured_without_decoding_it(tmp_path: Path) -> None:
    """An RLE of 30 characters whose decoded mask takes 1.6 GB, ten times, without boxes and areas."""
    objects = [entry(i, bbox=None, segmentation=full(40_000)) for i in range(10)]
    path = write(tmp_path, lambda d: (resize(d, 40_000), d.update(annotations=objects)))
    (record,) = read_coco(path, tmp_path / "images").images
    assert [a.area for a in record.annotations] == [40_000**2] * 10
    assert record.annotations[0].box.tolist() == [0, 0, 40_000, 40_000]
    with pytest.raises(InputError, match="annotation 0: malformed mask.*1600000000 pixels, above the limit"):
        object_mask(record.annotations[0], record.size)


def test_masks_of_one_image_have_a_limit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = [entry(i, segmentation=full(64), bbox=[0, 0, 64, 64]) for i in range(5)]
    path = write(tmp_path, lambda d: d.update(annotations=objects))
    (record,) = read_coco(path, tmp_path / "images").images
    assert len(object_masks(record, record.annotations)) == 5
    monkeypatch.setattr(input_limits, "MAX_BITMAP_PIXELS", 4 * 64 * 64)
    with pytest.raises(InputError, match=r"a.png: its RLE masks have more than 16384 pixels"):
        read_sample(record)
    report = check_dataset(read_coco(path, tmp_path / "images"))
    [case] = report.findings[MALFORMED_MASK]
    assert case.text == "a.png: RLE masks of 20480 pixels, above the limit of 16384"


def test_split_built_in_python_has_the_same_limits() -> None:
    def split(size: tuple[int, int], polygon: list[float], count: int = 1, name: str = "ring") -> DatasetSplit:
        box = np.array([10, 10, 40, 40], np.float32)
        objects = tuple(Annotation(i, box, 0, [polygon], False, 900.0) for i in range(count))
        return DatasetSplit("train", (name,), images=(ImageRecord(1, Path("a.png"), size, objects),))

    check_split(split((64, 64), SQUARE, 200))
    for bad, words in (
        (split((10**6, 10**6), SQUARE), "above the limit of 2147483648 pixels"),
        (split((64, 64), zigzag(100_001)), "annotation 0: an outline of 100001 points"),
        (split((64, 64), SQUARE, 10_001), "has 10001 objects"),
        (split((64, 64), SQUARE, name="x" * 501), "a class name of 501 letters"),
    ):
        with pytest.raises(InputError, match=words):
            check_split(bad)


def test_duplicates_are_listed_once_for_each_object(tmp_path: Path) -> None:
    """Every pair of 1,000 equal objects was listed: half a million lines."""
    objects = [entry(i) for i in range(1000)] + [entry(1000, bbox=[1, 1, 5, 5])]
    path = write(tmp_path, lambda d: d.update(annotations=objects))
    report = check_dataset(read_coco(path, tmp_path / "images"))
    texts = [case.text for case in report.findings[DUPLICATE_OBJECT]]
    assert texts == [f"a.png: annotations 0 and {i}" for i in range(1, 1000)]


def test_lack_of_memory_is_not_an_unreadable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --skip-broken, a sound image was skipped, and `sais doctor` reported it as unreadable."""
    from sais.config import AugmentConfig, InputConfig
    from sais.data.dataset import AugmentedSamples, SampleKey
    from sais.data.loader import EvaluationDataset, FullImageDataset, TrainingDataset, collate

    split = read_coco(write(tmp_path), tmp_path / "images")

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sais.io.pixels.decode_page", fail)
    with pytest.raises(OutOfMemoryError, match=r"a.png: not enough memory"):
        images.read_image(tmp_path / "images/a.png")
    with pytest.raises(OutOfMemoryError):
        check_dataset(split)
    samples = AugmentedSamples(split, InputConfig(size=(64, 64)), AugmentConfig(), 0)
    items = [TrainingDataset(samples)[SampleKey(0, 0)], EvaluationDataset(split, InputConfig(size=(64, 64)))[0]]
    for item in items:
        loaded = collate([item])
        assert loaded.unreadable_images == []
        with pytest.raises(OutOfMemoryError, match=r"a.png: not enough memory"):
            loaded.pin_memory().check_memory()
    assert isinstance(FullImageDataset(split)[0], OutOfMemoryError)


def test_training_with_skip_broken_ends_when_memory_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data")

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sais.io.pixels.decode_page", fail)
    argv = ["train", "paper-lite0", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--size", "64"]
    argv += ["--batch-size", "1", "--workers", "0", "--max-iterations", "1", "--device", "cpu", "--skip-broken"]
    assert cli.main(argv) == 2
    assert "a.png: not enough memory to decode it" in capsys.readouterr().err
