"""Image sources: files, folders, glob patterns, lists and addresses, with the names that people's files have."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from sais.errors import InputError
from sais.io.sources import Sources, find_images, find_sources

POSIX = pytest.mark.skipif(os.name == "nt", reason="names that Windows does not allow")


def names(paths: list[Path]) -> list[str]:
    """Return the file names."""
    return [path.name for path in paths]


def file_names(sources: Sources) -> list[str]:
    """Return the names of the images in results."""
    return [image.file_name for image in sources.images]


def write(path: Path, value: int = 90) -> Path:
    """Write a small PNG image, whatever the suffix is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path, "PNG")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create files with image suffixes and others, in two levels."""
    for name in (
        "a10.jpg",
        "a2.JPG",
        "b.webp",
        "a1.png",
        "._a1.png",
        "notes.txt",
        "film.mp4",
        "sub/a3.tif",
        "sub/x.json",
    ):
        path = tmp_path / "shots" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "shots"


def test_find_images_sorts_naturally_and_skips_other_files(folder: Path) -> None:
    assert names(find_images(folder)) == ["a1.png", "a2.JPG", "a10.jpg", "b.webp"]
    assert names(find_images(str(folder) + "/a1*")) == ["a1.png", "a10.jpg"]
    assert names(find_images(f"{folder}/**/*")) == ["a1.png", "a2.JPG", "a10.jpg", "b.webp", "a3.tif"]
    assert names(find_images(folder / "b.webp")) == ["b.webp"]
    bracketed = folder / "take [1].png"  # a file name may look like a pattern
    bracketed.write_bytes(b"")
    assert find_images(bracketed) == [bracketed]


@pytest.mark.parametrize("source", ["missing", "missing*.jpg", "notes.txt", "*.txt", "", "film.mp4"])
def test_find_images_without_images_raises(folder: Path, source: str) -> None:
    source = f"{folder}/{source}" if source else str(folder.parent)
    with pytest.raises(InputError) as caught:
        find_images(source)
    assert str(caught.value).startswith(source.rstrip("/"))
    assert "\n" not in str(caught.value)


def test_find_images_counts_images_in_subfolders(folder: Path) -> None:
    with pytest.raises(InputError, match=r"/\*\*/\*' for the 5 in its subfolders"):
        find_images(folder.parent)


def test_find_sources_reads_by_content_and_counts_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jfif", "b.JPE", "c.dat", "d", "e.jp2"):
        write(tmp_path / name)
    (tmp_path / "g.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    for name in ("x.txt", "y.txt", "z.json", "film.mp4", "shot.nef", "unknown"):
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    sources = find_sources([str(tmp_path)])
    assert file_names(sources) == ["a.jfif", "b.JPE", "c.dat", "d", "e.jp2"]
    assert sources.left_out_text().startswith("2 .txt, ")
    assert sources.left_out == {
        ".txt": 2,
        ".json": 1,
        ".heic (install sais-seg[heif])": 1,
        ".mp4 (a video, which is predicted if named by itself)": 1,
        ".nef (camera raw)": 1,
        "without suffix": 1,
    }


@POSIX
def test_find_sources_counts_pipes_and_broken_links(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    sources = find_sources([str(tmp_path)])
    assert file_names(sources) == ["a.png"]
    assert sources.left_out == {"pipe or device": 1, "broken link": 1}
    os.mkfifo(tmp_path / "film.mp4")  # opened as a video it would wait for a writer
    assert find_sources([str(tmp_path / "film.mp4")]).videos == []


@pytest.mark.parametrize(
    "name",
    [
        *("take [1].png", "star *.png", "what?.png", "caf\u00e9 \u5199\u771f.png", "new\nline.png", "back\\slash.png"),
        *("100%25.png", "-dash.png", " lead.png", "~tilde.png", os.fsdecode(b"caf\xe9.png")),
    ],
)
@POSIX
def test_find_sources_takes_an_existing_name_literally(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "odd [x]" / name)
    for word in (str(path), str(path.parent), f"{path.parent}/*", f"{tmp_path}/*/*.png"):
        sources = find_sources([word])
        assert [image.location for image in sources.images] == [path]
        assert "\n" not in sources.images[0].label
        assert sources.images[0].label.encode()
    assert file_names(find_sources([str(path)])) == [name]
    assert file_names(find_sources([f"{tmp_path}/*/*"])) == [f"odd [x]/{name}"]


def test_find_sources_finds_other_spellings_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "photos" / "caf\u00e9 1.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    words = [unicodedata.normalize("NFD", str(path)), quote(str(path)), "~/photos/caf\u00e9 1.png"]
    if os.name != "nt":
        words.append(str(path).replace("/", "\\"))
    for word in words:
        sources = find_sources([word])
        assert [str(image.location) for image in sources.images] == [str(path)] or os.path.exists(word)
        assert sources.notes or os.path.exists(word)
    assert find_sources([path.as_uri()]).images[0].location == path
    with pytest.raises(InputError, match="Did you mean .*caf\u00e9 1.png"):
        find_sources([str(path).replace(" 1", "-1")])
    with pytest.raises(InputError, match="Use http, https or rtsp"):
        find_sources(["s3://bucket/a.png"])


def test_find_sources_of_several_words_keeps_equal_names_apart(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a/x.png"), write(tmp_path / "b/x.png")
    third = write(tmp_path / "b/y.png")
    words = [str(first), str(second), str(third), str(first)]
    sources = find_sources(words)
    assert [image.location for image in sources.images] == [first, second, third]
    assert file_names(sources) == ["a/x.png", "b/x.png", "y.png"]
    assert "1 images are named more than once" in sources.notes[0]
    assert file_names(find_sources([str(first.parent), str(second.parent)])) == ["a/x.png", "b/x.png", "y.png"]


def test_find_sources_of_a_shell_glob_leaves_out_other_files(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "film.mp4").write_text("no video")
    write(tmp_path / "predictions/a.png")
    (tmp_path / "predictions/predictions.json").write_text("{}")
    write(tmp_path / "more/b.png")
    sources = find_sources(sorted(str(path) for path in tmp_path.iterdir()))
    assert file_names(sources) == ["a.png", "b.png"]
    assert sources.videos == [tmp_path / "film.mp4"]
    assert sources.left_out == {".txt": 1, "folder with predictions.json": 1}
    with pytest.raises(InputError, match="no such file"):
        find_sources([str(tmp_path / "a.png"), str(tmp_path / "typo.png")])


@pytest.mark.parametrize("word", ["", "  "])
def test_find_sources_names_an_empty_word(word: str) -> None:
    """The error once began with a colon, because it named the word only."""
    with pytest.raises(InputError, match=f"source '{word}': an empty name"):
        find_sources([word])


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_find_sources_reads_a_list(tmp_path: Path, separator: str) -> None:
    first, second = write(tmp_path / "a b.png"), write(tmp_path / "c.png")
    listing = separator.join([str(first), "", str(second), "https://example.com/x/d.jpg?size=1", ""])
    sources = find_sources(["-"], listing=os.fsencode(listing))
    assert [image.location for image in sources.images] == [first, second, "https://example.com/x/d.jpg?size=1"]
    assert file_names(sources) == ["a b.png", "c.png", "d.jpg"]
    with pytest.raises(InputError, match="standard input: no paths"):
        find_sources(["-"], listing=b"\n")


def test_find_sources_names_folders_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shots").mkdir()
    monkeypatch.chdir(tmp_path / "shots")
    sources = find_sources(["-"], listing=b".\n..\n/\n")  # as `find .` lists its folder
    assert file_names(sources) == ["shots", tmp_path.name, "root"]


def test_find_sources_expands_pages(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((4, 6, 3), 80 * i, np.uint8)) for i in range(3)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "single.tif")
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    sources = find_sources([str(tmp_path)], pages="all")
    expected = ["broken.tif", *(f"scan_page_000{i}.tif" for i in (1, 2, 3)), "single.tif"]
    assert file_names(sources) == expected
    assert sources.images[2].entry() == {
        "file_name": "scan_page_0002.tif",
        "source_file": str(tmp_path / "scan.tif"),
        "page": 2,
    }
    assert [image.page for image in find_sources([str(tmp_path)]).images] == [None, None, None]
