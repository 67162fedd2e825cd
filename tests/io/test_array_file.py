"""Files of arrays: what is written is read, and a damaged or foreign file is refused."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.io.array_file import map_arrays, write_arrays

ARRAYS = {
    "ids": np.array([3, -1, 2**62], np.int64),
    "boxes": np.arange(8, dtype=np.float32).reshape(2, 4),
    "areas": np.array([0.1, np.inf, 1e300]),
    "flags": np.array([True, False, True]),
    "text": np.frombuffer(b"caf\xc3\xa9", np.uint8),
    "labels": np.array([[1], [2]], np.int32),
    "none": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "a.arrays"
    write_arrays(path, {"name": "é", "count": 3}, ARRAYS)
    return path


def test_arrays_are_mapped_as_they_were_written(file: Path) -> None:
    header, arrays = map_arrays(file)
    assert header == {"name": "é", "count": 3}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
        assert not arrays[name].flags.writeable


def test_strided_array_is_written(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", {}, {"x": ARRAYS["ids"][::2]})
    np.testing.assert_array_equal(map_arrays(tmp_path / "a")[1]["x"], [3, 2**62])


@pytest.mark.parametrize("array", [np.array([1, "a"], object), np.array(["a"]), np.zeros(2, np.complex128)])
def test_array_of_another_type_is_not_written(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="array x"):
        write_arrays(tmp_path / "a", {}, {"x": array})
    assert list(tmp_path.iterdir()) == []


def test_every_damaged_byte_is_noticed(file: Path) -> None:
    """Change each byte in turn; only those between the arrays, which are not read, may be changed unnoticed."""
    content = file.read_bytes()
    unnoticed = []
    for position in range(len(content)):
        file.write_bytes(content[:position] + bytes([content[position] ^ 0x41]) + content[position + 1 :])
        try:
            map_arrays(file)
        except ValueError:
            continue
        unnoticed.append(position)
    assert all(content[position] == 0 for position in unnoticed)
    file.write_bytes(content)
    map_arrays(file)


@pytest.mark.parametrize("length", [0, 1, 19, 20, 60, -1, -60])
def test_truncated_file_is_refused(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError):
        map_arrays(file)
    with pytest.raises(ValueError):
        map_arrays(file, verify=False)


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "|O8"},
        {"shape": [-1]},
        {"shape": [2**40]},
        {"offset": -64},
        {"offset": 2**40},
        {"shape": "ab"},
        {"type": "<i2"},
    ],
)
def test_entry_that_leaves_the_file_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    """Write headers with a right checksum, as a stranger could."""
    entries = [{"name": "x", "type": "<i8", "shape": [1], "offset": 0, "crc": 0} | entry]
    text = json.dumps({"header": {}, "arrays": entries}).encode()
    (tmp_path / "a").write_bytes(struct.pack("<8sQI", b"SAIS\x89arr", len(text), zlib.crc32(text)) + text + bytes(80))
    with pytest.raises((ValueError, TypeError)):
        map_arrays(tmp_path / "a", verify=False)
