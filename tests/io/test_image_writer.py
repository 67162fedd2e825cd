"""Image writing: the limits of formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sais.errors import InputError, ResourceError
from sais.io.image_writer import write_image
from sais.io.images import read_image


@pytest.mark.parametrize(("suffix", "limit"), [(".jpg", 65_500), (".webp", 16_383)])
def test_write_image_beyond_the_limit_of_a_format_writes_png(tmp_path: Path, suffix: str, limit: int) -> None:
    image = np.zeros((1, limit, 3), np.uint8)
    assert write_image(tmp_path / f"a{suffix}", image) == tmp_path / f"a{suffix}"
    longer = np.full((1, limit + 1, 3), 7, np.uint8)
    path = write_image(tmp_path / f"sub/b.c{suffix}", longer)
    assert path == tmp_path / "sub/b.c.png"
    np.testing.assert_array_equal(read_image(path), longer)
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == sorted([f"a{suffix}", "b.c.png"])


def test_write_image_without_a_known_suffix_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="suffix"):
        write_image(tmp_path / "a.xyz", np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        write_image(tmp_path / "file/a.png", np.zeros((2, 2, 3), np.uint8))
