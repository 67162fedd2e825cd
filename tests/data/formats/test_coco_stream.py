"""A COCO file that is parsed in pieces: the same document and the same arrays as when it is read whole."""

from __future__ import annotations

import dataclasses
import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.data.formats import coco_entries, coco_stream
from sais.data.formats.coco import read_coco
from sais.data.formats.coco_document import read_document
from sais.data.formats.coco_entries import Entries, collect
from sais.data.formats.coco_stream import stream_document
from sais.errors import InputError
from tests.data.formats.coco_samples import make_document

TEXT = json.dumps(make_document(2) | {"info": {"year": 2017, "note": 'a "quoted" \\ é'}, "version": 1.5})


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse small files in pieces as well."""
    monkeypatch.setattr(coco_stream, "MIN_STREAMED_BYTES", 0)


def assert_equal_entries(first: Entries, second: Entries) -> None:
    for field in dataclasses.fields(Entries):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name == "polygons":
            for name in ("ends", "coordinates", "integers"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        elif isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        else:
            assert one == other


@pytest.mark.parametrize("piece", [16, 17, 100, 10**6])
@pytest.mark.parametrize("batch", [1, 3, 4096])
def test_pieces_of_any_length_make_the_same_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, batch: int
) -> None:
    monkeypatch.setattr(coco_stream, "_PIECE_BYTES", piece)
    monkeypatch.setattr(coco_stream, "_BATCH", batch)
    monkeypatch.setattr(coco_entries, "_CHUNK", batch)
    path = tmp_path / "a.json"
    indented = json.dumps(json.loads(TEXT), indent=2, ensure_ascii=False).encode()
    for content in (TEXT.encode(), indented, b"\xef\xbb\xbf" + indented, gzip.compress(indented)):
        path.write_bytes(content)
        streamed = stream_document(path)
        assert streamed is not None
        whole = read_document(path)
        assert_equal_entries(streamed[1], collect(whole["annotations"]))
        assert streamed[0] == whole | {"annotations": []}
        assert list(streamed[0]) == list(whole)


def test_every_truncation_is_an_error_and_no_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_stream, "_PIECE_BYTES", 16)
    path = tmp_path / "a.json"
    for length in range(len(TEXT)):
        path.write_text(TEXT[:length])
        assert stream_document(path) is None
    with pytest.raises(InputError, match="not JSON"):
        read_coco(path, None)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.replace('"info"', '"images"', 1).encode(),
        (TEXT[:-1] + ', "annotations": []}').encode(),
        (TEXT + "x").encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-32-le"),
        b"[" + TEXT.encode() + b"]",
        TEXT.replace("1.5", "1.5.5").encode(),
        TEXT.replace("é", "e").encode() + b"\xff",
        TEXT.replace(", ", ",, ", 1).encode(),
        b"",
        b"{}",
        gzip.compress(TEXT.encode())[:-9],
        b"\x1f\x8bxx",
    ],
)
def test_other_files_are_left_to_the_reader_of_whole_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert stream_document(path) is None


def test_missing_file_and_folder_are_left_as_well(tmp_path: Path) -> None:
    assert stream_document(tmp_path / "missing.json") is None
    assert stream_document(tmp_path) is None


ODD_ENTRIES: list[Any] = [
    {"area": None},
    {"area": 0},
    {"area": True},
    {"area": float("inf")},
    {"area": float("nan")},
    {"area": 10**400},
    {"id": "7"},
    {"id": 7.0},
    {"id": True},
    {"id": 2**63},
    {"image_id": "1"},
    {"image_id": -(2**63) - 1},
    {"category_id": 1.0},
    {"bbox": [1, 2, 3]},
    {"bbox": [1, 2, 3, "4"]},
    {"bbox": [1, 2, 3, True]},
    {"bbox": [1, 2, 3, float("nan")]},
    {"bbox": [1, 2, 3, 2**53]},
    {"iscrowd": "1"},
    {"iscrowd": True},
    {"segmentation": "x"},
    {"segmentation": 1},
    {"segmentation": {"size": [96, 128], "counts": [96 * 128]}},
    {"segmentation": [1, 2, 3, 4, 5, 6]},
    {"segmentation": [[1, 2, 3, 4]]},
    {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
    {"segmentation": [[1, 2, 3, 4, 5, 6], "x"]},
    {"segmentation": [[1, 2, 3, 4, 5, "6"]]},
    {"segmentation": [[1, 2, 3, 4, 5, None]]},
    {"segmentation": [[1, 2, 3, 4, 5, True]]},
    {"segmentation": [[1, 2, 3, 4, 5, [6]]]},
    {"segmentation": [[1, 2, 3, 4, 5, float("nan")]]},
    {"segmentation": [[1, 2, 3, 4, 5, 2**53 + 1]]},
    {"segmentation": [[1, 2, 3, 4, 5, 10**400]]},
    None,
    "x",
    [],
    7,
]


@pytest.mark.parametrize("change", ODD_ENTRIES, ids=repr)
def test_odd_entry_remains_as_it_is(change: Any) -> None:
    entries: list[Any] = make_document(3)["annotations"]
    entries[2] = entries[2] | change if isinstance(change, dict) else change
    collected = collect(entries)
    assert list(collected.others) == [2]
    assert repr(collected.raw(2)) == repr(entries[2])
    assert collected.positions.tolist() == [0, 1, 3, 4, 5]


def test_usual_entries_are_restored_exactly() -> None:
    entries = make_document(3)["annotations"]
    entries[0]["segmentation"] = [[1, 2.0, 3, 4.5, 5, 6], [1.25, 2.5, 0.1, -3.0, 4.0, 1e-9, 7.0, 8]]
    entries[1]["segmentation"] = []
    entries[2]["segmentation"] = None
    entries[3]["iscrowd"] = 2
    del entries[4]["segmentation"], entries[4]["iscrowd"]
    collected = collect(entries)
    assert collected.others == {}
    assert repr(collected.raw(0)["segmentation"]) == repr(entries[0]["segmentation"])
    assert [collected.raw(row)["segmentation"] for row in (1, 2, 4)] == [[], [], []]
    assert collected.crowds.tolist() == [False, False, False, True, False, False]
    assert collected.extents[0].tolist() == [0.1, -3.0, 7.0, 8.0]
    assert np.isnan(collected.extents[[1, 2, 4]]).all()
    assert collected.point_counts().tolist() == [7, 0, 0, 4, 0, 4]
    assert collected.raw(5)["segmentation"] == entries[5]["segmentation"]


def test_file_without_annotations_is_read_in_pieces(tmp_path: Path) -> None:
    document = make_document(2)
    del document["annotations"]
    (tmp_path / "a.json").write_text(json.dumps(document))
    streamed = stream_document(tmp_path / "a.json")
    assert streamed is not None
    assert streamed[1].count == 0
    assert [len(record.annotations) for record in read_coco(tmp_path / "a.json", None).images] == [0, 0]


def test_memory_is_a_part_of_that_of_the_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, JSON takes 6 to 8 times its size as text and objects; in pieces, 9 bytes for 7 letters of a number."""
    monkeypatch.setattr(coco_stream, "_PIECE_BYTES", 2**16)
    monkeypatch.setattr(coco_stream, "_BATCH", 64)
    monkeypatch.setattr(coco_entries, "_CHUNK", 64)
    document = make_document(2)
    outline = [[round(10.01 + 0.37 * i % 90, 2) for i in range(80)]]
    document["annotations"] = [entry | {"segmentation": outline} for entry in document["annotations"]] * 500
    for number, entry in enumerate(document["annotations"]):
        document["annotations"][number] = entry | {"id": number + 1}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document))
    del document
    size = path.stat().st_size
    assert size > 1e6
    tracemalloc.start()
    streamed = stream_document(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert streamed is not None
    assert peak < 3 * size
