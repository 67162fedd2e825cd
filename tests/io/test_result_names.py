"""Names of images and drawings in results."""

from __future__ import annotations

from pathlib import Path

import pytest

from sais.io.result_names import drawing_names, result_names, url_name


def test_drawing_names_never_collide() -> None:
    stems = drawing_names(["a.jpg", "a.png", "b.tif", "A.webp", "sub/a.jpg", "c"])
    assert [stem.as_posix() for stem in stems] == ["a", "a-2", "b", "A-3", "sub/a", "c"]
    assert [stem.as_posix() for stem in drawing_names(["v1.2", "v1.3", "v1.2.jpg"])] == ["v1", "v1-2", "v1.2"]


def test_drawing_names_fit_a_file_system() -> None:
    stems = drawing_names(["\u00e9" * 125 + ".jpg", "\u00e9" * 126 + ".jpg"])
    assert all(len(str(stem).encode()) < 200 for stem in stems)
    assert len(set(stems)) == 2


def test_result_names_use_the_common_folder_and_the_host() -> None:
    images: list[tuple[Path | str, str]] = [
        (Path("/d/a/x.jpg"), "x.jpg"),
        (Path("/d/b/c/X.JPG"), "X.JPG"),
        ("https://host.org/x.jpg", "x.jpg"),
        (Path("/d/y.jpg"), "y.jpg"),
    ]
    assert result_names(images) == ["a/x.jpg", "b/c/X.JPG", "host.org/x.jpg", "y.jpg"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h.org/a/b.jpg", "b.jpg"),
        ("https://h.org/a%20b.jpg?x=/y.png#z", "a b.jpg"),
        ("https://h.org/", "h.org"),
        ("http://127.0.0.1:8000", "127.0.0.1_8000"),
        ("https://h.org/..%2f..%2fetc", ".._.._etc".strip(".")),
    ],
)
def test_url_name_is_a_file_name(url: str, name: str) -> None:
    assert url_name(url) == name
