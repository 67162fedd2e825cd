"""`sais predict-many` in one process: results, continuation, errors, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais import cli
from sais.errors import InputError, OutOfMemoryError, ResourceError, SaisError
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.ops.rle import decode_cropped
from sais.results.detections import Detections
from sais.scaling import shard_worker
from sais.scaling.options import ManyOptions, choose_engine
from sais.scaling.run import ManySummary, predict_many
from tests.serving.pixel_model import CLASSES, PixelBackend, encoded, noise

NUM_IMAGES = 7
BROKEN = {"image_1.jpg": b"", "image_4.jpg": b"not an image"}
"""Images that cannot be read -> their content."""


def jpeg(seed: int) -> bytes:
    """Return a JPEG file of noise."""
    return encoded(noise(seed), "JPEG")


class Place:
    """A folder with a model, images of which two are broken, and an output; and `predict_many` on them."""

    def __init__(self, folder: Path) -> None:
        self.images, self.output, self.model = folder / "images", folder / "out", folder / "model.onnx"
        self.images.mkdir()
        self.model.write_bytes(b"a model")
        self.opened = 0
        for i in range(NUM_IMAGES):
            name = f"image_{i}.jpg"
            (self.images / name).write_bytes(jpeg(i))
        for name, content in BROKEN.items():
            (self.images / name).write_bytes(content)
        self.good = sorted(path.name for path in self.images.iterdir() if path.name not in BROKEN)

    def open(self, path: Path, options: InferenceOptions, threads: int) -> Predictor:
        """Open the model, in place of the worker's function."""
        self.opened += 1
        return Predictor(PixelBackend(), options)

    def predict(
        self,
        output: str | None = None,
        inference: InferenceOptions | None = None,
        report: Callable[[str], None] = lambda line: None,
        **options: Any,
    ) -> ManySummary:
        """Predict the images in one process, three in each shard."""
        options = {"engine": "local", "shard_size": 3} | options
        source = str(self.images)
        return predict_many(
            self.model, source, output or str(self.output), inference, ManyOptions(**options), b"", report
        )

    def expected(self) -> dict[str, Detections]:
        """Return the detections of each good image, predicted by itself."""
        predictor = Predictor(PixelBackend())
        return {name: predictor(self.images / name) for name in self.good}

    def files(self, folder: str = "detections") -> list[Path]:
        """Return the files of shards in a folder of the output."""
        return sorted((self.output / folder).glob("*"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Return a place whose model detects the dark and the bright half of the pixels."""
    found = Place(tmp_path)
    monkeypatch.setattr(shard_worker, "_open", found.open)
    return found


def check_equal(row: dict[str, Any], expected: Detections) -> None:
    """Check the row of an image against its detections."""
    assert (row["height"], row["width"]) == expected.image_size
    np.testing.assert_array_equal(np.float32(row["boxes"]), expected.boxes)
    np.testing.assert_array_equal(np.float32(row["scores"]), expected.scores)
    assert row["labels"] == expected.labels.tolist()
    assert row["class_names"] == [CLASSES[label] for label in row["labels"]]
    assert row["category_ids"] == [label + 1 for label in row["labels"]]
    assert row["rle"] == [entry["counts"] for entry in expected.rle()]
    assert row["areas"] == expected.area.tolist()
    bits, _, _ = decode_cropped({"size": list(expected.image_size), "counts": row["rle"][0]})
    assert bits.sum() == row["areas"][0] > 0


def test_each_good_image_is_a_row_equal_to_a_single_prediction(place: Place) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    summary = place.predict()
    rows = parquet.read_table(place.output / "detections").to_pylist()
    assert [row["file_name"] for row in rows] == place.good
    assert [row["image_id"] for row in rows] == [1, 3, 4, 6, 7]
    for row in rows:
        check_equal(row, place.expected()[row["file_name"]])
    errors = parquet.read_table(place.output / "errors").to_pylist()
    assert [(row["file_name"], row["kind"]) for row in errors] == [
        ("image_1.jpg", "empty file"),
        ("image_4.jpg", "not an image"),
    ]
    assert all(row["location"] == str(place.images / row["file_name"]) in row["message"] for row in errors)
    assert (summary.images, summary.before, summary.manifest.complete) == (NUM_IMAGES, 0, True)
    assert summary.manifest.unreadable == summary.errors.total() == 2
    assert summary.objects == {"dark": 5, "bright": 5}


def test_rows_of_detections_have_the_values_of_rows_of_images(place: Place) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    place.predict()
    images = parquet.read_table(place.output / "detections").to_pylist()
    place.predict(rows="detection", overwrite=True)
    rows = parquet.read_table(place.output / "detections").to_pylist()
    columns = {"boxes": "box", "scores": "score", "labels": "label", "class_names": "class_name", "rle": "rle"}
    for plural, singular in (columns | {"category_ids": "category_id", "areas": "area"}).items():
        assert [row[singular] for row in rows] == [value for row in images for value in row[plural]]
    assert [row["file_name"] for row in rows] == [row["file_name"] for row in images for _ in row["scores"]]


def test_coco_shards_together_are_one_file_with_unique_ids(place: Place) -> None:
    place.predict(format="coco")
    documents = [json.loads(path.read_text()) for path in place.files()]
    assert [path.name for path in place.files()] == [f"shard-0000{i}-of-00003.json" for i in range(3)]
    images = [image for document in documents for image in document["images"]]
    annotations = [entry for document in documents for entry in document["annotations"]]
    assert [image["file_name"] for image in images] == place.good
    assert len({entry["id"] for entry in annotations}) == len(annotations) == 10
    names = {image["id"]: image["file_name"] for image in images}
    by_name: dict[str, list[Any]] = {}
    for entry in annotations:
        by_name.setdefault(names[entry["image_id"]], []).append(entry)
    for name, expected in place.expected().items():
        height, width = expected.image_size
        found = Detections.from_coco(by_name[name], (height, width), CLASSES, (1, 2))
        np.testing.assert_allclose(found.boxes, expected.boxes, rtol=1e-6)  # COCO states width and height
        assert found.rle() == expected.rle()
    lines = [line for path in place.files("errors") for line in path.read_text().splitlines()]
    assert [json.loads(line)["file_name"] for line in lines] == sorted(BROKEN)


def test_repetition_predicts_the_missing_shards_of_the_stored_plan_only(place: Place) -> None:
    place.predict(format="coco")
    contents = {path: path.read_bytes() for path in place.files()}
    before = {path: path.stat().st_mtime_ns for path in place.files()}
    missing = place.files()[1]
    missing.unlink()
    (place.images / "image_00.jpg").write_bytes(jpeg(9))  # not in the plan, and would move each image
    opened = place.opened
    summary = place.predict(format="coco", shard_size=None)
    assert (summary.images, summary.before, place.opened - opened) == (3, 4, 1)
    assert {path: path.read_bytes() for path in place.files()} == contents
    assert {path for path in before if path.stat().st_mtime_ns != before[path]} == {missing}
    assert summary.manifest.complete
    summary = place.predict(format="coco")
    assert (summary.images, summary.before, place.opened - opened) == (0, 7, 1)
    assert summary.errors.total() == 2


def test_images_that_can_be_read_later_leave_the_table_of_errors(place: Place) -> None:
    place.predict(format="coco")
    assert [path.name for path in place.files("errors")] == ["shard-00000-of-00003.jsonl", "shard-00001-of-00003.jsonl"]
    place.files()[0].unlink()
    (place.images / "image_1.jpg").write_bytes(jpeg(1))
    summary = place.predict(format="coco")
    assert [path.name for path in place.files("errors")] == ["shard-00001-of-00003.jsonl"]
    assert summary.manifest.unreadable == 1


def predict_renamed(place: Place) -> ManySummary:
    """Predict the same images in a folder of another name."""
    place.images = place.images.rename(place.images.parent / "renamed")
    return place.predict(format="coco")


CHANGES: dict[str, Callable[[Place], Any]] = {
    "another model": lambda place: place.model.write_bytes(b"b") and place.predict(format="coco"),
    "score auto instead of 0.2": lambda place: place.predict(format="coco", inference=InferenceOptions(score=0.2)),
    "format coco instead of parquet": lambda place: place.predict(),
    "shard_size 3 instead of 4": lambda place: place.predict(format="coco", shard_size=4),
    "column None instead of jpg": lambda place: place.predict(format="coco", column="jpg"),
    "input .*images instead of .*renamed": predict_renamed,
}


@pytest.mark.parametrize("change", CHANGES)
def test_results_of_another_model_or_options_are_not_continued(change: str, place: Place) -> None:
    place.predict(format="coco")
    contents = {path: path.read_bytes() for path in place.output.rglob("*.json*")}
    with pytest.raises(InputError, match=f"contains results of .*{change}"):
        CHANGES[change](place)
    assert {path: path.read_bytes() for path in place.output.rglob("*.json*")} == contents


def test_options_that_change_no_result_may_differ(place: Place) -> None:
    place.predict(format="coco")
    place.files()[0].unlink()
    assert place.predict(format="coco", inference=InferenceOptions(batch_size=3, threads=1)).images == 3


def test_overwrite_starts_again_and_leaves_files_of_others(place: Place) -> None:
    place.predict(format="coco")
    summary = place.predict(format="coco", shard_size=5, overwrite=True)
    assert [path.name for path in place.files()] == ["shard-00000-of-00002.json", "shard-00001-of-00002.json"]
    assert summary.images == 7
    (place.output / "manifest.json").unlink()
    with pytest.raises(InputError, match="without a manifest"):
        place.predict(format="coco")
    (place.output / "detections/mine.json").write_text("{}")
    with pytest.raises(InputError, match=r"such as mine\.json"):
        place.predict(format="coco", overwrite=True)
    (place.output / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="not an earlier output"):
        place.predict(format="coco")
    with pytest.raises(InputError, match="folder of the input"):
        place.predict(output=str(place.images), format="coco")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are UTF-8")
def test_paths_that_are_not_utf_8(place: Place) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = place.output / "\udcff"
    folder.mkdir(parents=True)
    with (folder / "x.parquet").open("wb") as file:
        parquet.write_table(pa.table({"path": [str(place.images / name) for name in (place.good[0], *BROKEN)]}), file)
    options = ManyOptions(engine="local")
    summary = predict_many(place.model, str(folder / "x.parquet"), str(folder / "out"), None, options)
    assert (summary.images, summary.errors.total(), summary.manifest.complete) == (3, 2, True)


def test_results_inside_of_the_input_are_no_input(place: Place) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"path": [str(place.images / place.good[0])]}), place.images / "x.parquet")
    options = ManyOptions(engine="local", overwrite=True)
    for _ in range(2):
        source = f"{place.images}/**/*.parquet"
        summary = predict_many(place.model, source, str(place.images / "out"), None, options)
        assert (summary.images, summary.errors.total()) == (1, 0)


def test_a_shard_that_fails_is_tried_again_and_then_reported(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OutOfMemoryError("memory: full."), OutOfMemoryError("memory: full."), ResourceError("disk: full.")]
    write = shard_worker.open_shard_file

    def unreliable(path: Path, *arguments: Any) -> Any:
        if "shard-00001" in path.name and failures:
            raise failures.pop(0)
        return write(path, *arguments)

    monkeypatch.setattr(shard_worker, "open_shard_file", unreliable)
    summary = place.predict(format="coco", retries=1)
    assert [(failure.number, failure.message) for failure in summary.failures] == [(1, "memory: full.")]
    assert (summary.images, summary.manifest.complete) == (4, False)
    assert [path.name for path in place.files()] == ["shard-00000-of-00003.json", "shard-00002-of-00003.json"]
    summary = place.predict(format="coco", retries=1)
    assert (summary.images, summary.failures, summary.manifest.complete) == (3, [], True)


def test_output_in_remote_storage_is_complete_and_continued(place: Place) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    place.predict("memory://bucket/out", format="coco")
    names = sorted(name for name in memory.find("/bucket/out"))
    assert [name.removeprefix("/bucket/out/") for name in names] == [
        *(f"detections/shard-0000{i}-of-00003.json" for i in range(3)),
        *(f"errors/shard-0000{i}-of-00003.jsonl" for i in range(2)),
        *("manifest.json", "plan.jsonl"),
    ]
    memory.rm_file("/bucket/out/detections/shard-00002-of-00003.json")
    assert place.predict("memory://bucket/out", format="coco").images == 1
    memory.store.clear()


def test_two_runs_do_not_write_into_one_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = place.open

    def open_during_another_run(*arguments: Any) -> Predictor:
        monkeypatch.setattr(shard_worker, "_open", opened)
        with pytest.raises(ResourceError, match="another process predicts into this folder"):
            place.predict(format="coco")
        return opened(*arguments)

    monkeypatch.setattr(shard_worker, "_open", open_during_another_run)
    assert place.predict(format="coco").manifest.complete


def test_command_states_errors_totals_and_what_is_missing(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["predict-many", str(place.model), str(place.images), str(place.output), "--format", "coco"]
    assert cli.main([*words, "--engine", "local"]) == 0
    text = capsys.readouterr().out
    assert f"{place.images / 'image_1.jpg'}: unreadable (empty file)" in text
    assert "2 unreadable images, listed in errors: 1 empty file, 1 not an image" in text
    assert "7 images in this run: 5 dark, 5 bright" in text
    assert "complete: 7 images in 1 shards" in text
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(words) == 0
    assert "Ray is not installed: one process" in capsys.readouterr().out
    assert cli.main([*words, "--engine", "ray"]) == 2
    assert 'pip install "sais-seg[ray]"' in capsys.readouterr().err
    for name in place.good:
        (place.images / name).write_bytes(b"")
    assert cli.main([*words, "--engine", "local", "--overwrite"]) == 2
    assert "none of the 7 images can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [{"workers": -1}, {"shard_size": 0}, {"rows": "detection", "format": "coco"}, {"engine": "local", "workers": 2}],
)
def test_options_out_of_range_or_that_do_not_go_together(options: dict[str, Any]) -> None:
    with pytest.raises(SaisError):
        ManyOptions(**options)


def test_one_worker_needs_no_ray() -> None:
    pytest.importorskip("ray")
    assert choose_engine(ManyOptions(workers=1)) == "local"
    assert choose_engine(ManyOptions()) == choose_engine(ManyOptions(workers=1, engine="ray")) == "ray"
