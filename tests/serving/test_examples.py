"""The files of example images: read in parts, as the client takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sais.serving.examples import PART_BYTES, Examples
from sais.serving.request_error import RequestError
from tests.serving.pixel_model import encoded, noise, serving


def test_examples_are_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    content = encoded(noise(1)) + bytes(range(256)) * 1000  # browsers ignore what follows the image
    path.write_bytes(content)
    examples = Examples(tmp_path)
    parts, size, media_type = examples.open("a.png")
    assert (size, media_type) == (len(content), "image/png")
    first = next(parts)
    assert len(first) == PART_BYTES
    with path.open("ab") as file:  # another process appends to it: the size has been stated
        file.write(b"more")
    rest = list(parts)
    assert b"".join([first, *rest]) == content
    assert max(map(len, rest)) <= PART_BYTES
    path.unlink()
    with pytest.raises(RequestError) as refused:
        examples.open("a.png")
    assert refused.value.status == 404


def test_example_has_the_size_of_its_file(tmp_path: Path) -> None:
    content = encoded(noise(1)) + bytes(300_000)
    (tmp_path / "a.png").write_bytes(content)
    with serving(examples=tmp_path) as server:
        response = server.client.get("/v1/examples/a.png")
        assert response.content == content
        assert response.headers["content-length"] == str(len(content))
        assert server.client.head("/v1/examples/a.png").headers["content-length"] == str(len(content))
