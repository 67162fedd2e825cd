"""Inputs of a prediction over many images: folders, patterns, lists, tar and Parquet files, local and remote."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.errors import InputError
from sais.io.sources import find_sources
from sais.scaling.inputs import find_items, read_listing
from sais.scaling.item_reader import ItemReader

PALETTE = {name: (40 * i + 10, 255 - 30 * i, 17 * i) for i, name in enumerate("abcdef")}
"""Name of an image -> its color, by which the test knows which image was read."""


def encoded(name: str) -> bytes:
    """Return a PNG image in the color of its name."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), PALETTE[name]).save(stream, "PNG")
    return stream.getvalue()


def names_by_color(word: str, column: str | None = None, name_column: str | None = None) -> dict[str, str]:
    """Return the name of each item of an input -> the name whose color its pixels have."""
    found = find_items(word, read_listing(word), column, name_column)
    reader = ItemReader(found.column)
    colors = {color: name for name, color in PALETTE.items()}
    names = {}
    for item in found.items:
        pixels, _ = reader.decode(reader.fetch(item))
        assert pixels.shape == (3, 4, 3)
        names[item.name] = colors[tuple(int(value) for value in pixels[1, 1])]
    reader.close()
    assert len(names) == len(found.items)
    return names


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with images, one below it, and a text."""
    for path, name in (("10.png", "a"), ("2.png", "b"), ("sub/2.png", "c")):
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / path).write_bytes(encoded(name))
    (tmp_path / "photos/notes.txt").write_text("not an image")
    return tmp_path / "photos"


def test_folders_and_patterns_have_the_names_of_sais_predict(photos: Path) -> None:
    for word in (str(photos), f"{photos}/**/*"):
        expected = [image.file_name for image in find_sources([word]).images]
        assert [item.name for item in find_items(word, b"").items] == expected
    assert names_by_color(f"{photos}/**/*.png") == {"2.png": "b", "10.png": "a", "sub/2.png": "c"}
    assert find_items(str(photos), b"").notes == ["left out: 1 .txt"]


def test_list_keeps_its_order_and_names_each_image_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    Path("list.txt").write_text(f"{photos / 'sub/2.png'}\r\n2.png\n\n{(photos / '10.png').as_uri()}\n2.png\n")
    names = names_by_color("list.txt")
    assert list(names.values()) == ["c", "b", "a"]
    assert len(set(names)) == 3
    assert find_items("list.txt", read_listing("list.txt")).notes == ["left out: 1 lines that repeat an earlier one"]
    with pytest.raises(InputError, match="no paths"):
        read_listing("-", b"\n \n")


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a tar file."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))


def test_tar_files_give_images_without_other_extensions(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x-00.tar", {"1.png": encoded("a"), "1.json": b"{}", "1.seg.png": encoded("f"), "._1.png": b""}
    )
    write_tar(tmp_path / "x-01.tar", {"1.png": encoded("b"), "./k/2.png": encoded("c")})
    expected = {"x-00/1.png": "a", "x-01/1.png": "b", "k/2.png": "c"}
    for word in (str(tmp_path), f"{tmp_path}/x-{{00..01}}.tar", f"{tmp_path}/*.tar"):
        assert names_by_color(word) == expected, word
    assert names_by_color(str(tmp_path / "x-00.tar"), "seg.png") == {"1.seg.png": "f"}
    with pytest.raises(InputError, match="no members with the extension tiff"):
        find_items(str(tmp_path), b"", "tiff")
    (tmp_path / "x-00.tar").write_bytes((tmp_path / "x-00.tar").read_bytes()[:700])
    with pytest.raises(InputError, match="tar"):
        names_by_color(str(tmp_path))
    (tmp_path / "y.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match="compressed"):
        find_items(str(tmp_path / "y.tar.gz"), b"")


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Return a Parquet file with images in each form that is read, in row groups of two."""
    pa = pytest.importorskip("pyarrow")
    content = [encoded(name) for name in "abcde"]
    (tmp_path / "f.png").write_bytes(encoded("f"))
    columns: dict[str, Any] = {
        "id": list("vwxyz"),
        "image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(content)],
        "raw": content,
        "path": [str(tmp_path / "f.png"), None, "", None, None],
        "number": list(range(5)),
    }
    path = tmp_path / "data.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pa.table(columns), path, row_group_size=2)
    return path


def test_parquet_columns_of_bytes_structures_and_paths(parquet: Path) -> None:
    assert names_by_color(str(parquet)) == dict(zip("vwxyz", "abcde", strict=True))
    assert names_by_color(str(parquet), "raw", "path") == {
        str(parquet.parent / "f.png"): "a",
        **{f"data#{row}": name for row, name in enumerate("abcde") if row},
    }
    assert names_by_color(str(parquet), "path", "id") == {"v": "f"}
    for column in ("number", "missing"):
        with pytest.raises(InputError, match=f"column '{column}'"):
            find_items(str(parquet), b"", column)


def test_equal_names_become_unique_also_against_names_with_numbers(parquet: Path) -> None:
    pa, names = pytest.importorskip("pyarrow"), ["a.jpg", "a.jpg", "a-2.jpg", "", "x//y", "x//y", "..", ".."]
    place = str(parquet.parent / "f.png")
    table = pa.table({"path": [place] * len(names), "name": names})
    pytest.importorskip("pyarrow.parquet").write_table(table, parquet)
    found = [item.name for item in find_items(str(parquet), b"", "path", "name").items]
    assert found == ["a.jpg", "a-2.jpg", "a-2-2.jpg", "f.png", "x//y", "x//y-2", "..", "..-2"]


def test_parquet_files_without_any_path_state_their_rows(parquet: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    for paths, text in (([None, ""], "2 rows without a path"), ([], "no rows")):
        table = pa.table({"path": pa.array(paths, pa.string())})
        pytest.importorskip("pyarrow.parquet").write_table(table, parquet)
        with pytest.raises(InputError, match=f"no images in 1 Parquet files, {text}"):
            find_items(str(parquet), b"")


def test_damaged_parquet_files_are_errors_of_their_file(parquet: Path) -> None:
    content = bytearray(parquet.read_bytes())
    content[4:40] = bytes(36)  # the header and the values of the column of names
    parquet.write_bytes(content)
    with pytest.raises(InputError, match=r"data\.parquet: the column 'id' cannot be read"):
        find_items(str(parquet), b"")
    parquet.write_bytes(content[:-20])
    with pytest.raises(InputError, match=r"data\.parquet: cannot be read as Parquet"):
        find_items(str(parquet), b"")


def test_rows_are_read_from_the_middle_and_backwards(parquet: Path) -> None:
    items = find_items(str(parquet), b"").items
    reader = ItemReader("image")
    for position in (3, 4, 1, 1, 0):
        pixels, _ = reader.decode(reader.fetch(items[position]))
        assert tuple(pixels[0, 0]) == PALETTE["abcde"[position]]


@pytest.fixture
def memory() -> Iterator[Any]:
    """Return fsspec's file system in memory, empty."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_remote_folders_patterns_lists_and_containers(memory: Any, tmp_path: Path, parquet: Path) -> None:
    write_tar(tmp_path / "x.tar", {"1.png": encoded("d")})
    files = {"p/1.png": encoded("a"), "p/k/2.png": encoded("b"), "p/notes.txt": b"x"}
    files |= {"t/x.tar": (tmp_path / "x.tar").read_bytes(), "q/x.parquet": parquet.read_bytes()}
    files["list.txt"] = b"memory://p/k/2.png\nmemory://p/1.png\n"
    for name, content in files.items():
        memory.pipe_file(f"/{name}", content)
    assert names_by_color("memory://p") == {"1.png": "a"}
    assert names_by_color("memory://p/**/*.png") == {"1.png": "a", "k/2.png": "b"}
    assert list(names_by_color("memory://list.txt").items()) == [("2.png", "b"), ("1.png", "a")]
    assert names_by_color("memory://t") == {"1.png": "d"}
    assert list(names_by_color("memory://q/*.parquet").values()) == list("abcde")
    for word in ("memory://nowhere", "memory://p/**.png"):
        with pytest.raises(InputError, match=f"{re.escape(word)}: cannot be listed"):
            find_items(word, b"")


def test_network_errors_are_tried_again_and_missing_files_are_not(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/1.png", encoded("a"))
    waits: list[float] = []
    monkeypatch.setattr("sais.scaling.item_reader.time.sleep", waits.append)
    failures = [OSError("connection reset"), OSError("timeout")]
    opened = type(memory).open

    def unreliable(system: Any, *arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop()
        return opened(system, *arguments, **options)

    monkeypatch.setattr(type(memory), "open", unreliable)
    reader = ItemReader(None)
    (item,) = find_items("-", b"memory://1.png").items
    assert reader.decode(reader.fetch(item))[0].any()
    assert waits == [0.5, 2.0]
    memory.rm_file("/1.png")
    with pytest.raises(InputError, match="no such file"):
        reader.fetch(item)
    assert len(waits) == 2


def test_unknown_storage_and_empty_rows_are_errors_of_one_line(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="nosuch://x"):
        find_items("nosuch://x", b"")
    pytest.importorskip("pyarrow.parquet").write_table(
        pa.table({"image": pa.array([None, encoded("a")], pa.binary())}), tmp_path / "x.parquet"
    )
    items = find_items(str(tmp_path), b"").items
    reader = ItemReader("image")
    with pytest.raises(InputError, match="x.parquet#0: a row without an image"):
        reader.fetch(items[0])
    assert np.any(reader.decode(reader.fetch(items[1]))[0])
