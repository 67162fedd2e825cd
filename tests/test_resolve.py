"""Names in settings: rows of tables, attributes of modules, and the messages for names that are neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from sais.errors import ConfigError
from sais.resolve import resolve


def test_resolve_returns_rows_and_attributes() -> None:
    assert resolve("pi", {"pi": 3}, "number") == 3
    assert resolve("math:inf", {"pi": 3}, "number") == float("inf")


def test_resolve_suggests_rows_of_the_table() -> None:
    with pytest.raises(ConfigError, match="did you mean 'giou'"):
        resolve("gious", {"iou": 1, "giou": 2}, "box loss")
    with pytest.raises(ConfigError, match=r"known are giou, iou\. Write 'module:attribute'.*'my_module:box_loss'"):
        resolve("xyz", {"iou": 1, "giou": 2}, "box loss")


@pytest.mark.parametrize("name", ["mine", "mine:", ":mine", ""])
def test_resolve_without_a_table_names_the_form(name: str) -> None:
    with pytest.raises(ConfigError, match="not of the form 'module:attribute'.*'my_module:extra_loss'") as caught:
        resolve(name, {}, "extra loss")
    assert "known are" not in str(caught.value)


def test_resolve_separates_missing_attributes_from_broken_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_at_import.py").write_text("import math\nmath.no_such_function\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported .*no_such_function"):
        resolve("broken_at_import:loss", {}, "loss")
    with pytest.raises(ConfigError, match="'math' has no 'no_such_function'"):
        resolve("math:no_such_function", {}, "loss")
    with pytest.raises(ConfigError, match="no module 'no_such_module'"):
        resolve("no_such_module:loss", {}, "loss")
