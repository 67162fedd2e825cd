"""The cache of large annotation files: the same reading, and a new one as soon as anything has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sais import input_limits
from sais.cli import main
from sais.data import packed_annotations
from sais.data.annotations import DatasetSplit
from sais.data.formats import annotation_cache, coco, read_dataset
from sais.data.formats.annotation_cache import cache_folder
from sais.data.packed_annotations import PackedImages
from sais.errors import InputError, ResourceError
from tests.data.formats.coco_samples import make_document, write_split

Read = Callable[..., DatasetSplit]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data set whose annotations were written an hour ago, and use a cache for such small files."""
    monkeypatch.setenv("SAIS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(annotation_cache, "MIN_FILE_BYTES", 0)
    monkeypatch.setattr(annotation_cache, "SETTLED_SECONDS", -1.0)  # the time of a change of status cannot be set
    monkeypatch.setattr(packed_annotations, "MIN_PACKED", 0)
    document = make_document(4)
    document["annotations"][1]["bbox"] = [100, 20, 40, 30]
    document["annotations"][1]["segmentation"] = []
    write_split(tmp_path / "data", "train", document)
    return tmp_path / "data"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of the files that are parsed, not read from the cache."""
    paths: list[Path] = []
    read_entries = coco.read_entries

    def count(path: Path) -> object:
        paths.append(path)
        return read_entries(path)

    monkeypatch.setattr(coco, "read_entries", count)
    return paths


def entries() -> list[Path]:
    folder = cache_folder()
    return [] if folder is None else sorted(folder.glob("*.annotations"))


def describe(split: DatasetSplit) -> str:
    """Return all of a split."""
    objects = [
        (record.id, record.source, record.size, a.id, a.label, a.box.tolist(), a.segmentation, a.crowd, a.area)
        for record in split.images
        for a in record.annotations
    ]
    return repr((split.name, split.class_names, split.category_ids, split.notes, split.examples, split.origin, objects))


def test_second_reading_comes_from_the_cache_and_is_the_same(
    folder: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (read_dataset(folder, "train") for _ in range(2))
    assert len(parsed) == 1
    assert len(entries()) == 1
    assert describe(first) == describe(second)
    assert list(first.notes.items()) == list(second.notes.items())
    assert len(first.notes) == 2
    assert isinstance(first.images, PackedImages)
    assert first.images.__reduce__()[1][0] == entries()[0]  # mapped at once, also by the process that wrote it
    monkeypatch.setattr(packed_annotations, "MIN_PACKED", 10**6)
    assert isinstance(read_dataset(folder, "train").images, tuple)
    assert len(parsed) == 1


def test_rewritten_file_of_the_same_size_is_noticed(folder: Path, parsed: list[Path]) -> None:
    path = folder / "annotations" / "train.json"
    text = path.read_text()
    read_dataset(folder, "train")
    path.write_text(text.replace('"part"', '"trap"'))  # in the same second, the same inode
    assert path.stat().st_size == len(text)
    assert read_dataset(folder, "train").class_names == ("trap",)
    other = folder / "annotations" / "other"
    other.write_text(text)
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(other, path)  # another inode with the same time
    assert read_dataset(folder, "train").class_names == ("part",)
    assert len(parsed) == 3


def test_file_that_was_just_written_is_not_cached(
    folder: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write within the resolution of the file system's clock would have the same size and time."""
    monkeypatch.setattr(annotation_cache, "SETTLED_SECONDS", 2.0)
    read_dataset(folder, "train")
    assert entries() == []
    monkeypatch.setattr(annotation_cache, "SETTLED_SECONDS", -1.0)
    read_dataset(folder, "train")
    assert len(entries()) == 1
    read_dataset(folder, "train")
    assert len(parsed) == 2


def test_file_changed_while_it_is_read_is_not_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_entries = coco.read_entries

    def read_and_change(path: Path) -> object:
        result = read_entries(path)
        path.write_text(path.read_text().replace('"part"', '"trap"'))
        return result

    monkeypatch.setattr(coco, "read_entries", read_and_change)
    assert read_dataset(folder, "train").class_names == ("part",)
    assert entries() == []


def test_added_and_removed_images_are_noticed(folder: Path, parsed: list[Path]) -> None:
    image = folder / "images" / "2.png"
    assert read_dataset(folder, "train").notes.get("image files not found") is None
    content = image.read_bytes()
    image.unlink()
    assert read_dataset(folder, "train").notes["image files not found"] == 1
    read_dataset(folder, "train")
    assert len(parsed) == 2
    (folder / "images" / "train").mkdir()
    (folder / "images" / "train" / "2.png").write_bytes(content)  # found by a search of the whole tree
    assert read_dataset(folder, "train").images[2].path == folder / "images" / "train" / "2.png"
    assert len(parsed) == 3


def test_options_have_entries_of_their_own(folder: Path, parsed: list[Path]) -> None:
    for _ in range(2):
        read_dataset(folder, "train")
        read_dataset(folder, "train", ("part",))
    assert len(parsed) == 2
    limit = input_limits.MAX_OUTLINE_POINTS
    input_limits.MAX_OUTLINE_POINTS = 3
    try:
        with pytest.raises(InputError, match="above the limit of 3"):
            read_dataset(folder, "train")
    finally:
        input_limits.MAX_OUTLINE_POINTS = limit


def test_sizes_read_from_images_are_not_cached(folder: Path) -> None:
    path = folder / "annotations" / "train.json"
    document = json.loads(path.read_text())
    del document["images"][0]["width"]
    path.write_text(json.dumps(document))
    read_dataset(folder, "train")
    assert entries() == []


def test_problems_are_reported_from_the_cache_as_well(folder: Path, parsed: list[Path]) -> None:
    path = folder / "annotations" / "train.json"
    document = json.loads(path.read_text())
    document["annotations"][3]["category_id"] = 99
    document["annotations"][5]["bbox"] = "x"
    path.write_text(json.dumps(document))
    messages = []
    found: list[dict[str, list[str]]] = [{}, {}]
    for problems in found:
        with pytest.raises(InputError) as raised:
            read_dataset(folder, "train")
        messages.append(str(raised.value))
        read_dataset(folder, "train", problems=problems)
    assert len(parsed) == 1
    assert messages[0] == messages[1]
    assert "category 99" in messages[0]
    assert found[0] == found[1]
    assert sum(map(len, found[0].values())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty", "folder", "other"])
def test_damaged_entry_is_ignored_and_replaced(folder: Path, parsed: list[Path], damage: str) -> None:
    expected = describe(read_dataset(folder, "train"))
    (entry,) = entries()
    content = entry.read_bytes()
    if damage == "truncated":
        entry.write_bytes(content[:-40])
    elif damage == "flipped":
        position = content.index(json.dumps("part").encode())
        entry.write_bytes(content[:position] + b'"trap"' + content[position + 6 :])
    elif damage == "foreign":
        entry.write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.")  # a pickle
    elif damage == "empty":
        entry.write_bytes(b"")
    elif damage == "folder":
        entry.unlink()
        entry.mkdir()
    else:  # a sound entry of another file under this name
        write_split(folder.parent / "data2", "train", make_document(2))
        read_dataset(folder.parent / "data2", "train")
        (other,) = set(entries()) - {entry}
        os.replace(other, entry)
        parsed.pop()
    assert describe(read_dataset(folder, "train")) == expected
    assert len(parsed) == 2
    if damage != "folder":
        assert describe(read_dataset(folder, "train")) == expected
        assert len(parsed) == 2


def test_cache_can_be_switched_off(
    folder: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--no-cache"], []):
        assert (
            main(["convert", str(folder), str(folder.parent / "out"), "--to", "coco", "--overwrite", *arguments]) == 0
        )
        assert (entries() == []) == bool(arguments)
    capsys.readouterr()
    assert os.environ["SAIS_CACHE"] == str(folder.parent / "cache")
    for value in ("off", "OFF", "0"):
        monkeypatch.setenv("SAIS_CACHE", value)
        assert cache_folder() is None
        parsed.clear()
        read_dataset(folder, "train")
        assert len(parsed) == 1


def test_cache_is_in_the_users_folder_and_not_with_the_data(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAIS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    files = set(folder.rglob("*"))
    read_dataset(folder, "train")
    assert set(folder.rglob("*")) == files
    assert [path.parent for path in entries()] == [tmp_path / "xdg" / "sais" / "annotations"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "sais" / "annotations"


def test_small_files_are_not_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_cache, "MIN_FILE_BYTES", 20 * 10**6)
    read_dataset(folder, "train")
    assert entries() == []


def test_file_beyond_the_limit_leaves_nothing_in_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_limits, "MAX_JSON_BYTES", 100)
    with pytest.raises(ResourceError, match="above the limit"):
        read_dataset(folder, "train")
    assert not (folder.parent / "cache").exists()


def test_folder_that_cannot_be_written_is_no_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder.parent / "file").write_text("")
    monkeypatch.setenv("SAIS_CACHE", str(folder.parent / "file"))
    assert len(read_dataset(folder, "train").images) == 4


def test_entries_that_were_not_used_for_the_longest_time_are_removed(
    folder: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [folder.parent / name for name in ("a", "b", "c")]
    for position, other in enumerate(folders):
        write_split(other, "train", make_document(4))
        read_dataset(other, "train")
        (newest,) = (path for path in entries() if path.stat().st_mtime > 1e9)
        os.utime(newest, (position, position))
    read_dataset(folders[0], "train")  # used again
    size = max(path.stat().st_size for path in entries())
    monkeypatch.setattr(annotation_cache, "MAX_CACHE_BYTES", 2 * size + size // 2)
    read_dataset(folder, "train")
    assert len(entries()) == 2
    parsed.clear()
    for other in (folder, folders[0]):
        read_dataset(other, "train")
    assert parsed == []


def test_processes_at_the_same_time_read_the_same(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sais.data.formats import annotation_cache, read_dataset\n"
        "annotation_cache.MIN_FILE_BYTES, annotation_cache.SETTLED_SECONDS = 0, -1.0\n"
        "split = read_dataset(sys.argv[1], 'train')\n"
        "print([(a.id, a.box.tolist()) for record in split.images for a in record.annotations])"
    )
    command = [sys.executable, "-c", code, str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    split = read_dataset(folder, "train")
    assert outputs == [f"{[(a.id, a.box.tolist()) for record in split.images for a in record.annotations]}\n"] * 3
    assert len(entries()) == 1
    assert {path.name for path in entries()[0].parent.iterdir()} == {entries()[0].name, "lock"}


def test_large_ids_are_read_but_not_cached(folder: Path) -> None:
    path = folder / "annotations" / "train.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["id"] = 10**30
    path.write_text(json.dumps(document))
    assert read_dataset(folder, "train").images[0].annotations[0].id == 10**30
    assert entries() == []
