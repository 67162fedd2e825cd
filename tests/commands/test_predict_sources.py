"""`sais predict` on the files that people have: kinds, pages, names, lists, addresses, unreadable images."""

from __future__ import annotations

import functools
import io
import json
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais import cli

PIXELS = np.random.default_rng(0).integers(60, 90, (48, 64, 3), np.uint8)


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write one scene in many kinds of files; HEIC cannot be read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    folder = tmp_path / "kinds"
    folder.mkdir()
    image = Image.fromarray(PIXELS)
    formats = {
        "a.jpg": "JPEG",
        "b.jfif": "JPEG",
        "c.JPE": "JPEG",
        "d.jp2": "JPEG2000",
        "e.avif": "AVIF",
        "f.ppm": "PPM",
    }
    for name, encoder in (formats | {"h.JPEG": "JPEG", "m.mpo": "JPEG"}).items():
        image.save(folder / name, encoder)
    (folder / "g.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    (folder / "notes.txt").write_text("text")
    pages = [Image.fromarray(np.roll(PIXELS, 20 * i, 1)) for i in range(3)]
    for name in ("n_pages.tif", "o_frames.gif", "p_frames.webp"):
        pages[0].save(folder / name, save_all=True, append_images=pages[1:])
    return folder


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """Return the images of predictions.json."""
    images: list[dict[str, Any]] = json.loads((folder / "predictions.json").read_text())["images"]
    return images


def drawing_stems(folder: Path) -> list[str]:
    """Return the names of the drawings without suffix, relative to the folder."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.jpg"))


def test_predict_reads_every_kind_of_file(trained: Path, kinds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(trained), "kinds", "--out", "first"]) == 0
    out = capsys.readouterr().out
    assert "1 .heic (install sais-seg[heif])" in out
    assert "1 .txt" in out
    assert "3 files with several pages or frames, of which the first is read; --pages all reads all" in out
    names = [entry["file_name"] for entry in read_entries(Path("first"))]
    assert names == [path.name for path in sorted(kinds.iterdir()) if path.suffix not in (".heic", ".txt")]
    assert drawing_stems(Path("first")) == sorted(Path(name).stem for name in names)

    assert cli.main(["predict", str(trained), "kinds/n_pages.tif", "kinds/o_frames.gif", "--pages", "all"]) == 0
    entries = read_entries(Path("predictions"))
    assert [entry["file_name"] for entry in entries[:3]] == [f"n_pages_page_000{i}.tif" for i in (1, 2, 3)]
    assert entries[1]["page"] == 2
    assert drawing_stems(Path("predictions"))[0] == "n_pages_page_0001"
    assert len(drawing_stems(Path("predictions"))) == 6


def test_predict_takes_several_sources_lists_and_addresses(
    trained: Path, kinds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(kinds))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("one/x [1].png", "two/x [1].png"):
        Path(name).parent.mkdir()
        Image.fromarray(PIXELS).save(name)
    url = f"http://127.0.0.1:{http.server_port}/a.jpg"
    listing = "\n".join(["two/x [1].png", "gone.jpg", url])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listing.encode())))
    try:
        assert cli.main(["predict", str(trained), "one/x [1].png", "-", "kinds/notes.txt", "--out", "o"]) == 0
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
    assert [entry["file_name"] for entry in read_entries(Path("o"))] == ["one/x [1].png", "two/x [1].png", "a.jpg"]
    assert drawing_stems(Path("o")) == ["a", "one/x [1]", "two/x [1]"]
    out = capsys.readouterr().out
    assert "left out: 1 .txt" in out
    assert "skipped 1 unreadable images: 1 missing" in out


def test_predict_that_stops_keeps_the_images_so_far(
    trained: Path, kinds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("kinds/d_broken.png").write_bytes(b"")
    stopping = ["predict", str(trained), "kinds", "--batch-size", "1", "--no-skip-broken"]
    assert cli.main(stopping) == 2
    assert "d_broken.png" in capsys.readouterr().err
    content = json.loads(Path("predictions/predictions.json").read_text())
    assert not content["info"]["complete"]
    assert [entry["file_name"] for entry in content["images"]] == ["a.jpg", "b.jfif", "c.JPE", "d.jp2"]
    assert content["info"]["drawings"]["a.jpg"] == Path("predictions/a.jpg").stat().st_size
    Path("kinds/d_broken.png").unlink()
    assert cli.main(stopping) == 0  # its own drawings are not in the way
    assert len(read_entries(Path("predictions"))) == len(drawing_stems(Path("predictions"))) == 11


def test_predict_opens_videos_before_it_predicts(
    trained: Path, kinds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    Path("film.mp4").write_bytes(b"no video")
    assert cli.main(["predict", str(trained), "kinds/a.jpg", "film.mp4"]) == 2
    assert "film.mp4: not a readable video" in capsys.readouterr().err
    assert not Path("predictions/predictions.json").exists()


def test_predict_of_unreadable_images_only_fails(
    trained: Path, kinds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad").mkdir()
    for name in ("a.jpg", "b.png"):
        Path("bad", name).write_bytes(b"")
    assert cli.main(["predict", str(trained), "bad"]) == 2
    assert "none of the 2 images can be read (2 empty file)" in capsys.readouterr().err
    assert cli.main(["predict", str(trained), "kinds/g.heic"]) == 2
    assert "sais-seg[heif]" in capsys.readouterr().err
