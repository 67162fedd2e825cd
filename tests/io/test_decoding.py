"""Recognition of image files by content, and errors for other files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.errors import InputError, MissingDependencyError, SaisError
from sais.io.decoding import IMAGE_FORMATS, content_kind, file_kind, open_image
from sais.io.images import read_image, read_size
from sais.text import printable

PIXELS = np.full((8, 12, 3), 90, np.uint8)
HEIC = b"\0\0\0\x18ftypheic" + bytes(200)


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        *(("a.jpg", "JPEG"), ("b.jfif", "JPEG"), ("c.JPE", "JPEG"), ("d.jp2", "JPEG2000"), ("e.avif", "AVIF")),
        *(("f.ppm", "PPM"), ("g.mpo", "JPEG"), ("h.webp", "WEBP"), ("i.tga", "TGA"), ("j.pcx", "PCX")),
        *(("k", "PNG"), ("l.dat", "TIFF"), ("m.jpg", "PNG"), ("n.png", "BMP"), ("o.bin", "GIF")),
    ],
)
def test_open_image_recognizes_the_content(tmp_path: Path, name: str, encoder: str) -> None:
    if encoder == "AVIF" and ".avif" not in Image.registered_extensions():
        pytest.skip("Pillow without AVIF")
    Image.fromarray(PIXELS).save(tmp_path / name, encoder)
    assert np.abs(read_image(tmp_path / name).astype(int) - 90).max() <= 3
    assert read_size(tmp_path / name) == (8, 12)
    assert file_kind(tmp_path / name) in (*IMAGE_FORMATS, "")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"%PDF-1.7\n", "PDF"),
        (b"PK\x03\x04" + bytes(40), "ZIP"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"8BPS\0\1" + bytes(40), "Photoshop"),
    ],
)
def test_open_image_rejects_documents_and_names_them(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.jpg: not an image.*{kind}") as caught:
        open_image(tmp_path / "a.jpg")
    assert kind in caught.value.kind


def test_open_image_never_uses_a_decoder_outside_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    tried: list[str] = []
    for name in set(Image.OPEN) - set(IMAGE_FORMATS):
        monkeypatch.setitem(Image.OPEN, name, (tried.append, lambda prefix, name=name: tried.append(name)))
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    with pytest.raises(InputError):
        open_image(tmp_path / "a.eps")
    assert tried == []


def test_open_image_without_pillow_heif_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    (tmp_path / "phone.jpg").write_bytes(HEIC)
    with pytest.raises(MissingDependencyError, match=r"phone\.jpg: .*sais-seg\[heif\]") as caught:
        read_image(tmp_path / "phone.jpg")
    assert caught.value.extra == "heif"


def test_open_image_reads_heic(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(np.full((64, 80, 3), 90, np.uint8))).save(tmp_path / "phone.heic")
    image = read_image(tmp_path / "phone.heic")
    assert image.shape == (64, 80, 3)
    assert np.abs(image.astype(int) - 90).max() <= 3
    (tmp_path / "stub.heic").write_bytes(HEIC)
    with pytest.raises(InputError, match="corrupt"):
        read_image(tmp_path / "stub.heic")


def test_open_image_names_what_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "shot.nef").write_bytes(b"II*\0")
    cases = {"folder.jpg": "folder", "empty.jpg": "empty file", "none.jpg": "missing", "shot.nef": "camera raw file"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
        cases |= {"pipe.jpg": "pipe or device", "link.jpg": "broken link"}
    for name, kind in cases.items():
        with pytest.raises(SaisError, match=name) as caught:
            open_image(tmp_path / name)
        assert getattr(caught.value, "kind", "") == kind


def test_content_kind_of_unknown_bytes_is_empty() -> None:
    assert content_kind(b"no image at all") == ""
    assert content_kind(b"P\xff\x00") == ""
    assert content_kind(b"") == "empty file"
    assert content_kind(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") == "AVIF"


def test_printable_escapes_control_characters_and_bytes() -> None:
    assert printable("caf\u00e9 \u5199.jpg") == "caf\u00e9 \u5199.jpg"
    assert printable("a\nb\x1b[1m.jpg") == "a\\nb\\x1b[1m.jpg"
    assert printable(os.fsdecode(b"caf\xe9.jpg")).isascii()
